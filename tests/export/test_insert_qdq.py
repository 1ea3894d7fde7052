"""Q/DQ: where it stands, what it stores, and that an integer kernel computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from resnet_export.emulate import Emulation
from resnet_export.graph import constant_of, name_of
from resnet_export.observe import observation_from_graph
from resnet_export.passes.insert_qdq import SMALLEST_SCALE, QuantizedWeights, insert_qdq, undequantized_layers
from resnet_export.passes.qdq_placement import (
    BESIDE,
    CLASSIFIER,
    OVER_CHANNELS,
    SCHEMES,
    nonnegative,
    placement_from_graph,
    residual_adds,
    shortcut_of,
)
from resnet_export.passes.to_fp16 import to_fp16
from resnet_export.quantization.rounding import SMALLEST_SCALE as WEIGHTS_SMALLEST
from resnet_runtime.backends import open_backend
from resnet_runtime.backends.base import OpenOptions, Signature, TensorSpec
from tests.export.graphs import answers, graph_of, random
from tests.export.int8_graphs import folded, images, nearest_weights, noise, quantized, thresholds

GOLDEN = Path(__file__).parent / "golden" / "placement"
EVERY = [(name, scheme) for name in ("basic", "bottleneck") for scheme in SCHEMES]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "name",
    [
        "basic",
        "bottleneck",
        "resnet18",
        "resnet34",
        "resnet50",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "resnet152", "resnext50_32x4d")),
    ],
)
def test_the_placement_is_the_golden_one(name: str, scheme: str, update_goldens: bool) -> None:
    text = placement_from_graph(folded(name), scheme).text()
    path = GOLDEN / f"{name}.{scheme}.txt"
    if update_goldens:
        path.write_text(text)
    assert text == path.read_text()


def test_the_placement_with_whole_shortcuts_is_the_golden_one(update_goldens: bool) -> None:
    graph = folded("basic")
    adds = frozenset(str(add.name) for add in residual_adds(graph))
    text = placement_from_graph(graph, "tensorrt", whole_shortcuts=adds).text()
    path = GOLDEN / "basic.tensorrt.whole_shortcuts.txt"
    if update_goldens:
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_layers_of_the_same_weights_each_get_their_own(scheme: str) -> None:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["logits"], name="second", pads=[1] * 4),
    ]
    shape = ("n", 3, 8, 8)
    graph = graph_of(nodes, {"w": random((3, 3, 3, 3), 0)}, input_shape=shape, output_shape=shape)
    placement = placement_from_graph(graph, scheme)
    rounded = nearest_weights(graph, placement)
    coarse = QuantizedWeights(rounded["second"].values // 2 * 2, rounded["second"].scale, rounded["second"].axis)
    result = insert_qdq(graph, placement, {"input": 3.0, "a": 9.0}, {**rounded, "second": coarse}).graph
    onnx.checker.check_model(result.to_bytes(), full_check=True)
    stored = [constant_of(node.inputs[1].producer().inputs[0]) for node in result.nodes("Conv")]
    np.testing.assert_array_equal(stored[0], rounded["first"].values)
    np.testing.assert_array_equal(stored[1], coarse.values)
    assert not np.array_equal(stored[0], stored[1])


@pytest.mark.parametrize(("name", "scheme"), EVERY)
def test_every_convolution_reads_eight_bits(name: str, scheme: str) -> None:
    graph = folded(name)
    result = quantized(graph, scheme)
    assert undequantized_layers(graph) == tuple(str(n.name) for n in graph.nodes() if n.op_type in ("Conv", "Gemm"))
    assert undequantized_layers(result) == ("fc/Gemm",)
    assert [(item.node, item.reason) for item in placement_from_graph(graph, scheme).kept] == [("fc/Gemm", CLASSIFIER)]
    for node in result.nodes("QuantizeLinear"):
        signed = scheme == "tensorrt" or name_of(node.inputs[0]) == "input"
        assert node.outputs[0].dtype == (ir.DataType.INT8 if signed else ir.DataType.UINT8)
    onnx.checker.check_model(result.to_bytes(), full_check=True)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_kept_layer_reads_floating_point_and_no_other_does(scheme: str) -> None:
    graph = folded("bottleneck")
    kept = {"layer1.0.conv2/Conv", "layer2.1.conv3/Conv"}
    assert set(undequantized_layers(quantized(graph, scheme, frozenset(kept)))) == kept | {"fc/Gemm"}
    assert {item.node for item in placement_from_graph(graph, scheme, frozenset(kept)).kept} == kept | {"fc/Gemm"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_every_layer_kept_nothing_is_quantized(scheme: str) -> None:
    graph = folded("bottleneck")
    layers = frozenset(placement_from_graph(graph, scheme).layers)
    assert placement_from_graph(graph, scheme, layers).points == ()
    result = quantized(graph, scheme, layers)
    if scheme == "tensorrt":
        assert result.to_bytes() == graph.to_bytes()
    assert not [node for node in result.nodes() if node.op_type in ("QuantizeLinear", "DequantizeLinear")]


def test_for_a_cpu_the_classifiers_weights_are_int8_in_the_file_and_fp32_in_the_arithmetic() -> None:
    graph = folded("basic")
    plain, stored = next(graph.nodes("Gemm")), next(quantized(graph, "cpu").nodes("Gemm"))
    product = stored.inputs[1].producer()
    cast = product.inputs[0].producer()
    assert (product.op_type, cast.op_type) == ("Mul", "Cast")
    values, scale = constant_of(cast.inputs[0]), constant_of(product.inputs[1])
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)
    weights = constant_of(plain.inputs[1])
    assert scale.shape == (len(weights), 1)  # transB: a row is a class
    assert (np.abs(values.astype(np.int32)).max(axis=1) >= 126).all()
    np.testing.assert_array_less(np.abs(values * scale - weights), np.broadcast_to(scale * 0.56, weights.shape))
    assert name_of(stored.inputs[0]) == name_of(plain.inputs[0])
    assert next(quantized(graph, "tensorrt").nodes("Gemm")).inputs[1].producer() is None


def test_what_only_layers_read_has_no_zero_point_to_make_up_for() -> None:
    points = {point.tensor: point for point in placement_from_graph(folded("bottleneck"), "cpu").points}
    assert (points["input"].unsigned, points["input"].zero_point) == (False, 0)
    added = [point for point in points.values() if any("Add" in node for node, _ in point.readers)]
    assert {point.zero_point for point in added if not point.unsigned} == {128}


def test_a_max_pool_of_both_signs_moves_one_type_of_eight_bits() -> None:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("MaxPool", ["a"], ["b"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["b", "w"], ["logits"], name="second", pads=[1] * 4),
    ]
    graph = graph_of(nodes, {"w": random((3, 3, 3, 3), 0)}, input_shape=("n", 3, 8, 8), output_shape=("n", 3, 4, 4))
    points = {point.tensor: point for point in placement_from_graph(graph, "cpu").points}
    assert {name: point.zero_point for name, point in points.items()} == {"input": 0, "a": 128, "b": 128}


@pytest.mark.parametrize(("name", "scheme"), EVERY)
def test_a_tensor_has_one_pair_however_often_it_is_read(name: str, scheme: str) -> None:
    quantizers = [name_of(node.inputs[0]) for node in quantized(folded(name), scheme).nodes("QuantizeLinear")]
    assert len(quantizers) == len(set(quantizers))
    assert len(quantizers) > 5


def test_a_max_pool_moves_eight_bits_by_one_scale() -> None:
    graph = quantized(folded("bottleneck"), "cpu")
    pool = next(graph.nodes("MaxPool"))
    before = pool.inputs[0].producer()
    after = next(user for user, _ in pool.outputs[0].uses())
    assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert constant_of(before.inputs[1]) == constant_of(after.inputs[1])


def test_the_schemes_quantize_the_adds_as_they_say() -> None:
    graph = folded("basic")
    adds = residual_adds(graph)
    assert len(adds) == 2
    for node in residual_adds(quantized(graph, "cpu")):
        assert [value.producer().op_type for value in node.inputs] == ["DequantizeLinear"] * 2
    for node, plain in zip(residual_adds(quantized(graph, "tensorrt")), adds, strict=True):
        producers = [value.producer().op_type for value in node.inputs]
        assert producers[shortcut_of(plain)] == "DequantizeLinear"
        assert producers[1 - shortcut_of(plain)] == "Conv"


def test_the_shortcut_is_the_input_with_fewer_convolutions() -> None:
    for node in residual_adds(folded("bottleneck")):
        producer = node.inputs[shortcut_of(node)].producer()
        assert producer.op_type == "Relu" or "downsample" in str(producer.name)


def test_what_cannot_be_negative_uses_every_level() -> None:
    graph = quantized(folded("basic"), "cpu")
    for node in graph.nodes("QuantizeLinear"):
        zero = int(constant_of(node.inputs[2]))
        assert zero == (0 if nonnegative(node.inputs[0]) or name_of(node.inputs[0]) == "input" else 128)
    zeros = {int(constant_of(node.inputs[2])) for node in graph.nodes("QuantizeLinear")}
    assert zeros == {0, 128}


@pytest.mark.parametrize(("name", "scheme"), EVERY)
def test_the_answers_are_near_the_fp32_graphs(name: str, scheme: str) -> None:
    graph = folded(name)
    expected = answers(graph, images())
    assert 0 < noise(expected, answers(quantized(graph, scheme), images())) < 0.01


def test_scale_and_zero_point_are_the_formula() -> None:
    graph = folded("basic")
    limits = thresholds(graph)
    result = quantized(graph, "cpu")
    for node in result.nodes("QuantizeLinear"):
        name = name_of(node.inputs[0])
        levels = 255 if nonnegative(node.inputs[0]) else 127
        assert float(constant_of(node.inputs[1])) == pytest.approx(limits[name] / levels, rel=1e-6)


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_strongly_typed_fp16_stays_so(name: str) -> None:
    graph = folded(name)
    half = to_fp16(graph, observation_from_graph(graph, images()).ranges).graph
    placement = placement_from_graph(graph, "tensorrt")
    result = insert_qdq(half, placement, thresholds(graph), nearest_weights(graph, placement)).graph
    assert undequantized_layers(result) == ("fc/Gemm",)
    for node in result.nodes("Conv"):
        assert {value.dtype for value in node.inputs} == {ir.DataType.FLOAT16}
    onnx.checker.check_model(result.to_bytes(), full_check=True)
    expected = answers(graph, images())
    assert noise(expected, Emulation(result, "fp16").infer(images())["logits"]) < 0.01


def test_a_scale_in_fp16_is_never_zero() -> None:
    weights = random((4, 3, 1, 1), 1) * 1e-9
    conv = helper.make_node("Conv", ["input", "w"], ["logits"], name="conv")
    graph = graph_of([conv], {"w": weights}, input_shape=("batch", 3, 4, 4), output_shape=("batch", 4, 4, 4))
    half = to_fp16(graph, {"input": (-1, 1), "logits": (-1, 1)}).graph
    placement = placement_from_graph(graph, "tensorrt")
    result = insert_qdq(half, placement, {"input": 1e-9}, nearest_weights(graph, placement)).graph
    scales = [constant_of(node.inputs[1]) for node in result.nodes() if node.op_type == "DequantizeLinear"]
    assert sorted(scale.ndim for scale in scales) == [0, 1]
    for scale in scales:  # of an activation it is one number, and one that keeps its precision
        assert (scale >= (WEIGHTS_SMALLEST if scale.ndim else SMALLEST_SCALE)).all()


def test_a_convolution_whose_weights_depend_on_the_input_is_left_alone_with_the_reason() -> None:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="first"),
        helper.make_node("ReduceMean", ["a", "axes"], ["m"], name="mean"),
        helper.make_node("Conv", ["a", "m"], ["logits"], name="second"),
    ]
    arrays = {"w": random((3, 3, 1, 1), 1), "axes": np.array([0, 2, 3])}
    nodes[1].attribute.append(helper.make_attribute("keepdims", 0))
    nodes.insert(2, helper.make_node("Reshape", ["m", "shape"], ["filter"], name="reshape"))
    arrays["shape"] = np.array([1, 3, 1, 1])
    nodes[3].input[1] = "filter"
    graph = graph_of(nodes, arrays, input_shape=("batch", 3, 4, 4), output_shape=("batch", 1, 4, 4))
    placement = placement_from_graph(graph, "cpu")
    assert placement.layers == ("first",)
    assert [(item.node, item.reason) for item in placement.kept] == [("second", "its weights depend on the input")]


def test_the_projection_beside_a_kept_layer_is_kept_for_a_cpu() -> None:
    graph = folded("bottleneck")
    first, projection = "layer2.0.conv1/Conv", "layer2.0.downsample.0/Conv"
    reasons = {item.node: item.reason for item in placement_from_graph(graph, "cpu", frozenset({first})).kept}
    assert reasons[projection] == BESIDE
    assert set(reasons) == {first, projection, "fc/Gemm"}
    assert projection in placement_from_graph(graph, "tensorrt", frozenset({first})).layers
    assert first in placement_from_graph(graph, "cpu", frozenset({projection})).layers


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.0.conv1", "layer2.0.conv3", "layer2.0.downsample.0"])
def test_openvino_computes_in_eight_bits_whatever_is_not_listed_as_kept(layer: str) -> None:
    graph = folded("bottleneck")
    placement = placement_from_graph(graph, "cpu", frozenset({f"{layer}/Conv"}))
    kept = frozenset(item.node for item in placement.kept)
    data = quantized(graph, "cpu", frozenset({f"{layer}/Conv"})).to_bytes()
    entry = TensorSpec("input", np.dtype(np.float32), (3, 32, 32))
    logits = TensorSpec("logits", np.dtype(np.float32), graph.output_shapes[0])
    backend = open_backend("openvino", data, Signature(entry, (logits,), 2), "int8", OpenOptions(kept=kept))
    try:
        answers = backend.start({"input": images(2)}).result()["logits"]
    finally:
        backend.close()
    assert np.isfinite(answers).all()


def test_a_convolution_over_channels_is_left_alone_with_the_reason() -> None:
    """Of efficient channel attention: (N, 1, C), with a kernel of 3 channels."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], name="first"),
        helper.make_node("ReduceMean", ["a", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["row"], name="row"),
        helper.make_node("Conv", ["row", "k"], ["logits"], name="over_channels", pads=[1, 1]),
    ]
    arrays = {
        "w": random((3, 3, 1, 1), 1),
        "k": random((1, 1, 3), 2),
        "axes": np.array([2, 3]),
        "one": np.array([1]),
    }
    graph = graph_of(nodes, arrays, input_shape=("batch", 3, 4, 4), output_shape=("batch", 1, 3))
    placement = placement_from_graph(graph, "cpu")
    assert placement.layers == ("first",)
    assert [(item.node, item.reason) for item in placement.kept] == [("over_channels", OVER_CHANNELS)]


def test_the_graph_that_was_given_is_not_changed() -> None:
    graph = folded("basic")
    before = graph.to_bytes()
    quantized(graph, "cpu")
    assert graph.to_bytes() == before


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert quantized(folded("basic"), "cpu").to_bytes() == quantized(folded("basic"), "cpu").to_bytes()
