"""The strongly typed FP16 graph, its overflow guard, and the emulation that verifies it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from resnet_export import emulate
from resnet_export.errors import PassError
from resnet_export.observe import observation_from_graph
from resnet_export.passes import Fp16Options, fold_preprocessing, to_fp16
from resnet_export.passes.to_fp16 import FP16_MAX, kept_layers
from tests.export.graphs import answers, graph_of, operators, random
from tests.export.test_fold_preprocessing import PREPROCESSING, padded_convolution, pixels

IMAGE = ("batch", 4, 8, 8)


def two_convolutions(gain: float = 1.0):
    """The tensor between the two is ``gain`` times as large, and the second takes it back."""
    arrays = {
        "conv1.weight": random((4, 4, 3, 3), 1) * np.float32(gain),
        "conv2.weight": random((4, 4, 3, 3), 2) / np.float32(gain),
        "conv1.bias": random((4,), 3),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["a"], name="conv1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "conv2.weight"], ["c"], name="conv2", pads=[1] * 4),
        helper.make_node("Add", ["c", "input"], ["logits"], name="add"),
    ]
    return graph_of(nodes, arrays, input_shape=IMAGE, output_shape=IMAGE)


def converted(graph, batch, options=None):
    return to_fp16(graph, observation_from_graph(graph, batch).ranges, options)


def types(graph) -> dict[str, str]:
    """The type that each node computes in."""
    return {node.name: node.outputs[0].dtype.name for node in graph.nodes() if node.op_type != "Cast"}


def test_every_node_is_fp16_and_the_ends_are_fp32() -> None:
    result = converted(two_convolutions(), random((2, 4, 8, 8), 5))
    assert types(result.graph) == dict.fromkeys(("conv1", "relu", "conv2", "add"), "FLOAT16")
    assert operators(result.graph) == ["Cast", "Conv", "Relu", "Conv", "Add", "Cast"]
    assert result.graph.input.dtype == ir.DataType.FLOAT
    assert result.graph.model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert result.graph.output_names == ("logits",)
    assert result.skipped == ()
    initializers = result.graph.model.graph.initializers.values()
    assert {value.dtype for value in initializers} == {ir.DataType.FLOAT16}


def test_a_tensor_that_would_overflow_keeps_fp32_with_all_that_touches_it() -> None:
    batch = random((2, 4, 8, 8), 5)
    graph = two_convolutions(gain=3e4)
    result = converted(graph, batch)
    assert types(result.graph) == {"conv1": "FLOAT", "relu": "FLOAT", "conv2": "FLOAT", "add": "FLOAT16"}
    kept = kept_layers(result)
    assert [(layer.node, layer.precision) for layer in kept] == [("conv1", "fp32"), ("relu", "fp32"), ("conv2", "fp32")]
    assert kept[0].reason.startswith("a reaches ")
    # computed with FP16's rounding it is still right: FP16 keeps 11 bits
    emulated = emulate.answers_from_emulation(result.graph, "fp16", batch)["logits"]
    np.testing.assert_allclose(emulated, answers(graph, batch), rtol=0, atol=0.02)


def test_without_the_guard_it_would_overflow() -> None:
    batch = random((2, 4, 8, 8), 5)
    unguarded = converted(two_convolutions(gain=3e4), batch, Fp16Options(headroom=0.0))
    assert set(types(unguarded.graph).values()) == {"FLOAT16"}
    assert not np.isfinite(emulate.answers_from_emulation(unguarded.graph, "fp16", batch)["logits"]).all()


@pytest.mark.parametrize(("reach", "kept"), [(FP16_MAX / 2 * 0.99, False), (FP16_MAX / 2 * 1.01, True)])
def test_the_guard_leaves_a_factor_of_two(reach: float, kept: bool) -> None:
    nodes = [helper.make_node("Mul", ["input", "gain"], ["logits"], name="mul")]
    graph = graph_of(nodes, {"gain": np.float32(reach).reshape(1)}, input_shape=IMAGE, output_shape=IMAGE)
    result = converted(graph, np.ones((1, 4, 8, 8), np.float32))
    assert types(result.graph) == {"mul": "FLOAT" if kept else "FLOAT16"}


def test_a_mean_whose_sum_would_overflow_keeps_fp32() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["a"], name="relu"),
        helper.make_node("GlobalAveragePool", ["a"], ["logits"], name="pool"),
    ]
    graph = graph_of(nodes, {}, input_shape=IMAGE, output_shape=("batch", 4, 1, 1))
    largest = FP16_MAX / 64  # of 64 pixels
    assert types(converted(graph, np.full((1, 4, 8, 8), largest * 0.99, np.float32)).graph)["pool"] == "FLOAT16"
    assert types(converted(graph, np.full((1, 4, 8, 8), largest * 1.01, np.float32)).graph)["pool"] == "FLOAT"


def test_a_weight_over_fp16s_range_keeps_fp32() -> None:
    nodes = [helper.make_node("Mul", ["input", "gain"], ["logits"], name="mul")]
    graph = graph_of(nodes, {"gain": np.array([1e5], np.float32)}, input_shape=IMAGE, output_shape=IMAGE)
    result = converted(graph, np.full((1, 4, 8, 8), 1e-3, np.float32))
    assert [(item.node, item.reason) for item in result.skipped] == [
        ("mul", "its constant gain reaches 1e+05, over FP16's 65504")
    ]


def test_an_operator_that_is_not_known_keeps_fp32() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["a"], name="relu"),
        helper.make_node("Erf", ["a"], ["logits"], name="erf"),
    ]
    graph = graph_of(nodes, {}, input_shape=IMAGE, output_shape=IMAGE)
    result = converted(graph, random((1, 4, 8, 8), 1))
    assert types(result.graph) == {"relu": "FLOAT16", "erf": "FLOAT"}
    assert [item.reason for item in result.skipped] == ["Erf is not converted"]


def test_a_range_that_was_not_observed_is_refused() -> None:
    with pytest.raises(PassError, match=r"the range of .* was not observed"):
        to_fp16(two_convolutions(), {})


def test_bytes_are_normalized_in_fp32() -> None:
    graph = fold_preprocessing(padded_convolution(), PREPROCESSING).graph
    result = converted(graph, pixels())
    assert result.graph.input.dtype == ir.DataType.UINT8
    found = types(result.graph)
    assert found == {"preprocessing/planes": "FLOAT", "preprocessing/centred": "FLOAT", "conv": "FLOAT16"}
    emulated = emulate.answers_from_emulation(result.graph, "fp16", pixels())["logits"]
    np.testing.assert_allclose(emulated, answers(graph, pixels()), rtol=0, atol=0.02)  # FP16 of values up to 8


def test_the_emulation_rounds_and_onnx_runtime_alone_does_not() -> None:
    """Both on the graph that overflows on the way: this is why a gate of FP16 is never ONNX Runtime's own answer."""
    assert emulate.rounds("fp16")
    assert emulate.rounds("bf16")
    probe = emulate._probe(ir.DataType.FLOAT16)
    assert np.isfinite(answers(probe, np.full((1, 8, 4, 4), 100, np.float32))).all()


