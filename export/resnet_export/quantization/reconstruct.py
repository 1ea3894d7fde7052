"""Weights and biases that make up for what quantization changes, from the layers' inputs on calibration images.

For each layer, inputs x of the FP32 graph are sampled at some positions, and v, the same rounded as the layer will see
them. Then

* the weights W are rounded to Q, adaptively (``rounding``), for the inputs v;
* the bias takes up the mean of W x - Q v, so that every output channel keeps its mean (bias correction, Nagel 2019).

Both look at the layer's own rounding alone, not at what the layers before it add: every layer makes up for itself, and
nothing is made up for twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from resnet_export.graph import Graph, add_initializer, constant_of, name_of, remove_unused, static_shape
from resnet_export.host_session import batches, session_from_graph
from resnet_export.passes.insert_qdq import QuantizedWeights, activation_scale
from resnet_export.passes.qdq_placement import Placement, Point, weight_axis, weights_of

from .rounding import adaptive, best_scale, nearest, quantized_from_rows

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """How much is done.

    Attributes:
        rounding: ``nearest`` or ``adaptive``.
        bias: whether the biases are corrected. Off: with ranges that clip nothing it was measured to change nothing
            (docs/architecture.md, "INT8").
        damping: of the hessian, relative to the mean of its diagonal.
        positions: how many are sampled of each layer: this many, or eight times the layer's inputs, if that is more.
        at_once: how many numbers of hessians are held.
        images_at_once: how many images are run together.
    """

    rounding: str = "adaptive"
    bias: bool = False
    damping: float = 0.01
    positions: int = 8192
    at_once: int = 2**26
    images_at_once: int = 8


@dataclass(frozen=True)
class Reconstruction:
    """What the layers become: by name, their weights, and the biases (output channels,) of those whose bias changes."""

    weights: dict[str, QuantizedWeights]
    biases: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass
class _Moments:
    """Sums over the sampled positions of one layer; one slice for each group of a grouped convolution."""

    hessian: torch.Tensor  # (groups, K, K) float32: v'v
    mean_exact: Float64  # (groups, K)
    mean: Float64  # (groups, K)
    count: int = 0


def reconstruct(
    graph: Graph,
    placement: Placement,
    thresholds: Mapping[str, float],
    inputs: NDArray[np.generic],
    options: ReconstructOptions,
    on_layers: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Round every layer of the placement, and to the nearest what is only stored.

    Args:
        graph: FP32, equalized.
        placement: of ``graph``.
        thresholds: as ``insert_qdq`` takes them.
        inputs: (N, ...) images of the graph's input dtype.
        options: see there.
        on_layers: told of how many layers were done.
    """
    nodes = {str(node.name): node for node in graph.nodes()}
    every = (*placement.layers, *placement.stored)
    weights = {name: nearest(weights_of(nodes[name]), weight_axis(nodes[name])) for name in every}
    found = Reconstruction(weights)
    if options.rounding == "nearest" and not options.bias:
        return found
    points = {reader: point for point in placement.points for reader, index in point.readers if index == 0}
    done = 0
    for chunk in _chunks([nodes[name] for name in placement.layers], options):
        rounders = {str(node.name): _Rounder.of(points[str(node.name)], thresholds) for node in chunk}
        moments = _moments(graph, chunk, rounders, inputs, options)
        for node in chunk:
            _reconstruct_layer(node, moments.pop(str(node.name)), found, options)
        done += len(chunk)
        if on_layers is not None:
            on_layers(done)
    return found


@dataclass(frozen=True)
class _Rounder:
    """What a point does to a tensor."""

    scale: np.float32
    low: float
    high: float

    @classmethod
    def of(cls, point: Point, thresholds: Mapping[str, float]) -> _Rounder:
        scale = np.float32(activation_scale(thresholds[point.ranged_by], point))
        if point.unsigned:
            return cls(scale, 0.0, 255.0)
        return cls(scale, -128.0, 127.0)

    def rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = np.rint(x / self.scale)
        np.clip(values, self.low, self.high, out=values)
        values *= self.scale
        return values


