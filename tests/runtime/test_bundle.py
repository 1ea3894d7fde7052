"""A bundle on disk: every file that is not the one that was listed is noticed."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BundleError, ManifestError
from resnet_runtime.manifest import Output

from .bundles import (
    LABELS,
    ONNX,
    check_npz,
    color_means,
    record,
    sample_files,
    sample_manifest,
    write_bundle,
    write_sample,
)

FILES = ("model.fp32.onnx", "labels.txt", "check.npz")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "sample.bundle")


def read(bundle: Path, name: str) -> object:
    """Open the bundle and take ``name`` out of it, as a session does."""
    opened = Bundle.open(bundle)
    if name == "labels.txt":
        return opened.labels()
    if name == "check.npz":
        return opened.check_data()
    return opened.read(opened.manifest.variants[0].file)


def refusal(bundle: Path, name: str = "model.fp32.onnx") -> str:
    with pytest.raises(BundleError) as caught:
        read(bundle, name)
    return str(caught.value)


def test_a_sound_bundle_is_read(path: Path) -> None:
    bundle = Bundle.open(path)
    assert bundle.path == path
    assert bundle.read(bundle.manifest.variants[0].file) == ONNX
    assert bundle.labels() == LABELS
    data = bundle.check_data()
    assert data.inputs.shape == (4, 3, 8, 8)
    np.testing.assert_array_equal(data.outputs["logits"], color_means(data.inputs)["logits"].astype(np.float64))


def test_a_bundle_without_labels_has_none(tmp_path: Path) -> None:
    assert Bundle.open(write_sample(tmp_path / "b", files={"labels.txt": None})).labels() is None


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"a\nb\n", ("a", "b")),
        (b"a\nb", ("a", "b")),
        (b"a\n\n", ("a", "")),
        ("né\n".encode(), ("né",)),
        (b"a\r\n", ("a\r",)),
    ],
)
def test_a_line_is_a_label(tmp_path: Path, content: bytes, labels: tuple[str, ...]) -> None:
    outputs = (Output(name="logits", shape=(len(labels),)),)
    assert Bundle.open(write_sample(tmp_path / "b", files={"labels.txt": content}, outputs=outputs)).labels() == labels


@pytest.mark.parametrize(
    ("content", "shape", "found"),
    [
        (b"a\nb\nc\n", (4,), "labels.txt has 3 labels, and the model has 4 classes"),
        (b"a\nb\nc\nd\n\n", (4,), "labels.txt has 5 labels, and the model has 4 classes"),
        (b"", (4,), "labels.txt has 1 labels, and the model has 4 classes"),
        (b"a\nb\nc\nd\n", (4, 2, 2), "labels.txt has 4 labels, and the model has an output of the shape (4, 2, 2)"),
    ],
)
def test_labels_that_are_not_one_a_class(tmp_path: Path, content: bytes, shape: tuple[int, ...], found: str) -> None:
    outputs = (Output(name="logits", shape=shape),)
    bundle = write_sample(tmp_path / "b", files={"labels.txt": content}, outputs=outputs)
    assert refusal(bundle, "labels.txt") == f"{bundle}: {found}: export the model again with one label a class"


def test_labels_are_of_the_first_output(tmp_path: Path) -> None:
    outputs = (Output(name="logits", shape=(4,)), Output(name="features", shape=(9,)))
    assert Bundle.open(write_sample(tmp_path / "b", outputs=outputs)).labels() == LABELS


def test_labels_that_are_not_utf_8(tmp_path: Path) -> None:
    bundle = write_sample(tmp_path / "b", files={"labels.txt": b"caf\xe9\n"})
    assert refusal(bundle, "labels.txt") == f"{bundle}: labels.txt is not UTF-8 at byte 3"


def test_a_file_that_is_not_listed_is_ignored(path: Path) -> None:
    (path / "manifest.json.sig").write_bytes(b"a signature")
    assert Bundle.open(path).labels() == LABELS


def test_the_bundle_itself_may_be_reached_through_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    assert Bundle.open(tmp_path / "link").labels() == LABELS


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte(path: Path, name: str) -> None:
    data = bytearray((path / name).read_bytes())
    for where in (0, len(data) // 2, len(data) - 1):
        data[where] ^= 1
        (path / name).write_bytes(data)
        assert (
            refusal(path, name) == f"{path}: {name} does not match the SHA-256 in the manifest: copy the bundle again"
        )
        data[where] ^= 1


@pytest.mark.parametrize("name", FILES)
def test_missing_byte(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1])
    assert refusal(path, name) == (
        f"{path}: the manifest lists {name} with {len(data)} bytes, and it has {len(data) - 1} bytes: "
        "copy the bundle again"
    )


@pytest.mark.parametrize("name", FILES)
def test_extra_byte(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data + b"\n")
    assert refusal(path, name) == (
        f"{path}: the manifest lists {name} with {len(data)} bytes, and it has more: copy the bundle again"
    )


@pytest.mark.parametrize("name", FILES)
def test_missing_file(path: Path, name: str) -> None:
    (path / name).unlink()
    assert refusal(path, name) == f"{path}: {name} is missing: copy the bundle again"


def test_only_what_is_used_is_read(path: Path) -> None:
    (path / "check.npz").unlink()
    assert read(path, "model.fp32.onnx") == ONNX


def test_flipped_byte_in_the_manifest(path: Path) -> None:
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"colors.pt", b"colorz.pt"))
    with pytest.raises(ManifestError) as caught:
        Bundle.open(path)
    assert str(caught.value) == (
        f"{manifest} does not match its own SHA-256: it was changed after it was written; copy the bundle again"
    )


def test_too_large_manifest(path: Path) -> None:
    with (path / "manifest.json").open("ab") as file:
        file.truncate(2**34)  # sparse: it would not fit into memory, and only the limit of it is read
    assert "bytes, and 4194304 are allowed" in refusal(path)


def test_too_large_file(path: Path) -> None:
    with (path / "model.fp32.onnx").open("ab") as file:
        file.truncate(2**34)
    assert "and it has more" in refusal(path)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_link_inside(path: Path, name: str) -> None:
    elsewhere = path.parent / "elsewhere"
    (path / name).rename(elsewhere)
    (path / name).symlink_to(elsewhere)
    assert refusal(path, name) == f"{path}: {name} is a link, and a bundle holds none"


def test_folder_inside_that_is_a_link(tmp_path: Path) -> None:
    files = {**sample_files(), "engines/model.onnx": ONNX}
    manifest = sample_manifest(files, report=record("engines/model.onnx", ONNX))
    bundle = write_bundle(tmp_path / "b", files, manifest)
    (bundle / "engines").rename(tmp_path / "engines")
    (bundle / "engines").symlink_to(tmp_path / "engines")
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle).read(manifest.report)
    assert str(caught.value) == f"{bundle}: engines/model.onnx goes through a link, and a bundle holds none"


def make_folder(path: Path) -> None:
    path.mkdir()


KINDS: dict[str, Callable[[Path], None]] = {"fifo": os.mkfifo, "folder": make_folder}


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_something_else_in_place_of_a_file(path: Path, name: str, make: Callable[[Path], None]) -> None:
    (path / name).unlink()
    make(path / name)
    assert refusal(path, name) == f"{path}: {name} is not a regular file"


def test_no_such_directory(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path / "b")
        == f"{tmp_path / 'b'} does not exist, and a bundle is a directory that resnet-export wrote"
    )


def test_a_file_is_not_a_bundle(path: Path) -> None:
    file = path / "model.fp32.onnx"
    assert refusal(file) == f"{file} is a file, and a bundle is a directory that resnet-export wrote"


def test_a_directory_is_not_a_bundle(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is not a bundle: it has no manifest.json"


def test_a_name_that_the_system_refuses(tmp_path: Path) -> None:
    assert "cannot be opened: File name too long" in refusal(tmp_path / ("b" * 300))


def not_an_array() -> bytes:
    """An archive whose input is a text."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("input.npy", b"text")
        archive.writestr("output.logits.npy", b"text")
    return made.getvalue()


