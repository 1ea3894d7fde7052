"""``resnet-run`` on images: what it prints where, and every way in which it can be asked wrongly."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_runtime import errors, loading
from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.cli import main
from resnet_runtime.manifest import Output
from resnet_runtime.session import Session

from .bundles import color_means, write_sample
from .goldens import GOLDEN

Function = Callable[[np.ndarray], dict[str, np.ndarray]]
PROGRAM = [sys.executable, "-c", "from resnet_runtime.cli import main; raise SystemExit(main())"]
CHOSEN = "simulated, auto (the backend was passed in)\n"


@dataclasses.dataclass
class Asked:
    """What the simulated backend was asked: the keywords of each load, and the size of each batch."""

    loads: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    batches: list[int] = dataclasses.field(default_factory=list)
    function: Function = color_means


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every bundle is loaded with the simulated backend, which answers the mean of each color channel."""
    asked = Asked()
    load = loading.load

    def answer(batch: np.ndarray) -> dict[str, np.ndarray]:
        asked.batches.append(len(batch))
        return asked.function(batch)

    def load_simulated(path: str, **keywords: Any) -> Session:
        asked.loads.append(keywords)
        signature = signature_from_manifest(Bundle.open(path).manifest)
        return load(path, backend=SimulatedBackend(signature, answer), precision=keywords["precision"])

    monkeypatch.setattr(loading, "load", load_simulated)
    return asked


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: the sample bundle as ``b``, a red, a green and a gray image."""
    monkeypatch.chdir(tmp_path)
    write_sample(tmp_path / "b")
    for name, color in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("gray", (51, 51, 51))):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    return status, found.out, found.err


# softmax(1, 0, 0, 0) is e / (e + 3) and three times 1 / (e + 3); softmax(0.2, 0.2, 0.2, 0): exp(0.2) = 1.2214.
TEXT = """\
red.png
   47.54%  0  red
   17.49%  1  green
   17.49%  2  blue
   17.49%  3  none
gray.png
   26.19%  0  red
   26.19%  1  green
   26.19%  2  blue
   21.44%  3  none
