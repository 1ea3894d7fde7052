"""Which layers go back to higher precision where INT8 does not pass its gate, with as few as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph

from .noise import answers_from_graph, noise_in_answers

Passes = Callable[[frozenset[str]], bool]

_TRIED_ONE_BY_ONE = 12


@dataclass(frozen=True)
class LayerCost:
    """What it costs to quantize one layer alone.

    Attributes:
        node: its name.
        noise: in the answers, as ``noise_in_answers`` has it.
    """

    node: str
    noise: float


def costs_of_layers(
    exact: Graph,
    graph_with_kept: Callable[[frozenset[str]], Graph],
    layers: Sequence[str],
    inputs: NDArray[np.generic],
    on_layer: Callable[[int], None] | None = None,
) -> tuple[LayerCost, ...]:
    """Quantize each layer alone and look at the answers; the costliest first.

    Args:
        exact: the FP32 graph.
        graph_with_kept: the INT8 graph of the same in which some layers are kept.
        layers: the names of all that can be quantized.
        inputs: (N, ...), a few dozen.
        on_layer: told of how many were tried.
    """
    expected = answers_from_graph(exact, inputs)
    costs = []
    for position, layer in enumerate(layers):
        found = answers_from_graph(graph_with_kept(frozenset(layers) - {layer}), inputs)
        costs.append(LayerCost(layer, noise_in_answers(expected, found)))
        if on_layer is not None:
            on_layer(position + 1)
    return tuple(sorted(costs, key=lambda cost: -cost.noise))


def smallest_fallback(ranked: Sequence[str], passes: Passes, most: int) -> frozenset[str] | None:
    """The fewest layers to keep, taken from the costliest on, with which the gate is passed.

    The number is found by doubling and then halving the interval; then layers that turn out not to be needed are
    quantized again, the least costly first.

    Args:
        ranked: layer names, the costliest first.
        passes: whether the gate is passed with some layers kept; not asked about none.
        most: how many may be kept.

    Returns:
        None where ``most`` are not enough.
    """
    known: dict[int, bool] = {0: False}

    def enough(count: int) -> bool:
        if count not in known:
            known[count] = passes(frozenset(ranked[:count]))
        return known[count]

    high = 1
    while high < most and not enough(high):
        high *= 2
    high = min(high, most)
    if high < 1 or not enough(high):
        return None
    low = max(count for count, passed in known.items() if not passed and count < high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    kept = frozenset(ranked[:high])
    for name in list(reversed(ranked[: high - 1]))[:_TRIED_ONE_BY_ONE]:
        fewer = kept - {name}
        if fewer and passes(fewer):
            kept = fewer
    return kept
