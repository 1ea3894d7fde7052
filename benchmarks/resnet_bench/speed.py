"""The measuring loop of ``resnet-bench run``: cases in interleaved rounds, by the wall clock and the device's own.

Every round visits every case once, one round forwards and the next one backwards. A visit begins when the threads of
the case before it have come to rest, and with a call that is not timed: the caches, and a GPU's clock, are what
another case left. A sample is as many calls as it takes for the clock's resolution not to matter.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from resnet_runtime.bundle import CheckData
from resnet_runtime.errors import DetailedError, UnavailableError, lines_of
from resnet_runtime.manifest import Parity
from resnet_runtime.parity import faults, parity, tie_of

from .cases import Answers, Array, Case, Label

MEASURED: Final = "measured"
UNAVAILABLE: Final = "unavailable"
FAILED: Final = "failed"

Clock = Callable[[], float]
"""Seconds since some moment."""

_WINDOWS: Final = 3
_CALLS_IN_A_WINDOW: Final = 5
_MOST_CALLS: Final = 1000
"""In a sample, and queued at once."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How it is measured.

    Attributes:
        rounds: each visits every case.
        sample_seconds: a sample takes at least that long.
        visit_seconds: a visit takes samples for at least that long, and at least one.
        steady_within: a case is warm when the medians of its last three windows of calls are no further apart,
            relative to the smallest.
        warmup_seconds: after these it is measured as it is, and its row says so.
    """

    rounds: int = 40
    sample_seconds: float = 1e-3
    visit_seconds: float = 0.05
    steady_within: float = 0.05
    warmup_seconds: float = 10.0


@dataclass(kw_only=True)
class Row:
    """A case and what was found of it.

    Attributes:
        label: of the case.
        state: ``MEASURED``, ``UNAVAILABLE`` or ``FAILED``.
        reason: why it was not measured, in a sentence; None where it was.
        description: what the case says of itself, once it was prepared.
        parity: its answers beside eager's.
        steady: whether it came to a steady speed before it was measured.
        calls: in a sample.
        samples: seconds a batch by the wall clock: a list a round.
        device: seconds a batch by the device's clock: a figure a round; empty where there is no such clock.
    """

    label: Label
    state: str = MEASURED
    reason: str | None = None
    description: str | None = None
    parity: Parity | None = None
    steady: bool = True
    calls: int = 1
    samples: list[list[float]] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    @property
    def rounds(self) -> list[float]:
        """Seconds a batch by the wall clock, a figure a round: the median of its samples."""
        return [statistics.median(samples) for samples in self.samples]

    def refuse(self, error: Exception) -> None:
        """It is not measured, because of an error."""
        self.state = UNAVAILABLE if isinstance(error, UnavailableError) else FAILED
        self.reason = sentence(error)
        self.samples, self.device = [], []


def measure(
    cases: Sequence[Case],
    check: CheckData,
    options: LoopOptions,
    *,
    clock: Clock = time.perf_counter,
    rest: Callable[[], None] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Prepare cases of one batch size, hold their answers to eager's, and time them.

    Args:
        cases: they are open at once.
        check: inputs, and eager's answers. A case whose answers are outside its limits is not timed.
        options: how.
        clock: the wall clock.
        rest: waits until the threads of this process rest; None: ``at_rest``.
        tell: told what happens.

    Returns:
        A row for each case, in their order.
    """
    rows = [Row(label=case.label) for case in cases]
    with contextlib.ExitStack() as stack:
        running: list[tuple[Case, Row]] = []
        for case, row in zip(cases, rows, strict=True):
            tell(f"batch {case.label.batch}: {case.label.name}, {case.label.timed}")
            stack.callback(_close, case, tell)
            try:
                _prepare(case, row, check, options, clock)
            except Exception as error:  # a peer raises what it likes, and its row says it
                row.refuse(error)
            else:
                running.append((case, row))
        tell(f"batch {cases[0].label.batch}: {options.rounds} rounds" if running else "nothing to measure")
        for number in range(options.rounds):
            _round(running, options, clock, rest or at_rest, backwards=number % 2 == 1)
    return rows


def _close(case: Case, tell: Callable[[str], None]) -> None:
    """What was measured stands, even if a peer cannot be closed."""
    try:
        case.close()
    except Exception as error:  # as above
        tell(f"batch {case.label.batch}: {case.label.name} cannot be closed: {sentence(error)}")


