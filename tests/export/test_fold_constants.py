"""What depends on no input becomes one initializer, and nothing else changes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from resnet_export.graph import constant_of
from resnet_export.passes import fold_constants
from tests.export.graphs import answers, graph_of, operators, random

IMAGE = ("batch", 3, 8, 8)


def test_arithmetic_on_weights_is_done_now() -> None:
    """Weight standardization, (w - mean) / std, is arithmetic on constants."""
    weight = random((4, 3, 1, 1), 1)
    nodes = [
        helper.make_node("ReduceMean", ["w", "axes"], ["m"], name="mean", keepdims=1),
        helper.make_node("Sub", ["w", "m"], ["c"], name="centre"),
        helper.make_node("Mul", ["c", "two"], ["s"], name="scale"),
        helper.make_node("Conv", ["input", "s"], ["logits"], name="conv"),
    ]
    arrays = {"w": weight, "axes": np.array([1, 2, 3], np.int64), "two": np.array(2, np.float32)}
    graph = graph_of(nodes, arrays, input_shape=IMAGE, output_shape=("batch", 4, 8, 8))
    result = fold_constants(graph)
    assert operators(result.graph) == ["Conv"]
    assert set(result.done) == {"mean", "centre", "scale"}
    assert list(result.graph.model.graph.initializers) == ["s"]
    node = next(result.graph.nodes("Conv"))
    expected = (weight - weight.mean((1, 2, 3), keepdims=True, dtype=np.float32)) * np.float32(2)
    np.testing.assert_array_equal(constant_of(node.inputs[1]), expected)


def flatten_by_shape():
    nodes = [
        helper.make_node("Shape", ["input"], ["n"], name="shape", start=0, end=1),
        helper.make_node("Concat", ["n", "rest"], ["to"], name="concat", axis=0),
        helper.make_node("Reshape", ["input", "to"], ["logits"], name="view", allowzero=1),
    ]
    return graph_of(nodes, {"rest": np.array([192], np.int64)}, input_shape=IMAGE, output_shape=("batch", 192))


def test_a_view_that_keeps_the_batch_has_a_constant_shape() -> None:
    graph = flatten_by_shape()
    result = fold_constants(graph)
    assert operators(result.graph) == ["Reshape"]
    node = next(result.graph.nodes())
    assert constant_of(node.inputs[1]).tolist() == [0, 192]
    for count in (1, 3):
        batch = random((count, 3, 8, 8), 5)
        np.testing.assert_array_equal(answers(result.graph, batch), batch.reshape(count, 192))


def test_a_view_that_moves_the_batch_is_left_alone() -> None:
    nodes = [
        helper.make_node("Shape", ["input"], ["n"], name="shape", start=0, end=1),
        helper.make_node("Concat", ["rest", "n"], ["to"], name="concat", axis=0),
        helper.make_node("Reshape", ["input", "to"], ["logits"], name="view"),
    ]
    graph = graph_of(nodes, {"rest": np.array([192], np.int64)}, input_shape=IMAGE, output_shape=(192, "batch"))
    assert operators(fold_constants(graph).graph) == ["Shape", "Concat", "Reshape"]


def test_a_known_shape_is_a_constant_and_the_batch_is_not() -> None:
    nodes = [
        helper.make_node("Shape", ["input"], ["hw"], name="size", start=2, end=4),
        helper.make_node("Shape", ["input"], ["n"], name="batch", start=0, end=1),
        helper.make_node("Concat", ["n", "hw"], ["all"], name="concat", axis=0),
        helper.make_node("Cast", ["all"], ["logits"], name="cast", to=TensorProto.FLOAT),
    ]
    graph = graph_of(nodes, {}, input_shape=IMAGE, output_shape=(3,))
    result = fold_constants(graph)
    assert operators(result.graph) == ["Shape", "Concat", "Cast"]
    assert result.done == ("size",)
    assert answers(result.graph, random((2, 3, 8, 8), 1)).tolist() == [2.0, 8.0, 8.0]


def test_a_constant_output_stays_a_node() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["logits"], name="relu"),
        helper.make_node("Neg", ["c"], ["constant"], name="neg"),
    ]
    arrays = {"c": np.ones((1, 3, 8, 8), np.float32)}
    graph = graph_of(nodes, arrays, input_shape=(1, 3, 8, 8), output_shape=(1, 3, 8, 8), outputs=("logits", "constant"))
    result = fold_constants(graph)
    assert sorted(operators(result.graph)) == ["Neg", "Relu"]
    assert [(item.node, item.reason) for item in result.skipped] == [("neg", "it is an output of the graph")]


def test_random_numbers_are_not_drawn_beforehand() -> None:
    nodes = [
        helper.make_node("RandomUniformLike", ["c"], ["r"], name="random"),
        helper.make_node("Add", ["input", "r"], ["logits"], name="add"),
    ]
    arrays = {"c": np.ones((1, 3, 8, 8), np.float32)}
    graph = graph_of(nodes, arrays, input_shape=(1, 3, 8, 8), output_shape=(1, 3, 8, 8))
    result = fold_constants(graph)
    assert operators(result.graph) == ["RandomUniformLike", "Add"]
    assert [item.node for item in result.skipped] == ["random"]


def test_nodes_that_nothing_reads_are_removed() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["logits"], name="relu"),
        helper.make_node("Mul", ["input", "c"], ["unread"], name="unread"),
    ]
    graph = graph_of(nodes, {"c": np.ones(1, np.float32)}, input_shape=IMAGE, output_shape=IMAGE)
    result = fold_constants(graph)
    assert operators(result.graph) == ["Relu"]
    assert list(result.graph.model.graph.initializers) == []
