"""Clipping magnitudes, each against the definition carried out on the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_export.quantization.histograms import SMALLEST, Histogram, Magnitudes
from resnet_export.quantization.thresholds import (
    DEAD_THRESHOLD,
    LEVELS,
    METHODS,
    entropy_threshold,
    thresholds_from_histogram,
)

Floats = NDArray[np.float32]
COUNT = 40_000
RANDOM = np.random.default_rng(5)
DISTRIBUTIONS = {
    "normal": RANDOM.standard_normal(COUNT),
    "relu": 3 * np.maximum(RANDOM.standard_normal(COUNT), 0),
    "laplace": 0.01 * RANDOM.laplace(size=COUNT),
    "uniform": RANDOM.uniform(0, 1, COUNT),
    "lognormal": RANDOM.lognormal(size=COUNT),
    "outlier": np.append(RANDOM.standard_normal(COUNT), 300.0),
    "few": RANDOM.standard_normal(50),
}
VALUES = {name: values.astype(np.float32) for name, values in DISTRIBUTIONS.items()}
CASES = [(name, kind) for name in VALUES for kind in LEVELS if kind == "int8" or VALUES[name].min() >= 0]


def histogram_of(values: Floats) -> Histogram:
    histogram = Histogram("tensor")
    histogram.add(values)
    return histogram


def chosen(values: Floats, kind: str = "int8", percentile: float = 99.99) -> dict[str, float]:
    return thresholds_from_histogram(histogram_of(values), LEVELS[kind], percentile=percentile)


def squared_error(values: Floats, threshold: float, levels: int) -> float:
    """Of quantizing every value itself."""
    step = threshold / levels
    exact = values.astype(np.float64)
    return float(np.square(exact - step * np.clip(np.rint(exact / step), -levels, levels)).sum())


def divergences(weights: NDArray[np.float64], kinds: int, stride: int) -> dict[int, float]:
    """D(P || Q) by the number of bins that are kept, step by step as the talk has it."""
    results = {}
    for kept in range(len(weights), kinds - 1, -stride):
        reference = weights[:kept].copy()
        reference[-1] += weights[kept:].sum()
        level = np.digitize(np.arange(kept), np.arange(1, kinds) * kept / kinds)
        mass = np.bincount(level, weights[:kept], kinds)
        if mass[-1] == 0 < reference[-1]:
            mass[-1] = 1
        filled = np.bincount(level, reference > 0, kinds)
        candidate = np.where(reference > 0, (mass / np.maximum(filled, 1))[level], 0)
        p, q = reference / reference.sum(), candidate / candidate.sum()
        results[kept] = float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
    return results


@pytest.mark.parametrize("name", VALUES)
def test_minmax_is_exact(name: str) -> None:
    assert chosen(VALUES[name])["minmax"] == float(np.abs(VALUES[name]).max())


@pytest.mark.parametrize("percentile", [50, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("name", VALUES)
def test_percentile_is_of_the_values_that_are_not_zero(name: str, percentile: float) -> None:
    magnitudes = np.abs(VALUES[name][VALUES[name] != 0])
    rank = math.ceil(round(len(magnitudes) * percentile / 100, 6)) - 1
    expected = float(np.sort(magnitudes)[rank])
    histogram = histogram_of(VALUES[name])
    found = thresholds_from_histogram(histogram, 127, percentile=percentile)["percentile"]
    assert found == pytest.approx(expected, abs=histogram.magnitudes().width)
    if percentile == 100:
        assert found == expected


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_mse_is_as_good_as_the_best_of_a_dense_scan_over_the_values(name: str, kind: str) -> None:
    values, levels = VALUES[name], LEVELS[kind]
    found = squared_error(values, chosen(values, kind)["mse"], levels)
    largest = float(np.abs(values).max())
    scan = [squared_error(values, largest * 0.97**index, levels) for index in range(80)]
    # Fifty values are where they are, and not spread evenly in their bins.
    assert found <= min(scan) * (1.6 if name == "few" else 1.005)


@pytest.mark.parametrize(("kind", "expected"), [("int8", 3.92), ("uint8", 4.22)])
def test_mse_of_a_gaussian_is_the_known_optimum(kind: str, expected: float) -> None:
    """3.92 sigma for 8 bits: R. Banner et al., "Post training 4-bit quantization", 2019. Half of it has a bit more."""
    values = np.random.default_rng(0).standard_normal(2_000_000, dtype=np.float32)
    values = np.abs(values) if kind == "uint8" else values
    assert chosen(values, kind)["mse"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "levels"),
    [(name, 127) for name in ("normal", "laplace", "lognormal", "sparse", "gap", "single")] + [("laplace", 255)],
)
def test_entropy_is_the_talk_s_minimum(name: str, levels: int) -> None:
    kinds = levels + 1
    bins = 16 * kinds
    random = np.random.default_rng(3)
    counts = np.zeros(bins, np.int64)
    if name in VALUES:
        magnitudes = np.abs(VALUES[name])
        counts += np.histogram(magnitudes, bins, (0, magnitudes.max()))[0]
    elif name == "sparse":
        counts[random.integers(0, bins, 200)] = random.integers(1, 1000, 200)
    elif name == "gap":
        counts[: bins // 4] = 1000
        counts[bins // 2 :] = random.integers(0, 3, bins // 2)
    counts[-1] = max(counts[-1], 1)
    threshold = entropy_threshold(Magnitudes(counts=counts, width=1.0, largest=float(bins)), levels)
    expected = divergences(counts.astype(np.float64), kinds, bins // 1024)
    assert expected[round(threshold)] == pytest.approx(min(expected.values()), abs=1e-11)


def test_entropy_is_not_set_by_a_single_outlier() -> None:
    assert chosen(VALUES["outlier"])["entropy"] < 30  # of 300
    assert 3.5 < chosen(VALUES["normal"])["entropy"] <= chosen(VALUES["normal"])["minmax"]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_zeros_change_nothing(name: str, kind: str) -> None:
    values = VALUES[name]
    zeros = np.zeros(20 * len(values), np.float32)
    assert chosen(np.concatenate([values, zeros]), kind) == chosen(values[values != 0], kind)


@pytest.mark.parametrize("name", VALUES)
def test_the_sign_changes_nothing(name: str) -> None:
    assert chosen(-VALUES[name]) == chosen(VALUES[name]) == chosen(np.abs(VALUES[name]))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_powers_of_two_scale_every_threshold(name: str, kind: str) -> None:
    scaled = chosen(VALUES[name] * np.float32(2.0**-30), kind)
    assert scaled == {method: value * 2.0**-30 for method, value in chosen(VALUES[name], kind).items()}


def test_other_factors_scale_thresholds_too() -> None:
    # The values lie in other bins; the divergence jumps from one candidate to the next, and its minimum with it.
    limits = {"minmax": 1e-6, "percentile": 1e-3, "entropy": 0.15, "mse": 0.03}
    before, after = chosen(VALUES["normal"]), chosen(VALUES["normal"] * np.float32(1.4))
    assert {method: after[method] == pytest.approx(1.4 * before[method], rel=limits[method]) for method in METHODS} == (
        dict.fromkeys(METHODS, True)
    )


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-30, 0.0]])
def test_a_dead_tensor_gets_a_valid_threshold(values: list[float], kind: str) -> None:
    assert chosen(np.array(values, np.float32), kind) == dict.fromkeys(METHODS, DEAD_THRESHOLD)
    assert DEAD_THRESHOLD / LEVELS[kind] >= float(np.finfo(np.float16).smallest_normal)


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    kind=st.sampled_from(sorted(LEVELS)),
    percentile=st.floats(0, 100, exclude_min=True),
)
def test_whatever_the_values_every_threshold_is_valid(values: list[float], kind: str, percentile: float) -> None:
    magnitudes = np.abs(np.array(values, np.float32))
    largest = max(float(magnitudes.max()), DEAD_THRESHOLD if magnitudes.max() < SMALLEST else 0.0)
    for threshold in chosen(magnitudes, kind, percentile).values():
        assert threshold == float(np.float32(threshold))
        assert 0 < threshold <= largest
        assert np.float32(threshold / LEVELS[kind]) >= np.finfo(np.float32).smallest_normal
