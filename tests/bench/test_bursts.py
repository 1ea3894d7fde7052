"""Throughput: bursts keep as many batches under way as they say, and their figures are seconds a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from resnet_bench.bursts import THROUGHPUT_PEERS, BurstCase, burst_peers, places, runtime_bursts
from resnet_bench.cases import Label, Subject
from resnet_bench.cpu_cases import cpu_cases, native_variant
from resnet_bench.speed import MEASURED, UNAVAILABLE, LoopOptions, measure
from resnet_bench.speed_figures import WALL, compared_with_yardstick, timings
from resnet_runtime.backends import BACKENDS
from resnet_runtime.manifest import Limits

QUICK = LoopOptions(rounds=2, visit_seconds=0.0, warmup_seconds=0.0)


class Clock:
    """A second passes whenever an answer is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Starter:
    """Answers one batch a second, with as many under way as one likes."""

    description = "a fake"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.under_way = self.most = self.started = self.closed = 0

    def start(self, batch: np.ndarray) -> Starter:
        self.under_way += 1
        self.started += 1
        self.most = max(self.most, self.under_way)
        self._batch = batch
        return self

    def result(self) -> dict[str, np.ndarray]:
        self.under_way -= 1
        self.clock.now += 1
        return {"logits": self._batch.reshape(len(self._batch), -1)[:, :3]}

    def close(self) -> None:
        self.closed += 1


def burst(starter: Starter, at_once: int, calls: int) -> BurstCase:
    label = Label(name="a", batch=2, timed=f"{at_once} at once", limits=Limits(), calls=calls)
    return BurstCase(label, at_once, lambda shape: starter)


@pytest.mark.parametrize(("at_once", "calls"), [(1, 4), (2, 8), (3, 12), (4, 2)])
def test_a_burst_has_so_many_under_way_and_answers_all(at_once: int, calls: int) -> None:
    starter = Starter(Clock())
    case = burst(starter, at_once, calls)
    assert case.prepare(np.zeros((2, 3), np.float32)) == "a fake"
    case.call()
    assert starter.most == min(at_once, calls)
    assert (starter.started, starter.under_way) == (calls, 0)
    inputs = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(case.answers(inputs)["logits"], inputs)
    assert starter.under_way == 0
    case.close()
    case.close()
    assert starter.closed == 1


def test_what_is_measured_is_a_batch(subject: Subject) -> None:
    clock = Clock()
    starter = Starter(clock)
    check = dataclasses.replace(
        subject.check, outputs={"logits": subject.check.inputs.reshape(len(subject.check.inputs), -1)[:, :3]}
    )
    (row,) = measure([burst(starter, 3, 12)], check, QUICK, clock=clock, rest=lambda: None)
    assert row.state == MEASURED
    (timing,) = timings(row)
    assert (timing.clock, timing.median, timing.images_per_second) == (WALL, 1.0, 2.0)


def test_the_runtime_and_the_libraries_by_hand(subject: Subject) -> None:
    variant = subject.bundle.manifest.variants[0]
    cases: list[Any] = []
    for backend in BACKENDS:
        cases += runtime_bursts(subject, 3, backend, variant)
        cases += burst_peers(subject, 3, f"{backend}-throughput", native_variant)
    rows = measure(cases, subject.check, QUICK, rest=lambda: None)
    assert [(row.state, row.reason) for row in rows] == [(MEASURED, None)] * 8
    for row in rows:
        assert row.parity is not None
        assert row.parity.max_error < 1e-4, "of float32, with other batches under way"
    yardsticks = [compared_with_yardstick(row, rows, WALL) for row in rows]
    assert [found and (found.name, found.timed) for found in yardsticks[:2]] == [
        ("openvino-throughput", f"{count} at once") for count in places()
    ]


def test_without_a_variant_a_peer_says_so(subject: Subject) -> None:
    for name in THROUGHPUT_PEERS:
        if "int8" in name:
            (row,) = measure(burst_peers(subject, 1, name, native_variant), subject.check, QUICK, rest=lambda: None)
            assert row.state == UNAVAILABLE
            assert "the bundle has no int8 variant for" in (row.reason or "")


def test_what_auto_takes_is_measured_for_throughput(subject: Subject) -> None:
    names = [case.label.name for case in cpu_cases(subject, 1, None) if case.label.name.endswith("-throughput")]
    assert names == ["runtime-openvino-fp32-throughput"] * 2 + ["openvino-throughput"] * 2
