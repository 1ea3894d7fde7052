"""Measuring: whole processes with their peak memory, and calls in interleaved rounds."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessCost:
    """What one process took.

    Attributes:
        seconds: wall time from start to exit, imports included.
        peak_bytes: the largest resident set, as the kernel accounts it at exit.
    """

    seconds: float
    peak_bytes: int


class ProcessFailedError(RuntimeError):
    """A measured process did not exit with 0; the message holds the end of what it printed."""


def process_cost(command: Sequence[str], environment: Mapping[str, str] | None = None) -> ProcessCost:
    """Run a command to its end.

    Raises:
        ProcessFailedError: it failed: a failure is not a measurement.
    """
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=None if environment is None else dict(environment)
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            tail = output.read().decode(errors="replace")[-2000:]
            raise ProcessFailedError(f"{' '.join(command)} exited with {process.returncode}: {tail}")
    unit = 1 if sys.platform == "darwin" else 1024
    return ProcessCost(seconds, usage.ru_maxrss * unit)


def interleaved(cases: Mapping[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds per call: each round times every case once, ``calls`` calls, the order turned round every time.

    A machine whose speed drifts slows all the cases of a round alike, so that ratios taken round by round hold.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            case = cases[name]
            start = time.perf_counter()
            for _ in range(calls):
                case()
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
