"""Files that claim far more than they have are refused before anything is allocated for them."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

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
HUGE = 1 << 40


def peak_of(path: Path) -> int:
    """The most memory that Python's allocator gave while the file was refused, in bytes."""
    tracemalloc.start()
    refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch's loader fail the test: the claim has to be refused before it is reached."""

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("torch.load was reached")

    monkeypatch.setattr(torch, "load", reached)


def claiming(data: bytes, elements: int) -> bytes:
    """The pickle with the number of elements of its storage, 216 / 4 = 54, put up to ``elements``."""
    old = b"X\x03\x00\x00\x00cpu"
    at = data.index(old)
    at = data.index(b"K\x36", at)  # BININT1 54
    number = b"\x8a\x08" + elements.to_bytes(8, "little")  # LONG1 of eight bytes
    return data[:at] + number + data[at + 2 :]


def test_storage_that_claims_a_tebibyte_in_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a.pt", STATE)
    with zipfile.ZipFile(source) as archive:
        data = archive.read("a/data.pkl")
    path = rewritten_zip(source, tmp_path / "model.pt", {"data.pkl": claiming(data, HUGE)})
    forbid_loading(monkeypatch)
    assert f"its storage '0' is of 216 bytes and should have {HUGE * 4}" in refused(path)


def test_storage_that_claims_a_tebibyte_in_a_legacy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved_legacy(tmp_path / "model.pt", STATE)
    written(path, claiming(path.read_bytes(), HUGE))
    forbid_loading(monkeypatch)
    needed = sum(8 + tensor.nbytes for tensor in STATE.values()) - 216 + HUGE * 4
    assert f"bytes of tensors are left of {needed}" in refused(path)


def reaching_past_the_end(data: bytes) -> bytes:
    """The pickle with the strides (66, 1) of its tensor of (77, 66) changed to (67, 1)."""
    assert data.count(b"KMKB\x86") == data.count(b"KBK\x01\x86") == 1
    return data.replace(b"KBK\x01\x86", b"KCK\x01\x86")


def test_tensor_that_reaches_past_its_storage_in_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path / "a.pt", {"w.a": torch.zeros(77, 66)})
    with zipfile.ZipFile(source) as archive:
        data = archive.read("a/data.pkl")
    path = rewritten_zip(source, tmp_path / "model.pt", {"data.pkl": reaching_past_the_end(data)})
    forbid_loading(monkeypatch)
    assert "a tensor of 5082 elements in a storage of 5082" in refused(path)


def test_tensor_that_reaches_past_its_storage_in_a_legacy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved_legacy(tmp_path / "model.pt", {"w.a": torch.zeros(77, 66)})
    written(path, reaching_past_the_end(path.read_bytes()))
    forbid_loading(monkeypatch)
    assert "a tensor of 5082 elements in a storage of 5082" in refused(path)


def test_tensor_that_repeats_its_storage(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", {"w.a": torch.ones(1).expand(1 << 40)})
    assert f"a tensor of {1 << 40} elements in a storage of 1" in refused(path)


class Allocating:
    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, (HUGE,))


@pytest.mark.parametrize("function", [torch.FloatTensor, bytearray], ids=["torch.FloatTensor", "bytearray"])
def test_call_that_makes_a_tebibyte_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    path = saved(tmp_path / "model.pt", {"w.a": Allocating(function)})
    forbid_loading(monkeypatch)
    assert "asks for memory without giving data" in refused(path)


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, 100 << 20])
def test_safetensors_header_that_claims_more_than_the_file(tmp_path: Path, length: int) -> None:
    path = saved_safetensors(tmp_path / "model.safetensors", STATE)
    written(path, length.to_bytes(8, "little") + path.read_bytes()[8:])
    assert f"claims {length} bytes" in refused(path)
    assert peak_of(path) < 4 << 20


def test_string_that_claims_more_than_the_file_in_a_legacy_pickle(tmp_path: Path) -> None:
    path = saved_legacy(tmp_path / "model.pt", STATE)
    data = path.read_bytes()
    at = data.index(b"X\x0c\x00\x00\x00conv1.weight")
    written(path, data[: at + 1] + b"\xff\xff\xff\x7f" + data[at + 5 :])
    assert peak_of(path) < 4 << 20


def test_pickle_that_is_larger_than_any_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_export.checkpoint.torch_files.MAX_PICKLE_BYTES", 100)
    assert "far more than its names need" in refused(saved(tmp_path / "model.pt", STATE))
