"""Two records of ``resnet-bench run``: what became slower, faster, or is not there any more.

Absolute times of two runs say little where a machine's speed drifts, so that what is compared is each row's ratio to
the reference of its own run, which was measured in the same rounds. A row has changed where the two ratios' intervals
have nothing in common. Those hold for all rows together (Bonferroni): at 95% each, one row in twenty would have its
ratio outside of its own, and a table has dozens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .cases import RunError
from .speed_figures import REFERENCE, WALL
from .statistics import LEVEL, order_interval

_Key = tuple[str, int, str, str]
"""Name, batch, what is timed, clock."""

SCHEMA: Final = "resnet-bench-run/1"
"""Of a record."""

SLOWER: Final = "slower"
FASTER: Final = "faster"
SAME: Final = "same"
GONE: Final = "gone"
"""It was measured in the old record, and was not in the new one."""
NEW: Final = "new"


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the reference: the median, its interval, and what that holds at."""

    median: float
    low: float
    high: float
    held: float = LEVEL


@dataclass(frozen=True)
class Change:
    """One row of both records.

    Attributes:
        name, batch, timed, clock: which.
        old, new: ratios to the reference; None where it was not measured.
        verdict: ``SLOWER``, ``FASTER``, ``SAME``, ``GONE`` or ``NEW``.
    """

    name: str
    batch: int
    timed: str
    clock: str
    old: Ratio | None
    new: Ratio | None
    verdict: str


def record_from_file(path: Path) -> dict[str, Any]:
    """A record that ``resnet-bench run --json`` wrote.

    Raises:
        RunError: it cannot be read, or is something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise RunError(f"{path} is no JSON file: {error}") from None
    try:
        schema, rows = record["figures"]["schema"], list(record["figures"]["rows"])
        assert isinstance(record["host"], dict)
        assert all({"name", "batch", "timed", "figures"} <= set(row) for row in rows)
        _ratios(record)
        _model(record)
    except (KeyError, TypeError, ValueError, AssertionError):
        raise RunError(f"{path} is no record of resnet-bench run: give a file that --json wrote") from None
    if schema != SCHEMA:
        raise RunError(f"{path} has the schema {schema!r}, and this version reads {SCHEMA!r}: measure again")
    return dict(record)


def check_same_host(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse records of different hosts or bundles.

    Raises:
        RunError: they are.
    """
    for what, was, now in (
        ("host", old["host"], new["host"]),
        ("GPU", _gpu(old), _gpu(new)),
        ("model", _model(old), _model(new)),
    ):
        if was != now:
            keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            raise RunError(
                f"the records are of different {what}s: {keys[0]} was {was.get(keys[0])} and is {now.get(keys[0])}; "
                "--other-host compares them all the same"
            )


def _model(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record["figures"]["bundle"]["model"]
    return {key: found[key] for key in ("architecture", "parameters")}


def _gpu(record: Mapping[str, Any]) -> dict[str, Any]:
    found = record["figures"].get("gpu") or {}
    return {key: found[key] for key in ("gpu", "compute_capability") if key in found}


def check_compared(found: Sequence[Change]) -> None:
    """Refuse to call two records the same of which nothing was compared.

    Raises:
        RunError: neither has a ratio to eager.
    """
    if not found:
        raise RunError(
            "neither record has a ratio to eager PyTorch, which is what is compared: measure with --model model.pt"
        )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Each row of either record that has a ratio to the reference, in the old record's order, then the new one's."""
    before, after = _ratios(old), _ratios(new)
    found = []
    for key in dict.fromkeys((*before, *after)):
        was, now = before.get(key), after.get(key)
        found.append(Change(*key, was, now, _verdict(was, now)))
    return found


def _ratios(record: Mapping[str, Any]) -> dict[_Key, Ratio]:
    """Those to ``REFERENCE``: a run without it compares with whatever came first."""
    rounds: dict[_Key, NDArray[np.float64]] = {}
    stated: dict[_Key, tuple[_Key, Ratio]] = {}
    for row in record["figures"]["rows"]:
        for figure in row["figures"]:
            clock, reference = str(figure["clock"]), figure["reference"]
            key = (str(row["name"]), int(row["batch"]), str(row["timed"]), clock)
            rounds[key] = _rounds(row, clock)
            if reference is not None and reference["name"] == REFERENCE:
                ratio = Ratio(*(float(reference["ratio"][part]) for part in ("median", "low", "high")))
                stated[key] = ((REFERENCE, key[1], str(reference["timed"]), clock), ratio)
    level = 1 - (1 - LEVEL) / max(1, len(stated))
    return {key: _for_all(rounds[key], rounds.get(other), ratio, level) for key, (other, ratio) in stated.items()}


def held_together(record: Mapping[str, Any]) -> float:
    """The level at which the intervals of all rows hold together: less than ``LEVEL`` where there are few rounds."""
    missed = sum(1 - ratio.held for ratio in _ratios(record).values())
    return max(0.0, 1 - missed)


def _rounds(row: Mapping[str, Any], clock: str) -> NDArray[np.float64]:
    """(rounds,) seconds."""
    if clock == WALL:
        return np.array([np.median(samples) for samples in row["wall_seconds"]])
    return np.array(row["device_seconds"], np.float64)


def _for_all(mine: NDArray[np.float64], others: NDArray[np.float64] | None, stated: Ratio, level: float) -> Ratio:
    """The stated ratio, with the interval of a level."""
    count = 0 if others is None else min(len(mine), len(others))
    if others is None or count == 0:
        return stated
    low, high, held = order_interval(others[:count] / mine[:count], level)
    return Ratio(stated.median, low, high, held)


def _verdict(old: Ratio | None, new: Ratio | None) -> str:
    if old is None:
        return NEW
    if new is None:
        return GONE
    if new.high < old.low:
        return SLOWER
    return FASTER if new.low > old.high else SAME


def compare_table(found: Sequence[Change]) -> list[str]:
    """A line for each row."""
    heading = ("case", "batch", "timed", "clock", "was", "is", "")
    rows = [heading, *(_cells(change) for change in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    return [
        "  ".join(
            cell.rjust(width) if column in (1, 4, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(change: Change) -> tuple[str, ...]:
    verdict = change.verdict
    if change.old is not None and change.new is not None:
        verdict = f"{verdict}, {change.new.median / change.old.median - 1:+.1%}"
    return (
        change.name,
        str(change.batch),
        change.timed,
        change.clock,
        _interval(change.old),
        _interval(change.new),
        verdict,
    )


def _interval(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
