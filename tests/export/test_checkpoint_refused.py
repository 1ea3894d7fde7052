"""What is no checkpoint, or a damaged one, is refused in one sentence with exit status 2: one test for each."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError
from tests.export.checkpoints import (
    refused,
    rewritten_zip,
    saved,
    saved_legacy,
    saved_safetensors,
    small_state_dict,
    written,
)

STATE = small_state_dict()


def cut(path: Path, size: int) -> Path:
    return written(path, path.read_bytes()[:size])


def test_missing_file(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "model.pt")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder: name the checkpoint file in it" in refused(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    assert "is empty" in refused(written(tmp_path / "model.pt", b""))


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert "no regular file" in refused(tmp_path / "model.pt")


def test_name_that_no_file_can_have() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint_from_file("model\0.pt")


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "model.pt", STATE)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # the superuser, as whom tests may run, is never denied

    monkeypatch.setattr(Path, "open", denied)
    assert "may not be read by this user" in refused(path)


def test_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "model.pt", STATE)

    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "load", failing)
    assert "Input/output error" in refused(path)


def image_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return buffer.getvalue()


def zip_bytes(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2), b=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (image_bytes("PNG"), "a PNG image"),
        (image_bytes("JPEG"), "a JPEG image"),
        (image_bytes("GIF"), "a GIF image"),
        (image_bytes("WEBP"), "a WebP image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(88), "an HDF5 file, such as Keras writes"),
        (gzip.compress(b"x" * 100), "a gzip archive: decompress it first"),
        (tar_bytes(), "a tar archive of other files: unpack it"),
        (b"\x08\x01\x12\xf4\x03\x0a\x10", "a TensorFlow SavedModel"),
        (bytes(100) + bytes.fromhex("57fb808b247547db"), "the index of a TensorFlow checkpoint"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "a TensorFlow Lite model"),
        (b"<!DOCTYPE html>\n<html><head>", "an HTML page, as a download that needs a login gives"),
        (b"\n<html lang=en>", "an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 102\n",
            "a Git LFS pointer, not the file itself: run git lfs pull",
        ),
        (b"Access denied.\n", "plain text"),
        ("Zugriff verweigert \u2013 Schl\u00fcssel fehlt".encode(), "plain text"),
        (json.dumps({"a": 1}).encode(), "a JSON document"),
        (b"<?xml version='1.0'?><net>", "an XML document"),
        (bytes(5000), "a file of zeros"),
        (bytes(range(128, 256)) * 3, "a file of a format that is not known here"),
        (b"%PDF-1.7\n", "a PDF document"),
        (np.lib.format.magic(1, 0) + bytes(20), "a NumPy array"),
        (npz_bytes(), "a NumPy .npz archive"),
        (zip_bytes("config.json", "model.weights.h5"), "a Keras model"),
        (zip_bytes("[Content_Types].xml", "word/document.xml"), "an Office document"),
        (zip_bytes("a/b.txt", "c.txt"), "a zip archive of other files"),
        (zip_bytes("model.pt"), "a zip archive of one file, 'model.pt'"),
        (zip_bytes(), "an empty zip archive"),
        (zip_bytes("m/.data/extern_modules", "m/model.pkl"), "a torch.package archive"),
        (zip_bytes("m/archive_format", "m/data/aotinductor/model/a.so"), "a compiled AOTInductor package"),
        (pickle.dumps(np.zeros(3)), "a Python pickle that torch.save did not write"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_foreign_file_is_named(tmp_path: Path, data: bytes, name: str) -> None:
    assert f"model.pt is {name}" in refused(written(tmp_path / "model.pt", data))


@pytest.mark.parametrize("size", [10, 100, 500, -1])
def test_zip_that_is_cut_off(tmp_path: Path, size: int) -> None:
    path = cut(saved(tmp_path / "model.pt", STATE), size)
    assert "a zip archive that is cut off or damaged" in refused(path)


@pytest.mark.parametrize("size", [2, 8, 14, 40, 200, -100, -1])
def test_legacy_pickle_that_is_cut_off(tmp_path: Path, size: int) -> None:
    path = cut(saved_legacy(tmp_path / "model.pt", STATE), size)
    assert "model.pt is cut off" in refused(path)


@pytest.mark.parametrize("size", [9, 100, -1])
def test_safetensors_that_is_cut_off(tmp_path: Path, size: int) -> None:
    path = cut(saved_safetensors(tmp_path / "model.safetensors", STATE), size)
    sentence = refused(path)
    assert "cut off or damaged" in sentence or "not known here" in sentence


def test_weight_with_a_flipped_bit(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"w.a": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 1001] ^= 4
    assert "Bad CRC-32 for file 'model/data/0'" in refused(written(path, bytes(data)))


def test_zip_without_one_of_its_storages(tmp_path: Path) -> None:
    path = rewritten_zip(saved(tmp_path / "a.pt", STATE), tmp_path / "model.pt", {"data/3": None})
    assert "its storage '3' is missing" in refused(path)


def test_zip_with_a_storage_that_is_too_short(tmp_path: Path) -> None:
    path = rewritten_zip(saved(tmp_path / "a.pt", STATE), tmp_path / "model.pt", {"data/0": b"1234"})
    assert "its storage '0' is of 4 bytes and should have 216" in refused(path)


def test_zip_with_compressed_records(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pt", {"w.a": torch.zeros(1 << 20)})
    path = rewritten_zip(source, tmp_path / "model.pt", {}, compress=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 14
    assert "PyTorch stores them uncompressed" in refused(path)


def test_zip_whose_records_overlap(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {f"w.{n}": torch.full((1000,), float(n)) for n in range(3)})
    data = bytearray(path.read_bytes())
    # Let the directory say that each storage is as long as the file.
    size = len(data).to_bytes(4, "little")
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        if b"/data/" in data[at + 46 : at + 60]:
            data[at + 20 : at + 24] = data[at + 24 : at + 28] = size
        at = data.find(b"PK\x01\x02", at + 1)
    assert "claim more bytes than the file has" in refused(written(path, bytes(data)))


def test_zip_whose_record_begins_outside_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 42 : at + 46] = b"\xf0\xff\xff\x7f"
    assert "begin outside the file" in refused(written(path, bytes(data)))


def test_zip_with_two_records_of_one_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model/data/0", bytes(216))
    assert "two records of one name" in refused(path)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    assert "encrypted" in refused(written(path, bytes(data)))


@pytest.mark.parametrize(
    ("value", "contents"),
    [
        ({"epoch": 1, "lr": 0.1}, "a dict of 'epoch', 'lr'"),
        ({}, "an empty dict"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
        (3, "an int"),
        ({1: torch.zeros(2)}, "a dict of 1"),
    ],
    ids=["numbers", "empty dict", "list", "tensor", "int", "names that are numbers"],
)
@pytest.mark.parametrize("save", [saved, saved_legacy])
def test_file_without_a_network(tmp_path: Path, save: Any, value: object, contents: str) -> None:
    assert f"holds {contents}, and no tensors of a network" in refused(save(tmp_path / "model.pt", value))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("save", [saved, saved_legacy, saved_safetensors])
def test_weight_that_is_not_finite(tmp_path: Path, save: Any, number: float) -> None:
    state = small_state_dict()
    state["layer1.0.conv2.weight"][1, 0, 2, 2] = number
    assert "NaN or infinity in layer1.0.conv2.weight:" in refused(save(tmp_path / "model.pt", state))


def test_weight_that_float32_cannot_hold(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"w.a": torch.tensor([1e300], dtype=torch.float64)})
    assert "NaN or infinity in w.a" in refused(path)


def test_many_weights_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    state = {f"w.{n}": torch.tensor(float("nan")) for n in range(9)}
    assert "in w.0, w.1, w.2 and 6 more" in refused(saved(tmp_path / "model.pt", state))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_tensor(tmp_path: Path) -> None:
    state = {"w.a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}
    assert "the tensor w.a of model.pt is quantized" in refused(saved(tmp_path / "model.pt", state))


def test_sparse_tensor(tmp_path: Path) -> None:
    state = {"w.a": torch.eye(3).to_sparse()}
    assert "the tensor w.a of model.pt is sparse" in refused(saved(tmp_path / "model.pt", state))


def test_complex_tensor(tmp_path: Path) -> None:
    state = {"w.a": torch.ones(3, dtype=torch.complex64), "w.b": torch.ones(3, dtype=torch.complex64)}
    assert "the tensors w.a, w.b of model.pt are complex" in refused(saved(tmp_path / "model.pt", state))


def test_meta_tensor(tmp_path: Path) -> None:
    state = {"w.a": torch.ones(3, device="meta")}
    assert "is without data (on the meta device)" in refused(saved(tmp_path / "model.pt", state))


@pytest.mark.parametrize("save", [saved, saved_safetensors])
def test_float8_tensor(tmp_path: Path, save: Any) -> None:
    state = {"w.a": torch.ones(3).to(torch.float8_e4m3fn)}
    assert "is of type float8_e4m3fn" in refused(save(tmp_path / "model.pt", state))


def test_name_that_is_no_text(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"conv1.weight\x1b[2J\n": torch.ones(1)})
    assert r"names are no text: 'conv1.weight\x1b[2J\n'" in refused(path)


def test_weights_of_a_file_that_has_one_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", STATE)
    assert "which holds one network without a name" in refused(path, weights="ema")
