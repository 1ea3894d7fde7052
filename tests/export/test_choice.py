"""The calibration method with which the answers change least is the one that is taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import SCHEMES, placement_from_graph
from resnet_export.quantization.calibrate import ranges_from_batches
from resnet_export.quantization.choice import FIRST, LEFT_BELOW, USUAL, methods_from_images, thresholds_by_method
from resnet_export.quantization.noise import answers_from_graph, noise_in_answers
from resnet_export.quantization.table import TensorRange
from resnet_export.quantization.thresholds import METHODS
from tests.export.int8_graphs import folded, images


def of(method: str, factor: float, ranges: dict[str, TensorRange]) -> dict[str, TensorRange]:
    """The ranges with one method's thresholds times ``factor``, and all other methods' a hundredth of what they are."""
    changed = {}
    for name, found in ranges.items():
        thresholds = {
            kind: {other: value * (factor if other == method else 0.01) for other, value in by_method.items()}
            for kind, by_method in found.thresholds.items()
        }
        changed[name] = dataclasses.replace(found, thresholds=thresholds)
    return changed


@pytest.mark.parametrize("method", METHODS)
def test_the_only_method_that_does_not_clip_everything_is_taken(method: str) -> None:
    graph = folded("basic")
    ranges, _ = ranges_from_batches(graph, [images()])
    told: list[tuple[int, int]] = []
    chosen = methods_from_images(graph, of(method, 1.0, ranges), images(), lambda *done: told.append(done))
    assert chosen == dict.fromkeys(SCHEMES, method)
    assert told == [(index, 8) for index in range(1, 9)]


def test_one_image_out_of_proportion_does_not_choose_minmax() -> None:
    graph = folded("basic")
    inputs = np.concatenate([images(40), 30 * images(1, seed=5)])
    ranges, _ = ranges_from_batches(graph, [inputs])
    chosen = methods_from_images(graph, ranges, inputs)
    assert "minmax" not in chosen.values()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("spoilt", [1.0, 0.05])
def test_the_usual_one_is_left_for_one_that_is_much_better_on_all_images(scheme: str, spoilt: float) -> None:
    graph, inputs = folded("bottleneck"), images(FIRST + 8)
    ranges, _ = ranges_from_batches(graph, [inputs])
    for name, found in ranges.items():
        kinds = {kind: {**methods, USUAL: spoilt * methods[USUAL]} for kind, methods in found.thresholds.items()}
        ranges[name] = dataclasses.replace(found, thresholds=kinds)
    placement = dataclasses.replace(placement_from_graph(graph, scheme), layers=())
    expected = answers_from_graph(graph, inputs)
    noises = {}
    for method in METHODS:
        rounded = insert_qdq(graph, placement, thresholds_by_method(ranges, placement, method), {}).graph
        noises[method] = noise_in_answers(expected, answers_from_graph(rounded, inputs))
    best = min(METHODS, key=noises.__getitem__)
    worth_it = noises[best] < LEFT_BELOW * noises[USUAL]
    assert methods_from_images(graph, ranges, inputs)[scheme] == (best if worth_it else USUAL)
    assert worth_it == (spoilt < 1)
    assert 0 < noises[best] < 0.1


def answers(count: int = 10, classes: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, classes)).astype(np.float32)


def test_noise_is_relative_and_the_worst_output_s() -> None:
    exact = answers()
    distance = ((exact - exact.mean(axis=0)) ** 2).sum(axis=1)
    off = exact + np.sqrt(0.01 * distance / 4)[:, None].astype(np.float32)
    assert noise_in_answers({"a": exact}, {"a": off}) == pytest.approx(0.01, rel=1e-4)
    assert noise_in_answers({"a": exact, "b": exact}, {"a": exact, "b": off}) == pytest.approx(0.01, rel=1e-4)
    assert noise_in_answers({"a": 1000 * exact}, {"a": 1000 * off}) == pytest.approx(0.01, rel=1e-4)
    assert noise_in_answers({"a": exact}, {"a": exact}) == 0


def test_an_image_with_huge_answers_counts_as_one() -> None:
    exact = answers()
    exact[3] *= 1000
    off = exact.copy()
    off[3] *= 1.1
    assert noise_in_answers({"a": exact}, {"a": off}) < 0.01 / 5


def test_noise_where_there_is_nothing_to_compare_with() -> None:
    exact = answers()
    assert noise_in_answers({"a": exact}, {"a": np.full_like(exact, np.nan)}) == float("inf")
    same = np.ones_like(exact)
    assert noise_in_answers({"a": same}, {"a": same}) == 0
    assert noise_in_answers({"a": same}, {"a": exact}) == float("inf")
