"""Which shortcuts the scheme ``tensorrt`` leaves unquantized: where rounding costs the most for the bytes it saves.

The residual stream is rounded anew at each Add, and what is added there goes on to the answers as it is: on the
ResNet-34 of ``resnet-bench accuracy`` the shortcuts make three fifths of all that rounding the activations adds. Nearly
all of that comes from the last stages, whose tensors are small. A shortcut in FP16 moves more bytes, and those are its
cost; so the noise that each adds alone is measured, and the shortcuts with the most noise a value are left whole, as
long as they are no more than ``QuantizeOptions.whole_shortcuts`` of all values that residual Adds read so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import Placement, placement_from_graph, residual_adds

from .choice import thresholds_by_method
from .noise import answers_from_graph, noise_in_answers
from .table import TensorRange

SCHEME = "tensorrt"
"""The one that may leave them: the CPU libraries add two 8-bit tensors in one kernel, or do not fuse the Add at all."""


def shortcuts_from_images(
    graph: Graph,
    tensors: Mapping[str, TensorRange],
    method: str,
    inputs: NDArray[np.generic],
    share: float,
    on_trials: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """The residual Adds whose shortcut is not quantized, in the graph's order.

    Args:
        graph: FP32, equalized.
        tensors: what calibration found of it.
        method: of ``thresholds.METHODS``, that the scheme takes.
        inputs: (N, ...) of the calibration images, N from 1.
        share: of the values that all shortcuts have, which those left whole have at most, 0 to 1.
        on_trials: told how many of how many shortcuts were tried.
    """
    every = placement_from_graph(graph, SCHEME)
    quantized = {reader for point in every.points for reader, _ in point.readers}
    sizes = {str(add.name): _size(add) for add in residual_adds(graph) if str(add.name) in quantized}
    room = share * sum(sizes.values())
    tried = [name for name, size in sizes.items() if size <= room]
    if not tried:
        return ()
    expected = answers_from_graph(graph, inputs)
    thresholds = thresholds_by_method(tensors, every, method)
    noise = {}
    for index, name in enumerate(tried):
        rounded = insert_qdq(graph, _alone(every, name), thresholds, {}).graph
        noise[name] = noise_in_answers(expected, answers_from_graph(rounded, inputs))
        if on_trials is not None:
            on_trials(index + 1, len(tried))
    left = set()
    for name in sorted(tried, key=lambda name: -noise[name] / sizes[name]):
        if noise[name] > 0 and sizes[name] <= room:
            left.add(name)
            room -= sizes[name]
    return tuple(name for name in sizes if name in left)


def _alone(placement: Placement, add: str) -> Placement:
    """Nothing quantized but the shortcut of one Add."""
    points = []
    for point in placement.points:
        readers = tuple(reader for reader in point.readers if reader[0] == add)
        if readers:
            points.append(dataclasses.replace(point, readers=readers))
    return dataclasses.replace(placement, points=tuple(points), layers=())


def _size(add: ir.Node) -> int:
    """How many values one sample's shortcut has."""
    shape = add.outputs[0].shape
    assert shape is not None
    return int(np.prod([side for side in list(shape)[1:] if isinstance(side, int)], dtype=np.int64))
