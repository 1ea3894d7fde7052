"""QuantizeLinear and DequantizeLinear where a ``Placement`` says, with scales from calibrated ranges.

An activation x becomes s (clip(round(x / s) + z) - z) with s = T / 127, or T / 255 where it cannot be negative, for the
clipping magnitude T. Weights are stored as int8, with a scale for each output channel, behind a DequantizeLinear; those
that are multiplied in floating point behind a Cast and a Mul, which ONNX Runtime computes once when it loads the file
(a DequantizeLinear it would compute in every call) and which OpenVINO reads as compressed weights.
Biases stay what they are: both TensorRT and the CPU libraries add them to the accumulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.graph import Graph, add_initializer, insert_before, name_of, remove_unused

from .qdq_placement import LAYERS, Placement, Point, weight_axis
from .result import PassResult

SMALLEST_SCALE = 2.0**-14
"""FP16's smallest normal number: below it a scale in FP16 loses precision."""


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights as ``values * scale``.

    Attributes:
        values: int8, -127..127, of the layer's shape.
        scale: (output channels,) float32.
        axis: of the output channels.
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int

    def dequantized(self) -> NDArray[np.float32]:
        """The weights that are computed with."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.values.astype(np.float32) * self.scale.reshape(shape)


def activation_scale(threshold: float, point: Point) -> float:
    """T / 255 or T / 127."""
    return threshold / (255 if point.unsigned else 127)


def insert_qdq(
    graph: Graph, placement: Placement, thresholds: Mapping[str, float], weights: Mapping[str, QuantizedWeights]
) -> PassResult:
    """Quantize.

    Args:
        graph: FP32, or strongly typed with FP16; the nodes and tensors have the names that ``placement`` knows.
        placement: what to quantize.
        thresholds: the clipping magnitude T > 0 of every ``ranged_by`` of the points.
        weights: of every layer of the placement, and of those that are ``stored``.

    Returns:
        ``done`` names the layers whose input and weights are dequantized, ``skipped`` those that are kept.
    """
    copy = graph.copy()
    body = copy.model.graph
    nodes = {str(node.name): node for node in copy.nodes()}
    for point in placement.points:
        _quantize_activation(body, nodes, point, thresholds[point.ranged_by])
    for name in placement.layers:
        _quantize_weights(body, nodes[name], weights[name])
    for name in placement.stored:
        _quantize_weights(body, nodes[name], weights[name], stored=True)
    remove_unused(body)
    return PassResult(copy, placement.layers, placement.kept)


def undequantized_layers(graph: Graph) -> tuple[str, ...]:
    """The convolutions and Gemms of which the input or the weights are not an 8-bit tensor's DequantizeLinear."""
    return tuple(
        str(node.name)
        for node in graph.nodes()
        if node.op_type in LAYERS and not all(_dequantized(value) for value in node.inputs[:2])
    )


def _dequantized(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype in (ir.DataType.INT8, ir.DataType.UINT8)


def _quantize_activation(body: ir.Graph, nodes: Mapping[str, ir.Node], point: Point, threshold: float) -> None:
    kind = ir.DataType.UINT8 if point.unsigned or point.zero_point else ir.DataType.INT8
    made: dict[ir.Value, ir.Value] = {}
    for name, index in point.readers:
        reader = nodes[name]
        value = reader.inputs[index]
        assert value is not None
        if value not in made:
            made[value] = _pair(body, reader, value, activation_scale(threshold, point), kind, point.zero_point)
        reader.replace_input_with(index, made[value])


def _pair(body: ir.Graph, reader: ir.Node, value: ir.Value, scale: float, kind: ir.DataType, zero: int) -> ir.Value:
    """Q and DQ of ``value`` before ``reader``, in the value's own floating point type."""
    assert value.dtype is not None
    name = name_of(value)
    floating = value.dtype.numpy()
    if value.dtype == ir.DataType.FLOAT16:
        scale = max(scale, SMALLEST_SCALE)
    step = add_initializer(body, f"{name}/scale", np.asarray(scale, floating))
    zero_point = add_initializer(body, f"{name}/zero_point", np.asarray(zero, kind.numpy()))
    like = ir.Value(shape=value.shape, type=ir.TensorType(kind))
    quantized = insert_before(reader, "QuantizeLinear", [value, step, zero_point], f"{name}/quantized", like=like)
    return insert_before(reader, "DequantizeLinear", [quantized, step, zero_point], f"{name}/dequantized", like=value)


def _quantize_weights(body: ir.Graph, node: ir.Node, weights: QuantizedWeights, *, stored: bool = False) -> None:
    """Store a layer's weights as int8, for an integer kernel or, where they are ``stored`` alone, for another one."""
    old = node.inputs[1]
    assert old is not None
    assert old.dtype is not None
    assert weights.axis == weight_axis(node)
    name = name_of(old)
    if f"{name}/int8" in body.initializers:  # another layer has the same weights, which may be rounded otherwise there
        name = f"{node.name}/{name}"
    values = add_initializer(body, f"{name}/int8", weights.values)
    steps = weights.scale.astype(old.dtype.numpy())
    if stored:
        shape = [1] * weights.values.ndim
        shape[weights.axis] = -1
        scale = add_initializer(body, f"{name}/scale", steps.reshape(shape))
        cast = insert_before(node, "Cast", [values], f"{name}/cast", like=old, to=int(old.dtype))
        made = insert_before(node, "Mul", [cast, scale], f"{name}/dequantized", like=old)
    else:
        scale = add_initializer(body, f"{name}/scale", steps)
        zero = add_initializer(body, f"{name}/zero_point", np.zeros(len(steps), np.int8))
        inputs = [values, scale, zero]
        made = insert_before(node, "DequantizeLinear", inputs, f"{name}/dequantized", like=old, axis=weights.axis)
    node.replace_input_with(1, made)
