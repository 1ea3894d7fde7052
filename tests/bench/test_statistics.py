"""Divergence, agreement and intervals, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnet_bench import statistics
from resnet_bench.statistics import (
    Interval,
    agreement,
    kl_divergence,
    log_probabilities,
    order_interval,
    paired_interval,
    ratio_interval,
    right,
)


def test_divergence_of_two_classes() -> None:
    # p = (1/4, 3/4), q = (1/2, 1/2): 1/4 log(1/2) + 3/4 log(3/2), and the other way 1/2 log 2 + 1/2 log(2/3)
    one, other = np.array([[0.0, math.log(3)]]), np.array([[7.0, 7.0]])
    assert kl_divergence(one, other) == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)], abs=1e-15)
    assert kl_divergence(other, one) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)], abs=1e-15)


def test_divergence_is_a_row_each_and_zero_where_nothing_differs() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (6, 20)).astype(np.float32)
    other = logits.copy()
    other[3] = other[3][::-1]
    found = kl_divergence(logits, other)
    assert found.dtype == np.float64
    assert np.flatnonzero(found).tolist() == [3]
    assert found[3] > 0.1


def test_divergence_of_confident_networks_is_finite() -> None:
    # p = (1, 0), q = (e^-2000, 1) in float64: log p_0 - log q_0 is 1000 - (-1000)
    assert kl_divergence(np.array([[1000.0, 0.0]]), np.array([[0.0, 1000.0]])).tolist() == [1000.0]


def test_log_probabilities_sum_to_one_whatever_is_added() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (4, 7))
    assert np.exp(log_probabilities(logits)).sum(axis=1) == pytest.approx(np.ones(4), abs=1e-14)
    np.testing.assert_allclose(log_probabilities(logits + 50), log_probabilities(logits), rtol=0, atol=1e-12)


def test_agreement_and_right_look_at_the_largest() -> None:
    one = np.array([[1, 2, 0], [5, 1, 1], [0, 0, 1], [3, 3, 0]], np.float32)
    two = np.array([[0, 9, 8], [1, 5, 1], [0, 0, 2], [4, 1, 0]], np.float32)
    assert agreement(one, two) == 0.75
    assert right(one, np.array([1, 0, 0, 0])).tolist() == [True, True, False, True]


def test_an_interval_of_two_values() -> None:
    # The means of two draws are 0, 1/2, 1/2 and 1, each as likely: a quarter lies at either end.
    assert paired_interval(np.array([0.0, 1.0])) == Interval(0.5, 0.0, 1.0)


def test_an_interval_of_equal_differences_is_a_point() -> None:
    assert paired_interval(np.full(50, -0.25)) == Interval(-0.25, -0.25, -0.25)


def test_an_interval_of_many_is_the_normal_one() -> None:
    values = np.random.default_rng(2).choice([-1, 0, 1], 5000, p=[0.03, 0.95, 0.02])
    found = paired_interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == values.mean()
    # The ends of 2000 resamples deviate by some 3% of the half width.
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.12)


def test_an_interval_narrows_with_its_level_and_repeats_itself() -> None:
    values = np.random.default_rng(3).normal(size=400)
    wide, narrow = paired_interval(values), paired_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert paired_interval(values) == wide
    assert paired_interval(values, seed=1) != wide


def test_an_interval_does_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=101)
    whole = paired_interval(values, resamples=50)
    monkeypatch.setattr(statistics, "_DRAWN", 700)
    assert paired_interval(values, resamples=50) == whole


def test_a_ratio_s_interval_is_of_the_median_round_by_round() -> None:
    found = ratio_interval(np.array([2.0, 6.0, 10.0]), np.array([1.0, 2.0, 10.0]))
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)
    steady = ratio_interval(np.array([3.0, 6.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    assert (steady.median, steady.low, steady.high) == (3.0, 3.0, 3.0)


def test_a_ratio_s_interval_narrows_with_rounds_and_repeats_itself() -> None:
    random = np.random.default_rng(5)
    many, ones = random.normal(2, 0.1, 400), np.ones(400)
    few = ratio_interval(many[:20], ones[:20])
    found = ratio_interval(many, ones)
    # The median of n normal values deviates by 1.253 sigma / sqrt(n).
    assert found.high - found.low == pytest.approx(2 * 1.96 * 1.253 * 0.1 / 20, rel=0.35)
    assert few.high - few.low > 2 * (found.high - found.low)
    assert ratio_interval(many, ones) == found


@pytest.mark.parametrize(
    ("count", "level", "held"),
    [
        (5, 0.95, 1 - 2 / 32),
        (6, 0.95, 1 - 2 / 64),
        (9, 0.95, 1 - 2 * (1 + 9) / 512),
        (1, 0.95, 0.0),
        (12, 0.999, 1 - 2 / 4096),
    ],
)
def test_the_interval_between_two_of_the_values(count: int, level: float, held: float) -> None:
    values = np.random.default_rng(0).permutation(count).astype(np.float64)
    low, high, found = order_interval(values, level)
    assert found == pytest.approx(held)
    assert low == count - 1 - high
    assert (found >= level) or (low, high) == (0, count - 1), "all that there are, where they are too few"


def test_it_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(4000):
        low, high, held = order_interval(random.exponential(size=11), 0.9)
        inside += low <= np.log(2) <= high
    assert inside / 4000 == pytest.approx(held, abs=0.015)
