"""The stages of an export that make INT8 of what was calibrated: for each scheme quantize, judge, and fall back.

What is judged is always the staged file: a candidate that does not pass is written anew with some layers kept in
higher precision, until one passes or too many layers would be kept.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Accuracy, KeptLayer, Limits, Manifest, Speed, Variant
from resnet_runtime.selection import MIN_INT8_SPEEDUP

from . import verify
from .bundle_writer import StagedBundle
from .calibration import Calibrated
from .errors import RequestError
from .host_session import whole_batches
from .options import ExportOptions
from .passes.insert_qdq import undequantized_layers
from .passes.qdq_placement import SCHEMES
from .progress import Stage, Timings, floored
from .quantization.fallback import costs_of_layers, smallest_fallback
from .quantization.hardest import hardest_images
from .quantization.quantize import HIGHER, Quantized, quantized_from_table
from .report import KeptCost, Verdict
from .speed import slowdown_of_graph, speeds_from_variants

RANKED_BY: Final = 16
"""How many images the layers are ranked by, where some have to be kept."""

RANKED_OF: Final = 2000
"""Of how many evaluation images those are the ones that INT8 changes the most."""

WHOLE: Final = "its shortcut is not quantized: rounding it would cost more than the bytes that it saves are worth"

MOST_KEPT: Final = 0.5
"""The share of the layers that may be kept: a graph with more in higher precision is not INT8."""


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
        verdict = self._judged(quantized, (), f"verify {name}")
        if verdict.faults:
            verdict = self._fallen_back(quantized, verdict)
        if not verdict.faults and scheme == "cpu":
            verdict = self._with_speeds(verdict, shipped)
        return verdict

    def _judged(self, quantized: Quantized, kept: Sequence[KeptLayer], stage_name: str) -> Verdict:
        """Stage the graph in which these layers are kept, and judge it; a graph that fails stays staged."""
        name = f"int8-{quantized.scheme}"
        graph = quantized.graph(frozenset(layer.node for layer in kept))
        names = {layer.node for layer in kept}
        every = (*kept, *(layer for layer in _structural(quantized) if layer.node not in names))
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
            self._timings.stage(stage_name) as stage,
            verify.StagedReader(self._staged.path, draft) as bundle,
        ):
            total = None if self._evaluation is None else self._evaluation.images.count
            gate, found = verify.gate_from_variant(
                bundle, variant, self._data, self._evaluation, lambda done: stage.advance(done, total, "images")
            )
            stage.tell(_said(gate.parity.centred_cosine, gate.accuracy, gate.executor))
            if kept:
                stage.tell(f"{len(kept)} kept in {HIGHER[quantized.scheme]}")
            return Verdict(dataclasses.replace(variant, gate=gate), found)

    def _fallen_back(self, quantized: Quantized, failed: Verdict) -> Verdict:
        """The verdict with as few layers kept as possible; the failed one where too many would have to be."""
        name, scheme = f"int8-{quantized.scheme}", quantized.scheme
        most = int(MOST_KEPT * len(quantized.layers))
        with self._timings.stage(f"rank {name}") as stage:
            for fault in failed.faults:
                stage.warn(f"{name} did not pass its gate with every layer quantized: {fault}")
            total = len(quantized.layers)
            costs = costs_of_layers(
                quantized.exact,
                quantized.graph_in_fp32,
                quantized.layers,
                self._ranked_by(quantized, stage),
                lambda done: stage.advance(done, total, "layers"),
            )
            stage.tell(f"{costs[0].node} costs the most")
        noise = {cost.node: cost.noise for cost in costs}
        tried: dict[frozenset[str], Verdict] = {}

        def passes(kept: frozenset[str]) -> bool:
            if kept not in tried:
                layers = [
                    KeptLayer(
                        node=cost.node,
                        precision=HIGHER[scheme],
                        reason=f"quantized alone it adds noise of {cost.noise:.2g} of the answers' variance, and "
                        "without it the gate is not passed",
                    )
                    for cost in costs
                    if cost.node in kept
                ]
                tried[kept] = self._judged(quantized, layers, f"verify {name}")
            return not tried[kept].faults

        kept = smallest_fallback([cost.node for cost in costs], passes, most)
        if kept is None:
            fault = f"with {most} of {len(quantized.layers)} layers kept in {HIGHER[scheme]} it still does not pass"
            return dataclasses.replace(failed, faults=(*failed.faults, fault))
        final = tried[kept]
        if next(reversed(tried)) != kept:  # another one was staged since
            final = self._judged(quantized, _kept_first(final, kept), f"verify {name}")
        return dataclasses.replace(final, kept_costs=self._kept_costs(quantized, kept, noise))

    def _ranked_by(self, quantized: Quantized, stage: Stage) -> NDArray[np.generic]:
        """The evaluation images that INT8 changes the most; where there are none, the first ones of check.npz."""
        if self._evaluation is None:
            return whole_batches(quantized.exact, self._data.inputs, RANKED_BY)
        total = min(RANKED_OF, self._evaluation.images.count)
        size = self._draft.input.batch.largest
        batches = (batch for batch, _ in self._evaluation.images.batches(size))
        return hardest_images(
            quantized.exact,
            quantized.graph_in_fp32(),
            itertools.islice(batches, -(-total // size)),
            RANKED_BY,
            lambda done: stage.advance(done, total, "images"),
        )

    def _kept_costs(self, quantized: Quantized, kept: frozenset[str], noise: dict[str, float]) -> tuple[KeptCost, ...]:
        """What each kept layer costs: in noise if it were quantized alone, and in time because it is not."""
        costs = []
        with self._timings.stage(f"cost int8-{quantized.scheme}") as stage:
            for position, name in enumerate(sorted(kept, key=lambda item: -noise[item])):
                slower = None
                if quantized.scheme == "cpu":
                    with suppress(UnavailableError, BackendError):  # a time that cannot be had fails no export
                        slower = slowdown_of_graph(
                            quantized.graph(kept).to_bytes(),
                            quantized.graph(kept - {name}).to_bytes(),
                            self._draft,
                            kept | {layer.node for layer in _structural(quantized)},
                            self._data.inputs,
                        )
                costs.append(KeptCost(name, noise[name], slower))
                stage.advance(position + 1, len(kept), "layers")
            measured = [cost for cost in costs if cost.slowdown is not None]
            stage.tell(
                ", ".join(f"{cost.node} {cost.slowdown - 1:+.1%} time" for cost in measured if cost.slowdown)
                if measured
                else "what that costs in time was not measured: there is no TensorRT device here"
            )
        return tuple(costs)

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
        raise RequestError("--calibration is for INT8, which --precision leaves out: name int8 there, or leave it out")
    if not options.calibration.given and (
        options.calibration.skip_bad_images or options.calibration.method is not None
    ):
        option = "--skip-bad-images" if options.calibration.skip_bad_images else "--calibration-method"
        raise RequestError(f"{option} is for calibrating INT8: give --calibration too")
    if options.evaluation.images is not None and not wanted:
        raise RequestError("--evaluation measures INT8, which is not made here: give --calibration too")
    if options.evaluation.labels is not None and options.evaluation.images is None:
        raise RequestError("--evaluation-labels needs the images that they are of: give --evaluation too")
    share = options.calibration.quantize.whole_shortcuts
    if not 0 <= share <= 1:
        raise RequestError(f"whole_shortcuts is {share:g}, and is a share from 0 to 1")
    if not 0 <= options.evaluation.max_drop <= 100:
        raise RequestError(f"--max-drop is {options.evaluation.max_drop:g}, and lies between 0 and 100 points")


def _structural(quantized: Quantized) -> tuple[KeptLayer, ...]:
    """The layers that cannot be quantized, the Adds with a whole shortcut, and what does not fit FP16."""
    higher = HIGHER[quantized.scheme]
    kept = [KeptLayer(node=item.node, precision=higher, reason=item.reason) for item in quantized.placement.kept]
    kept += [KeptLayer(node=name, precision=higher, reason=WHOLE) for name in quantized.placement.whole_shortcuts]
    kept += [KeptLayer(node=item.node, precision="fp32", reason=item.reason) for item in quantized.overflowing]
    return tuple(kept)


def _kept_first(verdict: Verdict, kept: frozenset[str]) -> list[KeptLayer]:
    return [layer for layer in verdict.variant.kept_higher if layer.node in kept]


def _said(cosine: float, accuracy: Accuracy | None, executor: str) -> str:
    text = f"centred cosine {cosine:.4f}"
    if accuracy is not None:
        text += f", top-1 {accuracy.measured:.2%} of {accuracy.eager:.2%} over {accuracy.samples} images"
    return f"{text}, by {executor}"


def _spoken(speed: Speed) -> str:
    return f"{floored(speed.ratio, 1)} times as fast as {speed.against} on {speed.backend}"
