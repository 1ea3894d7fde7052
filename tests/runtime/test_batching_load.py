"""A batcher under more load than it can bear, and for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import Batcher, QueueFullError, Session
from resnet_runtime.bundle import Bundle

from .batchers import answer_of, color_means, colors_bundle, sample, session_of
from .threads import in_threads

GOLDEN = Path(__file__).parent / "golden" / "resnet-bundle-1-int8"
BATCH_SECONDS = 0.04  # so that those who ask take little of the time of those who answer
CAPACITY = 8 / BATCH_SECONDS
"""Samples a second that the slow backend answers: eight in each batch."""
DEADLINE = 25 * BATCH_SECONDS


def slow(batch: np.ndarray) -> dict[str, np.ndarray]:
    with LOCK:  # one at a time, as one device computes
        time.sleep(BATCH_SECONDS)
    return color_means(batch)


LOCK = threading.Lock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return colors_bundle(tmp_path / "colors.bundle")


@pytest.mark.parametrize("overload", [2, 10])
def test_overload_is_refused_and_what_is_accepted_is_in_time(path: Path, overload: int) -> None:
    clients, seconds = 16, 2.0
    refusals: list[float] = []
    latencies: list[float] = []

    def client(index: int) -> None:
        period = clients / (overload * CAPACITY)
        start, number = time.monotonic(), 0
        pending: list[Any] = []
        while (now := time.monotonic()) < start + seconds:
            due = start + number * period
            if due > now:
                time.sleep(due - now)
            number += 1
            begun = time.perf_counter()
            try:
                future = batcher.submit(sample(index), timeout_s=DEADLINE)
            except QueueFullError:
                refusals.append(time.perf_counter() - begun)
                continue
            future.add_done_callback(lambda _, begun=begun: latencies.append(time.perf_counter() - begun))
            pending.append(future)
        for future in pending:
            assert answer_of(future.result(60)) == index

    with session_of(path, slow) as session, Batcher(session, max_batch=8, max_queue=500) as batcher:
        in_threads(clients, client)
        counters = batcher.counters()
    assert counters.accepted == counters.answered == len(latencies)
    assert counters.refused == len(refusals) > 0
    assert counters.accepted + counters.refused > 0.8 * overload * CAPACITY * seconds  # it was asked for that much
    assert counters.most_waiting <= 500
    assert np.quantile(refusals, 0.99) < 0.005
    assert max(latencies) < DEADLINE + BATCH_SECONDS + 0.1  # threads of a busy machine are late
    assert np.quantile(latencies, 0.99) < DEADLINE
    assert counters.answered > 0.8 * CAPACITY * seconds


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the system does not tell")


@pytest.fixture
def small() -> Iterator[Session]:
    with resnet_runtime.load(GOLDEN, backend="onnxruntime", precision="fp32") as session:
        yield session


@pytest.mark.slow
def test_a_hundred_thousand_requests_leave_nothing(small: Session) -> None:
    inputs = Bundle.open(GOLDEN).check_data().inputs
    name = small.signature.outputs[0].name
    expected = small.infer(inputs)[name]
    with Batcher(small, max_delay_ms=0) as batcher:

        def client(index: int, calls: int) -> None:
            for call in range(calls):
                which = (index + call) % len(inputs)
                found = batcher.submit(inputs[which]).result(60)[name]
                assert np.abs(found - expected[which]).max() < 1e-4

        in_threads(16, lambda index: client(index, 500))
        before = resident_bytes()
        in_threads(16, lambda index: client(index, 6250), seconds=600)
        grown = resident_bytes() - before
        assert batcher.counters().answered == 108_000
    assert grown < 20e6