def with_biases(graph: Graph, biases: Mapping[str, NDArray[np.float32]]) -> Graph:
    """The graph with other biases of some layers; a layer without one gets one."""
    copy = graph.copy()
    body = copy.model.graph
    for node in copy.nodes():
        bias = biases.get(str(node.name))
        if bias is None:
            continue
        old = node.inputs[2] if len(node.inputs) > 2 else None
        if old is not None:
            node.replace_input_with(2, add_initializer(body, f"{name_of(old)}/corrected", bias))
            continue
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, add_initializer(body, f"{node.name}/bias", bias))
    remove_unused(body)
    return copy


def _chunks(layers: Sequence[ir.Node], options: ReconstructOptions) -> Iterator[list[ir.Node]]:
    """Layers in order, together as long as their hessians have no more than ``at_once`` numbers."""
    at_once = options.at_once if options.rounding == "adaptive" else 2**62
    chunk: list[ir.Node] = []
    held = 0
    for node in layers:
        groups, size = _sizes(node)
        if chunk and held + groups * size * size > at_once:
            yield chunk
            chunk, held = [], 0
        chunk.append(node)
        held += groups * size * size
    if chunk:
        yield chunk


def _sizes(node: ir.Node) -> tuple[int, int]:
    """The groups, and how many weights an output has."""
    array = weights_of(node)
    if node.op_type == "Conv":
        return _integer(node, "group", 1), int(np.prod(array.shape[1:]))
    return 1, array.shape[1 - weight_axis(node)]


def _moments(
    graph: Graph,
    layers: list[ir.Node],
    rounders: Mapping[str, _Rounder],
    inputs: NDArray[np.generic],
    options: ReconstructOptions,
) -> dict[str, _Moments]:
    names = [str(node.name) for node in layers]
    part, read = _ending_in(graph, names)
    session = session_from_graph(part)
    random = np.random.default_rng(0)
    moments = {str(node.name): _empty(node, options) for node in layers}
    wanted = sorted(set(read.values()))
    for batch in batches(graph, inputs, options.images_at_once):
        found = dict(zip(wanted, session.run(wanted, {graph.input_name: batch}), strict=True))
        for node in layers:
            name = str(node.name)
            share = max(options.positions, 8 * _sizes(node)[1]) / len(inputs)
            x = _samples(node, found[read[name]], share, random)
            _add_samples(moments[name], x, rounders[name].rounded(x), options)
    return moments


def _ending_in(graph: Graph, names: list[str]) -> tuple[Graph, dict[str, str]]:
    """The part of the graph that makes the inputs of some layers, with those as its outputs; their names by layer."""
    copy = graph.copy()
    body = copy.model.graph
    read = {}
    body.outputs.clear()
    for node in copy.nodes():
        if str(node.name) not in names:
            continue
        value = node.inputs[0]
        assert value is not None
        read[str(node.name)] = name_of(value)
        if value is copy.input or value in body.outputs:
            continue
        body.outputs.append(value)
    if any(name == copy.input_name for name in read.values()):
        made = ir.node("Identity", [copy.input], name=f"{copy.input_name}/same")
        made.outputs[0].name, made.outputs[0].shape = f"{copy.input_name}/same", copy.input.shape
        made.outputs[0].type = copy.input.type
        body.append(made)
        body.outputs.append(made.outputs[0])
        read = {name: f"{copy.input_name}/same" if value == copy.input_name else value for name, value in read.items()}
    needed: set[ir.Node] = set()
    waiting = [value.producer() for value in body.outputs]
    while waiting:
        producer = waiting.pop()
        if producer is not None and producer not in needed:
            needed.add(producer)
            waiting.extend(value.producer() for value in producer.inputs if value is not None)
    body.remove([node for node in body if node not in needed], safe=True)
    remove_unused(body)
    return copy, read


