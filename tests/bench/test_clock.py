"""Measuring itself: what is counted is what ran, and a failure is not a measurement."""

from __future__ import annotations

import sys
import time

import pytest

from resnet_bench.clock import ProcessFailedError, interleaved, process_cost, ratio


def test_a_process_is_timed_from_start_to_exit() -> None:
    cost = process_cost([sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert 0.3 <= cost.seconds < 5


def test_the_peak_is_the_processs_own() -> None:
    small = process_cost([sys.executable, "-c", "pass"])
    large = process_cost([sys.executable, "-c", "bytearray(200_000_000)"])
    assert 190e6 < large.peak_bytes - small.peak_bytes < 230e6


def test_a_process_that_fails_is_no_measurement() -> None:
    with pytest.raises(ProcessFailedError, match="exited with 3: no such luck"):
        process_cost([sys.executable, "-c", "import sys; print('no such luck'); sys.exit(3)"])


def test_rounds_go_forwards_and_backwards() -> None:
    order: list[str] = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, calls=2)
    assert "".join(order) == "aabbbbaa" * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_seconds_are_per_call() -> None:
    seconds = interleaved({"sleep": lambda: time.sleep(0.02)}, rounds=1, calls=2)
    assert 0.02 <= seconds["sleep"][0] < 0.2


def test_the_ratio_is_the_median_round_by_round() -> None:
    assert ratio([2.0, 6.0, 10.0], [1.0, 2.0, 10.0]) == 2.0
