"""The calibration's cost: what is measured is a calibration, and the figures follow from it."""

from __future__ import annotations

import pytest

from resnet_bench import calibration_cost
from resnet_bench.calibration_cost import Calibration, CalibrationCost
from resnet_bench.clock import ProcessCost


def calibration(seconds: float, peak: int) -> Calibration:
    return Calibration("what", 64, seconds, ProcessCost(seconds + 1, peak))


def test_the_figures_are_those_of_the_rounds() -> None:
    cost = CalibrationCost(
        64,
        (calibration(1.0, 100), calibration(2.0, 300), calibration(1.0, 200)),
        (calibration(3.0, 900), calibration(10.0, 900), calibration(4.0, 900)),
        calibration(16.0, 210),
    )
    assert cost.time_ratio == 4.0
    assert cost.peak_growth == pytest.approx(0.05)
    assert cost.to_json()["many"]["process"]["peak_bytes"] == 210


def test_both_calibrate_a_small_network(monkeypatch) -> None:
    monkeypatch.setattr(calibration_cost, "SIDE", 32)
    cost = calibration_cost.calibration_cost(images=4, many=8, rounds=1)
    assert [item.images for item in (*cost.ours, *cost.entropy, cost.many)] == [4, 4, 8]
    assert all(item.seconds > 0 for item in (*cost.ours, *cost.entropy, cost.many))
