"""The stages of an export, in order: ``bundle_from_checkpoint`` is the list."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import (
    Assumption,
    Batch,
    FileRecord,
    Input,
    KeptLayer,
    Manifest,
    Model,
    Output,
    Preprocessing,
    Variant,
)

from . import int8, verify
from .bundle_writer import StagedBundle, check_destination, staged_bundle
from .check_inputs import check_inputs
from .checkpoint import checkpoint_from_file
from .eager import (
    EagerAnswers,
    Reference,
    answers_from_module,
    check_reference,
    classes_from_module,
    reference_from_file,
)
from .errors import RequestError, VerificationError
from .graph import Graph
from .labels import check_labels, labels_from_file
from .observe import Observation, observation_from_graph
from .options import VARIANTS, ExportOptions
from .passes import PassResult, Skipped, fold_batchnorm, fold_preprocessing, to_fp16
from .passes.to_fp16 import kept_layers
from .preprocessing import preprocessing_from_options
from .progress import Progress, Timings
from .quantization.evaluation import evaluation_from_source
from .quantization.images import ImageStream, check_varied, images_from_source
from .report import ExportReport, Verdict, bytes_from_report, tool_versions
from .source import SourceModel, model_from_checkpoint
from .trace import Traced, first_line, graph_from_module

_MADE_SAMPLES = 8
_CALIBRATED_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export left.

    Attributes:
        path: of the bundle.
        manifest: that it holds.
        report: what ``report.json`` holds.
    """

    path: Path
    manifest: Manifest
    report: ExportReport

    @property
    def dropped(self) -> Mapping[str, tuple[str, ...]]:
        """The variants that did not pass their gate and are not in the bundle, with what was outside the limits."""
        return {verdict.variant.id: verdict.faults for verdict in self.report.verdicts if verdict.faults}


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is exported, once everything about it is settled."""

    model: SourceModel
    assumptions: tuple[Assumption, ...]
    input: Input
    preprocessing: Preprocessing
    reference: Reference | None
    labels: tuple[str, ...] | None


def bundle_from_checkpoint(
    checkpoint: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export: read, compare with the reference, ask eager, trace, fold, stage, verify, quantize, publish.

    Args:
        checkpoint: a file that ``checkpoint_from_file`` reads.
        destination: where the bundle goes; nothing may stand there, unless ``options.force``.
        options: everything else.
        progress: told of each stage.

    Raises:
        RequestError: the request or an input file is at fault.
        ResnetExportError: the export failed. Either way nothing is at the destination that was not there before.
    """
    options = options or ExportOptions()
    timings = Timings(progress)
    _check_request(options)
    check_destination(Path(destination), force=options.force)
    subject = _read(Path(checkpoint), options, timings)
    images = _images(subject, options)
    _compare_with_reference(subject, options, timings)
    data, answers = _ask_eager(subject, images, options, timings)
    evaluation = _evaluate_eager(subject, answers, options, timings)
    traced = _trace(subject, tuple(answers.float32), timings)
    subject = dataclasses.replace(subject, model=subject.model.without_module())
    folded, fold = _fold(traced, subject.preprocessing, timings)
    observed, folding = _observe(folded, data, answers, timings)
    with staged_bundle(Path(destination), force=options.force) as staged:
        draft, candidates = _write(staged, subject, traced, folded, observed, data, options, timings)
        verdicts = _verify(staged, draft, candidates, data, timings)
        if "int8" in options.wanted:
            calibrated = int8.calibrate(staged, folded, images, data, options.calibration, timings)
            draft = dataclasses.replace(draft, calibration=calibrated.file)
            exporter = int8.Int8Exporter(staged, draft, calibrated, data, evaluation, options, timings)
            verdicts += exporter.verdicts(_shipped(verdicts))
        _refuse_nothing(verdicts)
        report = ExportReport(
            manifest=dataclasses.replace(draft, variants=_shipped(verdicts)),
            verdicts=verdicts,
            folded=fold.done,
            not_folded=fold.skipped,
            folding=folding,
            notes=(*subject.model.notes, *traced.notes),
            warnings=tuple(timings.warnings),
            seconds=timings.seconds,
        )
        manifest = _publish(staged, report, verdicts, timings)
    return ExportResult(path=Path(destination), manifest=manifest, report=report)


