"""The images whose answers INT8 changes the most: those that it loses accuracy on, and that layers are ranked by.

A network may lose its accuracy on one image in a hundred, whose activations reach ten times as far as the others' and
are clipped. A few images taken as they come tell nothing of them, and rank layers that matter for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.host_session import session_from_graph, whole_batches

from .noise import divergence_of_answers


def hardest_images(
    exact: Graph,
    quantized: Graph,
    batches: Iterable[NDArray[np.generic]],
    count: int,
    on_images: Callable[[int], None] | None = None,
) -> NDArray[np.generic]:
    """``count`` of the images, those with the largest divergence of the first output first; all where there are fewer.

    Args:
        exact: the FP32 graph.
        quantized: the INT8 graph of the same.
        batches: each (n, ...), all of one size where the graphs take no other; the last may be smaller.
        count: how many.
        on_images: told of how many were looked at.
    """
    sessions = [session_from_graph(graph) for graph in (exact, quantized)]
    output = [exact.output_names[0]]
    hardest: NDArray[np.generic] | None = None
    largest = np.zeros(0)
    done = 0
    for batch in batches:
        images = whole_batches(exact, batch)
        if exact.fixed_batch is not None and len(images) % exact.fixed_batch:
            break
        expected, found = (session.run(output, {exact.input_name: images})[0] for session in sessions)
        divergence = np.concatenate([largest, divergence_of_answers(expected, found)])
        candidates = images if hardest is None else np.concatenate([hardest, images])
        order = np.argsort(-divergence, kind="stable")[:count]
        hardest, largest = candidates[order], divergence[order]
        done += len(images)
        if on_images is not None:
            on_images(done)
    assert hardest is not None
    return hardest
