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

_FURTHEST = 2.0
"""Times the median image's reach: what an image reaches beyond that is scaled down to it."""


def statistics_from_graph(
    graph: Graph, inputs: NDArray[np.generic], tensors: Iterable[str]
) -> dict[str, ChannelStatistics]:
    """The reach and the power of every channel of some tensors.

    An image that makes a tensor much larger than the others do counts as if scaled down to ``_FURTHEST`` times the
    median image: a network can answer one image in a hundred with activations ten times as large, and the channels'
    proportions for all the others would be lost in the mean.

    Args:
        graph: FP32.
        inputs: (N, ...) of the graph's input dtype.
        tensors: names of tensors (N, C, ...) of the graph.
    """
    names = list(tensors)
    watched = _with_figures(graph, names, ("reach", "power"))
    session = session_from_graph(watched)
    wanted = [f"{name}/{figure}" for name in names for figure in ("reach", "power")]
    parts = [session.run(wanted, {graph.input_name: batch}) for batch in batches(graph, inputs, _AT_ONCE)]
    found = [np.concatenate([part[index] for part in parts]).astype(np.float64) for index in range(len(wanted))]
    return {name: _statistics(found[2 * i], found[2 * i + 1]) for i, name in enumerate(names)}


def _statistics(reach: Float64, power: Float64) -> ChannelStatistics:
    """Means over the images of (N, C) each, with the largest images scaled down."""
    furthest = reach.max(axis=1, keepdims=True)
    allowed = _FURTHEST * float(np.median(furthest))
    scale = np.minimum(1.0, allowed / np.maximum(furthest, 1e-30)) if allowed > 0 else np.ones_like(furthest)
    return ChannelStatistics((reach * scale).mean(axis=0), (power * scale**2).mean(axis=0))


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
