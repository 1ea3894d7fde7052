"""Cold starts: whole processes whose answers are checked; what fails says why and ends nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resnet_bench.cases import Subject
from resnet_bench.clock import ProcessCost
from resnet_bench.cold_start import (
    EAGER,
    FIRST_TIME,
    RUNTIME,
    ColdStart,
    cold_start_json,
    cold_start_table,
    cold_starts,
    compared_with_eager,
    measure_cold_starts,
)


def test_processes_answer_and_are_measured(subject: Subject, checkpoint: Path) -> None:
    starts = cold_starts(subject, checkpoint)
    assert [start.name for start in starts] == [RUNTIME, FIRST_TIME, EAGER, "openvino, fp32", "onnxruntime, fp32"]
    measure_cold_starts(starts, subject.check, 1)
    assert [start.reason for start in starts] == [None] * 5
    for start in starts:
        assert len(start.costs) == 2, "forwards and backwards; the first run does not count"
        assert start.median > 0
        assert start.peak_bytes > 10e6
        ratio = compared_with_eager(start, starts)
        assert (ratio is None) == (start.name == EAGER)
    runtime = starts[0]
    assert runtime.peak_bytes < starts[2].peak_bytes, "it imports no torch"
    found = cold_start_json(runtime, starts)
    assert found["median_seconds"] == runtime.median
    assert found["times_as_fast_as_eager"]["median"] > 0


def test_without_a_checkpoint_there_is_no_eager(subject: Subject) -> None:
    assert EAGER not in [start.name for start in cold_starts(subject, None)]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit('no such library')", "no such library"),
        ("pass", "answer.npy"),
        ("import sys, numpy; numpy.save(sys.argv[3], numpy.zeros((1, 2)))", "its answer is wrong"),
        ("import sys, numpy; numpy.save(sys.argv[3], numpy.load(sys.argv[1]) + 9)", "its answer is wrong"),
        ("import sys, numpy; numpy.save(sys.argv[3], numpy.load(sys.argv[1]) * numpy.nan)", "its answer is wrong"),
    ],
)
def test_what_fails_or_answers_wrongly_is_not_measured(
    subject: Subject, tmp_path: Path, program: str, reason: str
) -> None:
    np.save(tmp_path / "right.npy", subject.check.outputs["logits"][:1])
    right = "import sys, numpy; numpy.save(sys.argv[3], numpy.load(sys.argv[1]))"
    starts = [
        ColdStart(name="bad", program=program, loads=str(tmp_path / "right.npy")),
        ColdStart(name="good", program=right, loads=str(tmp_path / "right.npy")),
    ]
    measure_cold_starts(starts, subject.check, 1)
    assert reason in (starts[0].reason or "")
    assert starts[0].costs == []
    assert (starts[1].reason, len(starts[1].costs)) == (None, 2)
    lines = cold_start_table(starts)
    assert lines[1].startswith("good  ")
    assert lines[-1].startswith("cold start, bad: ")
    assert cold_start_json(starts[0], starts)["median_seconds"] is None


def test_each_process_of_the_first_time_has_an_empty_cache(subject: Subject, tmp_path: Path) -> None:
    program = (
        "import os, sys, numpy; folder = os.environ['XDG_CACHE_HOME']; assert not os.path.exists(folder); "
        "os.mkdir(folder); numpy.save(sys.argv[3], numpy.load(sys.argv[1]))"
    )
    np.save(tmp_path / "right.npy", subject.check.outputs["logits"][:1])
    start = ColdStart(name="a", program=program, loads=str(tmp_path / "right.npy"), empty_cache=True)
    measure_cold_starts([start], subject.check, 2)
    assert (start.reason, len(start.costs)) == (None, 4)


def test_the_ratio_is_taken_run_by_run() -> None:
    def start(name: str, *seconds: float) -> ColdStart:
        return ColdStart(name=name, program="", loads="", costs=[ProcessCost(value, 1_000_000) for value in seconds])

    eager, runtime = start(EAGER, 4.0, 8.0), start(RUNTIME, 1.0, 2.0)
    ratio = compared_with_eager(runtime, [eager, runtime])
    assert ratio is not None
    assert dataclasses.astuple(ratio) == (4.0, 4.0, 4.0)
    table = cold_start_table([eager, runtime])
    assert "1.500 s" in table[2]
    assert "2.000 s" in table[2]
    assert "1 MB" in table[2]
    assert cold_start_table([ColdStart(name="a", program="", loads="", reason="it cannot")]) == [
        "cold start, a: it cannot"
    ]
