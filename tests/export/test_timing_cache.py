"""The timing cache loses nothing, is never half a file and never fails a build; dicts stand for TensorRT's."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import resnet_export.timing_cache
from resnet_export.timing_cache import (
    file_from_timings,
    timing_cache,
    timing_file,
    timing_folder,
    timings_from_file,
)
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from tests.export.commands import names
from tests.export.fake_timings import (
    DEVICE,
    RTX,
    TENSORRT,
    FakeCache,
    FakeConfig,
    built,
    kept,
    path_in,
)

# Adds timings, again and again, while other processes do the same.
ADDING = """
import sys
from pathlib import Path
from tests.export.fake_timings import built
for index in range(10):
    built(Path(sys.argv[1]), {f"{sys.argv[2]}.{index}": 1.0})
"""

# Adds timings, and dies before its n-th step that changes the disk.
DYING = """
import os, sys
from pathlib import Path
from tests.export.fake_timings import built
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
built(Path(sys.argv[1]), {"second": 2.0})
"""


def test_a_second_build_measures_only_what_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "with its parents"
    assert built(folder, {"conv1": 1.0, "conv2": 2.0}) == ({"conv1": 1.0, "conv2": 2.0}, [])
    assert built(folder, {"conv2": 2.5, "conv3": 3.0}) == ({"conv3": 3.0}, [])
    assert kept(folder) == {"conv1": 1.0, "conv2": 2.0, "conv3": 3.0}
    path = path_in(folder)
    assert names(folder) == sorted([path.name, f"{path.name}.lock"]), "no temporary file is left"


def test_a_build_that_measures_nothing_new_writes_nothing(tmp_path: Path) -> None:
    built(tmp_path, {"conv1": 1.0})
    before = path_in(tmp_path).stat()
    assert built(tmp_path, {"conv1": 1.5}) == ({}, [])
    after = path_in(tmp_path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_two_interleaved_builds_lose_nothing(tmp_path: Path) -> None:
    built(tmp_path, {"both": 0.5})
    first, second, warnings = FakeConfig(), FakeConfig(), list[str]()
    with timing_cache(TENSORRT, first, DEVICE, warnings.append, tmp_path):
        with timing_cache(TENSORRT, second, DEVICE, warnings.append, tmp_path):
            assert first.build({"both": 9.0, "first": 1.0, "same": 1.1}) == {"first": 1.0, "same": 1.1}
            assert second.build({"both": 9.0, "second": 2.0, "same": 1.2}) == {"second": 2.0, "same": 1.2}
        assert kept(tmp_path) == {"both": 0.5, "second": 2.0, "same": 1.2}
    assert kept(tmp_path) == {"both": 0.5, "first": 1.0, "second": 2.0, "same": 1.1}
    assert warnings == []


def test_interleaved_builds_that_begin_without_a_file_lose_nothing(tmp_path: Path) -> None:
    first = FakeConfig()
    with timing_cache(TENSORRT, first, DEVICE, pytest.fail, tmp_path):
        first.build({"first": 1.0})
        built(tmp_path, {"second": 2.0})
    assert kept(tmp_path) == {"first": 1.0, "second": 2.0}


def test_threads_at_once_lose_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []

    def work(seed: int) -> None:
        for index in range(10):
            warnings.extend(built(tmp_path, {f"{seed}.{index}": 1.0})[1])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kept(tmp_path) == {f"{seed}.{index}": 1.0 for seed in range(6) for index in range(10)}
    assert warnings == []


def test_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADDING, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(seed)]) for seed in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert kept(tmp_path) == {f"{seed}.{index}": 1.0 for seed in range(3) for index in range(10)}


def test_killed_anywhere_the_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    built(tmp_path, {"first": 1.0})
    allowed = [{"first": 1.0}, {"first": 1.0, "second": 2.0}]
    seen: list[dict[str, float]] = []
    while True:
        command = [sys.executable, "-c", DYING, str(tmp_path), str(len(seen))]
        done = subprocess.run(command, check=False, timeout=60)
        seen.append(kept(tmp_path))
        assert seen[-1] in allowed
        if done.returncode == 0:
            break
        assert done.returncode == -9
        assert len(seen) < 20
    # Killed before mkdir, the file's fsync, its replacement; the file being new, before the folder's fsync; not at all.
    assert seen == [allowed[0]] * 3 + [allowed[1]] * 2
    path = path_in(tmp_path)
    assert names(tmp_path) == sorted([path.name, f"{path.name}.lock"]), "what killed builds left is gone"


def test_a_lock_that_is_never_let_go_is_waited_for_a_while(tmp_path: Path) -> None:
    built(tmp_path, {"first": 1.0})
    lock = path_in(tmp_path).with_name(f"{path_in(tmp_path).name}.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        measured, warnings = built(tmp_path, {"first": 1.0}, patience=0.05)
    assert measured == {"first": 1.0}
    assert len(warnings) == 1
    assert "another process has held its lock for 0.05 s" in warnings[0]
    assert built(tmp_path, {"first": 1.0}) == ({}, [])


def test_the_lock_is_held_while_the_file_is_written(tmp_path: Path) -> None:
    lock = path_in(tmp_path).with_name(f"{path_in(tmp_path).name}.lock")
    config, finished = FakeConfig(), threading.Event()

    def build() -> None:
        with timing_cache(TENSORRT, config, DEVICE, pytest.fail, tmp_path):
            config.build({"conv1": 1.0})
            begun.set()
            assert go.wait(60)
        finished.set()

    begun, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=build)
    thread.start()
    assert begun.wait(60)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it while the build runs
        go.set()
        assert not finished.wait(0.3)
        assert not path_in(tmp_path).exists()
    thread.join(60)
    assert kept(tmp_path) == {"conv1": 1.0}


def test_a_process_that_is_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    children: list[int] = []

    class Forking(FakeCache):
        def serialize(self) -> bytes:
            """While the lock is held."""
            children.append(os.fork())
            if children[-1] == 0:
                time.sleep(60)
                os._exit(0)
            return super().serialize()

    config = FakeConfig()
    try:
        with timing_cache(TENSORRT, config, DEVICE, pytest.fail, tmp_path):
            assert config.attached is not None
            config.attached.__class__ = Forking
            config.build({"conv1": 1.0})
        assert len(children) == 1
        assert built(tmp_path, {"conv1": 1.0}, patience=0.0) == ({}, [])
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.parametrize(("library", "device"), [(RTX, DEVICE), (TENSORRT, None)], ids=["tensorrt-rtx", "no device"])
def test_without_a_cache_or_a_device_nothing_is_touched(
    tmp_path: Path, library: Library, device: DeviceInfo | None
) -> None:
    config = FakeConfig()
    with timing_cache(library, config, device, pytest.fail, tmp_path):
        assert config.attached is None
    assert names(tmp_path) == []


def test_what_the_build_raises_goes_through_and_the_lock_is_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), timing_cache(TENSORRT, FakeConfig(), DEVICE, pytest.fail, tmp_path):
        raise ZeroDivisionError
    assert built(tmp_path, {"conv1": 1.0}, patience=0.0) == ({"conv1": 1.0}, [])


def test_each_device_and_version_has_its_file(tmp_path: Path) -> None:
    others = [
        (TENSORRT, DeviceInfo("NVIDIA GeForce RTX 3060 Ti", "8.6", "13.0")),
        (TENSORRT, DeviceInfo("NVIDIA GeForce RTX-3060", "8.6", "13.0")),
        (TENSORRT, DeviceInfo(DEVICE.name, "8.9", "13.0")),
        (Library("tensorrt", SimpleNamespace(__version__="10.9.0.35")), DEVICE),
    ]
    found = {timing_file(tmp_path, library, device) for library, device in [(TENSORRT, DEVICE), *others]}
    assert len(found) == 5
    newer_driver = DeviceInfo(DEVICE.name, DEVICE.capability, "13.1")
    assert timing_file(tmp_path, TENSORRT, newer_driver) == path_in(tmp_path)
    assert path_in(tmp_path).name.startswith("nvidia-geforce-rtx-3060-sm86-tensorrt-10.9.0.34-")
    hostile = timing_file(tmp_path, TENSORRT, DeviceInfo("../../" + "x" * 300, "8.6", "13.0"))
    assert hostile.parent == tmp_path
    assert len(hostile.name) < 200


def test_the_folder_is_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert timing_folder() == tmp_path / "cache" / "resnet-export" / "timing"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    at_home = tmp_path / "home" / ".cache" / "resnet-export" / "timing"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert timing_folder() == at_home
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert timing_folder() == at_home
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with timing_cache(TENSORRT, FakeConfig(), DEVICE, pytest.fail):
        pass
    assert path_in(tmp_path / "resnet-export" / "timing").exists()


def test_the_format_of_the_file_is_what_the_documentation_says() -> None:
    digest = hashlib.sha256(b"abc").digest()
    assert file_from_timings(b"abc") == b"RXTIMES1" + b"\3\0\0\0\0\0\0\0" + digest + b"abc"


def used_names() -> set[tuple[str, str]]:
    """What is called on the config and on caches."""
    kinds = {"_config": "IBuilderConfig", "cache": "ITimingCache", "_attached": "ITimingCache"}
    found = set()
    source = resnet_export.timing_cache.__file__
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            base = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if base in kinds:
                found.add((kinds[base], node.attr))
    return found - {("ITimingCache", "load"), ("ITimingCache", "save")}  # of the class that has one


def test_every_name_that_is_used_is_the_real_module_s() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    used = used_names()
    assert used == {
        ("IBuilderConfig", "create_timing_cache"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ITimingCache", "serialize"),
        ("ITimingCache", "combine"),
    }
    assert [f"{kind}.{name}" for kind, name in sorted(used) if not hasattr(getattr(rtx, kind), name)] == []
    fake = {"IBuilderConfig": FakeConfig, "ITimingCache": FakeCache}
    assert all(hasattr(fake[kind], name) for kind, name in used)


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_the_real_classes_take_these_arguments_and_this_refusal_is_seen(tmp_path: Path) -> None:
    """TensorRT-RTX's own cache holds nothing, but is made, attached, combined, written and refused as TensorRT's is."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    library, said = Library("tensorrt", rtx), list[str]()
    builder = rtx.Builder(library.logger(said))
    path = timing_file(tmp_path, library, DEVICE)

    def warnings() -> list[str]:
        found: list[str] = []
        config = builder.create_builder_config()
        with timing_cache(library, config, DEVICE, found.append, tmp_path):
            assert config.get_timing_cache() is not None
        return found

    assert warnings() == []
    empty = timings_from_file(path.read_bytes())
    assert len(empty) > 100
    assert warnings() == []
    path.write_bytes(file_from_timings(b"of another version" + bytes(1000)))
    (warning,) = warnings()
    assert warning.endswith(f"is damaged and is made anew: tensorrt {rtx.__version__} refuses what it holds")
    assert timings_from_file(path.read_bytes()) == empty
