"""A bundle is at its destination whole or not at all, and what a killed export left is cleared by the next one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_export import bundle_writer
from resnet_export.bundle_writer import StagedBundle, check_destination, staged_bundle
from resnet_export.errors import DestinationError, WriteError
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Manifest
from tests.export.commands import names, snapshot
from tests.runtime.bundles import sample_files, sample_manifest

FILES = sample_files()
NAMES = sorted([*FILES, "manifest.json"])

# A process that holds a staging folder with one of its files.
HOLD = """
import sys, time
from resnet_export.bundle_writer import staged_bundle

with staged_bundle(sys.argv[1]) as staged:
    staged.add("model.fp32.onnx", b"first")
    print(staged.path.name, flush=True)
    time.sleep(600)
    staged.add("check.npz", b"second")
"""


def fill(staged: StagedBundle, **changes: object) -> Manifest:
    """Every file of a valid bundle; the manifest to publish it with."""
    for name, data in FILES.items():
        record = staged.add(name, data)
        assert (record.path, record.size) == (name, len(data))
    return sample_manifest(FILES, **changes)


def write(destination: Path | str, *, force: bool = False, **changes: object) -> Path:
    with staged_bundle(Path(destination), force=force) as staged:
        staged.publish(fill(staged, **changes))
        return staged.destination


def without_renameat2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_writer, "_renameat2", lambda source, destination, flags: False)


@pytest.fixture(params=["renameat2", "plain rename"])
def rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system call, and on a system that has none."""
    if request.param == "plain rename":
        without_renameat2(monkeypatch)


def test_exactly_the_files_that_were_added_are_published(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == NAMES
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest == sample_manifest(FILES)
    assert bundle.read(bundle.manifest.check) == FILES["check.npz"]


def test_a_file_that_was_removed_is_not_there(tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "out") as staged:
        manifest = fill(staged)
        staged.remove(staged.add("model.fp16.onnx", b"failed its gate"))
        staged.publish(manifest)
    assert names(tmp_path / "out") == NAMES


def test_a_file_cannot_be_added_twice(tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "out") as staged:
        staged.add("labels.txt", b"first")
        with pytest.raises(WriteError, match=r"labels\.txt of .* cannot be written: File exists"):
            staged.add("labels.txt", b"second")


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, move = os.fsync, bundle_writer._renameat2

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renameat2(*arguments: object) -> bool:
        done.append("rename")
        return move(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_writer.os, "fsync", fsync)
    monkeypatch.setattr(bundle_writer, "_renameat2", renameat2)
    with staged_bundle(tmp_path / "out") as staged:
        name = staged.path.name
        staged.publish(fill(staged))
    assert done == [*NAMES, name, "rename", tmp_path.name]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("added", [False, True])
def test_nothing_is_left_when_an_export_fails(tmp_path: Path, kind: type[BaseException], added: bool) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "out") as staged:
            if added:
                fill(staged)
            raise kind

    with pytest.raises(kind):
        fail()
    assert names(tmp_path) == []


def test_the_old_bundle_stays_when_an_export_fails(tmp_path: Path) -> None:
    write(tmp_path / "out")
    before = snapshot(tmp_path)
    with pytest.raises(WriteError), staged_bundle(tmp_path / "out", force=True) as staged:
        staged.add("no folder/check.npz", b"")
    assert snapshot(tmp_path) == before


