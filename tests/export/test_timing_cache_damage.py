"""A timing cache that is damaged, refused or cannot be written is a warning, and never fails a build."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_export.timing_cache import (
    file_from_timings,
    timing_cache,
    timings_from_file,
)
from tests.export.commands import names
from tests.export.fake_timings import (
    DEVICE,
    TENSORRT,
    FakeCache,
    FakeConfig,
    NoCache,
    NotTaken,
    built,
    kept,
    path_in,
)

# Builds as a user who may not write to the folder, which root always may.
UNPRIVILEGED = """
import json, os, sys
from pathlib import Path
from tests.export.fake_timings import built
if os.geteuid() == 0:
    os.seteuid(65534)
print(json.dumps(built(Path(sys.argv[1]), {"conv1": 1.0})))
"""


def damaged_header(data: bytes) -> bytes:
    return b"X" + data[1:]


def other_length(data: bytes) -> bytes:
    return data[:8] + struct.pack("<Q", 2**60) + data[16:]


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "it ends after 0 bytes, within its header"),
    "cut in the header": (lambda data: data[:47], "it ends after 47 bytes, within its header"),
    "cut": (lambda data: data[:-1], r"it holds \d+ bytes where its header says \d+"),
    "cut after the header": (lambda data: data[:48], r"it holds 0 bytes where its header says \d+"),
    "longer": (lambda data: data + b"\0", r"it holds \d+ bytes where its header says \d+"),
    "header": (damaged_header, "it does not begin as a timing cache does"),
    "length": (other_length, r"it holds \d+ bytes where its header says \d+"),
    "a bit": (flipped, "its SHA-256 is not the one that its header says"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew_with_a_warning(tmp_path: Path, damage: str) -> None:
    built(tmp_path, {"lost": 1.0})
    path = path_in(tmp_path)
    change, reason = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=reason):
        timings_from_file(path.read_bytes())
    measured, (warning,) = built(tmp_path, {"conv1": 1.0})
    assert measured == {"conv1": 1.0}
    assert warning.startswith(f"the timing cache {path} is damaged and is made anew: it")
    assert kept(tmp_path) == {"conv1": 1.0}
    assert built(tmp_path, {"conv1": 1.0}) == ({}, [])


def test_what_is_damaged_while_a_build_runs_is_replaced_with_a_warning(tmp_path: Path) -> None:
    built(tmp_path, {"first": 1.0})
    config, warnings = FakeConfig(), list[str]()
    with timing_cache(TENSORRT, config, DEVICE, warnings.append, tmp_path):
        config.build({"second": 2.0})
        path_in(tmp_path).write_bytes(b"half a f")
    assert len(warnings) == 1
    assert kept(tmp_path) == {"first": 1.0, "second": 2.0}


def failing() -> FakeCache | None:
    raise RuntimeError("deserialization failed")


@pytest.mark.parametrize("unreadable", [None, lambda: None, failing], ids=["empty", "none", "raises"])
def test_what_tensorrt_cannot_read_is_made_anew_with_a_warning(
    tmp_path: Path, unreadable: Callable[[], FakeCache | None] | None
) -> None:
    path_in(tmp_path).write_bytes(file_from_timings(b"of another version, and longer than an empty cache is"))
    measured, warnings = built(tmp_path, {"conv1": 1.0}, FakeConfig(unreadable=unreadable))
    assert measured == {"conv1": 1.0}
    assert warnings == [
        f"the timing cache {path_in(tmp_path)} is damaged and is made anew: tensorrt 10.9.0.34 refuses what it holds"
    ]
    assert kept(tmp_path) == {"conv1": 1.0}


def test_what_tensorrt_refuses_for_this_device_is_made_anew_with_a_warning(tmp_path: Path) -> None:
    built(tmp_path, {"conv1": 1.0}, FakeConfig("another"))
    measured, warnings = built(tmp_path, {"conv1": 5.0})
    assert measured == {"conv1": 5.0}
    assert len(warnings) == 1
    assert "tensorrt 10.9.0.34 refuses what it holds" in warnings[0]
    assert kept(tmp_path) == {"conv1": 5.0}


def test_what_tensorrt_refuses_to_combine_is_replaced_with_a_warning(tmp_path: Path) -> None:
    config, warnings = FakeConfig(), list[str]()
    with timing_cache(TENSORRT, config, DEVICE, warnings.append, tmp_path):
        config.build({"conv1": 1.0})
        built(tmp_path, {"conv2": 2.0}, FakeConfig("another"))
    assert len(warnings) == 1
    assert "refuses what it holds" in warnings[0]
    assert kept(tmp_path) == {"conv1": 1.0}


def test_a_library_that_takes_no_cache_at_all_builds_without(tmp_path: Path) -> None:
    for config in (NoCache(), NotTaken()):
        measured, warnings = built(tmp_path, {"conv1": 1.0}, config)
        assert measured == {"conv1": 1.0}
        assert len(warnings) == 1
        assert "cannot be used, and kernels are timed anew: tensorrt 10.9.0.34" in warnings[0]
    assert not path_in(tmp_path).exists()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    measured, warnings = built(tmp_path / "file" / "timing", {"conv1": 1.0})
    assert measured == {"conv1": 1.0}
    assert len(warnings) == 1
    assert "cannot be used, and kernels are timed anew: Not a directory" in warnings[0]


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    tmp_path.chmod(0o755)
    measured, warnings = json.loads(done.stdout)
    assert measured == {"conv1": 1.0}
    assert len(warnings) == 1
    assert "cannot be used, and kernels are timed anew: Permission denied" in warnings[0]
    assert names(tmp_path) == []


def test_a_file_that_cannot_be_replaced_is_two_warnings_and_no_failure(tmp_path: Path) -> None:
    path_in(tmp_path).mkdir()
    measured, warnings = built(tmp_path, {"conv1": 1.0})
    assert measured == {"conv1": 1.0}
    unreadable, unwritable = warnings
    assert "is damaged and is made anew: it cannot be read: Is a directory" in unreadable
    assert "cannot be written, and the next build gains nothing: Is a directory" in unwritable
    assert names(tmp_path) == sorted([path_in(tmp_path).name, f"{path_in(tmp_path).name}.lock"])


def test_a_full_disk_is_a_warning_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path, {"first": 1.0})

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        measured, warnings = built(tmp_path, {"second": 2.0})
    assert measured == {"second": 2.0}
    assert len(warnings) == 1
    assert "cannot be written, and the next build gains nothing: No space left on device" in warnings[0]
    assert kept(tmp_path) == {"first": 1.0}
    assert len(names(tmp_path)) == 2
