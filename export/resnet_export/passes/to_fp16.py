"""A strongly typed FP16 graph: the graph itself carries the types, and a builder has nothing to choose.

Input and outputs keep their types. A tensor that was seen to come near FP16's largest number (65504) keeps FP32, and so
does every node that reads or writes it; casts stand where the type changes, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from resnet_export.errors import PassError
from resnet_export.graph import Graph, add_initializer, constant_of, insert_before, name_of, remove_unused, static_shape
from resnet_runtime.manifest import KeptLayer

from .fold_preprocessing import PREFIX
from .result import PassResult, Skipped

FP16_MAX = float(np.finfo(np.float16).max)

Ranges = Mapping[str, tuple[float, float]]

_FLOAT = {
    "Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Relu", "LeakyRelu", "PRelu", "Sigmoid",
    "HardSigmoid", "HardSwish", "Tanh", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "ReduceMean", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Pad",
    "Slice", "Identity", "Softmax", "Max", "Min",
}  # fmt: skip
"""Operators with one floating point type, which is that of every floating point input and output."""


@dataclass(frozen=True, kw_only=True)
class Fp16Options:
    """How the guard works.

    Attributes:
        headroom: a tensor keeps FP32 where its largest magnitude times this is over 65504: inputs that were not
            seen may go further than those that were.
    """

    headroom: float = 2.0


def to_fp16(graph: Graph, ranges: Ranges, options: Fp16Options | None = None) -> PassResult:
    """Convert.

    Args:
        graph: FP32, without BatchNormalization.
        ranges: of every floating point tensor that depends on the input, the (smallest, largest) value seen.
        options: of the overflow guard.

    Returns:
        ``done`` names the nodes that compute in FP16, ``skipped`` those that keep FP32.

    Raises:
        PassError: a tensor's range was not observed.
    """
    options = options or Fp16Options()
    copy = graph.copy()
    done: list[str] = []
    skipped: list[Skipped] = []
    converter = _Converter(copy.model.graph)
    nodes = list(copy.nodes())
    # All reasons first: converting a node retypes what the next one reads.
    reasons = [_reason_to_keep(node, ranges, options) for node in nodes]
    for node, reason in zip(nodes, reasons, strict=True):
        converter.convert(node, ir.DataType.FLOAT if reason else ir.DataType.FLOAT16)
        if reason is None:
            done.append(str(node.name))
        elif reason:
            skipped.append(Skipped(str(node.name), reason))
    converter.finish_outputs()
    remove_unused(copy.model.graph)
    return PassResult(copy, tuple(done), tuple(skipped))


def kept_layers(result: PassResult) -> tuple[KeptLayer, ...]:
    """The skipped nodes as the manifest names them."""
    return tuple(KeptLayer(node=item.node, precision="fp32", reason=item.reason) for item in result.skipped)


def _reason_to_keep(node: ir.Node, ranges: Ranges, options: Fp16Options) -> str | None:
    """Why the node keeps FP32; None where it does not."""
    if str(node.name).startswith(PREFIX):
        return "the input's bytes are exact in FP32"
    if node.op_type not in _FLOAT:
        return f"{node.op_type} is not converted"
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != ir.DataType.FLOAT:
            continue
        array = constant_of(value)
        if array is not None:
            largest = float(np.abs(array).max()) if array.size else 0.0
            if largest > FP16_MAX:
                return f"its constant {value.name} reaches {largest:.4g}, over FP16's {FP16_MAX:g}"
            continue
        if name_of(value) not in ranges:
            raise PassError(f"the range of {value.name} was not observed, so that FP16 cannot be guarded")
        low, high = ranges[name_of(value)]
        reach = max(abs(low), abs(high))
        if not math.isfinite(reach) or reach * options.headroom * _terms(node, value) > FP16_MAX:
            return f"{value.name} reaches {reach:.4g}, within a factor {options.headroom:g} of FP16's {FP16_MAX:g}"
    return None


def _terms(node: ir.Node, value: ir.Value) -> float:
    """A mean may be computed as a sum first: how many terms that sum has."""
    if node.op_type not in ("ReduceMean", "GlobalAveragePool") or value is not node.inputs[0]:
        return 1.0
    before, after = static_shape(value), static_shape(node.outputs[0])
    terms = math.prod(dim for dim in before if dim > 0) / max(1, math.prod(dim for dim in after if dim > 0))
    return terms / 2 if terms > 1 else 1.0


class _Converter:
    """Retypes nodes one after another in topological order, and casts where a tensor is read in another type."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._casts: dict[tuple[str, ir.DataType], ir.Value] = {}

    def convert(self, node: ir.Node, wanted: ir.DataType) -> None:
        """Make the node read and write ``wanted``, unless it is a Cast, which says itself what it writes."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.dtype != wanted:
                node.replace_input_with(index, self._as_type(value, wanted, node))
        if wanted == ir.DataType.FLOAT16:
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.type = ir.TensorType(wanted)

    def finish_outputs(self) -> None:
        """Cast the graph's outputs back to FP32 under the names that they had."""
        for index, value in enumerate(list(self._graph.outputs)):
            if value.dtype != ir.DataType.FLOAT16:
                continue
            name = name_of(value)
            value.name = f"{name}/fp16"
            cast = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}/to_fp32")
            output = cast.outputs[0]
            output.name, output.shape, output.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
            self._graph.append(cast)
            self._graph.outputs[index] = output

    def _as_type(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node) -> ir.Value:
        name = name_of(value)
        key = (name, wanted)
        if key not in self._casts:
            suffix = "fp16" if wanted == ir.DataType.FLOAT16 else "fp32"
            array = constant_of(value)
            if array is not None:
                self._casts[key] = add_initializer(self._graph, f"{name}.{suffix}", array.astype(wanted.numpy()))
            else:
                like = ir.Value(shape=value.shape, type=ir.TensorType(wanted))
                self._casts[key] = insert_before(
                    reader, "Cast", [value], f"{name}/to_{suffix}", like=like, to=int(wanted)
                )
        return self._casts[key]
