"""A graph: an ONNX model in memory, its signature and its digest. Passes return new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .errors import PassError

OPSET = 20
IR_VERSION = 10

MADE_OF_INPUTS = frozenset(
    {"Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Identity"}
)
"""Operators whose results are values of their inputs (or 0): nothing is rounded, and nothing reaches further."""


@dataclass(frozen=True)
class Graph:
    """An ONNX model with one input and one or more outputs, whose first axes are the batch.

    Attributes:
        model: the onnx_ir model. Nothing outside the function that made it changes it.
    """

    model: ir.Model

    @property
    def input(self) -> ir.Value:
        """The one input."""
        return self.model.graph.inputs[0]

    @property
    def input_name(self) -> str:
        """The input's name."""
        return name_of(self.input)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in order."""
        return tuple(name_of(value) for value in self.model.graph.outputs)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The outputs' shapes without the batch axis."""
        return tuple(static_shape(value)[1:] for value in self.model.graph.outputs)

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size, or None where the batch is dynamic."""
        size = self.input.shape[0] if self.input.shape is not None else None
        return size if isinstance(size, int) else None

    def nodes(self, op_type: str | None = None) -> Iterator[ir.Node]:
        """The nodes in topological order, or those of one operator."""
        return (node for node in list(self.model.graph) if op_type in (None, node.op_type))

    def copy(self) -> Graph:
        """A graph that can be changed without changing this one; the tensors are shared."""
        return Graph(self.model.clone())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The ONNX file; the same graph gives the same bytes."""
        data: bytes = ir.to_proto(self.model).SerializeToString(deterministic=True)
        return data


def graph_from_bytes(data: bytes) -> Graph:
    """A graph from the bytes of an ONNX file."""
    return Graph(ir.from_proto(onnx.load_from_string(data)))


def name_of(value: ir.Value) -> str:
    """The value's name; every value of a graph has one."""
    assert value.name is not None
    return value.name


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape, with -1 for the batch.

    Raises:
        PassError: the shape is not known.
    """
    if value.shape is None:
        raise PassError(f"the shape of {value.name} is not known: the graph was traced without shapes")
    return tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of an initializer, or None where the value depends on the input."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def add_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer. A name that is taken gets a number."""
    unique, number = name, 1
    while unique in graph.initializers:
        number += 1
        unique = f"{name}_{number}"
    array = np.ascontiguousarray(array) if array.ndim else array
    tensor = ir.Tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def insert_before(
    node: ir.Node, op_type: str, inputs: list[ir.Value], name: str, *, like: ir.Value, **attributes: object
) -> ir.Value:
    """Insert a node with one output before ``node`` and return the output, which has the shape and type of ``like``."""
    made = ir.node(op_type, inputs, attributes=attributes, name=name)
    output = made.outputs[0]
    output.name = name
    output.shape = like.shape
    output.type = like.type
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return output


def remove_unused(graph: ir.Graph) -> None:
    """Remove initializers that no node reads and that are no output."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
