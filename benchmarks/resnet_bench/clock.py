"""Measuring: whole processes with their peak memory, and calls in interleaved rounds."""

from __future__ import annotations

import json
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


_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
unit = 1 if sys.platform == "darwin" else 1024
figures = {"seconds": seconds, "peak_bytes": usage.ru_maxrss * unit, "status": os.waitstatus_to_exitcode(status)}
os.write(DESCRIPTOR, json.dumps(figures).encode())
"""
"""The kernel counts into a process's peak what its parent held when it was started, and the parent of a measurement may
hold a network. So a small process stands between the two, and it is that one which measures."""


def process_cost(command: Sequence[str]) -> ProcessCost:
    """Run a command to its end.

    Raises:
        ProcessFailedError: it failed: a failure is not a measurement.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as figures:
        launcher = [sys.executable, "-S", "-c", _LAUNCHER.replace("DESCRIPTOR", str(figures.fileno())), *command]
        subprocess.run(launcher, stdout=output, stderr=output, pass_fds=[figures.fileno()], check=True)
        figures.seek(0)
        found = json.load(figures)
        if found["status"] != 0:
            output.seek(0)
            tail = output.read().decode(errors="replace")[-2000:]
            raise ProcessFailedError(f"{' '.join(command)} exited with {found['status']}: {tail}")
    return ProcessCost(found["seconds"], found["peak_bytes"])


def interleaved(cases: Mapping[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds per call, a figure a round: each round times every case twice, forwards and then backwards (A B B A).

    A machine whose speed drifts slows all the cases of a round alike, so that ratios taken round by round hold. A case
    that comes right after another one pays for what that left behind (threads that still spin, a cold cache): in both
    orders all cases do.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        total = dict.fromkeys(names, 0.0)
        for name in (*names, *reversed(names)):
            case = cases[name]
            start = time.perf_counter()
            for _ in range(calls):
                case()
            total[name] += time.perf_counter() - start
        for name in names:
            seconds[name].append(total[name] / (2 * calls))
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
