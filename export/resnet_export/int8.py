"""The stages of an export that make INT8 of what was calibrated: for each scheme quantize, judge, and fall back.

What is judged is always the staged file: a candidate that does not pass is written anew with some layers kept in
higher precision, until one passes or too many layers would be kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import Accuracy, KeptLayer, Limits, Manifest, Speed, Variant
from resnet_runtime.selection import MIN_INT8_SPEEDUP

from . import verify
from .bundle_writer import StagedBundle
from .calibration import Calibrated
from .errors import RequestError
from .int8_fallback import Fallback
from .options import ExportOptions
from .passes.insert_qdq import undequantized_layers
from .passes.qdq_placement import SCHEMES
from .progress import Timings, floored
from .quantization.quantize import HIGHER, Quantized, quantized_from_table
from .report import Verdict
from .speed import speeds_from_variants


class Int8Exporter:
    """Makes and judges the INT8 variants of one staged bundle.

    Args:
        staged: the bundle.
        draft: its manifest, without variants.
        calibrated: what they are made from.
        data: eager's answers.
        evaluation: what their accuracy is measured with, where it is.
        options: of the export.
    """

    def __init__(
        self,
        staged: StagedBundle,
        draft: Manifest,
        calibrated: Calibrated,
        data: CheckData,
        evaluation: verify.Evaluation | None,
        options: ExportOptions,
        timings: Timings,
    ) -> None:
        self._staged = staged
        self._draft = draft
        self._calibrated = calibrated
        self._data = data
        self._evaluation = evaluation
        self._options = options
        self._timings = timings
        self._fallback = Fallback(draft, data, evaluation, self._judged, timings)

    def verdicts(self, shipped: Sequence[Variant]) -> tuple[Verdict, ...]:
        """One verdict for each scheme; the files of those that passed are staged.

        Args:
            shipped: the other variants, which an INT8 one has to be faster than.
        """
        return tuple(self._verdict(scheme, shipped) for scheme in SCHEMES)

    def _verdict(self, scheme: str, shipped: Sequence[Variant]) -> Verdict:
        name = f"int8-{scheme}"
        with self._timings.stage(name) as stage:
            quantized = quantized_from_table(
                self._calibrated.graph,
                self._calibrated.table,
                scheme,
                self._calibrated.inputs,
                self._options.calibration.quantize,
                self._calibrated.ranges,
                self._options.fp16,
                lambda done, total: stage.advance(done, total, "layers"),
            )
            structural = len(quantized.placement.kept)
            stage.tell(f"{len(quantized.layers)} layers quantized" + (f", {structural} not" if structural else ""))
        verdict = self._judged(quantized, ())
        if verdict.faults:
            verdict = self._fallback.fallen_back(quantized, verdict)
        if not verdict.faults and scheme == "cpu":
            verdict = self._with_speeds(verdict, shipped)
        return verdict

    def _judged(self, quantized: Quantized, kept: Sequence[KeptLayer]) -> Verdict:
        """Stage the graph in which these layers are kept, and judge it; a graph that fails stays staged."""
        name = f"int8-{quantized.scheme}"
        graph = quantized.graph(frozenset(layer.node for layer in kept))
        names = {layer.node for layer in kept}
        every = (*kept, *quantized.beside(names))
        every += tuple(layer for layer in quantized.structural if layer.node not in names)
        missed = set(undequantized_layers(graph)) - {layer.node for layer in every}
        assert not missed, f"{missed} are neither quantized nor listed as kept"
        path = f"model.{name}.onnx"
        self._staged.discard(path)
        limits: Limits = self._options.limits["int8"]
        variant = Variant(
            id=name,
            precision="int8",
            scheme=quantized.scheme,
            file=self._staged.add(path, graph.to_bytes()),
            gate=verify.unmeasured_gate(limits),
            kept_higher=every,
        )
        draft = dataclasses.replace(self._draft, variants=(variant,))
        with (
            self._timings.stage(f"verify {name}") as stage,
            verify.StagedReader(self._staged.path, draft) as bundle,
        ):
            total = None if self._evaluation is None else self._evaluation.images.count
            gate, found = verify.gate_from_variant(
                bundle, variant, self._data, self._evaluation, lambda done: stage.advance(done, total, "images")
            )
            stage.tell(_said(gate.parity.centred_cosine, gate.accuracy, gate.executor))
            if kept:
                stage.tell(f"{len(kept)} kept in {HIGHER[quantized.scheme]}")
            else:
                for fault in found:
                    stage.warn(f"{name} did not pass its gate with every layer quantized: {fault}")
            return Verdict(dataclasses.replace(variant, gate=gate), found)

    def _with_speeds(self, verdict: Verdict, shipped: Sequence[Variant]) -> Verdict:
        """Time it against the others, for ``auto`` to know."""
        with self._timings.stage("speed") as stage:
            everything = dataclasses.replace(self._draft, variants=(*shipped, verdict.variant))
            with verify.StagedReader(self._staged.path, everything) as bundle:
                speeds = speeds_from_variants(bundle, verdict.variant, shipped, self._data.inputs)
            stage.tell(", ".join(_spoken(speed) for speed in speeds) or "no backend here to compare it on")
            for speed in speeds:
                if speed.ratio < MIN_INT8_SPEEDUP:
                    stage.warn(
                        f"{verdict.variant.id} is only {floored(speed.ratio, 2)} times as fast as {speed.against} on "
                        f"{speed.backend}, so that auto does not choose it there ({MIN_INT8_SPEEDUP} is needed)"
                    )
        return dataclasses.replace(verdict, variant=dataclasses.replace(verdict.variant, speeds=speeds))


def check_request(options: ExportOptions) -> None:
    """Refuse what asks for INT8 and gives nothing to make it from, and what would be ignored.

    Raises:
        RequestError: in a sentence.
    """
    wanted = "int8" in options.wanted
    if wanted and not options.calibration.given:
        raise RequestError(
            "--precision int8 needs images like those to come, to calibrate with: give --calibration DIR, "
            "or --calibration-table FILE of an earlier export"
        )
    if options.calibration.given and not wanted:
        option = "--calibration-table" if options.calibration.images is None else "--calibration"
        raise RequestError(f"{option} is for INT8, which --precision leaves out: name int8 there, or leave it out")
    if not options.calibration.given and options.calibration.method is not None:
        raise RequestError("--calibration-method is for calibrating INT8: give --calibration too")
    if options.calibration.skip_bad_images and options.calibration.images is None and options.evaluation.images is None:
        raise RequestError("--skip-bad-images leaves out images of --calibration and --evaluation: give one of them")
    if options.evaluation.images is not None and not wanted:
        raise RequestError("--evaluation measures INT8, which is not made here: give --calibration too")
    if options.evaluation.labels is not None and options.evaluation.images is None:
        raise RequestError("--evaluation-labels needs the images that they are of: give --evaluation too")
    share = options.calibration.quantize.whole_shortcuts
    if not 0 <= share <= 1:
        raise RequestError(f"whole_shortcuts is {share:g}, and is a share from 0 to 1")
    if not 0 <= options.evaluation.max_drop <= 100:
        raise RequestError(f"--max-drop is {options.evaluation.max_drop:g}, and lies between 0 and 100 points")


def _said(cosine: float, accuracy: Accuracy | None, executor: str) -> str:
    text = f"centred cosine {cosine:.4f}"
    if accuracy is not None:
        text += f", top-1 {accuracy.measured:.2%} of {accuracy.eager:.2%} over {accuracy.samples} images"
    return f"{text}, by {executor}"


def _spoken(speed: Speed) -> str:
    return f"{floored(speed.ratio, 1)} times as fast as {speed.against} on {speed.backend}"
