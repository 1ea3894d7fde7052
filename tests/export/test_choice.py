"""The calibration method with which the answers change least is the one that is taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from resnet_export.graph import Graph
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import SCHEMES, placement_from_graph
from resnet_export.quantization.calibrate import ranges_from_batches
from resnet_export.quantization.choice import (
    FIRST,
    LEFT_BELOW,
    MUCH_WORSE,
    USUAL,
    divergence_by_method,
    methods_from_images,
    thresholds_by_method,
)
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
    told: list[int] = []
    chosen = methods_from_images(graph, of(method, 1.0, ranges), lambda: [images(), images()], told.append)
    assert chosen == dict.fromkeys(SCHEMES, method)
    assert told == [16, 32, 48, 64]


def test_one_image_out_of_proportion_does_not_choose_minmax() -> None:
    graph = folded("basic")
    inputs = np.concatenate([images(40), 30 * images(1, seed=5)])
    ranges, _ = ranges_from_batches(graph, [inputs])
    chosen = methods_from_images(graph, ranges, lambda: [inputs])
    assert "minmax" not in chosen.values()


def divergences(graph: Graph, scheme: str, ranges: dict[str, TensorRange], inputs: NDArray[np.float32]):
    """By method, computed here another way: all images at once, by scipy."""
    placement = dataclasses.replace(placement_from_graph(graph, scheme), layers=(), stored=())
    exact = softmax(answers_from_graph(graph, inputs)["logits"].astype(np.float64), axis=1)
    found = {}
    for method in METHODS:
        rounded = insert_qdq(graph, placement, thresholds_by_method(ranges, placement, method), {}).graph
        logits = answers_from_graph(rounded, inputs)["logits"].astype(np.float64)
        found[method] = float(entropy(exact, softmax(logits, axis=1), axis=1).mean())
    return found


def spoilt_ranges(graph: Graph, inputs: NDArray[np.float32], spoilt: float) -> dict[str, TensorRange]:
    """The ranges, with the usual method's thresholds times ``spoilt``."""
    ranges, _ = ranges_from_batches(graph, [inputs])
    for name, found in ranges.items():
        kinds = {kind: {**methods, USUAL: spoilt * methods[USUAL]} for kind, methods in found.thresholds.items()}
        ranges[name] = dataclasses.replace(found, thresholds=kinds)
    return ranges


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("spoilt", [1.0, 0.05])
def test_the_usual_one_is_left_for_one_that_is_much_better_on_all_images(scheme: str, spoilt: float) -> None:
    graph, inputs = folded("bottleneck"), images(24)
    ranges = spoilt_ranges(graph, inputs, spoilt)
    expected = divergences(graph, scheme, ranges, inputs)
    best = min(METHODS, key=expected.__getitem__)
    worth_it = expected[best] < LEFT_BELOW * expected[USUAL]
    assert worth_it == (spoilt < 1)
    chosen = methods_from_images(graph, ranges, lambda: [inputs[:10], inputs[10:]])
    assert chosen[scheme] == (best if worth_it else USUAL)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_divergence_is_the_mean_over_all_images_unless_it_is_hopeless(scheme: str) -> None:
    graph = folded("basic")
    inputs = np.concatenate([images(FIRST), 3 * images(16, seed=8)])
    ranges, _ = ranges_from_batches(graph, [inputs])
    for name, found in ranges.items():
        kinds = {kind: {**methods, "mse": 0.02 * methods["mse"]} for kind, methods in found.thresholds.items()}
        ranges[name] = dataclasses.replace(found, thresholds=kinds)
    expected = divergences(graph, scheme, ranges, inputs)
    batches = [inputs[:FIRST], inputs[FIRST:]]
    found = divergence_by_method(graph, placement_from_graph(graph, scheme), ranges, batches)
    assert found.pop("mse") == float("inf")
    assert expected.pop("mse") > MUCH_WORSE * min(expected.values())
    assert found == pytest.approx(expected, rel=0.05)


def test_without_an_image_the_usual_one_is_taken() -> None:
    graph = folded("basic")
    ranges, _ = ranges_from_batches(graph, [images()])
    nothing = divergence_by_method(graph, placement_from_graph(graph, "cpu"), ranges, [])
    assert nothing == dict.fromkeys(METHODS, float("inf"))
    assert methods_from_images(graph, ranges, list) == dict.fromkeys(SCHEMES, USUAL)


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
