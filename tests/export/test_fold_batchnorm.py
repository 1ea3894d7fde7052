"""Folding BatchNorm: exact where it is done, refused where it would not be."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from resnet_export.errors import PassError
from resnet_export.graph import constant_of
from resnet_export.passes import fold_batchnorm
from tests.export.graphs import answers, batchnorm, batchnorm_arrays, graph_of, operators, random

IMAGE = ("batch", 3, 8, 8)
# float32 rounds each of some tens of products and sums to 6e-8; the answers are of the order of 10.
FLOAT32_NOISE = 2e-5


def conv_bn(*, bias: bool, groups: int = 1, epsilon: float = 1e-5, **attributes: int):
    arrays = {"conv.weight": random((6, 3 // groups, 3, 3), 1), **batchnorm_arrays("bn", 6, 10)}
    if bias:
        arrays["conv.bias"] = random((6,), 2)
    inputs = ["input", "conv.weight", *(["conv.bias"] if bias else [])]
    conv = helper.make_node("Conv", inputs, ["a"], name="conv", group=groups, pads=[1, 1, 1, 1])
    nodes = [conv, batchnorm("bn", "a", "logits", epsilon=epsilon, **attributes)]
    return graph_of(nodes, arrays, input_shape=IMAGE, output_shape=("batch", 6, 8, 8))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_takes_its_batchnorm_in(bias: bool, groups: int) -> None:
    graph = conv_bn(bias=bias, groups=groups)
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Conv"]
    assert result.done == ("bn",)
    assert result.skipped == ()
    batch = random((2, 3, 8, 8), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)
    assert result.graph.output_names == ("logits",)


def test_the_weights_are_the_formula_in_float64_rounded_once() -> None:
    graph = conv_bn(bias=True, epsilon=1e-3)
    arrays = {name: constant_of(value) for name, value in graph.model.graph.initializers.items()}
    gamma, beta, mean, var = (arrays[f"bn.{part}"].astype(np.float64) for part in ("weight", "bias", "mean", "var"))
    scale = gamma / np.sqrt(var + np.float64(np.float32(1e-3)))  # ONNX attributes are float32
    node = next(fold_batchnorm(graph).graph.nodes("Conv"))
    weight = (arrays["conv.weight"].astype(np.float64) * scale[:, None, None, None]).astype(np.float32)
    bias = (scale * (arrays["conv.bias"].astype(np.float64) - mean) + beta).astype(np.float32)
    np.testing.assert_array_equal(constant_of(node.inputs[1]), weight)
    # the two orders of the sum differ in float64's last bits, and so once in a while in float32's last
    np.testing.assert_allclose(constant_of(node.inputs[2]), bias, rtol=1.2e-7, atol=0)


def test_the_graph_that_was_given_is_not_changed() -> None:
    graph = conv_bn(bias=False)
    before = graph.to_bytes()
    fold_batchnorm(graph)
    assert graph.to_bytes() == before


def test_a_batchnorm_after_relu_becomes_one_scale_and_shift() -> None:
    nodes = [helper.make_node("Relu", ["input"], ["a"], name="relu"), batchnorm("bn", "a", "logits")]
    graph = graph_of(nodes, batchnorm_arrays("bn", 3, 10), input_shape=IMAGE, output_shape=IMAGE)
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Relu", "Mul", "Add"]
    assert result.done == ()
    assert [(item.node, item.reason) for item in result.skipped] == [
        ("bn", "it follows Relu, not a convolution: it became one scale and shift")
    ]
    batch = random((2, 3, 8, 8), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)


def test_a_convolution_that_two_batchnorms_read_keeps_its_weights() -> None:
    arrays = {
        "conv.weight": random((4, 3, 1, 1), 1),
        **batchnorm_arrays("bn1", 4, 10),
        **batchnorm_arrays("bn2", 4, 20),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight"], ["a"], name="conv"),
        batchnorm("bn1", "a", "b"),
        batchnorm("bn2", "a", "c"),
        helper.make_node("Add", ["b", "c"], ["logits"], name="add"),
    ]
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=("batch", 4, 8, 8))
    result = fold_batchnorm(graph)
    assert "BatchNormalization" not in operators(result.graph)
    assert [item.node for item in result.skipped] == ["bn1", "bn2"]
    batch = random((2, 3, 8, 8), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)


def test_two_convolutions_that_share_their_weights_get_their_own() -> None:
    arrays = {
        "conv.weight": random((3, 3, 1, 1), 1),
        **batchnorm_arrays("bn1", 3, 10),
        **batchnorm_arrays("bn2", 3, 20),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight"], ["a"], name="conv1"),
        batchnorm("bn1", "a", "b"),
        helper.make_node("Conv", ["b", "conv.weight"], ["c"], name="conv2"),
        batchnorm("bn2", "c", "logits"),
    ]
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=IMAGE)
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Conv", "Conv"]
    batch = random((2, 3, 8, 8), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)


def test_a_convolution_that_is_an_output_is_left_alone() -> None:
    arrays = {"conv.weight": random((4, 3, 1, 1), 1), **batchnorm_arrays("bn", 4, 10)}
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight"], ["features"], name="conv"),
        batchnorm("bn", "features", "logits"),
    ]
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=("batch", 4, 8, 8), outputs=("logits", "features"))
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Conv", "Mul", "Add"]
    assert result.graph.output_names == ("logits", "features")


@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_layer_takes_its_batchnorm_in(transposed: bool) -> None:
    shape = (5, 7) if transposed else (7, 5)
    arrays = {"fc.weight": random(shape, 1), "fc.bias": random((5,), 2), **batchnorm_arrays("bn", 5, 10)}
    nodes = [
        helper.make_node("Gemm", ["input", "fc.weight", "fc.bias"], ["a"], name="fc", transB=int(transposed)),
        batchnorm("bn", "a", "logits"),
    ]
    graph = graph_of(nodes, arrays, input_shape=("batch", 7), output_shape=("batch", 5))
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Gemm"]
    batch = random((3, 7), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)


def test_a_batchnorm_after_a_scaled_linear_layer_becomes_scale_and_shift() -> None:
    arrays = {"fc.weight": random((7, 5), 1), **batchnorm_arrays("bn", 5, 10)}
    nodes = [
        helper.make_node("Gemm", ["input", "fc.weight"], ["a"], name="fc", alpha=0.5),
        batchnorm("bn", "a", "logits"),
    ]
    graph = graph_of(nodes, arrays, input_shape=("batch", 7), output_shape=("batch", 5))
    result = fold_batchnorm(graph)
    assert operators(result.graph) == ["Gemm", "Mul", "Add"]
    batch = random((3, 7), 5)
    np.testing.assert_allclose(answers(result.graph, batch), answers(graph, batch), rtol=0, atol=FLOAT32_NOISE)


def test_training_mode_is_refused() -> None:
    arrays = {"conv.weight": random((6, 3, 3, 3), 1), **batchnorm_arrays("bn", 6, 10)}
    bn = batchnorm("bn", "a", "logits", training_mode=1)
    bn.output.extend(["running_mean", "running_var"])
    nodes = [helper.make_node("Conv", ["input", "conv.weight"], ["a"], name="conv", pads=[1] * 4), bn]
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=("batch", 6, 8, 8))
    with pytest.raises(PassError, match=r"bn is in training mode.*model\.eval\(\)"):
        fold_batchnorm(graph)


def with_array(name: str, array: np.ndarray):
    graph = conv_bn(bias=False).copy()
    import onnx_ir as ir

    graph.model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    return graph


def test_a_negative_variance_is_refused() -> None:
    with pytest.raises(PassError, match=r"bn has a running variance of -1, and a variance is not negative"):
        fold_batchnorm(with_array("bn.var", np.array([1, 1, -1, 1, 1, 1], np.float32)))


def test_a_fold_that_overflows_is_refused() -> None:
    with pytest.raises(PassError, match=r"folding bn gives conv a weight that is not finite"):
        fold_batchnorm(with_array("bn.weight", np.full(6, 3e38, np.float32)))


def test_statistics_that_depend_on_the_input_are_refused() -> None:
    arrays = batchnorm_arrays("bn", 3, 10)
    del arrays["bn.mean"]
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["m"], name="mean", keepdims=0, noop_with_empty_axes=0),
        helper.make_node("Expand", ["m", "three"], ["bn.mean"], name="expand"),
        batchnorm("bn", "input", "logits"),
    ]
    arrays["three"] = np.array([3], np.int64)
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=IMAGE)
    with pytest.raises(PassError, match=r"the statistics of bn depend on the input"):
        fold_batchnorm(graph)
