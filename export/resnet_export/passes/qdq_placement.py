"""Where a graph is quantized: which layers, and which tensors on the way into which readers.

A *point* is one pair of QuantizeLinear and DequantizeLinear on a tensor; everything that reads the tensor quantized
reads that one pair, so that nothing is requantized. Two schemes:

* ``tensorrt``: symmetric int8 alone. Points on the input of every layer, and on the shortcut of each residual Add:
  the other input is then the convolution's own accumulator, and TensorRT computes Conv + Add + ReLU as one kernel.
  Of the shortcuts some may be left in higher precision (``quantization/shortcuts.py`` says which).
* ``cpu``: uint8. What cannot be negative uses all 256 levels above zero, anything else is centred on 128, so that the
  inputs of an Add have one type, as ONNX Runtime's kernels want it. What only layers read, as the graph's input, is
  int8 instead: OpenVINO's convolution then has no zero point to make up for (a fifth of the first one's time). Points
  on *both* inputs of each residual Add.

In both, the classifier computes in higher precision. In ``cpu`` its weights are nevertheless stored as int8, with a
scale for each class: at batch 1 reading them is all that it does. A MaxPool between two points moves 8-bit values: its
input and its output share a scale.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from resnet_export.graph import Graph, constant_of, name_of

from .result import Skipped

SCHEMES = ("tensorrt", "cpu")

LAYERS = ("Conv", "Gemm")
"""The operators whose weights are quantized."""

CLASSIFIER = "it makes the answers, into which its rounding would go unsmoothed, and takes little of the time"
"""Measured on ResNet-18: 31% of what quantizing every activation to 7 bits adds to the divergence from eager."""

BESIDE = "it reads what a kept layer reads, and OpenVINO computes such a projection as that layer"
"""Measured: with the first convolution of a block kept, it computes the projection in FP32 whatever that reads."""

OVER_CHANNELS = "it is no convolution over an image, and takes no time"
"""As of efficient channel attention: TensorRT's parser makes an image of it first, and that hides the int8 from it."""

_NONNEGATIVE = {"Relu", "Sigmoid", "HardSigmoid"}
_KEEPS_SIGN = {
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean",
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity",
}  # fmt: skip
_SAME_VALUES = {"MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"}


@dataclass(frozen=True)
class Point:
    """One QuantizeLinear and DequantizeLinear.

    Attributes:
        tensor: what is quantized.
        unsigned: whether it cannot be negative and its scale is for 0..255.
        zero_point: what stands for 0: 128 where both signs are in a uint8, else 0.
        ranged_by: the tensor whose calibrated range gives the scale; another than ``tensor`` where two share it.
        readers: who reads it quantized: a node's name and the index of its input.
    """

    tensor: str
    unsigned: bool
    zero_point: int
    ranged_by: str
    readers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Placement:
    """What ``insert_qdq`` does.

    Attributes:
        scheme: of ``SCHEMES``.
        points: in the graph's order.
        layers: the names of the nodes whose weights are quantized.
        kept: the other convolutions and Gemms, with the reason.
        stored: the names of those of the kept whose weights are int8 in the file, and floating point in the arithmetic.
        whole_shortcuts: the names of the residual Adds whose shortcut is not quantized, though the layer that they go
            into is.
    """

    scheme: str
    points: tuple[Point, ...]
    layers: tuple[str, ...]
    kept: tuple[Skipped, ...]
    stored: tuple[str, ...] = ()
    whole_shortcuts: tuple[str, ...] = ()

    def text(self) -> str:
        """A line for each point and each layer that is kept, to be read and compared."""
        lines = [f"scheme {self.scheme}: {len(self.layers)} layers quantized, {len(self.points)} points"]
        for point in self.points:
            kind = "0..255" if point.unsigned else "-127..127 + 128" if point.zero_point else "-127..127"
            shared = "" if point.ranged_by == point.tensor else f" (range of {point.ranged_by})"
            readers = ", ".join(f"{node}[{index}]" for node, index in point.readers)
            lines.append(f"{point.tensor}{shared}: {kind} -> {readers}")
        lines += [f"kept: {item.node}: {item.reason}" for item in self.kept]
        lines += [f"weights stored as int8: {name}" for name in self.stored]
        lines += [f"shortcut not quantized: {name}" for name in self.whole_shortcuts]
        return "\n".join(lines) + "\n"


