"""The range of every tensor that may be quantized, over a user's images: one pass, one batch in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.errors import CalibrationError, RequestError
from resnet_export.graph import Graph, constant_of, name_of
from resnet_export.host_session import session_from_graph
from resnet_export.passes.qdq_placement import LAYERS, weight_axis, weights_of

from .histograms import Histogram
from .table import TensorRange
from .thresholds import LEVELS, PERCENTILE, thresholds_from_histogram

READERS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "ReduceMean",
        "Concat",
    }
)
"""The operators whose inputs a scheme may quantize. What only others read, as a Relu does, is quantized nowhere."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """How to calibrate.

    Attributes:
        percentile: of the ``percentile`` method, of |x| among the values that are not zero; above 0 and up to 100.
        batch: images that are run at once. A ResNet-50's tensors at 224 x 224 take 67 MB an image.
    """

    percentile: float = PERCENTILE
    batch: int = 4


def calibration_tensors(graph: Graph) -> tuple[str, ...]:
    """The float32 tensors that depend on the input and that one of ``READERS`` reads, in the graph's order."""
    made: set[ir.Value] = {graph.input}
    read: set[ir.Value] = set()
    for node in graph.nodes():
        inputs = [value for value in node.inputs if value is not None and value in made]
        if inputs:
            made.update(node.outputs)
        if node.op_type in READERS:
            read.update(value for value in inputs if value.dtype == ir.DataType.FLOAT)
    values = [graph.input, *(value for node in graph.nodes() for value in node.outputs)]
    return tuple(name_of(value) for value in values if value in read)


def weight_ranges(graph: Graph) -> dict[str, tuple[float, ...]]:
    """By layer whose weights are constant, the largest magnitude of each output channel, each a float32."""
    found = {}
    for node in graph.nodes():
        if node.op_type in LAYERS and constant_of(node.inputs[1]) is not None:
            array, axis = np.abs(weights_of(node)), weight_axis(node)
            channels = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).max(axis=1)
            found[str(node.name)] = tuple(float(value) for value in channels)
    return found


def ranges_from_batches(
    graph: Graph,
    batches: Iterable[NDArray[np.generic]],
    options: CalibrateOptions | None = None,
    on_images: Callable[[int], None] | None = None,
) -> tuple[dict[str, TensorRange], int]:
    """Run the graph on all images and look at every one of ``calibration_tensors``.

    The images are run in batches of ``options.batch``, or of the size that the graph has, whatever batches they come
    in; the same images give the same ranges, to the last bit.

    Args:
        graph: in FP32.
        batches: each (n, ...) of the graph's input dtype, n from 1.
        options: the defaults where None.
        on_images: told after each batch how many images are done.

    Returns:
        The ranges by tensor, in the graph's order, and the number of images.

    Raises:
        CalibrationError: there are no images, too few for the last of the graph's fixed batches, some are not of the
            graph's dtype and shape, or a value is not finite.
        RequestError: an option is out of its range.
    """
    options = options or CalibrateOptions()
    _check_options(options)
    names = calibration_tensors(graph)
    histograms = {name: Histogram(name) for name in names}
    session = session_from_graph(_with_outputs(graph, names))
    computed = [name for name in names if name != graph.input_name]
    images = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in _rebatched(graph, batches, options.batch):
            results = session.run(computed, {graph.input_name: batch}) if computed else []  # [] would ask for all
            found = dict(zip(computed, results, strict=True))
            found[graph.input_name] = batch
            # One task a tensor: no histogram is changed by two threads, and none depends on the order.
            tasks = [pool.submit(histograms[name].add, found[name]) for name in names]
            del found
            for task in tasks:
                task.result()
            images += len(batch)
            if on_images is not None:
                on_images(images)
        if images == 0:
            raise CalibrationError("there are no calibration images: INT8 needs some that are like those to come")
        ranges = pool.map(lambda name: _range(histograms[name], options), names)
        return dict(zip(names, ranges, strict=True)), images


def _check_options(options: CalibrateOptions) -> None:
    if not 0 < options.percentile <= 100:
        raise RequestError(f"the calibration percentile is {options.percentile:g}, and lies above 0 and up to 100")
    if options.batch < 1:
        raise RequestError(f"the calibration batch is {options.batch}, and is 1 or more")


def _with_outputs(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph with these tensors among its outputs, those aside that are its input or an output already."""
    copy = graph.copy()
    outputs = copy.model.graph.outputs
    wanted = set(names) - set(graph.output_names)
    outputs.extend(value for node in copy.nodes() for value in node.outputs if value.name in wanted)
    return copy


def _rebatched(graph: Graph, batches: Iterable[NDArray[np.generic]], at_most: int) -> Iterator[NDArray[np.generic]]:
    """The same images in batches of the graph's own fixed size, or of ``at_most`` with what is left at the end."""
    shape = graph.input.shape
    assert shape is not None
    fixed = shape[0] if isinstance(shape[0], int) else None
    size = fixed or at_most
    held: list[NDArray[np.generic]] = []
    count = 0
    for batch in batches:
        _check_batch(graph, batch)
        held.append(batch)
        count += len(batch)
        if count < size:
            continue
        joined = held[0] if len(held) == 1 else np.concatenate(held)
        whole = count - count % size
        yield from (joined[first : first + size] for first in range(0, whole, size))
        count -= whole
        held = [joined[whole:]] if count else []
    if count and fixed is not None:
        raise CalibrationError(
            f"the model takes batches of {fixed} alone, and {count} of the calibration images are left over: "
            f"give a multiple of {fixed}"
        )
    if count:
        yield np.concatenate(held)


def _check_batch(graph: Graph, batch: NDArray[np.generic]) -> None:
    shape = graph.input.shape
    dtype = graph.input.dtype
    assert shape is not None
    assert dtype is not None
    fits = len(batch.shape) == len(shape) and all(
        have == want for have, want in zip(batch.shape[1:], shape[1:], strict=True) if isinstance(want, int)
    )
    if not fits or batch.dtype != dtype.numpy():
        expected = " x ".join(str(side) for side in shape[1:])
        found = " x ".join(str(side) for side in batch.shape[1:])
        raise CalibrationError(
            f"the model takes images of {expected} in {dtype.numpy()}, and the calibration has some of {found} in "
            f"{batch.dtype}: prepare them as the model's input"
        )


def _range(histogram: Histogram, options: CalibrateOptions) -> TensorRange:
    """By every method, for the integers that the tensor's sign allows."""
    kinds = ("int8", "uint8") if histogram.low >= 0 else ("int8",)
    return TensorRange(
        low=histogram.low,
        high=histogram.high,
        thresholds={
            kind: thresholds_from_histogram(histogram, LEVELS[kind], percentile=options.percentile) for kind in kinds
        },
    )
