"""The programs that ``make test-cpp`` built, and bundles for them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resnet_bench.networks import live_resnet
from resnet_export import ExportOptions, bundle_from_checkpoint
from resnet_export.options import CalibrationOptions, ModelOptions, PreprocessingOptions
from resnet_export.resnet_config import ResNetConfig
from tests.export.models import varied_images

BUILD = Path(os.environ.get("RESNET_CPP_BUILD", Path(__file__).parents[2] / "build" / "cpp"))

os.environ.setdefault("TBB_ENABLE_SANITIZERS", "1")
"""TBB would load its parts in a way that AddressSanitizer does not allow; without sanitizers it changes nothing."""
_OTHERS = Path(__file__).with_name("leaks_of_others.txt")
os.environ.setdefault("LSAN_OPTIONS", f"suppressions={_OTHERS}:print_suppressions=0")

Probe = Callable[..., list[list[str]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.cpp)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Runs the probe; the fields of each line of its answer. What a library compiles is kept for these tests alone."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*arguments: str | Path, **environment: str) -> list[list[str]]:
        done = subprocess.run(
            [BUILD / "probe", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()]

    return run


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants of a small network, with labels."""
    folder = tmp_path_factory.mktemp("cpp")
    config = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", classes=5)
    torch.save(live_resnet(config, size=16).state_dict(), folder / "tiny.pt")
    (folder / "labels.txt").write_text("one\ntwo\nthree\nvier\nfünf\n")
    options = ExportOptions(
        model=ModelOptions(input_shape=(3, 16, 16)),
        preprocessing=PreprocessingOptions(),
        calibration=CalibrationOptions(images=images(64, seed=3)),
        labels=folder / "labels.txt",
        engines=None,
    )
    return bundle_from_checkpoint(folder / "tiny.pt", folder / "tiny.bundle", options).path


@pytest.fixture(scope="session")
def bytes_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network whose graph takes bytes: (N, 16, 16, 3)."""
    folder = tmp_path_factory.mktemp("cpp-bytes")
    config = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", classes=5)
    torch.save(live_resnet(config, size=16).state_dict(), folder / "tiny.pt")
    options = ExportOptions(
        model=ModelOptions(input_shape=(3, 16, 16)),
        preprocessing=PreprocessingOptions(in_graph=True),
        variants=("fp32",),
        engines=None,
    )
    return bundle_from_checkpoint(folder / "tiny.pt", folder / "tiny.bundle", options).path


def openvino_cmake() -> Path:
    """Where OpenVINO's Python package keeps its CMake package."""
    spec = importlib.util.find_spec("openvino")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "cmake"


def same_words(here: list[str], python: list[str]) -> bool:
    """Whether both say the same; what a JSON library itself refuses is said in its own words, in each language."""
    marks = ("it is not JSON at line", "a number is not a finite number")
    if len(here) > 1 and any(mark in here[1] for mark in marks):
        return (
            here[0] == python[0]
            and here[1].partition(" is not valid: ")[0] == python[1].partition(" is not valid: ")[0]
        )
    return [one.replace("\t", " ") for one in here] == [one.replace("\t", " ").replace("\n", " ") for one in python]


def images(count: int, seed: int = 5) -> NDArray[np.float32]:
    """(N, 3, 16, 16)."""
    return np.ascontiguousarray(varied_images(count, (3, 16, 16), seed=seed).numpy())