def test_fp16_is_emulated_to_the_bit() -> None:
    """One product: its exact value, rounded to FP16 once."""
    nodes = [helper.make_node("Mul", ["input", "gain"], ["logits"], name="mul")]
    graph = graph_of(nodes, {"gain": np.array([1.2345], np.float32)}, input_shape=IMAGE, output_shape=IMAGE)
    batch = random((1, 4, 8, 8), 5)
    result = converted(graph, batch)
    emulated = emulate.answers_from_emulation(result.graph, "fp16", batch)["logits"]
    expected = batch.astype(np.float16).astype(np.float32) * np.float32(np.float16(1.2345))
    np.testing.assert_array_equal(emulated, expected.astype(np.float16).astype(np.float32))


def test_bf16_rounds_inputs_weights_and_results() -> None:
    import ml_dtypes

    def rounded(array):
        return array.astype(ml_dtypes.bfloat16).astype(np.float32)

    weight = random((2, 4, 1, 1), 1)
    nodes = [helper.make_node("Conv", ["input", "w"], ["logits"], name="conv")]
    graph = graph_of(nodes, {"w": weight}, input_shape=IMAGE, output_shape=("batch", 2, 8, 8))
    batch = random((1, 4, 8, 8), 5)
    emulated = emulate.answers_from_emulation(graph, "bf16", batch)["logits"]
    exact = np.einsum("nchw,oc->nohw", rounded(batch).astype(np.float64), rounded(weight)[:, :, 0, 0])
    # a sum in float32 may round to the other of two neighbors in bf16, which are 2**-8 apart
    np.testing.assert_allclose(emulated, rounded(exact.astype(np.float32)), rtol=2**-7, atol=1e-6)
    np.testing.assert_array_equal(emulated, rounded(emulated))


def test_ranges_are_those_of_the_tensors() -> None:
    graph = two_convolutions()
    batch = random((6, 4, 8, 8), 5)
    observed = observation_from_graph(graph, batch)
    np.testing.assert_array_equal(observed.outputs["logits"], answers(graph, batch))
    assert observed.ranges["logits"] == (observed.outputs["logits"].min(), observed.outputs["logits"].max())
    assert observed.ranges["input"] == (batch.min(), batch.max())
    low, high = observed.ranges["a"]
    assert low < 0 < high
    assert observed.ranges["b"] == (0.0, high)
    assert set(observed.ranges) == {"input", "a", "b", "c", "logits"}
