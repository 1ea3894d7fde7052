"""Cross-layer equalization: the channels of a tensor brought to a like range, so that one scale fits them all.

ReLU, pooling and addition commute with a positive factor for each channel. So the convolutions that write a tensor can
divide channel i by s_i, and the layers that read it multiply their weights for channel i by s_i: the function stays
what it was (Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019). With scales
for each output channel the writers' weights lose nothing by it; here s follows the ranges of the *activations*, whose
8-bit steps are the larger error.

The tensors that are tied to one another (a whole stage's residual stream, for one) form a group with one factor for
each channel. With r the channels' ranges relative to the largest, s = r^a, and a is taken from 0, 1/4, ... 1 as what
makes the expected rounding error at the readers' outputs smallest:

    sum over readers and their outputs j:  dx^2 sum_i (w_ji s_i)^2  +  dw_j^2 sum_i E[x_i^2] / s_i^2
    with dx = max_i (x_i / s_i) / 127 and dw_j = max_i |w_ji s_i| / 127
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.graph import Graph, add_initializer, constant_of, name_of, remove_unused

from .result import PassResult, Skipped

Float64 = NDArray[np.float64]

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SMALLEST_FACTOR = 2.0**-10
"""Relative to the largest: below it a channel adds nothing that 8 bits could show."""

_COMMUTES = {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "ReduceMean"}


@dataclass(frozen=True)
class ChannelStatistics:
    """Of one tensor over some inputs.

    Attributes:
        reach: (C,) float64, the mean over the inputs of the largest magnitude in each channel.
        power: (C,) float64, the mean square.
    """

    reach: Float64
    power: Float64


@dataclass(frozen=True)
class Group:
    """Tensors that can only be scaled together.

    Attributes:
        name: of its first tensor.
        tensors: all of them.
        writers: the layers that make them.
        readers: the layers that read them, and which of the tensors.
        channels: C.
    """

    name: str
    tensors: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[tuple[str, str], ...]
    channels: int


def equalization_groups(graph: Graph) -> tuple[Group, ...]:
    """The groups whose factors can be chosen freely, in the graph's order."""
    tied = _Ties()
    blocked: set[ir.Value] = {graph.input, *graph.model.graph.outputs}
    for node in graph.nodes():
        floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        moving = [value for value in floats if constant_of(value) is None]
        output = node.outputs[0]
        if _is_layer(node):
            tied.add(moving[0])
            tied.add(output)
        elif node.op_type == "Add" and len(moving) == 2 and _channels(moving[0]) == _channels(moving[1]):
            tied.tie(moving[0], moving[1], output)
        elif _commutes(node):
            tied.tie(moving[0], output)
        else:
            blocked.update(moving)
            blocked.update(node.outputs)
    return tuple(group for values in tied.sets() if (group := _group(values, blocked)) is not None)


def factors_from_statistics(
    graph: Graph, groups: Iterable[Group], statistics: Mapping[str, ChannelStatistics]
) -> dict[str, tuple[float, ...]]:
    """Choose the factors: see this file's docstring.

    Args:
        graph: that the groups are of.
        groups: of ``equalization_groups``.
        statistics: of every tensor that a group's readers read.

    Returns:
        By group, a factor for each channel, with three significant digits, the largest 1; groups that are best
        left alone are not named.
    """
    layers = {str(node.name): node for node in graph.nodes()}
    chosen = {}
    for group in groups:
        known = [statistics[name] for name in group.tensors if name in statistics]
        relative = np.zeros(group.channels)
        for item in known:
            relative = np.maximum(relative, item.reach / max(float(item.reach.max()), 1e-30))
        relative = np.where(relative > 0, np.maximum(relative, SMALLEST_FACTOR), 1.0)
        candidates = [np.array([float(f"{value:.3g}") for value in relative**exponent]) for exponent in EXPONENTS]
        errors = [_expected_error(factors, group, layers, statistics) for factors in candidates]
        best = candidates[int(np.argmin(errors))]
        if np.any(best != 1.0):
            chosen[group.name] = tuple(float(np.float32(value)) for value in best)  # as a table gives them back
    return chosen


def equalize(graph: Graph, factors: Mapping[str, tuple[float, ...]]) -> PassResult:
    """Divide the channels of the groups' tensors by their factors.

    Args:
        graph: FP32, without BatchNormalization.
        factors: by group, as ``factors_from_statistics`` gives them.

    Returns:
        ``done`` names the groups.
    """
    copy = graph.copy()
    layers = {str(node.name): node for node in copy.nodes()}
    done, skipped = [], []
    for group in equalization_groups(graph):
        if group.name not in factors:
            skipped.append(Skipped(group.name, "its channels are better left as they are"))
            continue
        factor = np.asarray(factors[group.name], np.float64)
        for name in group.writers:
            _scale_outputs(copy.model.graph, layers[name], 1 / factor)
        for name, _ in group.readers:
            _scale_inputs(copy.model.graph, layers[name], factor)
        done.append(group.name)
    remove_unused(copy.model.graph)
    return PassResult(copy, tuple(done), tuple(skipped))


