"""Rounding to int8: the nearest, the best scale, and the adaptive kind; and the fit of whole layers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from resnet_export.graph import constant_of
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import placement_from_graph
from resnet_export.quantization.reconstruct import ReconstructOptions, reconstruct, with_biases
from resnet_export.quantization.rounding import adaptive, best_scale, nearest, scale_from_magnitude
from tests.export.graphs import answers, graph_of, random
from tests.export.int8_graphs import folded, images, noise, thresholds


def correlated(rows: int, size: int, seed: int) -> np.ndarray:
    """(rows, size) samples whose columns depend on one another, as a convolution's inputs do."""
    drawn = np.random.default_rng(seed)
    return drawn.standard_normal((rows, size // 4)) @ drawn.standard_normal((size // 4, size)) + 0.1 * (
        drawn.standard_normal((rows, size))
    )


def test_the_nearest_level_is_never_further_than_half_a_step() -> None:
    weights = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    found = nearest(weights, 0)
    half = found.scale[:, None, None, None] / 2
    # a scale is rounded to FP16's 11 bits, so that the largest of a row may be clipped by 127/2048 of a step
    assert (np.abs(found.dequantized() - weights) <= half * (1 + 127 / 1024)).all()
    assert found.values.dtype == np.int8
    assert found.values.min() >= -127


def test_each_output_channel_has_its_scale_whatever_its_axis() -> None:
    weights = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) * np.array([1, 10, 100, 1000])
    found = nearest(weights, 1)
    assert found.scale.shape == (4,)
    assert (np.abs(found.values).max(axis=0) >= 126).all()
    np.testing.assert_allclose(found.dequantized(), weights, atol=float(found.scale.max()))


def test_a_dead_row_gets_a_scale_that_can_be_divided_by() -> None:
    found = nearest(np.zeros((2, 3), np.float32), 0)
    assert (found.scale > 0).all()
    assert not found.values.any()


def test_scales_are_numbers_of_fp16() -> None:
    scale = scale_from_magnitude(np.array([0.1, 3.0, 700.0]))
    np.testing.assert_array_equal(scale, scale.astype(np.float16))


def test_the_best_scale_clips_an_outlier_that_does_not_matter() -> None:
    row = np.full((1, 64), 0.9)
    row[0, 0] = 1.2
    importance = np.ones(64)
    importance[0] = 1e-9
    clipped, plain = best_scale(row, importance), scale_from_magnitude(np.abs(row).max(axis=1))
    assert clipped[0] < plain[0]

    def error(scale: float) -> float:
        return float(((np.clip(np.rint(row / scale), -127, 127) * scale - row) ** 2 @ importance)[0])

    assert error(float(clipped[0])) < error(float(plain[0]))


def test_adaptive_rounding_halves_the_error_of_the_output_at_least() -> None:
    drawn = np.random.default_rng(1)
    inputs = correlated(4000, 64, 2)
    rows = drawn.standard_normal((16, 64))
    hessian = inputs.T @ inputs / len(inputs)
    scale = scale_from_magnitude(np.abs(rows).max(axis=1) * 8)  # 4 bits, so that rounding is all there is to see
    step = scale[:, None].astype(np.float64)
    plain = np.clip(np.rint(rows / step), -127, 127)
    found = adaptive(rows, hessian, scale, 0.01)
    assert (found == np.rint(found)).all()

    def error(integers: np.ndarray) -> float:
        return float((((integers * step - rows) @ inputs.T) ** 2).mean())

    assert error(found) < error(plain) / 2
    assert (np.abs(found - plain) <= 40).all()


def test_without_correlation_adaptive_rounding_is_to_the_nearest() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 300))
    scale = scale_from_magnitude(np.abs(rows).max(axis=1))
    np.testing.assert_array_equal(adaptive(rows, np.eye(300), scale, 0.01), np.rint(rows / scale[:, None]))


