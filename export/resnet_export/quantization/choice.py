"""Which method's clipping magnitudes a scheme takes: seen in the graph's own answers.

No method is the best for every network. Where a few calibration images make a tensor ten times as large as all others
do, ``minmax`` leaves the others a tenth of the levels; where none does, whatever clips costs more than it gains. So
each is tried on calibration images: activations are rounded as the scheme rounds them, and weights are left as they
are, since their rounding is the same for every method.

What a few dozen images show is noisy, and what is clipped of images to come does not show on those that the ranges
are from. So ``USUAL``, which was never far from the best on the networks of ``resnet-bench accuracy``, is left only for
a method with less than ``LEFT_BELOW`` of its noise.

Where INT8 then does not pass its gate on evaluation images, those are many, and tell more: the method with the least
divergence on them is taken, before any layer is kept in higher precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.host_session import session_from_graph, whole_batches
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import SCHEMES, Placement, placement_from_graph

from .noise import answers_from_graph, divergence_of_answers, noise_in_answers
from .table import TensorRange
from .thresholds import METHODS

FIRST = 16
"""Images that every method is tried on; those that are much worse than the best one are not tried on the rest."""

MUCH_WORSE = 2.0

USUAL = "entropy"
LEFT_BELOW = 0.5


def methods_from_images(
    graph: Graph,
    tensors: Mapping[str, TensorRange],
    inputs: NDArray[np.generic],
    on_trials: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """One of ``METHODS`` for each of ``SCHEMES``: see this file's docstring.

    Args:
        graph: FP32, equalized.
        tensors: what calibration found of it.
        inputs: (N, ...) of the calibration images, a few dozen, N from 1.
        on_trials: told how many of how many trials are done.
    """
    expected = answers_from_graph(graph, inputs)
    chosen = {}
    for position, scheme in enumerate(SCHEMES):
        placement = dataclasses.replace(placement_from_graph(graph, scheme), layers=())
        first = whole_batches(graph, inputs, FIRST)
        tried: dict[str, float] = {}
        for index, method in enumerate(METHODS):
            tried[method] = _noise(graph, placement, tensors, method, first, expected)
            if on_trials is not None:
                on_trials(position * len(METHODS) + index + 1, len(SCHEMES) * len(METHODS))
        best = min(tried.values())
        left = [method for method in METHODS if tried[method] <= MUCH_WORSE * best or method == USUAL]
        if len(left) > 1 and len(first) < len(inputs):
            tried = {method: _noise(graph, placement, tensors, method, inputs, expected) for method in left}
        found = min(left, key=tried.__getitem__)
        chosen[scheme] = found if tried[found] < LEFT_BELOW * tried[USUAL] else USUAL
    return chosen


def divergence_by_method(
    graph: Graph,
    placement: Placement,
    tensors: Mapping[str, TensorRange],
    batches: Iterable[NDArray[np.generic]],
    on_images: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """What each of ``METHODS`` changes in the answers, with the activations rounded and the weights as they are.

    Args:
        graph: FP32, equalized.
        placement: of the graph.
        tensors: what calibration found of it.
        batches: each (n, ...), all of one size where the graph takes no other; the last may be smaller.
        on_images: told of how many were looked at.

    Returns:
        By method, the mean over the images of the first output's divergence, in nats; infinity without an image.
    """
    rounded = dataclasses.replace(placement, layers=())
    graphs = [insert_qdq(graph, rounded, thresholds_by_method(tensors, placement, name), {}).graph for name in METHODS]
    exact, *sessions = [session_from_graph(item) for item in (graph, *graphs)]
    output = [graph.output_names[0]]
    sums = np.zeros(len(METHODS))
    done = 0
    for batch in batches:
        images = whole_batches(graph, batch)
        if graph.fixed_batch is not None and len(images) % graph.fixed_batch:
            break
        expected = exact.run(output, {graph.input_name: images})[0]
        for index, session in enumerate(sessions):
            sums[index] += divergence_of_answers(expected, session.run(output, {graph.input_name: images})[0]).sum()
        done += len(images)
        if on_images is not None:
            on_images(done)
    means = sums / done if done else np.full(len(METHODS), np.inf)
    return dict(zip(METHODS, means.tolist(), strict=True))


def thresholds_by_method(tensors: Mapping[str, TensorRange], placement: Placement, method: str) -> dict[str, float]:
    """The clipping magnitude of every tensor whose range the placement uses."""
    found = {}
    for point in placement.points:
        entry = tensors[point.ranged_by]
        kind = "uint8" if point.unsigned and "uint8" in entry.thresholds else "int8"
        found[point.ranged_by] = entry.thresholds[kind][method]
    return found


def _noise(
    graph: Graph,
    placement: Placement,
    tensors: Mapping[str, TensorRange],
    method: str,
    inputs: NDArray[np.generic],
    expected: Mapping[str, NDArray[np.float32]],
) -> float:
    rounded = insert_qdq(graph, placement, thresholds_by_method(tensors, placement, method), {}).graph
    wanted = {name: array[: len(inputs)] for name, array in expected.items()}
    return noise_in_answers(wanted, answers_from_graph(rounded, inputs))