def hold(destination: Path) -> tuple[subprocess.Popen[str], str]:
    """A process in the middle of an export, and the name of its staging folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, destination], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


@pytest.mark.parametrize("name", ["out", "out[1]*"])
def test_what_a_killed_export_left_is_cleared_and_what_a_live_one_holds_is_not(tmp_path: Path, name: str) -> None:
    destination = tmp_path / name
    (tmp_path / f".{name}.staging-file").write_text("no folder: not ours")
    killed, stale = hold(destination)
    with killed:
        killed.kill()
    live, held = hold(destination)
    try:
        # The live one has cleared what the killed one left.
        assert names(tmp_path) == sorted([held, f".{name}.staging-file"])
        assert stale != held
        write(destination)
        assert names(tmp_path) == sorted([name, held, f".{name}.staging-file"])
        assert names(tmp_path / held) == ["model.fp32.onnx"]
    finally:
        with live:
            live.kill()


def test_the_staging_of_another_bundle_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".other.staging-x"
    other.mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == [".other.staging-x", "out"]


@pytest.mark.usefixtures("rename")
def test_force_replaces_the_whole_bundle(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "engines").mkdir()
    (tmp_path / "out" / "engines" / "old.engine").write_text("of the old bundle")
    write(tmp_path / "out", force=True, tools={"resnet-export": "new"})
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == NAMES
    assert Bundle.open(tmp_path / "out").manifest.tools == {"resnet-export": "new"}


@pytest.mark.usefixtures("rename")
def test_force_where_nothing_is(tmp_path: Path) -> None:
    write(tmp_path / "out", force=True)
    assert names(tmp_path) == ["out"]


def test_a_reader_sees_the_old_or_the_new_bundle_through_many_swaps(tmp_path: Path) -> None:
    destination = tmp_path / "out"
    versions = [{"resnet-export": str(version)} for version in range(40)]
    write(destination, tools=versions[0])
    seen: list[bytes] = []
    failures: list[OSError] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append((destination / "manifest.json").read_bytes())
            except OSError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    whole = set()
    try:
        for tools in versions:
            write(destination, force=True, tools=tools)
            whole.add((destination / "manifest.json").read_bytes())
    finally:
        done.set()
        reader.join()
    assert failures == []
    assert set(seen) <= whole
    assert len(set(seen)) > 1, "no swap was seen"


def test_the_old_bundle_is_put_back_where_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out")
    before = snapshot(tmp_path)
    without_renameat2(monkeypatch)
    move = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if ".staging-" in self.name:
            raise OSError(5, "Input/output error")
        return move(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(WriteError, match="out cannot be put into place: Input/output error"):
        write(tmp_path / "out", force=True)
    assert snapshot(tmp_path) == before


APPEARED: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: (path / "mine").mkdir(parents=True),
    "empty folder": lambda path: path.mkdir(),
    "file": lambda path: path.write_text("mine"),
    "link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.usefixtures("rename")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", APPEARED)
def test_what_appears_during_the_export_is_left_alone(tmp_path: Path, kind: str, force: bool) -> None:
    with staged_bundle(tmp_path / "out", force=force) as staged:
        manifest = fill(staged)
        APPEARED[kind](tmp_path / "out")
        before = {name: what for name, what in snapshot(tmp_path).items() if not name.startswith(".")}
        with pytest.raises(DestinationError, match="is not a bundle" if force else "appeared while the model was"):
            staged.publish(manifest)
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("rename")
def test_a_bundle_that_appears_is_left_alone_without_force(tmp_path: Path) -> None:
    with staged_bundle(tmp_path / "out") as staged:
        manifest = fill(staged)
        write(tmp_path / "out", tools={"resnet-export": "the other one"})
        with pytest.raises(DestinationError, match="appeared while the model was exported, and was left alone"):
            staged.publish(manifest)
    assert names(tmp_path) == ["out"]
    assert Bundle.open(tmp_path / "out").manifest.tools == {"resnet-export": "the other one"}


@pytest.mark.parametrize(("mask", "folder", "file"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640), (0, 0o777, 0o666)])
def test_the_modes_are_those_of_the_umask(tmp_path: Path, mask: int, folder: int, file: int) -> None:
    old = os.umask(mask)
    try:
        write(tmp_path / "out")
        assert os.umask(mask) == mask, "the umask was changed"
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == folder
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {file}


@pytest.mark.parametrize("destination", ["out", "out/", "./out", "sub/../out", "{tmp_path}/out"])
def test_however_the_destination_is_written(here: Path, destination: str) -> None:
    (here / "sub").mkdir()
    assert write(destination.format(tmp_path=here)) == here / "out"
    assert names(here) == ["out", "sub"]
    assert names(here / "out") == NAMES


def test_a_working_directory_that_changes_meanwhile_does_not_move_the_bundle(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "elsewhere").mkdir()
    with staged_bundle(Path("out")) as staged:
        monkeypatch.chdir("elsewhere")
        staged.publish(fill(staged))
    assert names(here) == ["elsewhere", "out"]
    assert names(here / "elsewhere") == []


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    check_destination(tmp_path / "out", force=False)
    assert names(tmp_path) == []
