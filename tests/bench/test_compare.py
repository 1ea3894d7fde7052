"""Two records: a row has changed where the intervals of its ratio to eager have nothing in common."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resnet_bench.cli import command
from resnet_bench.cli_compare import FEW_ROUNDS
from resnet_bench.compare import FASTER, GONE, NEW, SAME, SLOWER, changes, held_together

HOST = {"processor": "A CPU", "cores": 2}
MODEL = {"architecture": "resnet50", "parameters": 25_000_000}


def row(name: str, low: float, high: float, batch: int = 1) -> dict[str, Any]:
    ratio = {"median": (low + high) / 2, "low": low, "high": high}
    reference = {"name": "eager", "timed": "the call", "ratio": ratio}
    return {
        "name": name,
        "batch": batch,
        "timed": "the call",
        "figures": [{"clock": "wall", "reference": reference}],
        "wall_seconds": [],
        "device_seconds": [],
    }


def record(
    *rows: dict[str, Any],
    host: dict[str, Any] = HOST,
    gpu: dict[str, str] | None = None,
    model: dict[str, Any] = MODEL,
) -> dict[str, Any]:
    eager = {
        "name": "eager",
        "batch": 1,
        "timed": "the call",
        "figures": [{"clock": "wall", "reference": None}],
        "wall_seconds": [[1.0, 1.0]] * 12,
        "device_seconds": [],
    }
    return {
        "kind": "run",
        "host": host,
        "figures": {"schema": "resnet-bench-run/1", "gpu": gpu, "bundle": {"model": model}, "rows": [eager, *rows]},
    }


def compared(folder: Path, old: Any, new: Any, *options: str) -> Result:
    for name, value in (("old", old), ("new", new)):
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return CliRunner().invoke(command, ["compare", str(folder / "old.json"), str(folder / "new.json"), *options])


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ((5.0, 6.0), SAME),
        ((6.0, 7.0), SAME),
        ((4.0, 5.0), SAME),
        ((6.1, 7.0), FASTER),
        ((4.0, 4.9), SLOWER),
    ],
)
def test_intervals_that_touch_are_no_change(new: tuple[float, float], verdict: str) -> None:
    (found,) = changes(record(row("a", 5.0, 6.0)), record(row("a", *new)))
    assert (found.name, found.batch, found.clock, found.verdict) == ("a", 1, "wall", verdict)


def test_intervals_are_of_all_rows_together() -> None:
    """Of twelve rounds the middle ones make an interval of 95%; for 40 rows together it takes all."""

    def with_rounds() -> dict[str, Any]:
        found = row("a", 4.9, 5.1)
        found["wall_seconds"] = [[1 / ratio] * 2 for ratio in (4.0, 4.5, *[5.0] * 8, 5.5, 6.0)]
        return found

    others = [row(f"b{number}", 1.0, 2.0) for number in range(39)]
    alone = changes(record(with_rounds()), record(with_rounds()))[0].old
    among = changes(record(with_rounds(), *others), record(with_rounds(), *others))[0].old
    assert alone is not None
    assert among is not None
    assert (alone.low, alone.high, alone.held > 0.95) == (5.0, 5.0, True)
    assert (among.low, among.high, among.held) == pytest.approx((4.0, 6.0, 1 - 2 / 4096))
    assert held_together(record(with_rounds())) > 0.95
    few = with_rounds()
    few["wall_seconds"] = few["wall_seconds"][:5]
    assert held_together(record(few)) == pytest.approx(1 - 2 / 32)


def test_rows_are_told_apart_by_name_and_batch() -> None:
    found = changes(
        record(row("a", 1, 2), row("a", 3, 4, batch=8), row("b", 1, 2)), record(row("a", 3, 4, batch=8), row("c", 1, 2))
    )
    assert [(item.name, item.batch, item.verdict) for item in found] == [
        ("a", 1, GONE),
        ("a", 8, SAME),
        ("b", 1, GONE),
        ("c", 1, NEW),
    ]


def test_a_slower_row_is_status_1(tmp_path: Path) -> None:
    result = compared(tmp_path, record(row("a", 5, 6), row("b", 1, 2)), record(row("a", 2, 3), row("b", 1, 2)))
    assert result.exit_code == 1
    assert "slower, -54.5%" in result.stdout
    assert "2 rows: 1 slower, 0 not measured any more\n" in result.stdout
    assert result.stdout.endswith("The intervals of all rows hold together at 90%: " + FEW_ROUNDS[2:] + "\n")


def test_the_same_record_is_no_change(tmp_path: Path) -> None:
    held = record(row("a", 5, 6))
    result = compared(tmp_path, held, copy.deepcopy(held))
    assert result.exit_code == 0
    assert "same, +0.0%" in result.stdout


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (record(host={"processor": "Another", "cores": 2}), "of different hosts: processor was A CPU and is Another"),
        (record(host={"processor": "A CPU", "cores": 4}), "of different hosts: cores was 2 and is 4"),
        (record(gpu={"gpu": "NVIDIA L4"}), "of different GPUs: gpu was None and is NVIDIA L4"),
        (
            record(model=MODEL | {"architecture": "resnet18"}),
            "of different models: architecture was resnet50 and is resnet18",
        ),
    ],
)
def test_other_hosts_are_refused_unless_told(tmp_path: Path, new: dict[str, Any], said: str) -> None:
    result = compared(tmp_path, record(), new)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.endswith("--other-host compares them all the same\n")
    told = compared(tmp_path, record(row("a", 1, 2)), new, "--other-host")
    assert (told.exit_code, "gone" in told.stdout) == (0, True)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("no json", "is no JSON file"),
        ("[]", "is no record of resnet-bench run"),
        ({"figures": []}, "is no record of resnet-bench run"),
        (
            {"kind": "accuracy", "host": {}, "figures": {"schema": "x", "models": []}},
            "is no record of resnet-bench run",
        ),
        ({**record(), "figures": {**record()["figures"], "schema": "resnet-bench-run/0"}}, "has the schema 'resnet-"),
        (record({"name": "a", "batch": 1, "timed": "x", "figures": [{}]}), "is no record of resnet-bench run"),
        (
            record({key: value for key, value in row("a", 1, 2).items() if key != "wall_seconds"}),
            "is no record of resnet-bench run",
        ),
    ],
)
def test_what_is_no_record_is_one_sentence(tmp_path: Path, new: Any, said: str) -> None:
    result = compared(tmp_path, record(), new)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    missing = CliRunner().invoke(command, ["compare", str(tmp_path / "none.json"), str(tmp_path / "old.json")])
    assert "none.json cannot be read: No such file or directory" in missing.stderr


def test_ratios_to_something_else_than_eager_are_not_compared() -> None:
    old, new = row("a", 5, 6), row("a", 1, 2)
    new["figures"][0]["reference"]["name"] = "openvino"
    assert [item.verdict for item in changes(record(old), record(new))] == [GONE]


def test_records_of_which_nothing_can_be_compared_are_refused(tmp_path: Path) -> None:
    result = compared(tmp_path, record(), record())
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: neither record has a ratio to eager PyTorch")
