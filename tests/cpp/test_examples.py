"""The examples that the documentation shows, run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_runtime
from tests.examples.page import PAGE, cpp_outputs

from .conftest import BUILD


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        low = rng.integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(low).resize((40, 30), Image.Resampling.BICUBIC).save(path)
    return paths


def expected(bundle: Path, paths: list[Path]) -> list[str]:
    """The names of the classes, by Python's runtime."""
    with resnet_runtime.load(bundle, backend="openvino") as session:
        assert session.labels is not None
        best = session.infer(session.preprocess(paths))["logits"].argmax(1)
        return [session.labels[index] for index in best]


def test_classify(tiny_bundle: Path, pictures: list[Path]) -> None:
    for path, name in zip(pictures[:3], expected(tiny_bundle, pictures[:3]), strict=True):
        done = subprocess.run([BUILD / "classify", tiny_bundle, path], capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert len(lines) == 5
        assert lines[0].partition("  ")[0] == name
    done = subprocess.run([BUILD / "classify", tiny_bundle, "nothing.png"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "nothing.png does not exist\n")


def test_the_page_shows_what_they_say() -> None:
    """But for the last digits of a logit, which depend on the CPU."""

    def rounded(text: str) -> str:
        return re.sub(r"(\d\.\d{3})\d+", r"\1", text)

    shown = rounded(PAGE.read_text())
    for said in cpp_outputs(BUILD).values():
        assert rounded(said) + "\n" in shown, "run python -m tests.examples.page"


def test_service(tiny_bundle: Path, pictures: list[Path]) -> None:
    names = [*map(str, pictures), "nothing.png"]
    done = subprocess.run(
        [BUILD / "service", tiny_bundle], input="\n".join(names) + "\n", capture_output=True, text=True, check=True
    )
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    assert answers.pop("nothing.png") == "nothing.png does not exist"
    assert answers == dict(zip(map(str, pictures), expected(tiny_bundle, pictures), strict=True))
