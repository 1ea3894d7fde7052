"""What ``make demo`` trained and exported, run from C++: a network whose answers mean something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime.backends import facts_of
from resnet_runtime.bundle import Bundle

from .conftest import BUILD, Probe

DEMO = Path(__file__).parents[2] / "build" / "demo"
BUNDLE = DEMO / "model.bundle"

pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="make demo makes the bundle")


@pytest.fixture(scope="module")
def digits() -> list[Path]:
    """Image files that the network was not trained on."""
    found = sorted((DEMO / "held-out").glob("*.png"))[:64]
    assert len(found) == 64
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_the_answers_are_pythons(precision: str, digits: list[Path], tmp_path: Path, probe: Probe) -> None:
    """The same pixels: how images are decoded is compared elsewhere."""
    held = {variant.precision for variant in Bundle.open(BUNDLE).manifest.variants if variant.scheme != "tensorrt"}
    if precision not in held or precision not in facts_of("openvino").precisions:
        pytest.skip(f"the bundle or this CPU has no {precision}")
    with resnet_runtime.load(BUNDLE, backend="openvino", precision=precision, threads=1) as session:
        batch = session.preprocess(digits)
        expected = session.infer(batch)["logits"]
    batch.tofile(tmp_path / "input")
    arguments = (BUNDLE, "openvino", precision, "1", tmp_path / "input", str(len(digits)), tmp_path / "output")
    assert probe("infer", *arguments)[0][0] == "ok"
    found = np.fromfile(tmp_path / "output.logits", np.float32)
    assert np.array_equal(found.reshape(expected.shape), expected)


def test_digits_are_recognized(digits: list[Path]) -> None:
    names = "\n".join(map(str, digits)) + "\n"
    done = subprocess.run([BUILD / "service", BUNDLE], input=names, capture_output=True, text=True, check=True)
    answers = dict(line.split("\t") for line in done.stdout.splitlines())
    right = sum(answers[str(path)].removeprefix("digit ") == path.stem.rpartition("-")[2] for path in digits)
    assert right >= 0.9 * len(digits)