class _Ties:
    """Sets of values that are tied to one another."""

    def __init__(self) -> None:
        self._parent: dict[ir.Value, ir.Value] = {}

    def add(self, value: ir.Value) -> None:
        self._parent.setdefault(value, value)

    def tie(self, first: ir.Value, *others: ir.Value) -> None:
        self.add(first)
        for value in others:
            self.add(value)
            self._parent[self._root(value)] = self._root(first)

    def sets(self) -> list[list[ir.Value]]:
        found: dict[ir.Value, list[ir.Value]] = defaultdict(list)
        for value in self._parent:
            found[self._root(value)].append(value)
        return list(found.values())

    def _root(self, value: ir.Value) -> ir.Value:
        while self._parent[value] is not value:
            value = self._parent[value]
        return value


def _group(values: list[ir.Value], blocked: set[ir.Value]) -> Group | None:
    """The group of these values, or None where one of them cannot be scaled."""
    writers, readers = [], []
    for value in values:
        node = value.producer()
        if value in blocked or node is None:
            return None
        if _is_layer(node):
            if len(node.inputs[1].uses()) > 1:  # type: ignore[union-attr]
                return None  # weights that two layers share cannot be scaled for one of them
            writers.append(str(node.name))
        for user, index in value.uses():
            if _is_layer(user):
                if index != 0 or len(user.inputs[1].uses()) > 1:  # type: ignore[union-attr]
                    return None
                readers.append((str(user.name), name_of(value)))
    channels = {_channels(value) for value in values}
    if not writers or not readers or len(channels) != 1 or None in channels:
        return None
    (count,) = channels
    assert count is not None
    return Group(name_of(values[0]), tuple(map(name_of, values)), tuple(writers), tuple(readers), count)


def _is_layer(node: ir.Node) -> bool:
    if node.op_type not in ("Conv", "Gemm") or constant_of(node.inputs[0]) is not None:
        return False
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        alpha, beta = node.attributes.get("alpha"), node.attributes.get("beta")
        if not all(item is None or item.as_float() == 1.0 for item in (alpha, beta)):
            return False
        if bias is not None and (bias.shape is None or bias.shape.rank() != 1):
            return False
    return constant_of(node.inputs[1]) is not None and (bias is None or constant_of(bias) is not None)


def _commutes(node: ir.Node) -> bool:
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.dtype != ir.DataType.FLOAT or constant_of(before) is not None:
        return False
    if _channels(before) is None or _channels(before) != _channels(after):
        return False
    if node.op_type in ("Flatten", "Reshape", "Squeeze"):
        return before.shape is not None and all(dim == 1 for dim in list(before.shape)[2:])
    return node.op_type in _COMMUTES


def _channels(value: ir.Value) -> int | None:
    if value.shape is None or value.shape.rank() < 2:
        return None
    count = value.shape[1]
    return count if isinstance(count, int) else None


def _expected_error(
    factors: Float64, group: Group, layers: Mapping[str, ir.Node], statistics: Mapping[str, ChannelStatistics]
) -> float:
    total = 0.0
    for name, tensor in group.readers:
        known = statistics[tensor]
        step = float((known.reach / factors).max()) / 127
        power = known.power / factors**2
        weights = _by_input(layers[name])  # (output channels, inputs of one, taps)
        places = _input_places(layers[name], group.channels)
        scaled = np.abs(weights * factors[places][:, :, None])
        rounding = step**2 * float((scaled**2).sum())
        steps = scaled.max(axis=(1, 2)) / 127
        rounding += float((steps**2 * power[places].sum(axis=1)).sum()) * weights.shape[2]
        signal = float((np.abs(weights) ** 2 * known.power[places][:, :, None]).sum())
        total += rounding / max(signal, 1e-300)
    return total


def _by_input(node: ir.Node) -> Float64:
    """Weights as (output channels, input channels of one group, taps)."""
    array = constant_of(node.inputs[1])
    assert array is not None
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        matrix = array if transposed is not None and transposed.as_int() else array.T
        return matrix.astype(np.float64)[:, :, None]
    return array.astype(np.float64).reshape(*array.shape[:2], -1)


def _input_places(node: ir.Node, channels: int) -> NDArray[np.intp]:
    """(output channels, inputs of one): which channel of the input each weight is for."""
    weights = _by_input(node)
    outputs, each = weights.shape[:2]
    groups = channels // each
    first = np.arange(outputs) // (outputs // groups) * each
    places: NDArray[np.intp] = first[:, None] + np.arange(each)[None, :]
    return places


def _scale_inputs(body: ir.Graph, node: ir.Node, factor: Float64) -> None:
    places = _input_places(node, len(factor))
    _replace(body, node, 1, _shaped_like(node, _by_input(node) * factor[places][:, :, None]))


def _scale_outputs(body: ir.Graph, node: ir.Node, factor: Float64) -> None:
    _replace(body, node, 1, _shaped_like(node, _by_input(node) * factor[:, None, None]))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = constant_of(node.inputs[2])
        assert bias is not None
        _replace(body, node, 2, bias.astype(np.float64) * factor)


def _shaped_like(node: ir.Node, weights: Float64) -> Float64:
    array = constant_of(node.inputs[1])
    assert array is not None
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return weights[:, :, 0] if transposed is not None and transposed.as_int() else weights[:, :, 0].T
    return weights.reshape(array.shape)


def _replace(body: ir.Graph, node: ir.Node, index: int, array: Float64) -> None:
    old = node.inputs[index]
    assert old is not None
    name = name_of(old)
    if len(old.uses()) == 1:
        del body.initializers[name]
    node.replace_input_with(index, add_initializer(body, name, array.astype(np.float32)))
