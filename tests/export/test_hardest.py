"""The images that INT8 changes the most are found among many, in batches of any size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from resnet_export.quantization.hardest import hardest_images
from tests.export.graphs import answers
from tests.export.int8_graphs import folded, images, quantized


def divergence(expected: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """As scipy has it."""
    first, second = softmax(expected.astype(np.float64), axis=1), softmax(found.astype(np.float64), axis=1)
    return entropy(first, second, axis=1)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_those_with_the_largest_divergence_are_found(size: int) -> None:
    graph, inputs = folded("basic"), images(40, seed=9)
    coarse = quantized(graph, "tensorrt")
    order = np.argsort(-divergence(answers(graph, inputs), answers(coarse, inputs)))
    told: list[int] = []
    batches = [inputs[first : first + size] for first in range(0, 40, size)]
    found = hardest_images(graph, coarse, batches, 6, told.append)
    np.testing.assert_array_equal(found, inputs[order[:6]])
    assert told[-1] == 40


def test_all_where_there_are_fewer() -> None:
    graph = folded("basic")
    found = hardest_images(graph, quantized(graph, "cpu"), [images(3)], 16)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in images(3))


def test_the_same_graph_has_no_hard_image_and_answers_all_the_same() -> None:
    graph = folded("basic")
    found = hardest_images(graph, graph, [images(8)], 4)
    np.testing.assert_array_equal(found, images(8)[:4])
