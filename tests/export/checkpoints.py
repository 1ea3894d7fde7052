"""Checkpoint files for tests."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError, UntrustedError
from resnet_export.resnet import ResNetConfig
from tests.export.models import live_resnet

SMALLEST = ResNetConfig(block="basic", layers=(1,), widths=(2,), stem="cifar", classes=2)


def small_state_dict() -> dict[str, Tensor]:
    """A few hundred numbers, float32 but for the counters."""
    return {name: tensor.clone() for name, tensor in live_resnet(SMALLEST).state_dict().items()}


def saved(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def saved_legacy(path: Path, value: object) -> Path:
    return saved(path, value, _use_new_zipfile_serialization=False)


def saved_safetensors(path: Path, value: Mapping[str, Tensor]) -> Path:
    from safetensors.torch import save_file

    save_file(dict(value), path)
    return path


def saved_tar(path: Path, tensor: Tensor, *, payload: object = None) -> Path:
    """The layout of PyTorch 0.1: a tar of pickles, with one float32 tensor as ``weight`` and ``payload`` beside it."""
    storages = pickle.dumps(1, 2) + pickle.dumps((1, "cpu", torch.FloatStorage), 2)
    # The storage itself: its number of elements, then the numbers.
    storages += tensor.numel().to_bytes(8, "little") + tensor.numpy().tobytes() + pickle.dumps([], 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((7, 1, torch.FloatTensor), 2)
    tensors += tensor.ndim.to_bytes(4, "little") + bytes(4)
    for numbers in (tensor.shape, tensor.stride(), (0,)):
        tensors += b"".join(int(number).to_bytes(8, "little") for number in numbers)

    class Persistent(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return 7 if isinstance(item, Tensor) else None

    buffer = io.BytesIO()
    Persistent(buffer, 2).dump({"weight": tensor, "payload": payload})
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("storages", storages), ("tensors", tensors), ("pickle", buffer.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def rewritten_zip(source: Path, target: Path, changes: Mapping[str, bytes | None], *, compress: int = 0) -> Path:
    """A copy of a zip archive with records, by the end of their names, replaced or (None) left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression=compress) as new:
        for info in old.infolist():
            data: bytes | None = old.read(info)
            for ending, replacement in changes.items():
                if info.filename.endswith(ending):
                    data = replacement
            if data is not None:
                new.writestr(info.filename, data, compress_type=compress)
    return target


def refused(path: Path, **options: Any) -> str:
    """The sentence with which the file is refused."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_file(path, **options)
    assert not isinstance(caught.value, UntrustedError)
    assert caught.value.exit_status == 2
    assert path.name in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@dataclasses.dataclass
class Payload:
    """An object whose pickle creates ``marker`` when it is loaded by Python's own unpickler."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))
