"""A histogram is what its values make it: no order, split, thread or doubling changes it."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_export.errors import CalibrationError
from resnet_export.quantization.histograms import BINS, SMALLEST, Histogram

Floats = NDArray[np.float32]

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(-8, 8, width=32)
EDGES = st.builds(math.ldexp, st.sampled_from([-1.0, -0.75, 0.0, 0.5, 1.0]), st.integers(-20, 20))
VALUES = st.lists(ANY | USUAL | EDGES, min_size=1, max_size=60)


def histogram_of(*pieces: Floats) -> Histogram:
    histogram = Histogram("tensor")
    for piece in pieces:
        histogram.add(piece)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    numbers = (histogram.low, histogram.high, histogram.count, histogram.zeros, histogram.reach)
    return (*(repr(number) for number in numbers), histogram.counts.tobytes())


def random(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(count, dtype=np.float32)


@given(values=VALUES, data=st.data())
def test_any_split_of_any_permutation_gives_the_same(values: list[float], data: st.DataObject) -> None:
    whole = np.array(values, np.float32)
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    pieces = np.split(whole[np.array(order)], cuts)
    assert state(histogram_of(*pieces)) == state(histogram_of(whole))


@given(values=VALUES)
def test_every_value_is_in_the_bin_that_the_formula_says(values: list[float]) -> None:
    histogram = histogram_of(*(np.array([value], np.float32) for value in values))
    exact = [float(np.float32(value)) for value in values]
    width = histogram.reach / BINS
    expected = Counter(math.trunc(value / width) for value in exact)
    counts = histogram.counts
    assert {int(index) - (BINS - 1): int(counts[index]) for index in np.flatnonzero(counts)} == expected
    assert (histogram.low, histogram.high) == (min(exact), max(exact))
    assert (histogram.count, histogram.zeros) == (len(exact), exact.count(0.0))
    assert histogram.largest < histogram.reach
    assert histogram.dead or histogram.reach <= 2 * histogram.largest


@given(values=VALUES)
def test_magnitudes_are_of_the_values_that_are_not_zero(values: list[float]) -> None:
    found = histogram_of(np.array(values, np.float32)).magnitudes()
    exact = [abs(float(np.float32(value))) for value in values]
    assert found.largest == max(exact)
    if found.largest < SMALLEST:
        assert len(found.counts) == 0
        return
    expected = Counter(math.trunc(value / found.width) for value in exact if value)
    assert {int(index): int(found.counts[index]) for index in np.flatnonzero(found.counts)} == expected
    assert BINS // 2 < len(found.counts) <= BINS
    assert found.counts[-1] > 0


def test_many_values_in_any_order() -> None:
    values = np.concatenate([random(300_000), np.zeros(5_000, np.float32), 40 * random(3, seed=1)])
    turned = np.random.default_rng(2).permutation(values)
    whole = histogram_of(turned)
    assert state(whole) == state(histogram_of(values)) == state(histogram_of(*np.array_split(turned, 7)))
    assert whole.zeros == 5_000
    assert whole.counts.sum() == whole.count == len(values)


def test_an_array_of_any_shape_and_stride() -> None:
    values = random(2 * 3 * 8 * 10).reshape(2, 3, 8, 10)
    turned = values.transpose(0, 2, 3, 1)
    assert not turned.flags.c_contiguous
    assert state(histogram_of(turned)) == state(histogram_of(values))
    assert histogram_of(values[:0]).count == 0


def test_a_larger_value_merges_bins_pairwise() -> None:
    histogram = histogram_of(np.array([0.0, 0.25, 0.5, 0.5 + 1 / BINS, 0.5 + 2 / BINS, -0.5], np.float32))
    assert histogram.reach == 1.0
    half = BINS // 2
    before = histogram.counts[BINS - 1 :]
    assert list(before[half : half + 3]) == [1, 1, 1]
    histogram.add(np.array([1.0], np.float32))  # a bin's lower edge is in it, so that 1 needs a reach of 2
    assert histogram.reach == 2.0
    after = histogram.counts[BINS - 1 :]
    assert list(after[half // 2 : half // 2 + 2]) == [2, 1]
    assert after[half] == 1
    assert histogram.counts[BINS - 1 - half // 2] == 1
    assert (after[0], histogram.zeros) == (1, 1)


def test_far_larger_values_leave_the_rest_in_bin_zero() -> None:
    histogram = histogram_of(np.array([1.0, -1.0, 3e38, 1e-45], np.float32))
    assert histogram.reach == 2.0**128
    assert histogram.counts[BINS - 1] == 3
    assert histogram.zeros == 0


def test_threads_give_the_same() -> None:
    pieces = [random(70_000, seed) * 2**seed for seed in range(4)]
    histograms = [Histogram(str(index)) for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for piece in pieces:
            list(pool.map(lambda histogram, piece=piece: histogram.add(piece), histograms))  # type: ignore[misc]
    assert {state(histogram) for histogram in histograms} == {state(histogram_of(*pieces))}


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_a_value_that_is_not_finite(value: float, found: str) -> None:
    values = random(100_000)
    values[70_000] = value
    with pytest.raises(CalibrationError) as caught:
        Histogram("layer1.0.conv1").add(values)
    assert str(caught.value) == (
        f"the tensor layer1.0.conv1 reaches {found} on a calibration image, so that no scale fits it: "
        "look for values that are not finite in the images and the weights"
    )
    assert caught.value.exit_status == 2


def test_negative_zero_is_zero() -> None:
    histogram = histogram_of(np.array([-0.0, 0.0, -0.0], np.float32))
    assert (histogram.zeros, repr(histogram.low), repr(histogram.high)) == (3, "0.0", "0.0")
    assert histogram.dead


def test_a_tensor_of_zeros_or_of_nothing_that_a_scale_could_tell_from_zero_is_dead() -> None:
    assert Histogram("empty").dead
    assert histogram_of(np.full(3, 2.0**-65, np.float32)).dead
    assert not histogram_of(np.array([0.0, SMALLEST], np.float32)).dead
    assert len(histogram_of(np.array([0.0, -SMALLEST], np.float32)).magnitudes().counts) == BINS // 2 + 1
