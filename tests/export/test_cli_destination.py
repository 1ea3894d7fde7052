"""``resnet-export`` where the bundle cannot go: refused before anything is read, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from tests.export.commands import SHAPE, refused

pytestmark = pytest.mark.usefixtures("here")

DESTINATIONS = {
    "file": lambda path: path.write_text("mine"),
    "folder": lambda path: (path / "mine").mkdir(parents=True),
    "empty folder": lambda path: path.mkdir(),
    "link to a folder": lambda path: (path.with_name("real").mkdir(), path.symlink_to("real")),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_a_destination_that_exists(here: Path, tiny_checkpoint: Path, kind: str) -> None:
    DESTINATIONS[kind](here / "out")
    error = refused(tiny_checkpoint, *SHAPE, "-o", "out")
    assert error["type"] == "DestinationError"
    assert error["message"] == "out exists: choose another -o, or replace it with --force"


@pytest.mark.parametrize("kind", DESTINATIONS)
def test_force_on_what_is_no_bundle(here: Path, tiny_checkpoint: Path, kind: str) -> None:
    DESTINATIONS[kind](here / "out")
    error = refused(tiny_checkpoint, *SHAPE, "-o", "out", "--force")
    assert error["type"] == "DestinationError"
    assert error["message"] == "out exists and is not a bundle, so --force does not replace it"


def test_a_bundle_at_the_destination(tiny_checkpoint: Path) -> None:
    Path("tiny.bundle").mkdir()
    Path("tiny.bundle/manifest.json").write_text("{}")
    error = refused(tiny_checkpoint, *SHAPE)
    assert error["message"] == "tiny.bundle exists: choose another -o, or replace it with --force"


def test_a_link_to_a_bundle_is_not_replaced(tiny_checkpoint: Path) -> None:
    Path("real").mkdir()
    Path("real/manifest.json").write_text("{}")
    Path("out").symlink_to("real")
    error = refused(tiny_checkpoint, *SHAPE, "-o", "out", "--force")
    assert error["message"] == "out exists and is not a bundle, so --force does not replace it"


def test_a_folder_that_is_missing(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "-o", "no/such/out")
    assert error["message"] == "the folder no/such for the bundle does not exist: make it first"


def test_a_folder_that_refuses_even_root(tiny_checkpoint: Path) -> None:
    error = refused(tiny_checkpoint, *SHAPE, "-o", "/proc/out")
    assert error["type"] == "DestinationError"
    assert error["message"].startswith("/proc/out cannot be written: ")


def test_a_name_that_is_too_long(tiny_checkpoint: Path) -> None:
    for length in (250, 300):  # too long for the staging folder's name, and for any
        error = refused(tiny_checkpoint, *SHAPE, "-o", "o" * length)
        assert error["message"] == f"{'o' * length} cannot be written: File name too long: choose another -o"


def test_a_folder_without_permission(here: Path, tiny_checkpoint: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (here / "shut").mkdir(mode=0o500)
    with contextlib.ExitStack() as stack:
        stack.callback((here / "shut").chmod, 0o700)
        error = refused(tiny_checkpoint, *SHAPE, "-o", "shut/out")
    assert error["message"] == "shut/out cannot be written: Permission denied: choose another -o"
