"""What disturbed a measurement: a machine whose speed changed, and other processes that took its cores."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from .speed import MEASURED, Row

DRIFT: Final = 1.25
"""How many times as long the slow rounds of a case may take as its fast ones."""

LOAD: Final = 0.1
"""Cores that other processes may use on the average."""

_STAT: Final = Path("/proc/stat")
_FIELDS: Final = 8
"""Of the first line: what comes after them is counted in them already."""


class Watch:
    """Looks at the whole system's busy time beside this process's own.

    Args:
        stat: of the kernel; None: where Linux has it.
    """

    def __init__(self, stat: Path = _STAT) -> None:
        self._stat = stat
        self._began = time.perf_counter()
        self._busy = self._busy_seconds()
        self._own = _own_seconds()

    def noticed(self, rows: Sequence[Row]) -> list[str]:
        """What a reader of the figures has to know, in sentences.

        Args:
            rows: that were measured since.
        """
        found = [text for row in rows if (text := drift(row)) is not None]
        wall = time.perf_counter() - self._began
        if self._busy is not None and (now := self._busy_seconds()) is not None and wall > 0:
            others = (now - self._busy - (_own_seconds() - self._own)) / wall
            if others > LOAD:
                found.append(f"other processes used {others:.1f} cores on the average: measure on an idle machine")
        return found

    def _busy_seconds(self) -> float | None:
        """Of all cores since the system started; None where it does not say."""
        try:
            name, *numbers = self._stat.read_text().splitlines()[0].split()
            user, nice, system, _idle, _wait, interrupt, soft, _stolen = (int(text) for text in numbers[:_FIELDS])
        except (OSError, ValueError, IndexError):
            return None
        if name != "cpu":
            return None
        return (user + nice + system + interrupt + soft) / os.sysconf("SC_CLK_TCK")


def drift(row: Row) -> str | None:
    """That the case was much slower in some rounds than in others, or None. A tenth at each end does not count."""
    if row.state != MEASURED or len(row.samples) < 2:
        return None
    fast, slow = (float(value) for value in np.quantile(row.rounds, [0.1, 0.9]))
    if slow <= DRIFT * fast:
        return None
    label = row.label
    return (
        f"{label.name}, {label.timed}, batch {label.batch}: its rounds took from {1e3 * fast:.3g} to "
        f"{1e3 * slow:.3g} ms, so that the machine's clock or load changed: trust the ratios, not the times"
    )


def _own_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
