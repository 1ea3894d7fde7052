"""``resnet-export`` in this process or in one of its own, and what it must hold to whenever it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from resnet_export.cli import command

PROGRAM = (sys.executable, "-m", "resnet_export")
SHAPE = ("--input-shape", "3,16,16")


def invoked(*arguments: str | Path) -> Result:
    """In this process; what is raised except SystemExit is a traceback, and fails the test that asked."""
    result = CliRunner().invoke(command, [os.fspath(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own."""
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, timeout=120, check=False, **options)


def names(folder: Path) -> list[str]:
    """What is in ``folder``, hidden or not, sorted."""
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder: Path) -> Mapping[str, object]:
    """Everything in ``folder``: bytes of files, targets of links, None for folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def refused(*arguments: str | Path, status: int = 2) -> dict[str, Any]:
    """The error of a command that has to fail, run in the working directory, which it has to leave as it was.

    Asserted besides: one JSON object on standard output, the same sentence and details on standard error and nothing
    else there, and no line break in the sentence.
    """
    before = snapshot(Path.cwd())
    result = invoked(*arguments, "--json", "--quiet")
    assert (result.exit_code, snapshot(Path.cwd())) == (status, before), result.output
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert list(found) == ["error"]
    error: dict[str, Any] = found["error"]
    assert sorted(error) == ["details", "message", "type"]
    assert result.stderr.splitlines() == [f"Error: {error['message']}", *(f"  {line}" for line in error["details"])]
    return error
