"""What an export does where an INT8 graph does not pass its gate: as few layers as possible in higher precision."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import KeptLayer, Manifest

from . import verify
from .host_session import whole_batches
from .progress import Stage, Timings
from .quantization.fallback import costs_of_layers, smallest_fallback
from .quantization.hardest import hardest_images
from .quantization.quantize import HIGHER, Quantized
from .report import KeptCost, Verdict
from .speed import slowdown_of_graph
from .trace import first_line

RANKED_BY: Final = 16
"""How many images the layers are ranked by, where some have to be kept."""

RANKED_OF: Final = 2000
"""Of how many evaluation images those are the ones that INT8 changes the most."""

MOST_KEPT: Final = 0.5
"""The share of the layers that may be kept: a graph with more in higher precision is not INT8."""

Judge = Callable[[Quantized, Sequence[KeptLayer]], Verdict]
"""Stages the graph in which these layers are kept, and judges it; a graph that fails stays staged."""


class Fallback:
    """Mends the INT8 variants of one staged bundle.

    Args:
        draft: the bundle's manifest, without variants.
        data: eager's answers.
        evaluation: what their accuracy is measured with, where it is.
        judge: see there.
    """

    def __init__(
        self,
        draft: Manifest,
        data: CheckData,
        evaluation: verify.Evaluation | None,
        judge: Judge,
        timings: Timings,
    ) -> None:
        self._draft = draft
        self._data = data
        self._evaluation = evaluation
        self._judge = judge
        self._timings = timings

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

    def _ranked_by(self, quantized: Quantized, stage: Stage) -> NDArray[np.generic]:
        """The evaluation images that INT8 changes the most; where they fill no batch, the first ones of check.npz."""
        size = self._draft.input.batch.largest
        if self._evaluation is None or self._evaluation.images.count < (quantized.exact.fixed_batch or 1):
            return whole_batches(quantized.exact, self._data.inputs, RANKED_BY)
        total = min(RANKED_OF, self._evaluation.images.count)
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
            on_gpu = quantized.scheme == "tensorrt"
            reason = "there is no TensorRT device here" if on_gpu else "no backend here computes INT8"
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
