"""SplitToSequence and SequenceAt become Split, where the parts are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from resnet_export.graph import Graph
from resnet_export.passes import split_sequences
from resnet_export.trace import graph_from_module
from tests.export.graphs import answers, graph_of, operators, random

SHAPE = (2, 6, 4, 4)


def sequence(split: np.ndarray, positions: tuple[int, ...], axis: int = 1) -> Graph:
    """The sum of some parts of the input."""
    nodes = [helper.make_node("SplitToSequence", ["input", "split"], ["parts"], "split", axis=axis)]
    arrays: dict[str, np.ndarray] = {"split": split}
    for number, position in enumerate(positions):
        arrays[f"at{number}"] = np.array(position, np.int64)
        nodes.append(helper.make_node("SequenceAt", ["parts", f"at{number}"], [f"part{number}"], f"take{number}"))
    nodes.append(helper.make_node("Sum", [f"part{number}" for number in range(len(positions))], ["logits"], "sum"))
    output = list(SHAPE)
    output[axis] = int(split.flat[0])
    return graph_of(nodes, arrays, input_shape=SHAPE, output_shape=tuple(output))


@pytest.mark.parametrize(
    ("split", "positions", "axis"),
    [
        (np.array([2, 2, 2]), (0, 2), 1),
        (np.array([2, 2, 2]), (-1, 1, 0), 1),
        (np.array(2), (0, 1, 2), 1),
        (np.array([1, 1, 4]), (0, 1), 1),
        (np.array(2), (0, 1), 3),
    ],
)
def test_the_parts_are_the_same(split: np.ndarray, positions: tuple[int, ...], axis: int) -> None:
    graph = sequence(split, positions, axis)
    result = split_sequences(graph)
    assert operators(result.graph) == ["Split", "Sum"]
    assert (result.done, result.skipped) == (("split",), ())
    batch = random(SHAPE, 1)
    np.testing.assert_array_equal(answers(result.graph, batch), answers(graph, batch))


def test_a_part_that_is_an_output_keeps_its_name() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["input", "split"], ["parts"], "split", axis=1),
        helper.make_node("SequenceAt", ["parts", "at"], ["logits"], "take"),
    ]
    arrays = {"split": np.array([4, 2]), "at": np.array(1)}
    graph = graph_of(nodes, arrays, input_shape=SHAPE, output_shape=(2, 2, 4, 4))
    result = split_sequences(graph).graph
    assert result.output_names == ("logits",)
    np.testing.assert_array_equal(answers(result, random(SHAPE, 1)), answers(graph, random(SHAPE, 1)))


def test_other_uses_of_a_sequence_are_left_with_the_reason() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["input", "split"], ["parts"], "split", axis=1),
        helper.make_node("ConcatFromSequence", ["parts"], ["logits"], "join", axis=1),
    ]
    graph = graph_of(nodes, {"split": np.array([4, 2])}, input_shape=SHAPE, output_shape=SHAPE)
    result = split_sequences(graph)
    assert result.done == ()
    assert [(item.node, item.reason) for item in result.skipped] == [
        ("split", "its parts are not each taken by a constant position")
    ]


def test_parts_of_a_size_that_is_not_known_are_left() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["input"], ["parts"], "split", axis=1),
        helper.make_node("SequenceAt", ["parts", "at"], ["logits"], "take"),
    ]
    graph = graph_of(nodes, {"at": np.array(1)}, input_shape=SHAPE, output_shape=(2, 1, 4, 4))
    assert split_sequences(graph).skipped[0].reason == "the sizes of its parts are not known"


class Branches(nn.Module):
    """As selective kernels do it: ``torch.split``, then ``torch.stack``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.paths = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.stem(x), 4, 1)
        stacked = torch.stack([torch.relu(path(part)) for path, part in zip(self.paths, parts, strict=True)], dim=1)
        return stacked.sum(dim=1).mean((2, 3))


def test_a_traced_split_has_no_sequence_and_every_tensor_a_type() -> None:
    torch.manual_seed(0)
    network = Branches().eval()
    graph = graph_from_module(network, (3, 16, 16), ("logits",)).graph
    assert "Split" in operators(graph)
    assert not [name for name in operators(graph) if "Sequence" in name]
    for node in graph.nodes():
        assert all(value.dtype is not None and value.shape is not None for value in node.outputs), node.name
    batch = random((3, 3, 16, 16), 2)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(answers(graph, batch), expected, rtol=1e-5, atol=1e-6)