def test_inputs_that_are_all_zero_round_to_the_nearest() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 10))
    scale = scale_from_magnitude(np.abs(rows).max(axis=1))
    found = adaptive(rows, np.zeros((10, 10)), scale, 0.01)
    np.testing.assert_array_equal(found, np.clip(np.rint(rows / scale[:, None].astype(np.float64)), -127, 127))


def error_with(graph, scheme: str, options: ReconstructOptions) -> float:
    placement = placement_from_graph(graph, scheme)
    limits = thresholds(graph)
    found = reconstruct(graph, placement, limits, images(), options)
    result = insert_qdq(with_biases(graph, found.biases), placement, limits, found.weights).graph
    unseen = images(32, seed=8)
    return noise(answers(graph, unseen), answers(result, unseen))


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_reconstruction_helps_on_images_that_were_not_seen(name: str) -> None:
    graph = folded(name)
    plain = error_with(graph, "cpu", ReconstructOptions(rounding="nearest", bias=False))
    assert error_with(graph, "cpu", ReconstructOptions()) < plain


def test_the_bias_takes_up_the_mean_error_of_its_layer() -> None:
    conv = helper.make_node("Conv", ["input", "w"], ["logits"], name="conv")
    graph = graph_of(
        [conv], {"w": random((4, 3, 1, 1), 1)}, input_shape=("batch", 3, 8, 8), output_shape=("batch", 4, 8, 8)
    )
    placement = placement_from_graph(graph, "cpu")
    seen = np.abs(random((8, 3, 8, 8), 2))
    limits = {"input": 0.6}  # so much clipped that the means move

    def mean_error(bias: bool) -> float:
        found = reconstruct(graph, placement, limits, seen, ReconstructOptions(rounding="nearest", bias=bias))
        result = insert_qdq(with_biases(graph, found.biases), placement, limits, found.weights).graph
        return float(np.abs((answers(result, seen) - answers(graph, seen)).mean(axis=(0, 2, 3))).max())

    assert mean_error(bias=True) < 1e-5 < mean_error(bias=False)


def test_the_same_images_give_the_same_weights() -> None:
    graph = folded("bottleneck")
    placement = placement_from_graph(graph, "cpu")
    first, second = (reconstruct(graph, placement, thresholds(graph), images(), ReconstructOptions()) for _ in range(2))
    for name in placement.layers:
        np.testing.assert_array_equal(first.weights[name].values, second.weights[name].values)


def test_how_many_layers_are_held_at_once_changes_nothing_that_matters() -> None:
    graph = folded("basic")
    assert error_with(graph, "cpu", ReconstructOptions(at_once=1)) == pytest.approx(
        error_with(graph, "cpu", ReconstructOptions()), rel=0.5
    )


def test_a_layer_without_bias_gets_one_where_it_is_corrected() -> None:
    conv = helper.make_node("Conv", ["input", "w"], ["logits"], name="conv")
    graph = graph_of(
        [conv], {"w": random((4, 3, 1, 1), 1)}, input_shape=("batch", 3, 4, 4), output_shape=("batch", 4, 4, 4)
    )
    bias = np.arange(4, dtype=np.float32)
    node = next(with_biases(graph, {"conv": bias}).nodes("Conv"))
    np.testing.assert_array_equal(constant_of(node.inputs[2]), bias)


@pytest.mark.parametrize("size", [1.0, 0.017, 2e-3])
def test_small_weights_have_all_levels_too(size: float) -> None:
    """As preprocessing in the graph leaves them in the first layer: a fiftieth of what they were trained to."""
    weights = np.random.default_rng(5).normal(0, 0.1, (16, 3, 7, 7)) * size
    found = nearest(weights, 0)
    assert np.abs(found.values).max(axis=(1, 2, 3)).min() >= 120
    error = found.dequantized() - weights
    assert (error**2).sum() / (weights**2).sum() < 1e-4
    assert np.array_equal(found.scale, found.scale.astype(np.float16).astype(np.float32))
