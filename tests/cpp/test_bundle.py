"""Damaged bundles: the same verdict as Python's, in the same words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BundleError

from .conftest import Probe, same_words

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "runtime" / "golden" / "resnet-bundle-1-int8"
FILES = sorted(
    path.relative_to(GOLDEN).as_posix()
    for path in GOLDEN.rglob("*")
    if path.is_file() and path.name not in ("report.json", "report.html", "calibration.json")
)
Damage = Callable[[Path], object]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Damage] = {
    "flipped": flipped,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "link": linked,
    "pipe": a_pipe,
    "folder": a_folder,
}


def verdict(path: Path) -> list[str]:
    """What the probe does, in Python."""
    try:
        opened = Bundle.open(path)
        opened.labels()
        for variant in opened.manifest.variants:
            opened.read(variant.file)
            opened.verify(variant.file)
        for engine in opened.manifest.engines:
            opened.read(engine.file)
        opened.verify(opened.manifest.check)
    except BundleError as error:
        return [type(error).__name__, error.message, *error.details]
    return ["ok"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(name: str, damage: str, tmp_path: Path, probe: Probe) -> None:
    path = tmp_path / "m.bundle"
    shutil.copytree(GOLDEN, path)
    DAMAGES[damage](path / name)
    (answer,) = probe("bundle", path)
    assert same_words(answer, verdict(path))
    assert answer[0] != "ok"


def test_every_bundle_of_pythons_tests_has_pythons_verdict(tmp_path: Path, probe: Probe) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cpp.record_bundles", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/runtime/test_bundle.py"],
        cwd=ROOT,
        env={**os.environ, "RECORDED": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    paths = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    verdicts = [verdict(path) for path in paths]
    assert len(paths) > 40
    assert len({tuple(found[1:]) for found in verdicts}) > 20
    for answer, expected in zip(probe("bundle", *paths), verdicts, strict=True):
        assert same_words(answer, expected)


def test_what_is_no_bundle(tmp_path: Path, probe: Probe) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "through").symlink_to(GOLDEN)
    paths = [tmp_path / "nothing", tmp_path / "file", tmp_path / "empty", tmp_path / ("x" * 300), tmp_path / "through"]
    answers = probe("bundle", *paths)
    assert answers == [verdict(path) for path in paths]
    assert answers[-1] == ["ok"]
