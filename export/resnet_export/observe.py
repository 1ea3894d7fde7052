"""The range of every tensor of a graph over some inputs, one batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .graph import MADE_OF_INPUTS, Graph, name_of
from .host_session import batches, executor_name, session_from_graph

_AT_ONCE = 4


@dataclass(frozen=True)
class Observation:
    """What a graph did with some inputs.

    Attributes:
        ranges: of each floating point tensor that depends on the input, what its values lie between.
        outputs: by name, (N, ...) float32.
        executor: what computed them.
    """

    ranges: dict[str, tuple[float, float]]
    outputs: dict[str, NDArray[np.float32]]
    executor: str


def observation_from_graph(graph: Graph, inputs: NDArray[np.generic]) -> Observation:
    """Run the graph on all inputs; it computes the ranges itself, so that no tensor is kept.

    Args:
        graph: in FP32.
        inputs: (N, ...) of the graph's input dtype.
    """
    watched, pairs = _watched(graph)
    session = session_from_graph(watched)
    bounds = [name for pair in pairs.values() for name in pair]
    ranges: dict[str, tuple[float, float]] = {}
    parts: list[list[NDArray[np.float32]]] = []
    for batch in batches(graph, inputs, _AT_ONCE):
        results = session.run([*graph.output_names, *bounds], {graph.input_name: batch})
        parts.append(results[: len(graph.output_names)])
        found = dict(zip(bounds, (float(value) for value in results[len(graph.output_names) :]), strict=True))
        for name, (low, high) in pairs.items():
            before = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (float(np.minimum(before[0], found[low])), float(np.maximum(before[1], found[high])))
    if graph.input.dtype == ir.DataType.FLOAT:
        ranges[graph.input_name] = (float(inputs.min()), float(inputs.max()))
    _bound_the_rest(graph, ranges)
    outputs = {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(graph.output_names)}
    return Observation(ranges, outputs, executor_name())


def _bound_the_rest(graph: Graph, ranges: dict[str, tuple[float, float]]) -> None:
    """A tensor made of its inputs' values reaches no further than they do; it need not be watched."""
    for node in graph.nodes():
        if node.op_type not in MADE_OF_INPUTS or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        known = [ranges[name_of(value)] for value in node.inputs if value is not None and name_of(value) in ranges]
        if not known:
            continue
        low, high = min(pair[0] for pair in known), max(pair[1] for pair in known)
        if node.op_type == "Relu":
            low, high = max(low, 0.0), max(high, 0.0)
        ranges[name_of(node.outputs[0])] = (low, high)


def _watched(graph: Graph) -> tuple[Graph, dict[str, tuple[str, str]]]:
    """The graph with a ReduceMin and a ReduceMax on every tensor, and their outputs' names."""
    copy = graph.copy()
    body = copy.model.graph
    pairs: dict[str, tuple[str, str]] = {}
    scalar = ir.TensorType(ir.DataType.FLOAT)
    for node in copy.nodes():
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT or node.op_type in MADE_OF_INPUTS:
                continue
            name = name_of(value)
            pairs[name] = (f"{name}/smallest", f"{name}/largest")
            for op_type, output_name in zip(("ReduceMin", "ReduceMax"), pairs[name], strict=True):
                made = ir.node(op_type, [value], attributes={"keepdims": 0}, name=output_name)
                output = made.outputs[0]
                output.name, output.shape, output.type = output_name, ir.Shape([]), scalar
                body.append(made)
                body.outputs.append(output)
    return copy, pairs
