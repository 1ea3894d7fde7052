"""``resnet-export`` as a program: its streams, signals, a full disk, and an installation that lacks packages."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_export import bundle_writer
from tests.export.commands import PROGRAM, SHAPE, names, refused, run

# The program, stopped for good once the first file of the bundle is written.
PAUSED = """
import signal, time
from resnet_export import bundle_writer, cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits one that ignores it

def add_and_wait(self, name, data):
    record = add(self, name, data)
    print("staged", flush=True)
    time.sleep(600)
    return record

add, bundle_writer.StagedBundle.add = bundle_writer.StagedBundle.add, add_and_wait
cli.main()
"""

# The same without a network, for speed: staging is all that its pipeline does.
STAGING = """
import sys, types
from resnet_export.bundle_writer import staged_bundle

def stage(checkpoint, destination, options, progress):
    with staged_bundle(destination) as staged:
        staged.add("model.fp32.onnx", b"")

sys.modules["resnet_export.pipeline"] = types.SimpleNamespace(bundle_from_checkpoint=stage)
"""

# The program, where no file may grow past 20 kB: the disk is full in the middle of model.fp32.onnx.
LIMITED = """
import resource
from resnet_export import cli

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
cli.main()
"""


def test_a_name_that_no_encoding_fits(here: Path, tiny_checkpoint: Path) -> None:
    destination = os.fsdecode(b"out\xff[/b]:cat:.bundle").replace("/", "")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = run(tiny_checkpoint, *SHAPE, "--precision", "fp32", "-o", destination, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert names(here) == [destination]
    assert done.stdout.count(b"\n") == 1
    assert json.loads(done.stdout)["bundle"] == "out\ufffd[b]:cat:.bundle"
    assert b"[b]:cat:.bundle' IMAGE.jpg\n" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("no.pt",), ("no.pt", "--batch", "x")], ids=["input", "option"])
def test_a_refusal_is_one_line_on_standard_error(here: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1
    assert names(here) == []


def paused(program: str, checkpoint: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", program, checkpoint, *SHAPE, "--precision", "fp32", "-o", "out"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "staged\n"
    return child


def test_a_terminated_export_leaves_nothing(here: Path, tiny_checkpoint: Path) -> None:
    with paused(PAUSED, tiny_checkpoint) as child:
        assert len(names(here)) == 1, "the staging folder"
        child.terminate()
        assert child.wait(30) == 128 + signal.SIGTERM
    assert names(here) == []


def test_an_interrupted_export_leaves_nothing(here: Path, tiny_checkpoint: Path) -> None:
    with paused(STAGING + PAUSED, tiny_checkpoint) as child:
        assert len(names(here)) == 1, "the staging folder"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    assert names(here) == []


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_a_full_disk(here: Path, tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tiny_checkpoint, *SHAPE, "--precision", "fp32", "--quiet", "--json"],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    message = f"model.fp32.onnx of {here}/tiny.bundle cannot be written: File too large"
    assert done.stderr.decode() == f"Error: {message}\n"
    assert json.loads(done.stdout) == {"error": {"type": "WriteError", "message": message, "details": []}}
    assert names(here) == []


def test_a_full_disk(here: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_writer.os, "fsync", full)
    error = refused(tiny_checkpoint, *SHAPE, "--precision", "fp32", status=1)
    assert error["type"] == "WriteError"
    assert error["message"] == f"check.npz of {here}/tiny.bundle cannot be written: No space left on device"


@pytest.mark.usefixtures("here")
def test_a_disk_that_is_full_from_the_start(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_writer.tempfile, "mkdtemp", full)
    error = refused(tiny_checkpoint, *SHAPE, status=1)
    assert error["type"] == "WriteError"
    assert error["message"] == "tiny.bundle cannot be written: No space left on device"


@pytest.mark.usefixtures("here")
def test_an_image_size_that_no_memory_holds(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, "--input-shape", "3,1000000,1000000", status=1)
    assert error["message"].startswith("the export needs more memory than this machine has")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("missing", ["rich", "torch"])
def test_a_package_that_is_not_installed_is_named(missing: str) -> None:
    """As after an installation without extras, which is one of the runtime alone."""
    program = f"import sys; sys.modules[{missing!r}] = None; from resnet_export.cli import main; main()"
    done = subprocess.run([PROGRAM[0], "-c", program, "model.pt"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"Error: the exporter needs the package {missing!r}, which is not installed here: "
        "pip install 'resnet-export[cpu]'\n"
    )


def test_standard_output_that_is_full_is_one_sentence_and_the_bundle_is_there(
    here: Path, tiny_checkpoint: Path
) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        command = [
            sys.executable,
            "-m",
            "resnet_export",
            str(tiny_checkpoint),
            *SHAPE,
            "--precision",
            "fp32",
            "--quiet",
        ]
        done = subprocess.run([*command, "--json"], stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "Error: tiny.bundle is written, and standard output is not: No space left on device\n"
    )
    assert names(here) == ["tiny.bundle"]
