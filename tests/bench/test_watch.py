"""What disturbed a measurement is said, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_bench.cases import WHOLE_CALL, Label
from resnet_bench.speed import FAILED, Row
from resnet_bench.watch import Watch, drift
from resnet_runtime.manifest import Limits


def row(*rounds: float) -> Row:
    label = Label(name="a", batch=2, timed=WHOLE_CALL, limits=Limits())
    return Row(label=label, samples=[[seconds] for seconds in rounds])


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([0.010] * 20, False),
        ([0.010] * 19 + [0.1], False),
        ([0.010, 0.012] * 10, False),
        ([0.010, 0.013] * 10, True),
        ([0.010] * 10 + [0.020] * 10, True),
        ([0.010], False),
        ([], False),
    ],
)
def test_rounds_that_differ_are_noticed_unless_they_are_few(rounds: list[float], said: bool) -> None:
    found = drift(row(*rounds))
    assert (found is not None) == said
    if found is not None:
        assert found.startswith("a, the call, batch 2: its rounds took from 10 to ")


def test_what_was_not_measured_does_not_drift() -> None:
    failed = row(0.01, 0.1)
    failed.state = FAILED
    assert drift(failed) is None


def stat(path: Path, busy: int) -> Path:
    path.write_text(f"cpu  {busy} 0 0 1000 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    return path


def test_other_processes_are_noticed(tmp_path: Path) -> None:
    watch = Watch(stat(tmp_path / "stat", 0))
    stat(tmp_path / "stat", 10**9)
    (said,) = watch.noticed([])
    assert said.startswith("other processes used ")


def test_an_idle_machine_is_not(tmp_path: Path) -> None:
    watch = Watch(stat(tmp_path / "stat", 5))
    assert watch.noticed([row(0.01, 0.01)]) == []


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n"])
def test_a_system_that_says_nothing_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert Watch(tmp_path / "stat").noticed([]) == []
    assert Watch(tmp_path / "none").noticed([]) == []
