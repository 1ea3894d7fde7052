"""``report.html`` of a bundle: of a real export and of one with everything that a report can say, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_bench.cases import Subject
from resnet_export.pages.export_page import page_from_report
from tests.bench.chromium import opened

HOSTILE = "<b>x</b>\"'&"


def everything(report: dict[str, Any]) -> dict[str, Any]:
    """A report with each of its parts."""
    base = report["variants"][0]
    accuracy = {"samples": 1000, "labelled": True, "eager": 0.761, "measured": 0.759, "max_drop": 0.5}
    int8 = {
        **base,
        "id": "int8-cpu",
        "precision": "int8",
        "scheme": "cpu",
        "gate": {**base["gate"], "accuracy": accuracy},
        "kept_higher": [
            {"node": "fc/Gemm", "precision": "fp32", "reason": "the classifier"},
            {"node": HOSTILE, "precision": "fp32", "reason": "it cost the most"},
        ],
        "kept_costs": [{"node": HOSTILE, "noise": 0.012, "slowdown": 1.031}],
    }
    failed = {**base, "id": "fp16", "shipped": False, "faults": ["max error 9% of the spread, 2% allowed"]}
    dropped = {**base, "id": "bf16", "shipped": False, "faults": ["not made"], "gate": {**base["gate"], "parity": None}}
    return {
        **report,
        "variants": [base, int8, failed, dropped],
        "warnings": [f"look at {HOSTILE}"],
        "notes": ["dropout was left in training mode"],
        "folding": {**report["folding"], "scale_and_shift": [{"node": "bn0", "reason": "nothing before it"}]},
    }


@pytest.fixture(params=["exported", "everything"])
def page(request: pytest.FixtureRequest, subject: Subject, tmp_path: Path) -> Path:
    found = subject.bundle.path / "report.html"
    if request.param == "exported":
        return found
    report = json.loads((subject.bundle.path / "report.json").read_bytes())
    (tmp_path / "report.html").write_bytes(page_from_report(everything(report)))
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", [360, 1200])
def test_it_renders_without_a_word_to_the_console_and_fits_the_window(page: Path, width: int) -> None:
    with opened(page, width=width) as driver:
        assert driver.title.startswith("Export of ")
        assert len(driver.find_elements("css selector", "svg")) == 1
        found = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert found[0] <= found[1]
        driver.execute_script("document.querySelectorAll('th button').forEach(button => button.click())")
        assert driver.find_elements("css selector", "b") == [], "what comes from outside is text"
        assert driver.get_log("browser") == []


def test_it_says_what_was_kept_lost_and_refused(subject: Subject) -> None:
    report = json.loads((subject.bundle.path / "report.json").read_bytes())
    text = page_from_report(everything(report)).decode()
    for said in (
        "failed: max error 9% of the spread, 2% allowed",
        "Ships fp32, int8-cpu.",
        "the classifier",
        "1.031",
        "+0.20",
        "dropout was left in training mode",
        "bn0: nothing before it",
        "&lt;b&gt;x&lt;/b&gt;",
    ):
        assert said in text, said


def test_the_page_is_what_report_json_says(subject: Subject) -> None:
    """It is made of the same values, so that it may be made again."""
    report = json.loads((subject.bundle.path / "report.json").read_bytes())
    assert (subject.bundle.path / "report.html").read_bytes() == page_from_report(report)
