"""The examples of applications around a session."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from unittest.mock import AsyncMock

import numpy as np
import pytest
from PIL import Image

import resnet_runtime
from resnet_runtime import DeadlineError, QueueFullError

from .page import PAGE, page
from .pictures import pictures_in

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BUNDLE = ROOT / "tests" / "runtime" / "golden" / "resnet-bundle-1-int8"


def module_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return pictures_in(tmp_path_factory.mktemp("pictures"), 25)


@pytest.fixture(scope="module")
def expected(pictures: list[Path]) -> list[int]:
    with resnet_runtime.load(BUNDLE) as session:
        found = session.infer(session.preprocess(pictures))
        best = found[session.signature.outputs[0].name].argmax(1).tolist()
    assert len(set(best)) > 1
    return best


def test_the_threads_of_the_readme(pictures: list[Path], expected: list[int]) -> None:
    assert module_of("embed").classes(str(BUNDLE), [str(path) for path in pictures]) == expected


@pytest.mark.parametrize(
    ("name", "fence"), [("embed.py", "    # ---\n"), ("../runtime/cpp/examples/classify.cpp", "  // ---\n")]
)
def test_the_readme_shows_what_is_run(name: str, fence: str) -> None:
    _, shown, _ = (EXAMPLES / name).read_text().split(fence)
    indent = len(fence) - len(fence.lstrip())
    lines = [line[indent:] if line.strip() else "" for line in shown.rstrip().splitlines()]
    block = "\n".join(f"    {line}".rstrip() for line in lines)
    assert block in (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    pytest.importorskip("fastapi", reason="of the extra dev")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "serve_fastapi:app", "--port", str(port)]
    with subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, "BUNDLE": str(BUNDLE)}) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/metrics", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def posted(url: str, data: bytes) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/classify", data=data), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_service(service: tuple[str, subprocess.Popen[bytes]], pictures: list[Path], expected: list[int]) -> None:
    url, _ = service
    for path, best in zip(pictures, expected, strict=True):
        status, answer = posted(url, path.read_bytes())
        assert (status, answer["class"]) == (200, best)
        assert 0 < float(str(answer["share"])) <= 1
    status, answer = posted(url, b"no picture")
    assert status == 422
    assert "is not an image" in str(answer["detail"])
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as metrics:
        text = metrics.read().decode()
    assert re.search(rf'^resnet_batcher_ended_total{{how="answered"}} {len(pictures)}$', text, re.MULTILINE)


def test_the_service_answers_many_at_once_in_batches(pictures: list[Path], expected: list[int]) -> None:
    """And says in HTTP's terms why it did not."""
    from fastapi.testclient import TestClient

    serve = module_of("serve_fastapi")
    service = serve.app_of(str(BUNDLE))
    with TestClient(service) as client, ThreadPoolExecutor(25) as pool:
        images = [path.read_bytes() for path in pictures]
        for _ in range(4):
            found = list(pool.map(lambda image: client.post("/classify", content=image).json()["class"], images))
            assert found == expected
        counters = service.state.batcher.counters()
        assert counters.answered == 100
        assert counters.batch_size.count < 100  # some were together
        too_long = client.post("/classify", content=bytes(serve.LARGEST + 1))
        assert (too_long.status_code, too_long.json()["detail"]) == (413, "an image has at most 20971520 bytes")
        for error, status, retry in ((QueueFullError("full"), 503, "1"), (DeadlineError("late"), 504, None)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(service.state.batcher, "infer_async", AsyncMock(side_effect=error))
                answer = client.post("/classify", content=images[0])
            assert (answer.status_code, answer.json()["detail"]) == (status, error.message)
            assert answer.headers.get("Retry-After") == retry


def scored(folder: Path, scores: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / "score_directory.py", BUNDLE, folder, scores, "--batch", "4"]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_scoring_goes_on_where_it_stopped(pictures: list[Path], expected: list[int], tmp_path: Path) -> None:
    folder, scores = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    for path in pictures:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    assert "26 images, 0 of them scored before" in scored(folder, scores).stderr
    whole = scores.read_text()
    lines = whole.splitlines()
    assert lines[0] == "image,label,logit,error"
    assert len(lines) == 27
    with resnet_runtime.load(BUNDLE) as session:
        names = [str(best) if session.labels is None else session.labels[best] for best in expected]
    assert [line.split(",")[1] for line in lines[1:-1]] == names
    assert "is not an image" in lines[-1]
    scores.write_text("\n".join(lines[:11]) + "\n12.png,half a li")  # a run that was killed
    assert "26 images, 10 of them scored before" in scored(folder, scores).stderr
    assert scores.read_text() == whole
    assert "26 images, 26 of them scored before" in scored(folder, scores).stderr
    assert scores.read_text() == whole


def test_a_stream_of_frames(pictures: list[Path], expected: list[int], tmp_path: Path) -> None:
    frames = np.stack([np.asarray(Image.open(path)) for path in pictures for _ in range(4)])
    np.save(tmp_path / "frames.npy", frames)
    command = [sys.executable, EXAMPLES / "stream.py", BUNDLE, tmp_path / "frames.npy", "--fps", "50", "--smooth", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    changes = [re.fullmatch(r"frame (\d+): (.*)", line) for line in done.stdout.splitlines()]
    assert len(changes) > 1
    with resnet_runtime.load(BUNDLE) as session:
        names = [str(best) if session.labels is None else session.labels[best] for best in expected]
    for change in changes:
        assert change is not None
        assert change[2] == names[int(change[1]) // 4]
    answered = re.search(r"(\d+) of 100 frames answered, the slowest in [\d.]+ ms", done.stderr)
    assert answered is not None
    assert 10 < int(answered[1]) <= 100


def test_frames_that_come_faster_than_they_are_answered_are_passed_over(pictures: list[Path], tmp_path: Path) -> None:
    frames = np.stack([np.asarray(Image.open(path).resize((320, 240))) for path in pictures for _ in range(20)])
    np.save(tmp_path / "frames.npy", frames)
    command = [sys.executable, EXAMPLES / "stream.py", BUNDLE, tmp_path / "frames.npy", "--fps", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answered = re.search(r"(\d+) of 500 frames answered, the slowest in [\d.]+ ms", done.stderr)
    assert answered is not None
    assert 1 <= int(answered[1]) < 500


def test_the_page_shows_what_the_examples_say() -> None:
    """But for the last digits of a share, and of a frame's number: a busy machine passes over some.

    The outputs of C++ are those that the page has: tests/cpp compares them.
    """

    def rounded(text: str) -> str:
        return re.sub(r"(frame \d*)\d:", r"\1", re.sub(r"(\d\.\d{3})\d+", r"\1", text))

    shown = PAGE.read_text()
    _, _, cpp = shown.partition("    $ classify model.bundle 00.png\n")
    classified, _, served = cpp.partition("    $ ls *.png | head -4 | service model.bundle | sort\n")
    outputs = {"classify": classified.removesuffix("\n"), "service": served.removesuffix("\n")}
    assert rounded(shown) == rounded(page(outputs)), "run python -m tests.examples.page"