def placement_from_graph(
    graph: Graph, scheme: str, kept: Set[str] = frozenset(), whole_shortcuts: Set[str] = frozenset()
) -> Placement:
    """Decide.

    Args:
        graph: folded, FP32.
        scheme: of ``SCHEMES``.
        kept: names of layers that stay in higher precision.
        whole_shortcuts: names of residual Adds whose shortcut does; in the scheme ``tensorrt`` alone.
    """
    assert scheme in SCHEMES
    nodes = list(graph.nodes())
    layers, skipped = _layers(nodes, kept, _projections_beside(graph, kept) if scheme == "cpu" else frozenset())
    readers: dict[ir.Value, list[tuple[ir.Node, int]]] = defaultdict(list)
    for node in layers:
        readers[_input(node, 0)].append((node, 0))
    whole = []
    for node in residual_adds(graph):
        shortcut = shortcut_of(node)
        if _input(node, 1 - shortcut).producer() not in layers:
            continue  # the convolution that the Add would go into is kept, and the Add with it
        if scheme == "tensorrt" and str(node.name) in whole_shortcuts:
            whole.append(str(node.name))
            continue
        for index in (0, 1) if scheme == "cpu" else (shortcut,):
            readers[_input(node, index)].append((node, index))
    ranged_by = _share_over_pools(nodes, readers)
    order = {node: position for position, node in enumerate(nodes)}
    points = [
        Point(
            tensor=name_of(value),
            unsigned=scheme == "cpu" and nonnegative(value),
            zero_point=128 if scheme == "cpu" and not nonnegative(value) and not _only_layers(value, users) else 0,
            ranged_by=name_of(ranged_by.get(value, value)),
            readers=tuple((str(node.name), index) for node, index in sorted(users, key=lambda use: order[use[0]])),
        )
        for value, users in readers.items()
    ]
    first_reader = {str(node.name): position for node, position in order.items()}
    points.sort(key=lambda point: (first_reader[point.readers[0][0]], point.readers[0][1]))
    stored = [item.node for item in skipped if item.reason == CLASSIFIER] if scheme == "cpu" else []
    names = tuple(str(node.name) for node in layers)
    return Placement(scheme, tuple(points), names, skipped, tuple(stored), tuple(whole))


def residual_adds(graph: Graph) -> tuple[ir.Node, ...]:
    """The Adds of two tensors that both depend on the input, of one shape: the ends of residual blocks."""
    return tuple(
        node
        for node in graph.nodes("Add")
        if all(constant_of(value) is None for value in node.inputs)
        and _shape(node.inputs[0]) == _shape(node.inputs[1]) != None  # noqa: E711
        and node.inputs[0] is not node.inputs[1]
    )


def shortcut_of(node: ir.Node) -> int:
    """Which input of a residual Add is the shortcut: the one with fewer convolutions on its way from the block's start.

    The other one ends in a convolution, into which the Add goes.
    """
    depths = [_convolutions_before(_input(node, index)) for index in (0, 1)]
    return 1 if depths[0] >= depths[1] else 0


def nonnegative(value: ir.Value) -> bool:
    """Whether the graph itself says that the tensor has no negative value."""
    node = value.producer()
    while node is not None and node.op_type in _KEEPS_SIGN:
        node = _input(node, 0).producer()
    return node is not None and node.op_type in _NONNEGATIVE


