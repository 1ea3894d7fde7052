"""How far one network's answers are from another's, and how sure a difference on the same samples is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Floating = NDArray[np.floating]

RESAMPLES: Final = 2000
"""Of a bootstrap: the ends of a 95% interval are then its 50th and 1951st value, near enough."""

LEVEL: Final = 0.95

_DRAWN: Final = 2**22  # indices at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A mean and the bootstrap's interval for it, in the unit of what it is of."""

    mean: float
    low: float
    high: float


def right(logits: Floating, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,): whether the largest of (N, classes) is at the label; of equal ones the first counts."""
    found: NDArray[np.bool_] = logits.argmax(axis=1) == labels
    return found


def agreement(reference: Floating, logits: Floating) -> float:
    """The share, in 0..1, of the rows (N, classes) of which both have the largest number in the same place."""
    return float(np.mean(reference.argmax(axis=1) == logits.argmax(axis=1)))


def log_probabilities(logits: Floating) -> Float64:
    """(N, classes) float64: the logarithm of softmax over the classes."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def kl_divergence(reference: Floating, logits: Floating) -> Float64:
    """(N,) float64, in nats: sum_k p_k (log p_k - log q_k), p and q the softmax of the reference and of the other.

    Args:
        reference: (N, classes), finite.
        logits: the same.
    """
    p, q = log_probabilities(reference), log_probabilities(logits)
    found: Float64 = (np.exp(p) * (p - q)).sum(axis=1)
    return found


def paired_interval(
    differences: NDArray[np.generic], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """The mean of differences, and the percentile bootstrap's interval for it (Efron, 1979).

    A difference is taken on one sample, of what two networks make of it, so that how hard the sample is takes itself
    away. ``resamples`` times as many samples as there are are drawn with replacement; the interval holds the middle
    ``level`` of their means. The same arguments give the same interval.

    Args:
        differences: (N,), N at least 1.
        resamples: how many means are drawn.
        level: in 0..1.
        seed: of the draws.
    """
    values = differences.astype(np.float64)
    count = len(values)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, _DRAWN // count)
    for start in range(0, resamples, at_once):
        drawn = random.integers(count, size=(min(at_once, resamples - start), count))
        means[start : start + at_once] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def order_interval(values: NDArray[np.floating], level: float) -> tuple[float, float, float]:
    """An interval for the median between two of the sorted values, whatever their distribution (Thompson, 1936).

    The k-th value from each end holds the median between them with 1 - 2 sum_{i<k} C(n, i) / 2^n.

    Args:
        values: (n,), n at least 1, independent.
        level: in 0..1.

    Returns:
        The ends of the narrowest that holds at ``level``, and what it holds at: less where n is too small for it.
    """
    ordered, count = np.sort(values.astype(np.float64)), len(values)
    held, k = 1 - 2 * 0.5**count, 1
    while k < count - k:
        narrower = held - 2 * math.comb(count, k) * 0.5**count
        if narrower < level:
            break
        held, k = narrower, k + 1
    return float(ordered[k - 1]), float(ordered[count - k]), held


@dataclass(frozen=True)
class RatioInterval:
    """The median of ratios, and the bootstrap's interval for it."""

    median: float
    low: float
    high: float


def ratio_interval(
    numerator: NDArray[np.floating],
    denominator: NDArray[np.floating],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> RatioInterval:
    """The median of the ratios round by round, and the percentile bootstrap's interval for it over the rounds.

    Args:
        numerator: (rounds,), seconds.
        denominator: (rounds,), seconds, above 0; of the same rounds.
        resamples: how many medians are drawn.
        level: in 0..1.
        seed: of the draws.
    """
    ratios = numerator.astype(np.float64) / denominator.astype(np.float64)
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return RatioInterval(float(np.median(ratios)), float(low), float(high))
