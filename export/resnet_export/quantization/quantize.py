"""An INT8 graph of one scheme, and the same with some layers left in higher precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import BESIDE, Placement, placement_from_graph
from resnet_export.passes.result import Skipped
from resnet_export.passes.to_fp16 import Fp16Options, Ranges, to_fp16
from resnet_runtime.manifest import KeptLayer

from .choice import thresholds_by_method
from .reconstruct import Reconstruction, ReconstructOptions, reconstruct, with_biases
from .table import CalibrationTable

HIGHER = {"tensorrt": "fp16", "cpu": "fp32"}
"""What computes that is not quantized, by scheme."""

WHOLE = "its shortcut is not quantized: rounding it would cost more than the bytes that it saves are worth"


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How INT8 graphs are made.

    Attributes:
        images: how many of the calibration images weights and biases are fitted to.
        reconstruct: of the weights and biases.
        whole_shortcuts: the share, 0 to 1, of the values that residual Adds read as their shortcut which may stay
            unquantized in the scheme ``tensorrt``, where that takes the most noise away.
    """

    images: int = 64
    reconstruct: ReconstructOptions = field(default_factory=ReconstructOptions)
    whole_shortcuts: float = 0.25


@dataclass(frozen=True)
class Quantized:
    """Everything that an INT8 graph of one scheme is made of.

    Attributes:
        scheme: of ``qdq_placement.SCHEMES``.
        higher: the graph with the corrected biases in the precision of what is not quantized.
        exact: the same in FP32.
        placement: with every layer quantized.
        thresholds: by tensor.
        found: the weights of every layer, and the biases that are in the graphs.
        overflowing: the nodes that keep FP32 in an FP16 graph.

    The residual Adds of ``placement.whole_shortcuts`` are never given a quantized shortcut.
    """

    scheme: str
    higher: Graph
    exact: Graph
    placement: Placement
    thresholds: Mapping[str, float]
    found: Reconstruction
    overflowing: tuple[Skipped, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all layers that can be quantized, in the graph's order."""
        return self.placement.layers

    @property
    def structural(self) -> tuple[KeptLayer, ...]:
        """What is kept whether asked for or not: layers that cannot be quantized, Adds with a whole shortcut, and
        what does not fit FP16."""
        higher = HIGHER[self.scheme]
        kept = [KeptLayer(node=item.node, precision=higher, reason=item.reason) for item in self.placement.kept]
        kept += [KeptLayer(node=name, precision=higher, reason=WHOLE) for name in self.placement.whole_shortcuts]
        kept += [KeptLayer(node=item.node, precision="fp32", reason=item.reason) for item in self.overflowing]
        return tuple(kept)

    def beside(self, kept: Set[str]) -> tuple[KeptLayer, ...]:
        """What is kept because these layers are."""
        skipped = (item for item in self._placement(kept).kept if item.reason == BESIDE)
        return tuple(KeptLayer(node=item.node, precision=HIGHER[self.scheme], reason=BESIDE) for item in skipped)

    def graph(self, kept: Set[str] = frozenset()) -> Graph:
        """The INT8 graph in which the layers ``kept`` compute in higher precision."""
        return insert_qdq(self.higher, self._placement(kept), self.thresholds, self.found.weights).graph

    def graph_in_fp32(self, kept: Set[str] = frozenset()) -> Graph:
        """The same with FP32 between the quantized tensors, in either scheme."""
        return insert_qdq(self.exact, self._placement(kept), self.thresholds, self.found.weights).graph

    def _placement(self, kept: Set[str]) -> Placement:
        return placement_from_graph(self.exact, self.scheme, kept, frozenset(self.placement.whole_shortcuts))


def quantized_from_table(
    graph: Graph,
    table: CalibrationTable,
    scheme: str,
    inputs: NDArray[np.generic] | None,
    options: QuantizeOptions,
    ranges: Ranges,
    fp16: Fp16Options,
    on_layers: Callable[[int, int], None] | None = None,
) -> Quantized:
    """Quantize.

    Args:
        graph: FP32, folded and equalized by the table's factors.
        table: of the graph.
        scheme: of ``qdq_placement.SCHEMES``.
        inputs: calibration images to fit weights and biases to; None: weights are rounded to the nearest, and biases
            stay what they are.
        options: see there.
        ranges: of the graph's tensors, seen on some inputs: they tell what fits FP16.
        fp16: of the guard against overflow.
        on_layers: told of how many layers were done, and how many there are.
    """
    placement = placement_from_graph(graph, scheme, whole_shortcuts=frozenset(table.whole_shortcuts))
    thresholds = thresholds_by_method(table.tensors, placement, table.methods[scheme])
    choice = options.reconstruct
    if inputs is None:
        choice = ReconstructOptions(rounding="nearest", bias=False)
        inputs = np.zeros(0, np.float32)

    def told(count: int) -> None:
        if on_layers is not None:
            on_layers(count, len(placement.layers))

    found = reconstruct(graph, placement, thresholds, inputs, choice, told)
    exact = with_biases(graph, found.biases)
    if HIGHER[scheme] == "fp32":
        return Quantized(scheme, exact, exact, placement, thresholds, found, ())
    half = to_fp16(exact, ranges, fp16)
    return Quantized(scheme, half.graph, exact, placement, thresholds, found, half.skipped)
