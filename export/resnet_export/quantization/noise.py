"""How far a changed graph's answers are from the FP32 graph's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from resnet_export.graph import Graph
from resnet_export.host_session import batches, session_from_graph

Answers = Mapping[str, NDArray[np.float32]]

_AT_ONCE = 8
_LEAST_SPREAD = 0.1


def answers_from_graph(graph: Graph, inputs: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """The outputs by name, each (N, ...)."""
    session = session_from_graph(graph)
    names = list(graph.output_names)
    parts = [session.run(names, {graph.input_name: batch}) for batch in batches(graph, inputs, _AT_ONCE)]
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)}


def noise_in_answers(expected: Answers, found: Answers) -> float:
    """The error in the answers relative to what tells them apart: of the worst output, the mean over the images.

    For each image, the square of the error's norm by the square of the distance between the image's expected answer
    and the mean answer. Each image counts the same, so that one with answers a hundred times as large as the others',
    which a network gives to what it was not trained on, does not decide alone.

    Args:
        expected: by output, (N, ...), N from 1.
        found: the same.

    Returns:
        0 for the same answers, infinity where a value is not finite or no expected answer differs from another.
    """
    return max(_noise(expected[name], found[name]) for name in expected)


def _noise(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    exact = expected.reshape(len(expected), -1).astype(np.float64)
    distances = ((exact - exact.mean(axis=0)) ** 2).sum(axis=1)
    errors = ((found.reshape(exact.shape) - exact) ** 2).sum(axis=1)
    least = _LEAST_SPREAD * float(np.median(distances))
    if not np.isfinite(errors).all() or least <= 0:
        return 0.0 if np.array_equal(expected, found) else float("inf")
    return float((errors / np.maximum(distances, least)).mean())


def divergence_of_answers(expected: NDArray[np.floating], found: NDArray[np.floating]) -> NDArray[np.float64]:
    """The Kullback-Leibler divergence of the softmax of ``found`` from that of ``expected``, image by image.

    Args:
        expected: (N, ...) logits; all axes but the first are taken as one.
        found: the same.

    Returns:
        (N,) nats; infinity where an answer is not finite. Of a single number, whose softmax says nothing, the square of
        the difference.
    """
    if expected[:1].size == 1:
        squares = (found.reshape(-1).astype(np.float64) - expected.reshape(-1)) ** 2
        return np.where(np.isfinite(squares), squares, np.inf)
    logs = []
    for array in (expected, found):
        logits = array.reshape(len(array), -1).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    divergence: NDArray[np.float64] = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1)
    return np.where(np.isfinite(divergence), divergence, np.inf)