def _empty(node: ir.Node, options: ReconstructOptions) -> _Moments:
    groups, size = _sizes(node)
    side = size if options.rounding == "adaptive" else 0
    return _Moments(torch.zeros(groups, side, side), np.zeros((groups, size)), np.zeros((groups, size)))


def _samples(node: ir.Node, x: NDArray[np.float32], share: float, random: np.random.Generator) -> NDArray[np.float32]:
    """(groups, positions, K): the inputs of ``share`` positions of each image, or of all that there are."""
    if node.op_type == "Gemm":
        return x[None]
    kernel = weights_of(node).shape[2:]
    strides = _integers(node, "strides", [1, 1])
    dilations = _integers(node, "dilations", [1, 1])
    pads = _integers(node, "pads", [0, 0, 0, 0])
    _, _, height, width = static_shape(node.outputs[0])
    count = min(height * width, math.ceil(share))
    places = np.sort(random.choice(height * width, count, replace=False))
    rows, columns = places // width * strides[0], places % width * strides[1]
    groups = _integer(node, "group", 1)

    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    taps = [
        padded[:, :, rows + dy * dilations[0], columns + dx * dilations[1]]
        for dy in range(kernel[0])
        for dx in range(kernel[1])
    ]
    stacked = np.stack(taps, axis=-1)  # (N, C, positions, taps)
    images, channels, positions, each = stacked.shape
    split = stacked.reshape(images, groups, channels // groups, positions, each)
    return np.ascontiguousarray(split.transpose(1, 0, 3, 2, 4)).reshape(groups, images * positions, -1)


def _add_samples(
    moments: _Moments, x: NDArray[np.float32], v: NDArray[np.float32], options: ReconstructOptions
) -> None:
    if options.rounding == "adaptive":
        rounded = torch.from_numpy(v)
        moments.hessian.baddbmm_(rounded.mT, rounded)
    moments.mean_exact += x.sum(axis=1, dtype=np.float64)
    moments.mean += v.sum(axis=1, dtype=np.float64)
    moments.count += x.shape[1]


def _reconstruct_layer(node: ir.Node, moments: _Moments, found: Reconstruction, options: ReconstructOptions) -> None:
    name, axis = str(node.name), weight_axis(node)
    array = weights_of(node)
    rows = array.reshape(array.shape[0], -1).astype(np.float64) if axis == 0 else array.T.astype(np.float64)
    groups = len(moments.hessian)
    split = rows.reshape(groups, len(rows) // groups, -1)
    values, scales, shifts = [], [], []
    for index in range(groups):
        mean_exact, mean = moments.mean_exact[index] / moments.count, moments.mean[index] / moments.count
        target = split[index]
        if options.rounding == "adaptive":
            hessian: NDArray[np.floating] = moments.hessian[index].numpy() / np.float32(moments.count)
            if options.bias:
                hessian -= np.outer(mean, mean).astype(np.float32)  # the bias takes up the mean
            scale = best_scale(target, np.diag(hessian).astype(np.float64).clip(min=0))
            integers = adaptive(target, hessian, scale, options.damping)
        else:
            start = index * len(target)
            plain = found.weights[name]
            scale = plain.scale[start : start + len(target)]
            matrix = plain.values.reshape(array.shape[0], -1) if axis == 0 else plain.values.T
            integers = matrix[start : start + len(target)].astype(np.float64)
        values.append(integers)
        scales.append(scale)
        shifts.append(split[index] @ mean_exact - (integers * scale[:, None].astype(np.float64)) @ mean)
    found.weights[name] = quantized_from_rows(np.concatenate(values), np.concatenate(scales), array.shape, axis)
    if options.bias:
        old = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        before = np.zeros(len(rows)) if old is None else old.astype(np.float64)
        found.biases[name] = (before + np.concatenate(shifts)).astype(np.float32)


def _integer(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.as_int())


def _integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return default if found is None else [int(value) for value in found.as_ints()]
