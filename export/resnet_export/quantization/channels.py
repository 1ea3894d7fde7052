"""Figures of single channels over some inputs, computed inside the graph, so that no tensor is kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.graph import Graph, add_initializer, name_of, static_shape
from resnet_export.host_session import batches, session_from_graph
from resnet_export.passes.equalize import ChannelStatistics

Float64 = NDArray[np.float64]

_AT_ONCE = 4


def statistics_from_graph(
    graph: Graph, inputs: NDArray[np.generic], tensors: Iterable[str]
) -> dict[str, ChannelStatistics]:
    """The reach and the power of every channel of some tensors.

    Args:
        graph: FP32.
        inputs: (N, ...) of the graph's input dtype.
        tensors: names of tensors (N, C, ...) of the graph.
    """
    names = list(tensors)
    watched = _with_figures(graph, names, ("reach", "power"))
    session = session_from_graph(watched)
    wanted = [f"{name}/{figure}" for name in names for figure in ("reach", "power")]
    totals = [np.zeros(1, np.float64) for _ in wanted]
    for batch in batches(graph, inputs, _AT_ONCE):
        for index, result in enumerate(session.run(wanted, {graph.input_name: batch})):
            totals[index] = totals[index] + result.astype(np.float64).sum(axis=0)
    means = [total / len(inputs) for total in totals]
    return {name: ChannelStatistics(means[2 * i], means[2 * i + 1]) for i, name in enumerate(names)}


def _with_figures(graph: Graph, tensors: list[str], figures: tuple[str, ...]) -> Graph:
    """The graph with an output (N, C) for each tensor and figure, ``<tensor>/<figure>``; its own outputs are gone."""
    copy = graph.copy()
    body = copy.model.graph
    values = {name_of(value): value for node in copy.nodes() for value in node.outputs} | {copy.input_name: copy.input}
    body.outputs.clear()
    for name in tensors:
        for figure in figures:
            value = values[name]
            body.outputs.append(_figure(body, value, figure))
    return copy


def _figure(body: ir.Graph, value: ir.Value, figure: str) -> ir.Value:
    """(N, C): ``reach``, the largest magnitude of a channel; or ``power``, its mean square."""
    first, reduction = {"reach": ("Abs", "ReduceMax"), "power": ("Mul", "ReduceMean")}[figure]
    name, shape = f"{name_of(value)}/{figure}", static_shape(value)
    made = ir.node(first, [value] if first == "Abs" else [value, value], name=f"{name}/{first}")
    current = made.outputs[0]
    current.name, current.shape, current.type = f"{name}/{first}", value.shape, value.type
    body.append(made)
    if len(shape) > 2:
        axes_value = add_initializer(body, f"{name}/axes", np.arange(2, len(shape)))
        made = ir.node(reduction, [current, axes_value], attributes={"keepdims": 0}, name=name)
    else:
        made = ir.node("Identity", [current], name=name)
    output = made.outputs[0]
    output.name, output.type = name, ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape(["batch", shape[1]])
    body.append(made)
    return output
