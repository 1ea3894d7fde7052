"""The rows of ``resnet-bench run`` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .speed import MEASURED, UNAVAILABLE, LoopOptions, Row
from .speed_figures import (
    DEVICE,
    WALL,
    Comparison,
    Timing,
    compared_with_reference,
    compared_with_yardstick,
    timings,
)

_HEADING: Final = ("case", "batch", "timed", "clock", "median", "p90", "p99", "images/s", "times as fast as")
_RIGHT: Final = (1, 4, 5, 6, 7)


def speed_table(rows: Sequence[Row], options: LoopOptions) -> list[str]:
    """A line for each row and each of its clocks; under it the yardsticks, and what was not measured, and why.

    Args:
        rows: of a run.
        options: of its loop.
    """
    lines = [_cells(row, rows, timing) for row in rows for timing in timings(row)]
    found = _aligned([_HEADING, *lines]) if lines else []
    return [*found, *_legend(rows, options), *_yardsticks(rows), *_notes(rows)]


def _cells(row: Row, rows: Sequence[Row], timing: Timing) -> tuple[str, ...]:
    compared = compared_with_reference(row, rows, timing.clock)
    return (
        row.label.name,
        str(row.label.batch),
        row.label.timed,
        timing.clock,
        _milliseconds(timing.median),
        _milliseconds(timing.p90),
        _milliseconds(timing.p99),
        f"{timing.images_per_second:,.0f}" if timing.images_per_second >= 100 else f"{timing.images_per_second:.1f}",
        "-" if compared is None else f"{_interval(compared)} {_named(compared, row)}",
    )


def _named(compared: Comparison, row: Row) -> str:
    """The other one's name, and how it is timed where that is not alike."""
    return compared.name if compared.timed == row.label.timed else f"{compared.name} ({compared.timed})"


def _interval(compared: Comparison) -> str:
    ratio = compared.ratio
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.4f} ms" if value < 1 else f"{value:.3f} ms" if value < 100 else f"{value:.1f} ms"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADING))]
    return [
        "  ".join(
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _legend(rows: Sequence[Row], options: LoopOptions) -> list[str]:
    clocks = {timing.clock for row in rows for timing in timings(row)}
    said = {
        WALL: f"{WALL}: each call is waited for; median, p90 and p99 over the samples of {counted(options.rounds)}.",
        DEVICE: f"{DEVICE}: calls are queued one behind the other; median, p90 and p99 over the rounds.",
    }
    ratios = ["Ratios are taken round by round: their median, and 95% of the bootstrap's medians."]
    return [text for clock, text in said.items() if clock in clocks] + (ratios if clocks else [])


def _yardsticks(rows: Sequence[Row]) -> list[str]:
    """What the runtime takes more than the library alone, in percent of the library's time."""
    lines = []
    for row in rows:
        for timing in timings(row):
            compared = compared_with_yardstick(row, rows, timing.clock)
            if compared is not None:
                ratio = compared.ratio
                more = [100 * (1 / value - 1) for value in (ratio.median, ratio.high, ratio.low)]
                lines.append(
                    f"{row.label.name}, batch {row.label.batch}, {row.label.timed}, {timing.clock}: "
                    f"{more[0]:+.1f}% [{more[1]:+.1f}, {more[2]:+.1f}] of {compared.name}'s time"
                )
    return lines


def _notes(rows: Sequence[Row]) -> list[str]:
    """One line for rows that differ in their batch alone."""
    batches: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row.state != MEASURED:
            verdict = "cannot run here" if row.state == UNAVAILABLE else "FAILED"
            batches.setdefault((f"{row.label.name}, {row.label.timed}", f"{verdict}: {row.reason}"), []).append(
                row.label.batch
            )
        elif not row.steady:
            batches.setdefault((f"{row.label.name}, {row.label.timed}", "did not come to a steady speed"), []).append(
                row.label.batch
            )
    return [f"{name}, batch {_listed(sizes)}: {text}" for (name, text), sizes in batches.items()]


def counted(rounds: int) -> str:
    """``1 round``, ``20 rounds``."""
    return f"{rounds} round" + ("" if rounds == 1 else "s")


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, dict.fromkeys(sizes)))