def _check_request(options: ExportOptions) -> None:
    unknown = [name for name in options.wanted if name not in VARIANTS]
    if unknown or not options.wanted:
        found = ", ".join(map(repr, unknown)) or "nothing"
        raise RequestError(f"--precision names {found}, and an export makes {', '.join(VARIANTS)}")
    batch = options.batch
    if not 1 <= batch.smallest <= batch.optimal <= batch.largest:
        raise RequestError(
            f"--batch is {batch.smallest},{batch.optimal},{batch.largest}, and goes up from MIN over OPT to MAX, from 1"
        )
    if options.check_samples is not None and options.check_samples < 2:
        raise RequestError(f"{options.check_samples} check samples say nothing of how the answers vary: take 2 or more")
    int8.check_request(options)


def _read(checkpoint: Path, options: ExportOptions, timings: Timings) -> _Subject:
    """The checkpoint and every other file that the user named."""
    with timings.stage("read") as stage:
        labels = None if options.labels is None else labels_from_file(options.labels)
        reference = None
        if options.model.reference is not None:
            reference = reference_from_file(options.model.reference)
        read = checkpoint_from_file(checkpoint, trust=options.model.trust, weights=options.model.weights)
        model = model_from_checkpoint(read, options.model)
        stage.tell(f"{model.architecture}, {model.parameters / 1e6:.2f} M parameters, {read.format}")
        for note in model.notes:
            stage.tell(note)
    preprocessing, assumed = preprocessing_from_options(options.preprocessing, model.input_shape, model.stem)
    return _Subject(
        model=model,
        assumptions=(*model.assumptions, *assumed),
        input=_input(model, options),
        preprocessing=preprocessing,
        reference=reference,
        labels=labels,
    )


def _input(model: SourceModel, options: ExportOptions) -> Input:
    channels, height, width = model.input_shape
    in_graph = options.preprocessing.in_graph
    fixed = model.fixed_batch
    batch = options.batch if fixed is None else Batch(smallest=fixed, optimal=fixed, largest=fixed)
    return Input(
        name="input",
        layout="NHWC" if in_graph else "NCHW",
        dtype="uint8" if in_graph else "float32",
        shape=(height, width, channels) if in_graph else (channels, height, width),
        batch=batch,
    )


def _images(subject: _Subject, options: ExportOptions) -> ImageStream | None:
    """The calibration images; those that will be held in memory are read now, so that what is wrong is said first."""
    calibration = options.calibration
    if calibration.images is None or "int8" not in options.wanted:
        return None
    images = images_from_source(
        calibration.images, subject.input, subject.preprocessing, skip_bad=calibration.skip_bad_images
    )
    check_varied(images.head(max(calibration.quantize.images, options.check_samples or _CALIBRATED_SAMPLES)))
    return images


def _compare_with_reference(subject: _Subject, options: ExportOptions, timings: Timings) -> None:
    """Before anything is made, so that no assumption passes as right."""
    if subject.reference is None:
        return
    with timings.stage("reference") as stage:
        worst = check_reference(subject.model, subject.reference, options.model.reference_tolerance)
        stage.tell(f"{len(subject.reference.input)} samples, agrees within {worst:.1e} of the spread")


def _ask_eager(
    subject: _Subject, images: ImageStream | None, options: ExportOptions, timings: Timings
) -> tuple[CheckData, EagerAnswers]:
    """Varied inputs, the reference's among them, and what the model itself makes of them."""
    with timings.stage("eager") as stage:
        fixed = subject.model.fixed_batch
        inputs = _check_inputs(subject, images, options)
        taken = images is not None or subject.reference is not None or subject.preprocessing.in_graph
        taken = taken or fixed is not None
        answers = answers_from_module(subject.model.module, inputs, subject.preprocessing, fixed)
        relative = verify.refuse_constant(answers)
        if not answers.exact:
            stage.warn("the model cannot be computed in float64, so that its folding is compared with float32")
        if fixed is not None:
            stage.warn(f"the model takes batches of {fixed} alone, so that --batch does not apply")
        kind = "varied inputs" if images is None else "inputs"
        stage.tell(f"{len(inputs)} {kind}, answers spread over {relative:.0%} of their range")
        if relative < verify.LOW_SPREAD:
            stage.warn(
                f"the answers move by only {relative:.0%} of their range over varied inputs: the gates say little"
                + ("" if taken else "; give inputs of your own by --reference")
            )
    return CheckData(inputs, answers.float32), answers


