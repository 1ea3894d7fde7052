"""Which method's clipping magnitudes a scheme takes: seen in the graph's own answers.

No method is the best for every network. Where a few images make a tensor ten times as large as all others do,
``minmax`` leaves the others a tenth of the levels, and ``entropy``, which clips them, may answer wrongly; where none
does, whatever clips costs more than it gains. So each is tried on images: activations are rounded as the scheme rounds
them, and weights are left as they are, since their rounding is the same for every method.

What a few dozen images show is noisy: one image in a hundred may make most of the divergence. So evaluation images are
looked at too, where there are some, and ``USUAL``, which was the best or near it on most of the networks of
``resnet-bench accuracy``, is left only for a method with less than ``LEFT_BELOW`` of its divergence.
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

from .noise import divergence_of_answers
from .table import TensorRange
from .thresholds import METHODS

FIRST = 64
"""Images that every method is tried on; those that are much worse than the best one are not tried on the rest."""

MUCH_WORSE = 4.0

USUAL = "entropy"
LEFT_BELOW = 0.75


def methods_from_images(
    graph: Graph,
    tensors: Mapping[str, TensorRange],
    batches: Callable[[], Iterable[NDArray[np.generic]]],
    on_images: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """One of ``METHODS`` for each of ``SCHEMES``: see this file's docstring.

    Args:
        graph: FP32, equalized.
        tensors: what calibration found of it.
        batches: gives the images, each time anew: (n, ...) each, all of one size where the graph takes no other; the
            last may be smaller.
        on_images: told of how many were looked at, of all schemes together.
    """
    chosen = {}
    before = 0
    for scheme in SCHEMES:
        done = before

        def told(count: int, before: int = before) -> None:
            nonlocal done
            done = before + count
            if on_images is not None:
                on_images(done)

        found = divergence_by_method(graph, placement_from_graph(graph, scheme), tensors, batches(), told)
        best = min(found, key=found.__getitem__)
        chosen[scheme] = best if found[best] < LEFT_BELOW * found[USUAL] else USUAL
        before = done
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
        By method, the mean over the images of the first output's ``divergence_of_answers``; infinity for one that was
        much worse than the best after ``FIRST`` images or more, or where there is no image. An image that the graph
        itself has no finite answer to is passed over.
    """
    activations = dataclasses.replace(placement, layers=(), stored=())
    exact = session_from_graph(graph)
    tried = {}
    for method in METHODS:
        rounded = insert_qdq(graph, activations, thresholds_by_method(tensors, placement, method), {}).graph
        tried[method] = session_from_graph(rounded)
    output = [graph.output_names[0]]
    sums = dict.fromkeys(METHODS, 0.0)
    done = looked_at = 0
    for batch in batches:
        images = whole_batches(graph, batch)
        if graph.fixed_batch is not None and len(images) % graph.fixed_batch:
            break
        expected = exact.run(output, {graph.input_name: images})[0]
        finite = np.isfinite(expected).reshape(len(images), -1).all(axis=1)
        looked_at += int(finite.sum())
        for method, session in tried.items():
            answers = session.run(output, {graph.input_name: images})[0]
            sums[method] += float(divergence_of_answers(expected[finite], answers[finite]).sum())
        done += len(images)
        if done >= FIRST:
            worst = MUCH_WORSE * min(sums[method] for method in tried)
            tried = {method: session for method, session in tried.items() if sums[method] <= worst or method == USUAL}
        if on_images is not None:
            on_images(done)
    return {method: sums[method] / looked_at if looked_at and method in tried else float("inf") for method in METHODS}


def thresholds_by_method(tensors: Mapping[str, TensorRange], placement: Placement, method: str) -> dict[str, float]:
    """The clipping magnitude of every tensor whose range the placement uses."""
    found = {}
    for point in placement.points:
        entry = tensors[point.ranged_by]
        kind = "uint8" if point.unsigned and "uint8" in entry.thresholds else "int8"
        found[point.ranged_by] = entry.thresholds[kind][method]
    return found
