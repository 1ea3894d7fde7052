"""Whatever manifest Python's tests make up: the same verdict, in the same words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_runtime.manifest import MANIFEST_NAME

from .conftest import Probe, same_words

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests of Python's tests, one file each."""
    folder = tmp_path_factory.mktemp("recorded")
    tests = [f"tests/runtime/test_manifest{kind}.py" for kind in ("", "_int8")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cpp.record_manifests", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *tests], cwd=ROOT, env={**os.environ, "RECORDED": str(folder)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()
    return folder


def test_every_verdict_is_pythons(recorded: Path, probe: Probe) -> None:
    files = sorted(path for path in recorded.iterdir() if path.suffix != ".json")
    assert len(files) > 2000
    parts = [files[start : start + 500] for start in range(0, len(files), 500)]
    answers = [answer for part in parts for answer in probe("manifest", *part)]
    accepted = 0
    for path, (kind, *said) in zip(files, answers, strict=True):
        told = path.with_suffix(".json")
        if not told.exists():
            assert kind == "ok", (path, said)
            accepted += 1
            continue
        assert same_words([kind, *said], ["ManifestError", *json.loads(told.read_text())])
    assert 5 < accepted < len(files) / 4


@pytest.mark.parametrize("name", ["resnet-bundle-1", "resnet-bundle-1-int8"])
def test_golden_bundles_are_read(name: str, probe: Probe) -> None:
    golden = ROOT / "tests" / "runtime" / "golden" / name
    assert (golden / MANIFEST_NAME).exists()
    assert probe("bundle", golden) == [["ok"]]
