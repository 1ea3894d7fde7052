"""What follows from the samples of ``speed.measure``: latencies, throughput, and ratios round by round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .speed import MEASURED, Row
from .statistics import RatioInterval, ratio_interval

WALL: Final = "wall"
DEVICE: Final = "CUDA events"

REFERENCE: Final = "eager"
"""The name of the case that others are compared with, where it was measured."""

_DIGITS: Final = 9
"""After the point, in a record: no clock tells less than a nanosecond."""


@dataclass(frozen=True)
class Timing:
    """What one clock says of a row, in seconds a batch.

    Attributes:
        clock: ``WALL``: each call is waited for. ``DEVICE``: calls are queued one behind the other.
        median, p90, p99: over all samples; of ``DEVICE``, over the rounds.
        images_per_second: at the median.
        samples: of how many.
    """

    clock: str
    median: float
    p90: float
    p99: float
    images_per_second: float
    samples: int


@dataclass(frozen=True)
class Comparison:
    """How many times as fast a row is as another: the median of the ratios round by round, and its interval."""

    name: str
    timed: str
    ratio: RatioInterval


def timings(row: Row) -> tuple[Timing, ...]:
    """By each clock that it has; none where it was not measured."""
    if row.state != MEASURED or not row.samples:
        return ()
    found = [_timing(WALL, row, [seconds for samples in row.samples for seconds in samples])]
    if row.device:
        found.append(_timing(DEVICE, row, row.device))
    return tuple(found)


def compared_with_reference(row: Row, rows: Sequence[Row], clock: str) -> Comparison | None:
    """Against ``REFERENCE`` of the same batch, one that is timed alike first; where there is none, the first row.

    Args:
        row: that was measured.
        rows: of the same run.
        clock: of both.
    """
    alike = [other for other in _measured(rows, clock) if other.label.batch == row.label.batch]
    alike.sort(key=lambda other: (other.label.name != REFERENCE, other.label.timed != row.label.timed))  # stable
    return _comparison(row, alike[0], clock) if alike and alike[0] is not row else None


def compared_with_yardstick(row: Row, rows: Sequence[Row], clock: str) -> Comparison | None:
    """Against the case that does the same work without the runtime; None where there is none or it was not measured."""
    wanted = (row.label.yardstick, row.label.batch, row.label.timed)
    for other in _measured(rows, clock):
        if (other.label.name, other.label.batch, other.label.timed) == wanted:
            return _comparison(row, other, clock)
    return None


def row_json(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """The raw samples, and what follows from them.

    Args:
        row: one of ``rows``.
        rows: of the same run.
    """
    limits = {name: value for name, value in vars(row.label.limits).items() if value is not None}
    figures = []
    for timing in timings(row):
        figures.append(
            {
                **dataclasses.asdict(timing),
                "reference": _comparison_json(compared_with_reference(row, rows, timing.clock)),
                "yardstick": _comparison_json(compared_with_yardstick(row, rows, timing.clock)),
            }
        )
    return {
        **dataclasses.asdict(row.label),
        "limits": limits,
        "state": row.state,
        "reason": row.reason,
        "description": row.description,
        "parity": None if row.parity is None else dataclasses.asdict(row.parity),
        "steady": row.steady,
        "calls_in_a_sample": row.calls,
        "figures": figures,
        "wall_seconds": [[round(seconds, _DIGITS) for seconds in samples] for samples in row.samples],
        "device_seconds": [round(seconds, _DIGITS) for seconds in row.device],
    }


def _measured(rows: Sequence[Row], clock: str) -> list[Row]:
    return [row for row in rows if any(timing.clock == clock for timing in timings(row))]


def _timing(clock: str, row: Row, seconds: Sequence[float]) -> Timing:
    median, p90, p99 = (float(value) for value in np.quantile(seconds, [0.5, 0.9, 0.99]))
    return Timing(clock, median, p90, p99, row.label.batch / median, len(seconds))


def _comparison(row: Row, other: Row, clock: str) -> Comparison:
    """Rounds that only one of the two has are left out."""
    mine, others = (row.device, other.device) if clock == DEVICE else (row.rounds, other.rounds)
    count = min(len(mine), len(others))
    ratio = ratio_interval(np.asarray(others[:count]), np.asarray(mine[:count]))
    return Comparison(other.label.name, other.label.timed, ratio)


def _comparison_json(found: Comparison | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)
