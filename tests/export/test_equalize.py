"""Equalization changes no answer, and takes rounding errors away."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from resnet_export.graph import constant_of
from resnet_export.passes.equalize import (
    EXPONENTS,
    ChannelStatistics,
    equalization_groups,
    equalize,
    factors_from_statistics,
)
from resnet_export.quantization.calibrate import calibration_tensors
from resnet_export.quantization.channels import statistics_from_graph
from tests.export.graphs import answers, graph_of, random
from tests.export.int8_graphs import folded, images, noise, quantized

# float32: the products are exact but for one rounding of each weight, and the sums are of some hundred terms.
FLOAT32_NOISE = 1e-5


def random_factors(graph, seed=0):
    drawn = np.random.default_rng(seed)
    return {
        group.name: tuple(float(value) for value in drawn.uniform(0.05, 1, group.channels))
        for group in equalization_groups(graph)
    }


def two_layers(spread: float):
    """conv, ReLU, conv; the channels between them differ in range by ``spread``."""
    scale = np.geomspace(1, 1 / spread, 8).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["logits"], name="second"),
    ]
    arrays = {
        "w1": random((8, 3, 1, 1), 1) * scale[:, None, None, None],
        "b1": random((8,), 2) * scale,
        "w2": random((4, 8, 1, 1), 3) / scale[None, :, None, None],
    }
    return graph_of(nodes, arrays, input_shape=("batch", 3, 8, 8), output_shape=("batch", 4, 8, 8))


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_any_factors_leave_the_answers_as_they_are(name: str) -> None:
    graph = folded(name)
    result = equalize(graph, random_factors(graph))
    assert len(result.done) == len(equalization_groups(graph)) > 3
    expected = answers(graph, images())
    found = answers(result.graph, images())
    assert np.abs(found - expected).max() < FLOAT32_NOISE * np.ptp(expected, axis=0).max()
    assert result.graph.to_bytes() != graph.to_bytes()


def test_a_residual_stream_is_one_group() -> None:
    groups = {group.name: group for group in equalization_groups(folded("basic"))}
    stream = next(group for group in groups.values() if len(group.writers) > 1)
    assert all(reader not in stream.writers for reader, _ in stream.readers)
    assert len({tensor for group in groups.values() for tensor in group.tensors}) == sum(
        len(group.tensors) for group in groups.values()
    )


def test_inputs_and_outputs_are_in_no_group() -> None:
    graph = folded("bottleneck")
    grouped = {tensor for group in equalization_groups(graph) for tensor in group.tensors}
    assert not grouped & {graph.input_name, *graph.output_names}


def test_channels_of_unlike_range_lose_less_by_rounding() -> None:
    graph = two_layers(200.0)
    batch = random((32, 3, 8, 8), 4)
    tensors = [name for name in calibration_tensors(graph) if name != "input"]
    statistics = statistics_from_graph(graph, batch, tensors)
    factors = factors_from_statistics(graph, equalization_groups(graph), statistics)
    assert set(factors) == {"a"}
    assert max(factors["a"]) == 1.0
    result = equalize(graph, factors).graph

    def error(of) -> float:
        from resnet_export.observe import observation_from_graph
        from resnet_export.passes.insert_qdq import insert_qdq
        from resnet_export.passes.qdq_placement import placement_from_graph
        from tests.export.int8_graphs import nearest_weights

        placement = placement_from_graph(of, "tensorrt")
        ranges = observation_from_graph(of, batch).ranges
        limits = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
        return noise(
            answers(graph, batch),
            answers(insert_qdq(of, placement, limits, nearest_weights(of, placement)).graph, batch),
        )

    assert error(result) < error(graph) / 20


def test_channels_of_one_range_are_left_alone() -> None:
    graph = two_layers(1.0)
    reach = {"r": ChannelStatistics(np.ones(8), np.ones(8))}
    assert factors_from_statistics(graph, equalization_groups(graph), reach) == {}
    skipped = equalize(graph, {}).skipped
    assert [item.node for item in skipped] == ["a"]


def test_a_dead_channel_keeps_its_factor() -> None:
    graph = two_layers(10.0)
    reach = np.geomspace(1, 0.1, 8)
    reach[3] = 0.0
    statistics = {"r": ChannelStatistics(reach, reach**2)}
    factors = factors_from_statistics(graph, equalization_groups(graph), statistics)["a"]
    assert factors[3] == 1.0
    assert all(0 < factor <= 1 for factor in factors)


def test_statistics_are_those_of_the_values() -> None:
    graph = two_layers(3.0)
    batch = random((6, 3, 8, 8), 4)
    values = np.maximum(
        np.einsum("oi,nihw->nohw", constant_of(next(graph.nodes("Conv")).inputs[1])[:, :, 0, 0], batch)
        + constant_of(next(graph.nodes("Conv")).inputs[2])[None, :, None, None],
        0,
    )
    found = statistics_from_graph(graph, batch, ["r"])["r"]
    np.testing.assert_allclose(found.reach, np.abs(values).max(axis=(2, 3)).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.power, (values**2).mean(axis=(0, 2, 3)), rtol=1e-5)


def test_weights_that_two_layers_share_are_not_scaled() -> None:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w"], ["logits"], name="second"),
    ]
    graph = graph_of(
        nodes, {"w": random((3, 3, 1, 1), 1)}, input_shape=("batch", 3, 4, 4), output_shape=("batch", 3, 4, 4)
    )
    assert equalization_groups(graph) == ()


def test_exponents_begin_with_doing_nothing() -> None:
    assert EXPONENTS[0] == 0.0


def test_a_network_of_unlike_channels_quantizes_better() -> None:
    unlike = equalize(folded("bottleneck"), random_factors(folded("bottleneck"))).graph
    groups = equalization_groups(unlike)
    tensors = list(dict.fromkeys(tensor for group in groups for _, tensor in group.readers))
    factors = factors_from_statistics(unlike, groups, statistics_from_graph(unlike, images(), tensors))
    expected = answers(unlike, images())
    plain = noise(expected, answers(quantized(unlike, "tensorrt"), images()))
    better = noise(expected, answers(quantized(equalize(unlike, factors).graph, "tensorrt"), images()))
    assert better < plain / 2


def test_a_shape_that_is_computed_in_the_graph_is_in_no_group() -> None:
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], name="first"),
        helper.make_node("Shape", ["a"], ["shape"], name="shape"),
        helper.make_node("Identity", ["shape"], ["same"], name="same"),
        helper.make_node("Reshape", ["a", "same"], ["r"], name="reshape"),
        helper.make_node("Conv", ["r", "w2"], ["logits"], name="second"),
    ]
    arrays = {"w1": random((4, 3, 1, 1), 1), "w2": random((2, 4, 1, 1), 2)}
    graph = graph_of(nodes, arrays, input_shape=("batch", 3, 4, 4), output_shape=("batch", 2, 4, 4))
    assert equalization_groups(graph) == ()


def test_an_image_out_of_proportion_moves_the_statistics_little() -> None:
    graph = folded("basic")
    tensors = sorted({tensor for group in equalization_groups(graph) for _, tensor in group.readers})
    usual = images(16)
    unusual = usual.copy()
    unusual[3] *= 100
    without, with_it = (statistics_from_graph(graph, batch, tensors) for batch in (usual, unusual))
    for name in tensors:
        before, after = without[name].reach.max(), with_it[name].reach.max()
        assert before / 1.5 < after < 1.5 * before