def _check_inputs(subject: _Subject, images: ImageStream | None, options: ExportOptions) -> NDArray[np.generic]:
    """The calibration images where there are some, else made ones; the reference's before them."""
    fixed = subject.model.fixed_batch or 1
    if images is not None:
        inputs = images.head(options.check_samples or _CALIBRATED_SAMPLES)
        repeated = np.take(inputs, range(-(-max(2, len(inputs)) // fixed) * fixed), axis=0, mode="wrap")
        inputs = repeated if len(repeated) > len(inputs) else inputs
    else:
        count = options.check_samples or _MADE_SAMPLES
        inputs = check_inputs(-(-count // fixed) * fixed, subject.input, subject.preprocessing)
    if subject.reference is not None and not subject.preprocessing.in_graph and subject.model.fixed_batch is None:
        inputs = np.concatenate([subject.reference.input[: options.check_samples or _MADE_SAMPLES], inputs])
    return inputs


def _evaluate_eager(
    subject: _Subject, answers: EagerAnswers, options: ExportOptions, timings: Timings
) -> verify.Evaluation | None:
    """What the model itself makes of the evaluation images, while it is in memory."""
    if options.evaluation.images is None:
        return None
    with timings.stage("evaluate") as stage:
        name, logits = next(iter(answers.float32.items()))
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise RequestError(f"--evaluation needs a classifier, and the output {name!r} has the shape {logits.shape}")
        found = evaluation_from_source(
            options.evaluation.images,
            subject.input,
            subject.preprocessing,
            classes=logits.shape[1],
            labels=subject.labels,
            labels_file=options.evaluation.labels,
            skip_bad=options.calibration.skip_bad_images,
        )
        classes, labels = classes_from_module(
            subject.model.module,
            found,
            subject.preprocessing,
            subject.model.fixed_batch,
            lambda done: stage.advance(done, found.count, "images"),
        )
        evaluation = verify.Evaluation(found, classes, labels, options.evaluation.max_drop)
        stage.tell(
            f"{len(classes)} images, eager's top-1 accuracy {evaluation.top1:.2%}"
            if labels is not None
            else f"{len(classes)} images without labels: agreement with the model is measured"
        )
        for note in found.notes:
            stage.warn(note)
        if found.skipped:
            stage.warn(f"evaluation images that were skipped: {len(found.skipped)}, the first: {found.skipped[0]}")
    return evaluation


def _trace(subject: _Subject, names: Sequence[str], timings: Timings) -> Traced:
    with timings.stage("trace") as stage:
        traced = graph_from_module(subject.model.module, subject.model.input_shape, names)
        if subject.labels is not None:
            check_labels(subject.labels, traced.graph.output_shapes[0])
        stage.tell(f"by {traced.exporter}, {len(list(traced.graph.nodes()))} nodes")
        for note in traced.notes:
            stage.warn(note)
    return traced


def _fold(traced: Traced, preprocessing: Preprocessing, timings: Timings) -> tuple[Graph, PassResult]:
    with timings.stage("fold") as stage:
        graph = traced.graph
        skipped: tuple[Skipped, ...] = ()
        if preprocessing.in_graph:
            first = fold_preprocessing(graph, preprocessing)
            graph, skipped = first.graph, first.skipped
        result = fold_batchnorm(graph)
        stage.tell(f"{len(result.done)} BatchNorms into convolutions, {len(result.skipped)} to scale and shift")
    return result.graph, dataclasses.replace(result, skipped=(*skipped, *result.skipped))


def _observe(
    folded: Graph, data: CheckData, answers: EagerAnswers, timings: Timings
) -> tuple[Observation, verify.FoldingCheck]:
    """Run the folded graph once: is it still the model, and how far do its tensors reach."""
    with timings.stage("check fold") as stage:
        try:
            observed = observation_from_graph(folded, data.inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise VerificationError(f"the folded graph cannot be run: {first_line(error)}") from error
        checked = verify.check_folding(observed, answers)
        seen, allowed = checked.error / checked.spread, checked.allowed / checked.spread
        exactly = "float64" if answers.exact else "float32"
        stage.tell(f"{seen:.1e} of the spread from eager in {exactly}, {allowed:.1e} allowed")
    return observed, checked


def _write(
    staged: StagedBundle,
    subject: _Subject,
    traced: Traced,
    folded: Graph,
    observed: Observation,
    data: CheckData,
    options: ExportOptions,
    timings: Timings,
) -> tuple[Manifest, tuple[Variant, ...]]:
    """The files, and a manifest without variants; the candidates have yet to pass their gates."""
    with timings.stage("write") as stage:
        files: dict[str, FileRecord] = {}
        kept: dict[str, tuple[KeptLayer, ...]] = {}
        if {"fp32", "bf16"} & set(options.wanted):
            files["fp32"] = files["bf16"] = staged.add("model.fp32.onnx", folded.to_bytes())
        if "fp16" in options.wanted:
            result = to_fp16(folded, observed.ranges, options.fp16)
            kept["fp16"] = kept_layers(result)
            files["fp16"] = staged.add("model.fp16.onnx", result.graph.to_bytes())
        check = staged.add("check.npz", _npz(data))
        labels = None
        if subject.labels is not None:
            labels = staged.add("labels.txt", "".join(f"{label}\n" for label in subject.labels).encode())
        stage.tell(", ".join(f"{file.path} {file.size / 1e6:.1f} MB" for file in dict.fromkeys(files.values())))
    manifest = Manifest(
        tools=tool_versions(),
        model=Model(
            architecture=subject.model.architecture,
            parameters=subject.model.parameters,
            source=subject.model.source,
            traced_by=traced.exporter,
            assumptions=subject.assumptions,
        ),
        input=subject.input,
        outputs=tuple(
            Output(name=name, shape=shape)
            for name, shape in zip(folded.output_names, folded.output_shapes, strict=True)
        ),
        preprocessing=subject.preprocessing,
        variants=(),
        engines=(),
        check=check,
        report=check,  # until there is one
        labels=labels,
    )
    candidates = tuple(
        _candidate(name, files[name], kept.get(name, ()), options) for name in options.wanted if name != "int8"
    )
    return manifest, candidates


def _candidate(name: str, file: FileRecord, kept: tuple[KeptLayer, ...], options: ExportOptions) -> Variant:
    """A variant whose gate has its limits, and nothing measured yet."""
    gate = verify.unmeasured_gate(options.limits[name])
    return Variant(id=name, precision=name, scheme=None, file=file, gate=gate, kept_higher=kept)


def _npz(data: CheckData) -> bytes:
    buffer = io.BytesIO()
    arrays = {"input": data.inputs, **{f"output.{name}": array for name, array in data.outputs.items()}}
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _verify(
    staged: StagedBundle, draft: Manifest, candidates: tuple[Variant, ...], data: CheckData, timings: Timings
) -> tuple[Verdict, ...]:
    """Every candidate through the shipped runtime, from the staged files."""
    verdicts: list[Verdict] = []
    if not candidates:
        return ()
    with verify.StagedReader(staged.path, dataclasses.replace(draft, variants=candidates)) as bundle:
        for variant in candidates:
            with timings.stage(f"verify {variant.id}") as stage:
                gate, found = verify.gate_from_variant(bundle, variant, data)
                verdicts.append(Verdict(dataclasses.replace(variant, gate=gate), found))
                stage.tell(f"max error {gate.parity.max_error:.2g} of the spread, by {gate.executor}")
                for fault in found:
                    stage.warn(f"{variant.id} did not pass its gate: {fault}")
    return tuple(verdicts)


def _refuse_nothing(verdicts: tuple[Verdict, ...]) -> None:
    if not _shipped(verdicts):
        details = [f"{verdict.variant.id}: {fault}" for verdict in verdicts for fault in verdict.faults]
        raise VerificationError("no variant passed its gate, and nothing was written", details=details)


def _shipped(verdicts: tuple[Verdict, ...]) -> tuple[Variant, ...]:
    return tuple(verdict.variant for verdict in verdicts if not verdict.faults)


def _publish(staged: StagedBundle, report: ExportReport, verdicts: tuple[Verdict, ...], timings: Timings) -> Manifest:
    with timings.stage("publish") as stage:
        shipped = {variant.file.path for variant in report.manifest.variants}
        for file in {verdict.variant.file.path: verdict.variant.file for verdict in verdicts}.values():
            if file.path not in shipped:
                staged.discard(file.path)
        record = staged.add("report.json", bytes_from_report(report))
        manifest = dataclasses.replace(report.manifest, report=record)
        staged.publish(manifest)
        stage.tell(str(staged.destination))
    return manifest
