"""The report of a run, in a real browser: it renders, sorts, fits a phone and paper, and asks nothing of a network."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_bench.run_page import page_from_record, png_from_record, speed_against_accuracy
from resnet_export.pages.charts import FIXED
from resnet_export.pages.page import DARK, LIGHT
from tests.bench.chromium import opened

HOSTILE = "<script>alert(1)</script>\"'&"


def row(name: str, batch: int, seconds: float, snr: float, **changes: Any) -> dict[str, Any]:
    ratio = {"median": 0.03 / seconds, "low": 0.029 / seconds, "high": 0.031 / seconds}
    figure = {
        "clock": "wall",
        "median": seconds,
        "p90": 1.2 * seconds,
        "p99": 1.5 * seconds,
        "images_per_second": batch / seconds,
        "samples": 4,
        "reference": None if name == "eager" else {"name": "eager", "timed": "the call", "ratio": ratio},
        "yardstick": None,
    }
    parity = {"samples": 32, "snr_db": snr, "top1_agreement": 1.0, "max_error": 0.01}
    found = {
        "name": name,
        "batch": batch,
        "timed": "the call",
        "state": "measured",
        "reason": None,
        "parity": parity,
        "steady": True,
        "figures": [figure],
        "wall_seconds": [[seconds, 1.1 * seconds], [0.9 * seconds, 1.5 * seconds]],
    }
    return found | changes


def record() -> dict[str, Any]:
    failed = row("compile", 1, 1.0, 0, state="failed", reason=f"it says {HOSTILE}", figures=[], parity=None)
    return {
        "kind": "run",
        "host": {"processor": "A CPU", "instruction_sets": ["avx2"], "cores": 2, "system": "Linux x86_64"},
        "tools": {"torch": "2.13.0"},
        "figures": {
            "schema": "resnet-bench-run/1",
            "bundle": {"name": HOSTILE, "model": {"architecture": "resnet50"}},
            "gpu": None,
            "settings": {"rounds": 20},
            "kept_higher": {"int8-cpu": [{"node": "fc/Gemm", "precision": "fp32", "reason": "the classifier"}]},
            "command": "resnet-bench run r50.bundle",
            "noticed": ["other processes used 0.4 cores on the average"],
            "rows": [
                row("eager", 1, 0.1, 140),
                row("eager", 8, 0.9, 140),
                row("runtime-openvino-int8-cpu", 1, 0.011, 25),
                row("runtime-openvino-int8-cpu", 8, 0.07, 25),
                row("openvino-int8", 1, 0.0111, 25, steady=False),
                row("onnxruntime-own-int8", 1, 0.02, 18),
                failed,
            ],
            "cold_starts": [
                {
                    "name": "runtime",
                    "reason": None,
                    "seconds": [0.5, 0.6],
                    "peak_bytes": [150_000_000, 160_000_000],
                    "median_seconds": 0.55,
                    "times_as_fast_as_eager": {"median": 5.0, "low": 4.0, "high": 6.0},
                },
            ],
        },
    }


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(page_from_record(record()))
    return path


def column(driver: Any, number: int) -> list[str]:
    script = (
        "return [...document.querySelector('table').tBodies[0].rows].map(row => row.cells[arguments[0]].textContent)"
    )
    return [str(text) for text in driver.execute_script(script, number)]


def click(driver: Any, heading: str) -> None:
    script = "[...document.querySelectorAll('th button')].find(b => b.textContent === arguments[0]).click()"
    driver.execute_script(script, heading)


def test_it_renders_sorts_and_says_nothing_to_the_console(page: Path) -> None:
    with opened(page) as driver:
        assert driver.title == "resnet50: how fast it answers, and how exactly"
        assert len(driver.find_elements("css selector", "svg")) == 3
        assert "alert(1)" in driver.find_element("css selector", ".lead").text
        before = column(driver, 0)
        click(driver, "median, ms")
        medians = [float(text) for text in column(driver, 4)]
        assert medians == sorted(medians), "numbers, not texts: 100 comes after 11.1"
        assert column(driver, 0) != before
        click(driver, "median, ms")
        assert [float(text) for text in column(driver, 4)] == sorted(medians, reverse=True)
        click(driver, "case")
        assert column(driver, 0) == sorted(before)
        heading = driver.find_element("css selector", "th[aria-sort=ascending]")
        assert heading.text.startswith("case")
        assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_is_wider_than_the_window(page: Path, width: int) -> None:
    with opened(page, width=width) as driver:
        found = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert found[0] <= found[1]
        smallest = driver.execute_script(
            "return Math.min(...[...document.querySelectorAll('svg text')]"
            ".map(text => text.getBoundingClientRect().height))"
        )
        assert smallest >= 9, "a line of text in pixels"


def test_labels_do_not_lie_on_each_other(page: Path) -> None:
    script = """
        const labels = document.querySelector('svg').querySelectorAll('text[font-weight], circle + text, line + text');
        const boxes = [...labels].map(text => text.getBoundingClientRect());
        return boxes.some((a, i) => boxes.some((b, j) => i < j &&
            a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom));
    """
    with opened(page) as driver:
        assert driver.execute_script(script) is False


@pytest.mark.parametrize(("dark", "colors"), [(False, LIGHT), (True, DARK)])
def test_light_and_dark(page: Path, dark: bool, colors: dict[str, str]) -> None:
    with opened(page, dark=dark) as driver:
        script = "return getComputedStyle(document.body).{}"
        for what, name in (("backgroundColor", "paper"), ("color", "ink")):
            wanted = tuple(int(colors[name][start : start + 2], 16) for start in (1, 3, 5))
            assert driver.execute_script(script.format(what)) == "rgb({}, {}, {})".format(*wanted)


def test_it_prints(page: Path) -> None:
    with opened(page, dark=True) as driver:
        printed = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) <= 4


def luminance(color: str) -> float:
    """Of sRGB, as WCAG 2.2 defines it."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_can_be_read(colors: dict[str, str]) -> None:
    for text in ("ink", "faint", "own", "other"):
        for paper in ("paper", "tint"):
            light, dark = sorted((luminance(colors[text]), luminance(colors[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, paper)


def test_it_asks_nothing_of_a_network(page: Path) -> None:
    text = page.read_text()
    without = text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<img|<iframe", without)
    assert HOSTILE not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda figures: figures.update(rows=[], cold_starts=[]),
        lambda figures: figures.update(rows=[item for item in figures["rows"] if item["state"] == "failed"]),
        lambda figures: figures.update(rows=figures["rows"][:1]),
        lambda figures: [figures.pop(name) for name in ("kept_higher", "command", "noticed", "cold_starts")],
    ],
    ids=["nothing", "only failures", "one row", "an older record"],
)
def test_whatever_was_measured_is_a_page(change: Callable[[dict[str, Any]], object]) -> None:
    made = copy.deepcopy(record())
    change(made["figures"])
    assert page_from_record(made).endswith(b"</html>\n")


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="resvg_py is not installed")
    png_from_record(record(), tmp_path / "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    from PIL import Image

    with Image.open(tmp_path / "picture.png") as image:
        assert image.width == 1120
        assert image.getpixel((1, 1))[:3] == (255, 255, 255)
        colors = {color for _, color in image.convert("RGB").getcolors(2**24)}
    for name in ("own", "other"):
        assert tuple(int(LIGHT[name][start : start + 2], 16) for start in (1, 3, 5)) in colors
    assert "var(" not in speed_against_accuracy(record(), FIXED)