INPUTS = np.zeros((4, 3, 8, 8), np.float32)
LOGITS = np.zeros((4, 4), np.float64)
CHECKS = {
    "not an archive": (b"PK\x03\x04 but no archive", "cannot be read"),
    "an array instead": (b"\x93NUMPY", "cannot be read"),
    "a cut archive": (check_npz(INPUTS, {"logits": LOGITS})[:-30], "cannot be read"),
    "no array": (not_an_array(), "the inputs in check.npz are"),
    "no such output": (check_npz(INPUTS, {"features": LOGITS}), "cannot be read"),
    "other samples": (check_npz(INPUTS, {"logits": LOGITS[:3]}), "output.logits in check.npz does not fit its inputs"),
    "other classes": (
        check_npz(INPUTS, {"logits": LOGITS[:, :3]}),
        "output.logits in check.npz does not fit its inputs",
    ),
    "other precision": (check_npz(INPUTS, {"logits": LOGITS.astype(np.float16)}), "does not fit its inputs"),
    "other size": (check_npz(INPUTS[..., 1:], {"logits": LOGITS}), "does not fit the manifest's input"),
    "other dtype": (check_npz(INPUTS.astype(np.float64), {"logits": LOGITS}), "does not fit the manifest's input"),
    "no sample": (check_npz(INPUTS[:0], {"logits": LOGITS[:0]}), "does not fit the manifest's input"),
    "a scalar": (check_npz(np.float32(0), {"logits": LOGITS}), "does not fit the manifest's input"),
    "an object": (check_npz(np.array([{}], object), {"logits": LOGITS}), "cannot be read"),
}


@pytest.mark.parametrize(("data", "message"), CHECKS.values(), ids=CHECKS.keys())
def test_check_data_that_does_not_fit(tmp_path: Path, data: bytes, message: str) -> None:
    bundle = write_sample(tmp_path / "b", files={"check.npz": data})
    assert message in refusal(bundle, "check.npz")


def test_a_claimed_size_is_not_allocated(tmp_path: Path) -> None:
    bundle = Bundle.open(write_sample(tmp_path / "b"))
    record = dataclasses.replace(bundle.manifest.check, size=2**52)
    with pytest.raises(BundleError, match=r"the manifest lists check\.npz with 4503599627370496 bytes"):
        bundle.read(record)
