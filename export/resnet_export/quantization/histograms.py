"""The distribution of a tensor's values, gathered piece by piece in memory that does not grow."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_export.errors import CalibrationError

BINS = 8192
"""Bins for each sign, a power of two. A value that reaches twice as far as the rest leaves the rest half of them."""

SMALLEST = 2.0**-64
"""Nothing smaller is told apart from zero: a scale below it, times that of the weights, is no normal float32."""

_SMALLEST_EXPONENT = math.frexp(SMALLEST)[1] - 1
_CHUNK = 1 << 16
"""Values taken at once, so that what is computed of them stays in a core's second cache."""


class _Scratch(threading.local):
    """Each thread's arrays for one chunk: taking new ones costs as much as filling them."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.indices = np.empty(_CHUNK, np.int64)
        self.zeros = np.empty(_CHUNK, np.bool_)


_scratch = _Scratch()


@dataclass(frozen=True)
class Magnitudes:
    """How large the values of a tensor are that are not zero.

    Attributes:
        counts: (n,) int64, how many |x| lie in [i * width, (i + 1) * width). The last is not 0; n is 0 where every
            value is zero, else at most ``BINS``, and more than half of that.
        width: of a bin.
        largest: max |x|, exactly.
    """

    counts: NDArray[np.int64]
    width: float
    largest: float


class Histogram:
    """A histogram over (-reach, reach) whose reach doubles where larger values come.

    With w = reach / BINS, a value belongs to the bin trunc(x / w), from -(BINS - 1) to BINS - 1; bin 0 is (-w, w). The
    reach is the smallest power of two above max |x|, so x / w is exact in float32, and where the reach doubles the bin
    i becomes the bin trunc(i / 2), which is trunc(x / 2w). Hence a histogram depends on the values that it was given
    and not on their order or on the pieces they came in.

    Attributes:
        name: of the tensor, for messages.
        low: the smallest value, inf before there is one.
        high: the largest value.
        count: of all values.
        zeros: of those that are exactly zero. They are in bin 0 too.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.low = math.inf
        self.high = -math.inf
        self.count = 0
        self.zeros = 0
        self._exponent = _SMALLEST_EXPONENT
        self._counts = np.zeros(2 * BINS - 1, np.int64)

    @property
    def reach(self) -> float:
        """A power of two above every |x|."""
        return math.ldexp(1.0, self._exponent)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(2 BINS - 1,) int64: element i is bin i - (BINS - 1)."""
        return self._counts.copy()

    @property
    def largest(self) -> float:
        """max |x|."""
        return max(-self.low, self.high)

    @property
    def dead(self) -> bool:
        """Whether no value can be told from zero."""
        return self.largest < SMALLEST

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of a float32 array of any shape.

        Raises:
            CalibrationError: one of them is not finite.
        """
        assert values.dtype == np.float32
        flat = np.ravel(values)
        for first in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[first : first + _CHUNK])

    def magnitudes(self) -> Magnitudes:
        """What the methods that choose a threshold look at."""
        folded = self._counts[BINS - 1 :].copy()
        folded[1:] += self._counts[: BINS - 1][::-1]
        folded[0] -= self.zeros
        used = 0 if self.dead else int(np.flatnonzero(folded)[-1]) + 1
        return Magnitudes(counts=folded[:used], width=self.reach / BINS, largest=max(self.largest, 0.0))

    def _add_chunk(self, chunk: NDArray[np.float32]) -> None:
        with np.errstate(invalid="ignore"):
            low, high = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(
                f"the tensor {self.name} reaches {'NaN' if math.isnan(low) else 'infinity'} on a calibration "
                "image, so that no scale fits it: look for values that are not finite in the images and the weights"
            )
        # -0.0 becomes 0.0: which of the two is the smallest depends on their order.
        self.low, self.high = min(self.low, low) + 0.0, max(self.high, high) + 0.0
        self.count += chunk.size
        if low == 0 == high:
            self.zeros += chunk.size
            self._counts[BINS - 1] += chunk.size
            return
        self._grow(math.frexp(max(-low, high))[1])
        per_width = math.ldexp(float(BINS), -self._exponent)
        scaled = np.multiply(chunk, np.float32(per_width), out=_scratch.scaled[: chunk.size])
        indices = _scratch.indices[: chunk.size]
        np.copyto(indices, scaled, casting="unsafe")  # truncates
        lowest = int(low * per_width)
        if lowest:
            indices -= lowest
        found = np.bincount(indices)
        start = lowest + BINS - 1
        self._counts[start : start + found.size] += found
        if low <= 0 <= high:
            self.zeros += int(np.count_nonzero(np.equal(chunk, 0, out=_scratch.zeros[: chunk.size])))

    def _grow(self, exponent: int) -> None:
        """Widen the bins by the power of two that makes the reach 2 ** exponent, where it is less."""
        doublings = exponent - self._exponent
        if doublings <= 0:
            return
        self._exponent = exponent
        before = self._counts
        self._counts = np.zeros_like(before)
        self._counts[BINS - 1] = before[BINS - 1]
        factor = 1 << min(doublings, BINS.bit_length() - 1)
        for sign in (1, -1):
            side = np.zeros(BINS, np.int64)
            side[1:] = before[BINS:] if sign > 0 else before[: BINS - 1][::-1]
            merged = side.reshape(-1, factor).sum(axis=1)
            self._counts[BINS - 1 :: sign][: merged.size] += merged
