"""The same checkpoint gives the same bytes, wherever and in whichever process it is exported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_export
from tests.export.commands import SHAPE, names, run

FILES = ["check.npz", "labels.txt", "manifest.json", "model.fp16.onnx", "model.fp32.onnx", "report.html", "report.json"]


@pytest.fixture(scope="module")
def exports(
    tiny_checkpoint: Path, tiny_reference: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two bundles, from two folders, of processes that hash strings differently."""
    made = []
    for seed, folder_name in (("1", "first-folder"), ("4242", "second-folder")):
        folder = tmp_path_factory.mktemp(folder_name)
        shutil.copy(tiny_checkpoint, folder / "tiny.pt")
        (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n")
        np.savez(folder / "reference.npz", **tiny_reference)
        # One names its files from the working directory, the other by whole paths.
        prefix = Path() if seed == "1" else folder
        done = run(
            prefix / "tiny.pt", *SHAPE, "-o", prefix / "out", "--labels", prefix / "labels.txt",
            "--reference", prefix / "reference.npz", "--engine", "none",
            cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(folder / "out")
    return made[0], made[1]


def without_times(data: bytes) -> Any:
    """report.json, or the manifest that holds its digest, without what differs from run to run."""
    found = json.loads(data)
    if "seconds" in found:
        assert all(value >= 0 for value in found.pop("seconds").values())
    else:
        assert set(found.pop("report")) == {"path", "sha256", "size"}
        assert len(found.pop("sha256")) == 64
    return found


def test_graphs_checks_and_labels_are_the_same_bytes(exports: tuple[Path, Path]) -> None:
    first, second = exports
    assert names(first) == names(second) == FILES
    for name in ("model.fp32.onnx", "model.fp16.onnx", "check.npz", "labels.txt"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_manifest_and_report_differ_in_the_times_alone(exports: tuple[Path, Path]) -> None:
    first, second = exports
    for name in ("manifest.json", "report.json"):
        assert without_times((first / name).read_bytes()) == without_times((second / name).read_bytes())


def test_no_path_of_this_machine_stands_in_the_bundle(exports: tuple[Path, Path]) -> None:
    source = Path(resnet_export.__file__).parent
    for bundle in exports:
        folder = bundle.parent
        hidden = [str(folder), folder.name, str(folder.parent), str(source), str(Path.home()) + "/", "site-packages",
                  "stack_trace", ".staging-", ".py"]  # fmt: skip
        for path in bundle.iterdir():
            data = path.read_bytes()
            assert [word for word in hidden if word.encode() in data] == [], path.name
