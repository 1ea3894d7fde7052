"""Where to clip a tensor: the magnitude T that the largest integer of a symmetric 8-bit scheme stands for.

With L levels the scale is T / L, and x is quantized to round(x L / T), clipped to [-L, L] (``int8``, L = 127) or, where
no value is negative, to [0, L] (``uint8``, L = 255). Zero is exact at every scale, so that no method looks at the
values that are exactly zero: however many a ReLU makes, they change no threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .histograms import Histogram, Magnitudes

METHODS = ("minmax", "percentile", "entropy", "mse")
LEVELS = {"int8": 127, "uint8": 255}
PERCENTILE = 99.99

DEAD_THRESHOLD = 2.0**-6
"""For a tensor that is always zero, where any T is right: divided by 255 it is a normal number even in float16."""

_BINS_PER_LEVEL = 16
"""Bins of the entropy method for each level: the talk has 2048 for 128."""

_PER_OCTAVE, _OCTAVES = 8, 10
_COARSE_BINS = 1024

_BLOCK = 128

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def thresholds_from_histogram(histogram: Histogram, levels: int, *, percentile: float = PERCENTILE) -> dict[str, float]:
    """T by every method, each a float32 above zero and at most max |x|.

    Args:
        histogram: of one tensor; a dead one gets ``DEAD_THRESHOLD`` by every method.
        levels: L.
        percentile: of |x| among the values that are not zero, above 0 and up to 100.
    """
    if histogram.dead:
        return dict.fromkeys(METHODS, DEAD_THRESHOLD)
    found = histogram.magnitudes()
    chosen = {
        "minmax": found.largest,
        "percentile": percentile_threshold(found, percentile),
        "entropy": entropy_threshold(found, levels),
        "mse": mse_threshold(found, levels),
    }
    return {method: float(np.float32(min(value, found.largest))) for method, value in chosen.items()}


def percentile_threshold(found: Magnitudes, percentile: float) -> float:
    """The magnitude that ``percentile`` percent do not exceed, as if those of one bin were spread evenly in it."""
    reached = np.cumsum(found.counts)
    wanted = max(reached[-1] * (percentile / 100) * (1 - 1e-12), 1.0)  # 99.9% of 100 000 are 99 900.00000000001
    index = min(int(np.searchsorted(reached, wanted)), len(reached) - 1)
    inside = (wanted - (reached[index] - found.counts[index])) / found.counts[index]
    return float(min(max(index + inside, 1.0) * found.width, found.largest))


def entropy_threshold(found: Magnitudes, levels: int) -> float:
    """The T where the quantized distribution is the closest to the one before, by Kullback-Leibler divergence.

    As S. Migacz, "8-bit inference with TensorRT", GTC 2017, describes TensorRT's calibrator, there with K = 128 levels
    and n = 2048 bins H; here K = L + 1 and n = 16 K. For an i from K to n, P is H[:i] with all that is clipped, H[i:],
    added to P[i - 1]; Q is H[:i] merged to K levels, each spread evenly over those of its bins where P is not 0. T is
    the upper edge of bin i - 1 for the i, of each 1024th of n, with the least

        D(P || Q) = sum_b P_b / S log(P_b / S) - sum_b P_b / S log(Q_b / S'),    S = sum P,  S' = sum Q

    Within a level g, Q is the same wherever it is not 0, so that the second sum is one over levels, of
    P_g log(H_g / N_g) with N_g the bins of g that are not empty. Hence prefix sums of H, of H log H and of H > 0 give
    each i in O(K). Beyond the talk: a last level that is empty, but for what is clipped into it, counts as holding one
    value; with Q = 0 < P the divergence would be infinite, and one outlier would set the threshold. Of several i that
    are equal within rounding, the largest clips the least.
    """
    kinds = levels + 1
    weights = _resampled(found.counts, kinds * _BINS_PER_LEVEL)
    sums = _Sums(
        weights=weights,
        mass=_prefix(weights),
        entropy=_prefix(_x_log_x(weights)),
        filled=_prefix((weights > 0).astype(np.float64)),
    )
    blocks = _candidates(kinds)
    divergence = np.concatenate([_divergences(sums, ends, edges) for ends, edges in blocks])
    best = np.flatnonzero(divergence <= divergence.min() + 1e-12)[-1]
    end = np.concatenate([ends for ends, _ in blocks])[best]
    return float(end / len(weights) * len(found.counts) * found.width)


@dataclass(frozen=True)
class _Sums:
    """H, and the prefix sums of H, of H log H and of H > 0."""

    weights: Floats
    mass: Floats
    entropy: Floats
    filled: Floats


def _divergences(sums: _Sums, ends: Integers, edges: Integers) -> Floats:
    """D(P || Q) for every i of ``ends``, whose levels begin and end at ``edges``, (c, K + 1)."""
    total = sums.mass[-1]
    inside = sums.mass[ends]
    clipped = total - inside
    last = sums.weights[ends - 1]
    own = sums.entropy[ends] - _x_log_x(last) + _x_log_x(last + clipped)
    mass = np.diff(sums.mass[edges], axis=1)
    filled = np.diff(sums.filled[edges], axis=1)
    filled[:, -1] += (last == 0) & (clipped > 0)
    one = ((mass[:, -1] == 0) & (clipped > 0)).astype(np.float64)
    mass[:, -1] += one
    empty = filled == 0  # 0 log 0 = 0 in the sum
    logs = np.log((mass + empty) / (filled + empty))
    mass[:, -1] += clipped - one
    cross = np.einsum("ij,ij->i", mass, logs)
    divergence: Floats = (own - cross) / total - np.log(total) + np.log(inside + one)
    return divergence


def mse_threshold(found: Magnitudes, levels: int) -> float:
    """The T with the least sum of (x - q(x))^2, where the values of one bin are spread evenly in it.

    First over a grid of ``_PER_OCTAVE`` magnitudes an octave down from the largest, on fewer bins; then twice around
    the best one, on all, to half a percent of T.
    """
    bins = len(found.counts)
    top = found.largest / found.width
    merge = -(-bins // _COARSE_BINS)
    coarse = np.add.reduceat(found.counts, np.arange(0, bins, merge)).astype(np.float64)
    grid = top * 2.0 ** (-np.arange(_PER_OCTAVE * _OCTAVES + 1) / _PER_OCTAVE)
    best = grid[np.argmin(_errors(coarse, grid / merge, levels))]
    reach = 2 ** (1 / _PER_OCTAVE) - 1
    density = found.counts.astype(np.float64)
    for _ in range(2):
        grid = np.minimum(best * np.linspace(1 + reach, 1 - reach, 9), top)
        best = grid[np.argmin(_errors(density, grid, levels))]
        reach /= 4
    return float(best * found.width)


def _errors(density: Floats, thresholds: Floats, levels: int) -> Floats:
    """The sum of squared errors for each threshold; all in units of a bin, of which each has ``density`` values.

    With s = T / L, k = min(round(x / s), L) and r = x - k s, the primitive of r^2 is k s^3 / 12 + r^3 / 3.
    """
    edges = np.arange(len(density) + 1, dtype=np.float64)
    step = (thresholds / levels)[:, None]
    nearest = np.minimum(np.rint(edges / step), levels)
    rest = edges - nearest * step
    primitive = nearest * (step**3 / 12) + rest * rest * rest / 3
    # Not a matrix product: BLAS may sum in another order when other threads use it too.
    errors: Floats = np.einsum("ij,j->i", np.diff(primitive, axis=1), density)
    return errors


def _resampled(counts: NDArray[np.int64], bins: int) -> Floats:
    """The same range in ``bins`` bins: a bin that lies in two is shared out evenly."""
    edges = np.linspace(0, len(counts), bins + 1)
    sums: Floats = np.diff(np.interp(edges, np.arange(len(counts) + 1), _prefix(counts.astype(np.float64))))
    return sums


def _prefix(values: Floats) -> Floats:
    """(n + 1,): the sums of the first 0, 1, ... n."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


@cache
def _candidates(kinds: int) -> list[tuple[Integers, Integers]]:
    """Every i, (c,), and where its levels begin and end, (c, K + 1): bin b is of the level floor(b K / i).

    In blocks whose arrays stay in a core's cache.
    """
    stride = kinds * _BINS_PER_LEVEL // 1024
    every = np.arange(kinds * _BINS_PER_LEVEL, kinds - 1, -stride)[::-1]
    blocks = []
    for first in range(0, len(every), _BLOCK):
        ends = every[first : first + _BLOCK].copy()
        blocks.append((ends, -(-ends[:, None] * np.arange(kinds + 1) // kinds)))
    return blocks
