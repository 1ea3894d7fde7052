"""What an export does where an INT8 graph does not pass its gate: other clipping, and then layers in higher precision.

With evaluation images, the clipping method is chosen anew on them: it costs no speed, and layers that are kept do. Then
layers are ranked by what each costs, and as few as possible are kept.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import KeptLayer, Manifest

from . import verify
from .calibration import Calibrated
from .host_session import whole_batches
from .progress import Stage, Timings
from .quantization.choice import divergence_by_method
from .quantization.fallback import costs_of_layers, smallest_fallback
from .quantization.hardest import hardest_images
from .quantization.quantize import HIGHER, Quantized
from .report import KeptCost, Verdict
from .speed import slowdown_of_graph
from .trace import first_line

RANKED_BY: Final = 16
"""How many images the layers are ranked by, where some have to be kept."""

LOOKED_AT: Final = 2000
"""Of how many evaluation images those are the ones that INT8 changes the most, and the clipping is chosen by."""

BETTER: Final = 0.9
"""Another method is taken for less than this share of the divergence."""

MOST_KEPT: Final = 0.5
"""The share of the layers that may be kept: a graph with more in higher precision is not INT8."""

Judge = Callable[[Quantized, Sequence[KeptLayer]], Verdict]
"""Stages the graph in which these layers are kept, and judges it; a graph that fails stays staged."""


class Fallback:
    """Mends the INT8 variants of one staged bundle.

    Args:
        draft: the bundle's manifest, without variants.
        calibrated: what they are made from.
        data: eager's answers.
        evaluation: what their accuracy is measured with, where it is.
        judge: see there.
    """

    def __init__(
        self,
        draft: Manifest,
        calibrated: Calibrated,
        data: CheckData,
        evaluation: verify.Evaluation | None,
        judge: Judge,
        timings: Timings,
    ) -> None:
        self._draft = draft
        self._calibrated = calibrated
        self._data = data
        self._evaluation = evaluation
        self._judge = judge
        self._timings = timings

    def better_method(self, quantized: Quantized, method: str) -> str | None:
        """The method that changes the evaluation images' answers less than ``method``; None where there is none."""
        if self._evaluation is None:
            return None
        with self._timings.stage(f"clipping int8-{quantized.scheme}") as stage:
            count, batches = self._images(self._evaluation)
            found = divergence_by_method(
                self._calibrated.graph,
                quantized.placement,
                self._calibrated.table.tensors,
                batches,
                lambda done: stage.advance(done, count, "images"),
            )
            best = min(found, key=found.__getitem__)
            if not found[best] < BETTER * found[method]:
                stage.tell(f"{method} stays: no other has less than {BETTER:g} of its divergence")
                return None
            stage.tell(f"{best} and not {method}: it changes {found[best]:.2g} nats, and that {found[method]:.2g}")
        return best

    def fallen_back(self, quantized: Quantized, failed: Verdict) -> Verdict:
        """The verdict with as few layers kept as possible; the failed one where too many would have to be."""
        name, scheme = f"int8-{quantized.scheme}", quantized.scheme
        most = int(MOST_KEPT * len(quantized.layers))
        with self._timings.stage(f"rank {name}") as stage:
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
                tried[kept] = self._judge(quantized, layers)
            return not tried[kept].faults

        kept = smallest_fallback([cost.node for cost in costs], passes, most)
        if kept is None:
            fault = f"with {most} of {len(quantized.layers)} layers kept in {HIGHER[scheme]} it still does not pass"
            return dataclasses.replace(failed, faults=(*failed.faults, fault))
        final = tried[kept]
        if next(reversed(tried)) != kept:  # another one was staged since
            final = self._judge(quantized, [layer for layer in final.variant.kept_higher if layer.node in kept])
        return dataclasses.replace(final, kept_costs=self._kept_costs(quantized, kept, noise))

    def _images(self, evaluation: verify.Evaluation) -> tuple[int, Iterator[NDArray[Any]]]:
        """``LOOKED_AT`` of the evaluation images: how many they are, and batches of them."""
        count = min(LOOKED_AT, evaluation.images.count)
        size = self._draft.input.batch.largest
        batches = (batch for batch, _ in evaluation.images.batches(size))
        return count, itertools.islice(batches, -(-count // size))

    def _ranked_by(self, quantized: Quantized, stage: Stage) -> NDArray[np.generic]:
        """The evaluation images that INT8 changes the most; where there are none, the first ones of check.npz."""
        if self._evaluation is None:
            return whole_batches(quantized.exact, self._data.inputs, RANKED_BY)
        count, batches = self._images(self._evaluation)
        return hardest_images(
            quantized.exact,
            quantized.graph_in_fp32(),
            batches,
            RANKED_BY,
            lambda done: stage.advance(done, count, "images"),
        )

    def _kept_costs(self, quantized: Quantized, kept: frozenset[str], noise: dict[str, float]) -> tuple[KeptCost, ...]:
        """What each kept layer costs: in noise if it were quantized alone, and in time because it is not."""
        costs = []
        with self._timings.stage(f"cost int8-{quantized.scheme}") as stage:
            reason = "there is no TensorRT device here"
            for position, name in enumerate(sorted(kept, key=lambda item: -noise[item])):
                slower = None
                if quantized.scheme == "cpu":
                    try:
                        slower = slowdown_of_graph(
                            quantized.graph(kept).to_bytes(),
                            quantized.graph(kept - {name}).to_bytes(),
                            self._draft,
                            kept | {layer.node for layer in quantized.structural},
                            self._data.inputs,
                        )
                    except (UnavailableError, BackendError) as error:  # a time that cannot be had fails no export
                        reason = first_line(error)
                costs.append(KeptCost(name, noise[name], slower))
                stage.advance(position + 1, len(kept), "layers")
            measured = [cost for cost in costs if cost.slowdown is not None]
            stage.tell(
                ", ".join(f"{cost.node} {cost.slowdown - 1:+.1%} time" for cost in measured if cost.slowdown)
                if measured
                else f"what that costs in time was not measured: {reason}"
            )
        return tuple(costs)
