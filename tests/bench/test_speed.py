"""The measuring loop, with cases and a clock that are made up, so that every figure is known beforehand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_bench.cases import WHOLE_CALL, WITHOUT_TRANSFERS, Case, Label, MissingCase
from resnet_bench.speed import (
    FAILED,
    MEASURED,
    UNAVAILABLE,
    LoopOptions,
    Row,
    answers_in_batches,
    at_rest,
    measure,
    warmed,
)
from resnet_bench.speed_figures import (
    DEVICE,
    WALL,
    compared_with_reference,
    compared_with_yardstick,
    row_json,
    timings,
)
from resnet_bench.speed_table import speed_table
from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import Limits

INPUTS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
CHECK = CheckData(INPUTS, {"logits": INPUTS * 2})
OPTIONS = LoopOptions(rounds=4, sample_seconds=1.0, visit_seconds=10.0, warmup_seconds=100.0)


class Time:
    """A clock that calls move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A case whose calls take as long as ``seconds`` says of the how-manieth call it is."""

    def __init__(
        self,
        time: Time,
        name: str,
        seconds: Callable[[int], float],
        *,
        batch: int = 2,
        timed: str = WHOLE_CALL,
        factor: float = 2.0,
        device: float | None = None,
        yardstick: str | None = None,
        order: list[str] | None = None,
    ) -> None:
        self.label = Label(name=name, batch=batch, timed=timed, limits=Limits(max_error=1e-3), yardstick=yardstick)
        self.time, self.seconds, self.factor, self.device = time, seconds, factor, device
        self.order = [] if order is None else order
        self.calls = 0
        self.queued: list[int] = []

    def prepare(self, inputs: NDArray[np.float32]) -> str:
        assert inputs.shape == (self.label.batch, 3)
        self.order.append(f"prepare {self.label.name}")
        return "a fake"

    def call(self) -> None:
        self.order.append(self.label.name)
        self.time.now += self.seconds(self.calls)
        self.calls += 1

    def answers(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        assert len(inputs) == self.label.batch
        return {"logits": inputs * np.float32(self.factor)}

    def device_seconds(self, calls: int) -> float | None:
        self.queued.append(calls)
        return self.device

    def close(self) -> None:
        self.order.append(f"close {self.label.name}")


def measured(time: Time, *cases: Case, options: LoopOptions = OPTIONS) -> list[Row]:
    return measure(cases, CHECK, options, clock=time, rest=lambda: None)


def test_samples_are_seconds_a_call_and_long_enough() -> None:
    time = Time()
    (row,) = measured(time, Fake(time, "a", lambda _: 0.3))
    assert row.state == MEASURED
    assert row.calls == 4, "1 second of calls of 0.3"
    assert len(row.samples) == 4
    assert [len(samples) for samples in row.samples] == [9] * 4, "samples of 1.2 seconds"
    assert row.rounds == pytest.approx([0.3] * 4)
    (timing,) = timings(row)
    assert (timing.clock, timing.samples) == (WALL, 36)
    assert timing.images_per_second == pytest.approx(2 / 0.3)


def test_rounds_go_forwards_and_backwards_and_each_visit_begins_untimed() -> None:
    time, order = Time(), list[str]()
    cases = [Fake(time, name, lambda _: 10.0, order=order) for name in ("a", "b", "c")]
    rows = measured(time, *cases, options=dataclasses.replace(OPTIONS, rounds=2))
    start = len(order) - 3 - 2 * 6
    assert "".join(order[start:-3]) == "aabbccccbbaa"
    assert order[-3:] == ["close c", "close b", "close a"], "the last that was opened is the first to be closed"
    assert [len(row.samples) for row in rows] == [2, 2, 2]


def test_the_first_call_of_a_visit_is_not_timed() -> None:
    time = Time()
    slow = Fake(time, "a", lambda _: 1.0)
    after_another = iter(range(1000))

    def rest() -> None:
        slow.seconds = lambda _: 50.0 if next(after_another) % 11 == 0 else 1.0

    (row,) = measure([slow], CHECK, OPTIONS, clock=time, rest=rest)
    assert {seconds for samples in row.samples for seconds in samples} == {1.0}


def test_ratios_are_taken_round_by_round() -> None:
    time = Time()
    drift = lambda: 1 + time.now / 1000  # noqa: E731  the machine gets slower for all alike
    reference = Fake(time, "eager", lambda _: 6.0 * drift())
    rows = measured(time, Fake(time, "a", lambda _: 2.0 * drift()), reference)
    found = compared_with_reference(rows[0], rows, WALL)
    assert found is not None
    assert found.name == "eager"
    assert found.ratio.median == pytest.approx(3.0, rel=0.05)
    assert found.ratio.low <= found.ratio.median <= found.ratio.high
    assert compared_with_reference(rows[1], rows, WALL) is None, "it is the reference"


def test_the_reference_is_timed_alike_where_there_is_one() -> None:
    time = Time()
    rows = measured(
        time,
        Fake(time, "eager", lambda _: 8.0),
        Fake(time, "eager", lambda _: 4.0, timed=WITHOUT_TRANSFERS),
        Fake(time, "a", lambda _: 2.0, timed=WITHOUT_TRANSFERS),
        Fake(time, "b", lambda _: 2.0),
    )
    ratios = [compared_with_reference(row, rows, WALL) for row in rows[2:]]
    assert [found and (found.timed, round(found.ratio.median, 6)) for found in ratios] == [
        (WITHOUT_TRANSFERS, 2.0),
        (WHOLE_CALL, 4.0),
    ]


def test_without_eager_the_first_row_is_the_reference() -> None:
    time = Time()
    rows = measured(time, Fake(time, "a", lambda _: 3.0), Fake(time, "b", lambda _: 1.0))
    found = compared_with_reference(rows[1], rows, WALL)
    assert found is not None
    assert (found.name, found.ratio.median) == ("a", pytest.approx(3.0))


def test_a_yardstick_says_what_the_runtime_adds() -> None:
    time = Time()
    runtime = Fake(time, "runtime", lambda _: 1.02, yardstick="library", device=0.505)
    rows = measured(time, runtime, Fake(time, "library", lambda _: 1.0, device=0.5))
    found = compared_with_yardstick(rows[0], rows, WALL)
    assert found is not None
    assert 1 / found.ratio.median == pytest.approx(1.02)
    assert compared_with_yardstick(rows[1], rows, WALL) is None
    table = speed_table(rows, OPTIONS)
    assert "runtime, batch 2, the call, wall: +2.0% [+2.0, +2.0] of library's time" in table
    assert "runtime, batch 2, the call, CUDA events: +1.0% [+1.0, +1.0] of library's time" in table


def test_the_device_s_clock_is_a_row_of_its_own() -> None:
    time = Time()
    case = Fake(time, "a", lambda _: 2.0, device=0.5)
    (row,) = measured(time, case)
    assert row.device == [0.5] * 4
    assert set(case.queued) == {5}, "10 seconds of calls of 2 are queued at once"
    assert [timing.clock for timing in timings(row)] == [WALL, DEVICE]
    heading, wall, device = speed_table([row], OPTIONS)[:3]
    assert " ".join(heading.split()) == "case batch timed clock median p90 p99 images/s times as fast as"
    assert " ".join(wall.split()) == "a 2 the call wall 2000.0 ms 2000.0 ms 2000.0 ms 1.0 -"
    assert " ".join(device.split()) == "a 2 the call CUDA events 500.0 ms 500.0 ms 500.0 ms 4.0 -"


def test_wrong_answers_are_a_failed_row() -> None:
    time = Time()
    wrong, right = Fake(time, "wrong", lambda _: 1.0, factor=2.1), Fake(time, "right", lambda _: 1.0)
    rows = measured(time, wrong, right)
    assert [row.state for row in rows] == [FAILED, MEASURED]
    assert rows[0].reason is not None
    assert rows[0].reason.startswith("its answers are wrong: max error 3.")
    assert wrong.calls == 0
    assert "close wrong" in wrong.order
    assert "wrong, the call, batch 2: FAILED: its answers are wrong" in "\n".join(speed_table(rows, OPTIONS))


def test_what_cannot_run_stays_a_row_and_batches_are_gathered() -> None:
    time = Time()
    cases = [
        MissingCase(Label(name="a", batch=batch, timed=WHOLE_CALL, limits=Limits()), "there is no such GPU")
        for batch in (1, 8)
    ]
    rows = [row for case in cases for row in measured(time, case)]
    assert [row.state for row in rows] == [UNAVAILABLE, UNAVAILABLE]
    assert speed_table(rows, OPTIONS) == ["a, the call, batch 1, 8: cannot run here: there is no such GPU"]


def test_a_case_that_fails_later_is_out_and_the_others_go_on() -> None:
    time = Time()

    def breaks(call: int) -> float:
        if call == 40:
            raise RuntimeError("the device fell off the bus\nand more")
        return 1.0

    rows = measured(time, Fake(time, "a", breaks), Fake(time, "b", lambda _: 1.0))
    assert [(row.state, row.reason) for row in rows] == [(FAILED, "the device fell off the bus"), (MEASURED, None)]
    assert (rows[0].samples, len(rows[1].samples)) == ([], 4)


def test_a_case_that_cannot_be_closed_costs_no_figures() -> None:
    time, said = Time(), list[str]()
    case = Fake(time, "a", lambda _: 1.0)

    def close() -> None:
        raise RuntimeError("stuck")

    case.close = close  # type: ignore[method-assign]
    (row,) = measure([case], CHECK, OPTIONS, clock=time, rest=lambda: None, tell=said.append)
    assert row.state == MEASURED
    assert said[-1] == "batch 2: a cannot be closed: stuck"


def test_warming_up_waits_until_calls_are_steady() -> None:
    time = Time()
    case = Fake(time, "a", lambda call: max(1.0, 20.0 - call))
    seconds, steady = warmed(case.call, dataclasses.replace(OPTIONS, warmup_seconds=1000.0), time)
    assert (seconds, steady) == (1.0, True)
    assert case.calls == 35, "the windows of calls 20 to 34 are alike"


def test_warming_up_ends() -> None:
    time = Time()
    case = Fake(time, "a", lambda call: 1.0 + call)
    _, steady = warmed(case.call, OPTIONS, time)
    assert not steady
    assert time.now < 300
    fast = Fake(time, "b", lambda _: 0.0)
    assert warmed(fast.call, OPTIONS, time) == (0.0, True), "a clock too coarse to see a call"
    rows = measured(time, Fake(time, "c", lambda call: 1.0 + call))
    assert "c, the call, batch 2: did not come to a steady speed" in speed_table(rows, OPTIONS)


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_answers_are_taken_in_the_case_s_own_batches(batch: int) -> None:
    found = answers_in_batches(Fake(Time(), "a", lambda _: 1.0, batch=batch), INPUTS)
    np.testing.assert_array_equal(found["logits"], INPUTS * 2)


def test_a_record_holds_the_raw_samples() -> None:
    time = Time()
    rows = measured(time, Fake(time, "eager", lambda _: 4.0), Fake(time, "a", lambda _: 2.0, yardstick="eager"))
    record = json.loads(json.dumps([row_json(row, rows) for row in rows], allow_nan=False))
    assert record[1]["wall_seconds"] == rows[1].samples
    assert record[1]["limits"] == {"max_error": 1e-3}
    assert record[1]["figures"][0]["reference"] == {
        "name": "eager",
        "timed": WHOLE_CALL,
        "ratio": {"median": 2.0, "low": 2.0, "high": 2.0},
    }
    assert record[1]["figures"][0]["yardstick"]["name"] == "eager"
    assert record[0]["figures"][0]["reference"] is None


def test_a_process_at_rest_is_not_waited_for() -> None:
    import time as real

    began = real.perf_counter()
    at_rest(longest=5.0)
    assert real.perf_counter() - began < 4.0


def test_even_no_time_at_all_is_one_sample_of_one_call() -> None:
    time = Time()
    case = Fake(time, "a", lambda _: 1.0, device=0.5)
    nothing = LoopOptions(rounds=2, sample_seconds=0.0, visit_seconds=0.0, warmup_seconds=0.0)
    (row,) = measured(time, case, options=nothing)
    assert (row.calls, row.samples) == (1, [[1.0]] * 2)
    assert set(case.queued) == {1}


def test_a_clock_that_sees_no_call_bounds_the_calls_of_a_sample() -> None:
    time = Time()
    (row,) = measured(time, Fake(time, "a", lambda call: 0.0 if call < 3000 else 1.0))
    assert row.calls == 1000
