"""Engines come into a bundle whole or not at all, and none is lost to another build."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from resnet_export.bundle_writer import staged_bundle
from resnet_export.engine_writer import FOLDER, add_engine
from resnet_export.errors import DestinationError, WriteError
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch, Engine, FileRecord
from tests.export.commands import names
from tests.runtime.bundles import sample_files, sample_manifest

FILES = sample_files()

# Adds an engine, and dies before its n-th step that changes the disk.
DYING = """
import os, sys
from pathlib import Path
from tests.export.test_engine_writer import engine, add
left = int(sys.argv[2])

def before(function):
    def stepped(*arguments, **keywords):
        global left
        if left == 0:
            os.kill(os.getpid(), 9)
        left -= 1
        return function(*arguments, **keywords)
    return stepped

os.fsync, os.replace, os.mkdir, os.unlink = map(before, (os.fsync, os.replace, os.mkdir, os.unlink))
add(Path(sys.argv[1]), engine("fp32-second"), b"second" * 1000)
add(Path(sys.argv[1]), engine("fp32-first"), b"first, built anew" * 1000)
"""


def engine(name: str) -> Engine:
    """A record whose file is filled in when it is written."""
    return Engine(
        id=name,
        variant="fp32",
        file=FileRecord(path="unwritten", sha256="0" * 64, size=0),
        builder="tensorrt-rtx",
        builder_version="1.7.1",
        platform="linux-x86_64",
        gpu=None,
        compute_capabilities=("8.6", "8.9"),
        compatibility="portable",
        profiles=(Batch(smallest=1, optimal=8, largest=32),),
        verified_on=None,
    )


def add(path: Path, record: Engine, data: bytes) -> None:
    variant = Bundle.open(path).manifest.variant("fp32")
    assert variant is not None
    add_engine(path, record, data, variant.file)


def check(path: Path) -> dict[str, bytes]:
    """The engines by id: every file that the manifest lists is there and intact."""
    bundle = Bundle.open(path)
    for variant in bundle.manifest.variants:
        bundle.read(variant.file)
    return {item.id: bundle.read(item.file) for item in bundle.manifest.engines}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with staged_bundle(tmp_path / "a.bundle") as staged:
        for name, data in FILES.items():
            staged.add(name, data)
        staged.publish(sample_manifest(FILES))
    return tmp_path / "a.bundle"


def test_an_engine_is_added_and_replaced(bundle: Path) -> None:
    before = Bundle.open(bundle).manifest
    add(bundle, engine("fp32-first"), b"first")
    add(bundle, engine("fp32-second"), b"second")
    assert check(bundle) == {"fp32-first": b"first", "fp32-second": b"second"}
    add(bundle, engine("fp32-first"), b"built anew")
    assert check(bundle) == {"fp32-second": b"second", "fp32-first": b"built anew"}
    assert len(names(bundle / FOLDER)) == 2
    after = Bundle.open(bundle).manifest
    assert dataclasses.replace(after, engines=()) == before
    assert names(bundle) == sorted([*FILES, "manifest.json", FOLDER])


def test_killed_anywhere_the_bundle_is_the_old_one_or_the_new_one(bundle: Path) -> None:
    add(bundle, engine("fp32-first"), b"first")
    allowed = [
        {"fp32-first": b"first"},
        {"fp32-first": b"first", "fp32-second": b"second" * 1000},
        {"fp32-second": b"second" * 1000, "fp32-first": b"first, built anew" * 1000},
    ]
    seen = []
    steps = 0
    while True:
        done = subprocess.run([sys.executable, "-c", DYING, str(bundle), str(steps)], check=False)
        seen.append(check(bundle))
        assert seen[-1] in allowed
        if done.returncode == 0:
            break
        assert done.returncode == -9
        steps += 1
        assert steps < 60
    assert steps > 10
    assert seen[-1] == allowed[-1]
    assert len(names(bundle / FOLDER)) == 2
    assert names(bundle) == sorted([*FILES, "manifest.json", FOLDER]), "what killed builds left is cleared"


def test_builds_at_once_lose_no_engine(bundle: Path) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for index in range(5):
                add(bundle, engine(f"fp32-{seed}-{index}"), b"%d" % (10 * seed + index))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert check(bundle) == {
        f"fp32-{seed}-{index}": b"%d" % (10 * seed + index) for seed in range(6) for index in range(5)
    }


def test_a_bundle_that_was_replaced_meanwhile_is_left_alone(bundle: Path) -> None:
    other = FileRecord(path="model.fp32.onnx", sha256="1" * 64, size=3)
    with pytest.raises(DestinationError, match="was replaced while the engine was built"):
        add_engine(bundle, engine("fp32-first"), b"first", other)
    assert check(bundle) == {}
    assert names(bundle) == sorted([*FILES, "manifest.json"])


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="cannot be opened: No such file"):
        add_engine(tmp_path / "none", engine("fp32-first"), b"", FileRecord(path="a", sha256="1" * 64, size=3))


def test_a_disk_that_fails_leaves_the_bundle_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Bundle.open(bundle).manifest.variant("fp32")
    assert variant is not None

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        add_engine(bundle, engine("fp32-first"), b"first", variant.file)
    monkeypatch.undo()
    assert check(bundle) == {}
    add(bundle, engine("fp32-first"), b"first")
    assert check(bundle) == {"fp32-first": b"first"}