def _prepare(case: Case, row: Row, check: CheckData, options: LoopOptions, clock: Clock) -> None:
    """Load, check, warm up. Raises what the case raises, and WrongAnswersError."""
    inputs = np.ascontiguousarray(np.take(check.inputs, range(case.label.batch), axis=0, mode="wrap"))
    row.description = case.prepare(inputs)
    row.parity = _parity(case, check)
    found = faults(row.parity, case.label.limits)
    if found:
        raise WrongAnswersError(f"its answers are wrong: {found[0]}")
    seconds, row.steady = warmed(case.call, options, clock)
    row.calls = _calls(options.sample_seconds, seconds)


class WrongAnswersError(RuntimeError):
    """A case does not compute what the model computes: a fast wrong answer is not a result."""


def _parity(case: Case, check: CheckData) -> Parity:
    return parity(check.outputs, answers_in_batches(case, check.inputs), tie=tie_of(case.label.limits))


def answers_in_batches(case: Case, inputs: Array) -> Answers:
    """A case's answers to (N, ...) inputs, batch by batch; the last batch is filled up from the beginning."""
    batch = case.label.batch
    parts = []
    for first in range(0, len(inputs), batch):
        chosen = np.take(inputs, range(first, first + batch), axis=0, mode="wrap")
        found = case.answers(np.ascontiguousarray(chosen))
        parts.append({name: np.array(array) for name, array in found.items()})
    return {name: np.concatenate([part[name] for part in parts])[: len(inputs)] for name in parts[0]}


def warmed(call: Callable[[], None], options: LoopOptions, clock: Clock) -> tuple[float, bool]:
    """Call until it is steady. Returns the seconds of a call, and whether it became steady in time."""
    end = clock() + options.warmup_seconds
    medians: list[float] = []
    while True:
        medians.append(_window(call, options.sample_seconds, clock))
        recent = medians[-_WINDOWS:]
        steady = len(recent) == _WINDOWS and max(recent) <= (1 + options.steady_within) * min(recent)
        if steady or clock() >= end:
            return medians[-1], steady


def _window(call: Callable[[], None], seconds: float, clock: Clock) -> float:
    """The median of some calls, which together take at least ``seconds`` a call that counts."""
    taken: list[float] = []
    began = clock()
    while len(taken) < _CALLS_IN_A_WINDOW or (
        len(taken) < _MOST_CALLS and clock() - began < _CALLS_IN_A_WINDOW * seconds
    ):
        start = clock()
        call()
        taken.append(clock() - start)
    return statistics.median(taken)


def _calls(seconds: float, of_one: float) -> int:
    """How many take ``seconds``: at least one, and no more than ``_MOST_CALLS`` whatever the clock says."""
    return max(1, min(_MOST_CALLS, math.ceil(seconds / max(of_one, 1e-9))))


def _round(
    running: list[tuple[Case, Row]],
    options: LoopOptions,
    clock: Clock,
    rest: Callable[[], None],
    *,
    backwards: bool,
) -> None:
    """A visit to each case; one that fails is out of this round and of those to come."""
    samples: dict[int, list[float]] = {id(row): [] for _, row in running}
    device: dict[int, list[float]] = {id(row): [] for _, row in running}
    for case, row in reversed(running) if backwards else running:
        try:
            rest()
            samples[id(row)] += _visit(case, row.calls, options.visit_seconds, clock)
            found = case.device_seconds(_calls(options.visit_seconds, samples[id(row)][-1] * case.label.calls))
        except Exception as error:  # as above
            row.refuse(error)
        else:
            device[id(row)] += [] if found is None else [found]
    running[:] = [(case, row) for case, row in running if row.state == MEASURED]
    for _, row in running:
        row.samples.append(samples[id(row)])
        if device[id(row)]:
            row.device.append(statistics.fmean(device[id(row)]))


def _visit(case: Case, calls: int, seconds: float, clock: Clock) -> list[float]:
    """Samples, in seconds a batch, after a call that is not timed."""
    case.call()
    found: list[float] = []
    end = clock() + seconds
    while not found or clock() < end:
        start = clock()
        for _ in range(calls):
            case.call()
        found.append((clock() - start) / (calls * case.label.calls))
    return found


def at_rest(longest: float = 0.2) -> None:
    """Wait until no thread of this process uses a core any more, and not longer than ``longest`` seconds.

    The idle threads of a library spin for a while after a call (ONNX Runtime's for about 0.1 s), and take cores from
    the case that comes next.
    """
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        began, used = time.perf_counter(), time.process_time()
        time.sleep(0.01)
        if time.process_time() - used < 0.1 * (time.perf_counter() - began):
            return


def sentence(error: Exception) -> str:
    """What an error says, in a line."""
    if isinstance(error, DetailedError):
        return error.message
    return lines_of(error)[0]
