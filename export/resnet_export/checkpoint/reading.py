"""From a file to a ``Checkpoint``."""

from __future__ import annotations

import dataclasses
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn

from resnet_export.errors import CheckpointError
from resnet_export.files import file_digest
from resnet_runtime.manifest import Source

from . import archives, recognition
from .onnx_files import network_from_onnx
from .programs import module_from_torchscript, program_from_export
from .record import Checkpoint
from .safetensors_files import tensors_from_safetensors
from .tensors import module_ready, require_finite, tensors_from_state_dict
from .torch_files import object_from_legacy, object_from_tar, object_from_zip
from .unwrapping import network_from_object


def checkpoint_from_file(
    path: str | os.PathLike[str], *, trust: bool = False, weights: str | None = None
) -> Checkpoint:
    """Read a checkpoint, whatever its name is: formats are told by what is in the file.

    Read are what ``torch.save`` wrote (the zip of today, the pickle and tar of before), safetensors, TorchScript and
    torch.export archives, and ONNX models. Wrappers of training scripts are taken off; see ``unwrapping``.

    Args:
        path: the file.
        trust: whether code in the file may be run. Without it a pickled module, TorchScript and torch.export are
            refused, and so is a pickle that needs more than tensors and plain values.
        weights: which entry to take where the file holds several networks, such as "ema".

    Raises:
        UntrustedError: reading it would run code, and ``trust`` is false. No code was run.
        CheckpointError: the file cannot be read, is cut off or damaged, is something else (which is named), holds no
            network, or holds numbers that are not finite or not plain float32, float16, bfloat16 or float64.
    """
    path = Path(path)
    size = _size(path)
    try:
        with ThreadPoolExecutor(1) as pool:  # hashing takes as long as reading, and another core
            digest = pool.submit(file_digest, path)
            unsigned = Source(name=path.name, sha256="", size=size)
            checkpoint = _checkpoint(path, unsigned, trust=trust, weights=weights)
            return dataclasses.replace(checkpoint, source=dataclasses.replace(unsigned, sha256=digest.result()))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path.name} needs more memory than this machine has") from error


def _size(path: Path) -> int:
    """The file's size in bytes, where it is a file that can be read and not empty."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise CheckpointError(f"{path} is a folder: name the checkpoint file in it")
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no regular file: copy what it gives into one")
        if status.st_size == 0:
            raise CheckpointError(f"{path} is empty: copy or download it again")
        with path.open("rb") as file:
            file.read(1)
        return status.st_size
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}: check its name") from error
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by this user: change its permissions") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path!s} cannot be read: {error}") from error


def _checkpoint(path: Path, source: Source, *, trust: bool, weights: str | None) -> Checkpoint:
    with path.open("rb") as file:
        kind = recognition.kind_from_file(file, source.size)
        if kind is None:
            name = recognition.foreign_name(file, source.size)
            raise CheckpointError(f"{path.name} is {name}" + ("" if ":" in name else ", and no PyTorch checkpoint"))
    if kind == recognition.SAFETENSORS:
        loaded: Any = tensors_from_safetensors(path, source.size)
        return _network(source, "safetensors", loaded, weights)
    if kind == recognition.ONNX:
        if weights is not None:
            raise CheckpointError(f"--weights {weights} is not in {path.name}, an ONNX model: leave it out")
        network, notes = network_from_onnx(path)
        return Checkpoint(source=source, format=f"opset {network.opset}", onnx=network, notes=notes)
    if kind == recognition.LEGACY:
        return _network(source, "torch legacy", object_from_legacy(path, source.size, trust=trust), weights)
    if kind == recognition.TAR:
        return _network(source, "torch tar", object_from_tar(path, trust=trust), weights)
    archive = archives.archive_from_file(path, source.size)
    if archive.kind == archives.STATE:
        return _network(source, archive.kind, object_from_zip(path, archive, trust=trust), weights)
    if weights is not None:
        raise CheckpointError(
            f"--weights {weights} is not in {path.name}, a {archive.kind} archive of one network: leave it out"
        )
    if archive.kind == archives.TORCHSCRIPT:
        module, notes = module_ready(path.name, module_from_torchscript(path, trust=trust))
        return Checkpoint(source=source, format=archive.kind, module=module, notes=notes)
    program = program_from_export(path, trust=trust)
    require_finite(path.name, {**program.state_dict, **program.tensor_constants})
    return Checkpoint(source=source, format=archive.kind, program=program)


def _network(source: Source, container: str, loaded: Any, weights: str | None) -> Checkpoint:
    """The checkpoint of what was loaded, with the wrappers taken off."""
    found = network_from_object(source.name, loaded, weights=weights)
    if isinstance(found.value, nn.Module):
        module, notes = module_ready(source.name, found.value)
        return Checkpoint(
            source=source, format=f"{container}, pickled module", module=module, notes=(*found.notes, *notes)
        )
    tensors, notes = tensors_from_state_dict(source.name, found.value, source.size)
    return Checkpoint(
        source=source,
        format=container if container == "safetensors" else f"{container}, state_dict",
        state_dict=tensors,
        arch=found.arch,
        notes=(*found.notes, *notes),
    )
