"""The fewest layers that have to be kept are found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_export.quantization.fallback import costs_of_layers, smallest_fallback
from tests.export.int8_graphs import folded, images, quantized

LAYERS = tuple(f"layer{index}" for index in range(20))


@given(st.sets(st.sampled_from(LAYERS[:12]), min_size=1, max_size=6))
def test_exactly_the_layers_that_are_needed_are_kept(needed: set[str]) -> None:
    assert smallest_fallback(LAYERS, lambda kept: needed <= kept, 12) == needed


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_number_that_is_needed_is_met_exactly(needed: int, most: int) -> None:
    found = smallest_fallback(LAYERS, lambda kept: len(kept) >= needed, most)
    assert found == (frozenset(LAYERS[:needed]) if needed <= most else None)


def test_few_questions_are_asked() -> None:
    asked: list[int] = []

    def passes(kept: frozenset[str]) -> bool:
        asked.append(len(kept))
        return len(kept) >= 9

    layers = [f"{index}" for index in range(200)]
    smallest_fallback(layers, passes, 100)
    assert len(asked) <= 8 + 12


@pytest.mark.parametrize("most", [0, 5])
def test_what_cannot_be_met_is_said(most: int) -> None:
    assert smallest_fallback(LAYERS, lambda kept: False, most) is None


def test_the_layer_that_was_made_bad_costs_the_most() -> None:
    import numpy as np

    from resnet_export.passes.insert_qdq import insert_qdq
    from resnet_export.passes.qdq_placement import placement_from_graph
    from tests.export.int8_graphs import nearest_weights, thresholds

    graph = folded("basic")
    limits = thresholds(graph)
    placement = placement_from_graph(graph, "cpu")
    bad = placement.points[2]
    limits[bad.ranged_by] = 1e-3
    weights = nearest_weights(graph, placement)

    def with_kept(kept: frozenset[str]):
        return insert_qdq(graph, placement_from_graph(graph, "cpu", kept), limits, weights).graph

    told: list[int] = []
    costs = costs_of_layers(graph, with_kept, placement.layers, images(8), told.append)
    assert costs[0].node in {name for name, _ in bad.readers}
    assert told == list(range(1, len(placement.layers) + 1))
    assert [cost.noise for cost in costs] == sorted((cost.noise for cost in costs), reverse=True)
    assert np.isfinite([cost.noise for cost in costs]).all()
    assert quantized(graph, "cpu").to_bytes()