def _projections_beside(graph: Graph, kept: Set[str]) -> frozenset[str]:
    """The projections of shortcuts that read what a kept layer reads unquantized."""
    found = set()
    for add in residual_adds(graph):
        projection = _input(add, shortcut_of(add)).producer()
        if projection is not None and projection.op_type in LAYERS:
            others = {str(user.name) for user, index in _input(projection, 0).uses() if index == 0} - {projection.name}
            if others & kept:
                found.add(str(projection.name))
    return frozenset(found - kept)


def _layers(nodes: list[ir.Node], kept: Set[str], beside: Set[str]) -> tuple[list[ir.Node], tuple[Skipped, ...]]:
    layers, skipped = [], []
    for node in nodes:
        if node.op_type not in LAYERS:
            continue
        name = str(node.name)
        if constant_of(node.inputs[1]) is None:
            skipped.append(Skipped(name, "its weights depend on the input"))
        elif constant_of(node.inputs[0]) is not None:
            skipped.append(Skipped(name, "its input is a constant"))
        elif node.op_type == "Conv" and len(_shape(node.inputs[1]) or ()) != 4:
            skipped.append(Skipped(name, OVER_CHANNELS))
        elif node.op_type == "Gemm" and _makes_an_answer(node):
            skipped.append(Skipped(name, CLASSIFIER))
        elif name in kept:
            skipped.append(Skipped(name, "kept in higher precision"))
        elif name in beside:
            skipped.append(Skipped(name, BESIDE))
        else:
            layers.append(node)
    return layers, tuple(skipped)


def _makes_an_answer(node: ir.Node) -> bool:
    """Whether the output is the graph's, or only moved on its way there."""
    value = node.outputs[0]
    while not value.is_graph_output():
        users = [user for user, _ in value.uses()]
        if len(users) != 1 or users[0].op_type not in _SAME_VALUES:
            return False
        value = users[0].outputs[0]
    return True


def _only_layers(value: ir.Value, users: list[tuple[ir.Node, int]]) -> bool:
    """Whether no Add and no MaxPool, which would need another tensor in the same type, has to do with a point."""
    made_by = value.producer()
    moved = made_by is not None and made_by.op_type == "MaxPool"
    return not moved and all(node.op_type in LAYERS for node, _ in users)


def _share_over_pools(
    nodes: list[ir.Node], readers: dict[ir.Value, list[tuple[ir.Node, int]]]
) -> dict[ir.Value, ir.Value]:
    """Quantize a MaxPool's input too where its output is, by the output's scale: it then moves 8-bit values.

    Rounding is monotone, so that the largest of rounded values is the rounded largest value: the second point changes
    nothing.
    """
    ranged_by: dict[ir.Value, ir.Value] = {}
    for node in reversed(nodes):
        if node.op_type != "MaxPool" or node.outputs[0] not in readers:
            continue
        before, after = _input(node, 0), node.outputs[0]
        if before in readers:
            ranged_by[after] = ranged_by.get(before, before)
        else:
            ranged_by[before] = ranged_by.get(after, after)
        readers[before].append((node, 0))
    return ranged_by


def _convolutions_before(value: ir.Value) -> int:
    """The largest number of convolutions on a way from the graph's input."""
    depths: dict[ir.Value, int] = {}
    waiting = [value]
    while waiting:
        current = waiting[-1]
        node = current.producer()
        before = [] if node is None else [item for item in node.inputs if item is not None]
        unknown = [item for item in before if item not in depths]
        if unknown:
            waiting.extend(unknown)
            continue
        waiting.pop()
        deepest = max((depths[item] for item in before), default=0)
        depths[current] = deepest + (node is not None and node.op_type == "Conv")
    return depths[value]


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _shape(value: ir.Value | None) -> tuple[object, ...] | None:
    return None if value is None or value.shape is None else tuple(value.shape)


def weight_axis(node: ir.Node) -> int:
    """Which axis of the weights is the output channel."""
    if node.op_type == "Conv":
        return 0
    transposed = node.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() else 1


def weights_of(node: ir.Node) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The weights of a layer."""
    array = constant_of(node.inputs[1])
    assert array is not None
    return array.astype(np.float32)