"""


def test_text(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "b", "red.png", "gray.png") == (0, TEXT, CHOSEN)
    assert asked.loads == [{"backend": "auto", "precision": "auto", "intent": "latency", "threads": None}]


def test_backend_and_precision_are_handed_on(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked_for = ["--backend", "openvino", "--precision", "bf16", "--intent", "throughput", "--threads", "3"]
    status, _, err = run(capsys, "b", "red.png", *asked_for)
    assert (status, err) == (0, "simulated, bf16 (the backend was passed in)\n")
    assert asked.loads == [{"backend": "openvino", "precision": "bf16", "intent": "throughput", "threads": 3}]


def test_quiet(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "b", "red.png", "gray.png", "--quiet") == (0, TEXT, "")


@pytest.mark.parametrize(("top", "count"), [("1", 1), ("3", 3), ("4", 4), ("1000", 4)])
def test_top(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str], top: str, count: int) -> None:
    _, out, _ = run(capsys, "b", "green.png", "--top", top)
    lines = out.splitlines()
    assert lines[:2] == ["green.png", "   47.54%  1  green"]
    assert len(lines) == 1 + count


def test_without_labels_the_index_stands_alone(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(here / "plain", files={"labels.txt": None})
    _, out, _ = run(capsys, "plain", "red.png", "--top", "2")
    assert out == "red.png\n   47.54%  0\n   17.49%  1\n"


def test_fewer_labels_than_classes(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(here / "few", files={"labels.txt": b"red\n"})
    status, out, err = run(capsys, "few", "red.png", "--top", "2")
    assert (status, out) == (2, "")
    assert err.startswith("Error: few: labels.txt has 1 labels, and the model has 4 classes")


def test_indices_are_aligned(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(here / "many", files={"labels.txt": None}, outputs=(Output(name="logits", shape=(101,)),))
    asked.function = lambda batch: {"logits": np.eye(101, dtype=np.float32)[[100] * len(batch)] * 9}
    _, out, _ = run(capsys, "many", "red.png", "--top", "2")
    assert out == "red.png\n   98.78%  100\n    0.01%    0\n"


def test_of_equal_classes_the_first_comes_first(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(here / "many", files={"labels.txt": None}, outputs=(Output(name="logits", shape=(1000,)),))
    asked.function = lambda batch: {"logits": np.tile(np.arange(1000, dtype=np.float32) % 2, (len(batch), 1))}
    _, out, _ = run(capsys, "many", "red.png", "--top", "600", "--json")
    indices = [entry["index"] for entry in json.loads(out)["results"][0]["top"]]
    assert indices == [*range(1, 1000, 2), *range(0, 200, 2)]


def test_large_logits_do_not_overflow(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.function = lambda batch: {"logits": np.array([[3e38, -3e38, 0, 0]] * len(batch), np.float32)}
    _, out, _ = run(capsys, "b", "red.png", "--top", "1")
    assert out == "red.png\n  100.00%  0  red\n"


def test_json(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "b", "red.png", "green.png", "--json", "--top", "2")
    assert (status, err) == (0, CHOSEN)
    assert out.count("\n") == 1
    high, low = (float(value / (np.e + 3)) for value in (np.e, 1.0))
    approximate = lambda value: pytest.approx(value, rel=1e-15)  # noqa: E731  (exp in float64)
    assert json.loads(out) == {
        "bundle": "b",
        "backend": "simulated",
        "precision": "auto",
        "results": [
            {
                "image": "red.png",
                "top": [
                    {"index": 0, "label": "red", "score": 1.0, "probability": approximate(high)},
                    {"index": 1, "label": "green", "score": 0.0, "probability": approximate(low)},
                ],
            },
            {
                "image": "green.png",
                "top": [
                    {"index": 1, "label": "green", "score": 1.0, "probability": approximate(high)},
                    {"index": 0, "label": "red", "score": 0.0, "probability": approximate(low)},
                ],
            },
        ],
    }


@pytest.mark.parametrize(
    ("option", "sizes"), [([], [4, 3]), (["--batch", "3"], [3, 3, 1]), (["--batch", "1"], [1] * 7)]
)
def test_images_are_streamed_in_batches(
    here: Path, asked: Asked, capsys: pytest.CaptureFixture[str], option: list[str], sizes: list[int]
) -> None:
    images = ["red.png", "green.png", "gray.png", "red.png", "green.png", "gray.png", "red.png"]
    status, out, _ = run(capsys, "b", *images, *option, "--top", "1")
    assert (status, asked.batches) == (0, sizes)
    assert [line for line in out.splitlines() if line.endswith(".png")] == images


@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_unreadable_image_leaves_nothing_written(
    here: Path, asked: Asked, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    images = ["red.png"] * 6
    images.insert(place, "missing.png")
    status, out, err = run(capsys, "b", *images)
    assert (status, out) == (2, "")
    assert err == CHOSEN + "Error: missing.png does not exist\n"


def test_an_error_as_json(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "b", "missing.png", "--json", "--quiet")
    assert (status, err) == (2, "Error: missing.png does not exist\n")
    assert json.loads(out) == {"error": {"type": "ImageError", "message": "missing.png does not exist", "details": []}}


def test_details_are_indented(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((here / "b" / "manifest.json").read_bytes())
    del manifest["check"], manifest["report"]
    (here / "b" / "manifest.json").write_text(json.dumps(manifest))
    sentence = "b/manifest.json is not valid, with 2 faults: check is missing"
    status, out, err = run(capsys, "b", "red.png", "--json")
    assert (status, err) == (2, f"Error: {sentence}\n  report is missing\n")
    assert json.loads(out) == {
        "error": {"type": "ManifestError", "message": sentence, "details": ["report is missing"]}
    }


KINDS = [
    (errors.ResnetRuntimeError, 1),
    (errors.InputError, 2),
    (errors.ImageError, 2),
    (errors.BundleError, 2),
    (errors.ManifestError, 2),
    (errors.UnavailableError, 2),
    (errors.BackendError, 1),
    (errors.CheckError, 1),
    (errors.ClosedError, 1),
    (errors.QueueFullError, 1),
    (errors.DeadlineError, 1),
]


@pytest.mark.parametrize(("kind", "status"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_every_error_of_the_runtime_is_a_sentence_and_a_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[errors.ResnetRuntimeError],
    status: int,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise kind("it failed", details=["here", "and there"])

    monkeypatch.setattr(loading, "load", load)
    assert run(capsys, "b", "red.png") == (status, "", "Error: it failed\n  here\n  and there\n")
    _, out, _ = run(capsys, "b", "red.png", "--json")
    expected = {"type": kind.__name__, "message": "it failed", "details": ["here", "and there"]}
    assert json.loads(out) == {"error": expected}


def test_the_tree_of_errors_is_tested_whole() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {kind for kind, _ in KINDS} == {kind for kind in classes if issubclass(kind, errors.ResnetRuntimeError)}


def test_an_answer_that_is_not_finite(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.function = lambda batch: {"logits": np.full((len(batch), 4), np.nan, np.float32)}
    status, out, err = run(capsys, "b", "red.png", "--quiet")
    assert (status, out) == (1, "")
    assert err == "Error: the answer for red.png is not finite: try --precision fp32, and run --check\n"


def test_an_output_that_cannot_be_ranked(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    write_sample(here / "map", files={"labels.txt": None}, outputs=(Output(name="map", shape=(4, 2, 2)),))
    status, out, err = run(capsys, "map", "red.png", "--quiet")
    assert (status, out) == (2, "")
    assert err.startswith("Error: the output 'map' has the shape (4, 2, 2), and only one number a class can be ranked")


USAGE = {
    "no arguments": ([], "Missing argument 'BUNDLE'."),
    "no image": (["b"], "Give at least one IMAGE, --check, or --tune."),
    "unknown option": (["b", "red.png", "--bath", "2"], "No such option"),
    "unknown backend": (["b", "red.png", "--backend", "cuda"], "'cuda' is not one of"),
    "unknown precision": (["b", "red.png", "--precision", "fp8"], "'fp8' is not one of"),
    "top of zero": (["b", "red.png", "--top", "0"], "Invalid value for '--top'"),
    "batch of zero": (["b", "red.png", "--batch", "0"], "Invalid value for '--batch'"),
    "image with check": (
        ["b", "red.png", "--check"],
        "--check runs every variant on the bundle's own inputs: leave an image",
    ),
    "precision with check": (["b", "--check", "--precision", "fp32"], "leave --precision out"),
    "top with check": (["b", "--check", "--top", "5"], "leave --top out"),
    "batch with check": (["b", "--check", "--batch", "1"], "leave --batch out"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.values(), ids=USAGE.keys())
def test_usage_errors(
    here: Path, asked: Asked, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert message in err
    assert err.endswith("Try 'resnet-run --help'.\n")
    status, out, _ = run(capsys, "--json", *arguments)
    assert status == 2
    assert json.loads(out)["error"]["type"] == "UsageError"
    assert message in json.loads(out)["error"]["message"]


def test_an_image_that_is_called_json(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "b", "--quiet", "--", "--json")
    assert (status, out, err) == (2, "", "Error: --json does not exist\n")


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    version = importlib.metadata.version("resnet-export")
    assert run(capsys, "--version") == (0, f"resnet-run, version {version}\n", "")
    status, out, err = run(capsys, "--help")
    assert (status, err) == (0, "")
    for option in ("--check", "--backend", "--precision", "--top", "--batch", "--json", "--quiet", "--version"):
        assert option in out


def test_control_characters_cannot_rewrite_the_terminal(
    here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sample(here / "bad", files={"labels.txt": b"\x1b[2Jred\ngreen\nblue\nnone\n"})
    (here / "red.png").rename(here / "\x1b[31m.png")
    _, out, _ = run(capsys, "bad", "\x1b[31m.png", "--top", "1")
    assert out == "\\x1b[31m.png\n   47.54%  0  \\x1b[2Jred\n"
    _, out, _ = run(capsys, "bad", "\x1b[31m.png", "--top", "1", "--json")
    result = json.loads(out)["results"][0]
    assert (result["image"], result["top"][0]["label"]) == ("\x1b[31m.png", "\x1b[2Jred")


def test_a_file_name_that_is_not_utf_8(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (here / "red.png").rename(here / name)
    _, out, _ = run(capsys, "b", name, "--json", "--top", "1")
    assert json.loads(out)["results"][0]["image"] == "caf\ufffd.png"
    (here / name).unlink()
    _, out, _ = run(capsys, os.fsdecode(b"b\xe9"), name, "--json")
    assert "b\ufffd does not exist" in json.loads(out)["error"]["message"]


def test_a_label_that_the_terminal_cannot_show(here: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(here / "b2", files={"labels.txt": "猫\na\nb\nc\n".encode()})
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["b2", "red.png", "--top", "1"]) == 0
    assert stream.buffer.getvalue() == b"red.png\n   47.54%  0  \\u732b\n"  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "options", "shown"), [(2.0, [], True), (0.0, [], False), (2.0, ["--quiet"], False)]
)
def test_a_progress_bar_on_a_terminal_after_a_second(
    here: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, seconds: float, options: list[str], shown: bool
) -> None:
    times = iter(np.arange(100) * seconds)
    monkeypatch.setattr("resnet_runtime.cli.time.monotonic", lambda: float(next(times)))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["b", *["red.png"] * 5, "--batch", "1", *options]) == 0
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("images" in text) is shown
    assert ("100%" in text) is shown


def test_no_progress_bar_in_a_log(
    here: Path, asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 200, 2))
    monkeypatch.setattr("resnet_runtime.cli.time.monotonic", lambda: float(next(times)))
    assert run(capsys, "b", *["red.png"] * 5, "--batch", "1")[2] == CHOSEN


def test_interrupted(here: Path, asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_: np.ndarray) -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    asked.function = interrupt
    assert run(capsys, "b", "red.png", "--quiet") == (130, "", "\nError: interrupted; nothing was written\n")


def test_a_reader_that_went_away(here: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [str(GOLDEN), "red.png", "--backend", "onnxruntime", "--precision", "fp32", "--quiet"]
    with os.fdopen(writing, "wb") as pipe:
        found = subprocess.run([*PROGRAM, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "")


def test_a_full_disk(here: Path) -> None:
    arguments = [str(GOLDEN), "red.png", "--backend", "onnxruntime", "--precision", "fp32", "--quiet"]
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr == "Error: standard output cannot be written: [Errno 28] No space left on device\n"
