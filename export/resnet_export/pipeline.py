"""The stages of an export, in order: ``bundle_from_checkpoint`` is the list."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import (
    FileRecord,
    KeptLayer,
    Manifest,
    Model,
    Output,
    Preprocessing,
    Variant,
)

from . import int8, verify
from .bundle_writer import StagedBundle, check_destination, staged_bundle
from .calibration import Images, calibrate
from .eager import (
    EagerAnswers,
)
from .eager_stages import ask_eager, calibration_images, compare_with_reference, evaluate_eager
from .engine_stages import EnginesResult, check_engines, engines_after_export
from .errors import RequestError, VerificationError
from .graph import Graph
from .labels import check_labels
from .observe import Observation, observation_from_graph
from .options import VARIANTS, ExportOptions
from .pages.export_page import page_from_report
from .passes import PassResult, Skipped, fold_batchnorm, fold_preprocessing, to_fp16
from .passes.to_fp16 import kept_layers
from .progress import Progress, Timings
from .report import ExportReport, Verdict, bytes_from_report, json_from_report, tool_versions
from .subject import Subject, subject_from_checkpoint
from .trace import Traced, first_line, graph_from_module


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export left.

    Attributes:
        path: of the bundle.
        manifest: that it holds.
        report: what ``report.json`` holds.
        engines: what was built after the bundle stood, and what was not; None where nothing was to be.
    """

    path: Path
    manifest: Manifest
    report: ExportReport
    engines: EnginesResult | None = None

    @property
    def dropped(self) -> Mapping[str, tuple[str, ...]]:
        """The variants that did not pass their gate and are not in the bundle, with what was outside the limits."""
        return {verdict.variant.id: verdict.faults for verdict in self.report.verdicts if verdict.faults}


def bundle_from_checkpoint(
    checkpoint: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export: read, compare with the reference, ask eager, trace, fold, stage, verify, quantize, publish, add engines.

    Args:
        checkpoint: a file that ``checkpoint_from_file`` reads.
        destination: where the bundle goes; nothing may stand there, unless ``options.force``.
        options: everything else.
        progress: told of each stage.

    Raises:
        RequestError: the request or an input file is at fault.
        UnavailableError: the library that engines are to be built with is not here.
        ResnetExportError: the export failed. In each case nothing is at the destination that was not there before;
            an engine that fails leaves the bundle without it, see ``ExportResult.engines``.
    """
    options = options or ExportOptions()
    timings = Timings(progress)
    _check_request(options)
    check_destination(Path(destination), force=options.force)
    subject = subject_from_checkpoint(Path(checkpoint), options, timings)
    images = calibration_images(subject, options)
    compare_with_reference(subject, options, timings)
    data, answers = ask_eager(subject, images, options, timings)
    evaluation = evaluate_eager(subject, answers, options, timings)
    traced = _trace(subject, tuple(answers.float32), timings)
    subject = dataclasses.replace(subject, model=subject.model.without_module())
    folded, fold = _fold(traced, subject.preprocessing, timings)
    observed, folding = _observe(folded, data, answers, timings)
    with staged_bundle(Path(destination), force=options.force) as staged:
        draft, candidates = _write(staged, subject, traced, folded, observed, data, options, timings)
        verdicts = _verify(staged, draft, candidates, data, timings)
        if "int8" in options.wanted:
            judged = None if evaluation is None else evaluation.images
            given = Images(images, judged, subject.preprocessing)
            calibrated = calibrate(staged, folded, given, data, options.calibration, timings)
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
    if options.engines is None:
        return ExportResult(path=Path(destination), manifest=manifest, report=report)
    engines = engines_after_export(Path(destination), options.engines, progress)
    return ExportResult(path=Path(destination), manifest=engines.manifest, report=report, engines=engines)


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
    if options.engines is not None:
        lacking = [name for name in options.engines.variants or () if name.partition("-")[0] not in options.wanted]
        if lacking:
            raise RequestError(
                f"an engine of {lacking[0]} needs that variant, and the export makes {', '.join(options.wanted)}"
            )
        check_engines(options.engines)


def _trace(subject: Subject, names: Sequence[str], timings: Timings) -> Traced:
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
    subject: Subject,
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
        page = page_from_report(json_from_report(report))
        staged.add("report.html", page)  # for people, who may delete it: it is not in the manifest
        manifest = dataclasses.replace(report.manifest, report=record)
        staged.publish(manifest)
        stage.tell(str(staged.destination))
    return manifest
