"""What ``torch.save`` wrote: a zip archive, the pickle of before PyTorch 1.6, or the tar of before 0.1.10."""

from __future__ import annotations

import importlib
import io
import pickle
import tarfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch

from resnet_export.errors import CheckpointError, UntrustedError

from .archives import Archive, bytes_from_record
from .pickles import MAX_PICKLE_BYTES, MalformedPickleError, PickleSummary, summary_from_pickle, unsafe_globals
from .tensors import listed

_MAGIC_NUMBER: Final = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
_BEGINNING: Final = b"\x80\x02\x8a\x0a" + _MAGIC_NUMBER
"""The first of the five pickles of a file that torch.save wrote before PyTorch 1.6: a number."""

HOW: Final = "pass --trust if you know where the file comes from, or save"


def object_from_zip(path: Path, archive: Archive, *, trust: bool) -> Any:
    """What ``torch.save`` put into a zip archive, its tensors mapped from the file.

    Raises:
        UntrustedError: loading it would run code, and ``trust`` is false.
        CheckpointError: it is damaged, or a class that it needs cannot be imported.
    """
    info = archive.records["data.pkl"]
    if info.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path.name} has a pickle of {info.file_size >> 20} MiB, far more than its names need")
    summary = _summary(path, io.BytesIO(bytes_from_record(path, info)), info.file_size)
    for key, claimed in summary.storages.items():
        data = archive.records.get(f"data/{key}")
        if claimed and (data is None or data.file_size < claimed):
            have = "missing" if data is None else f"of {data.file_size} bytes"
            raise CheckpointError(
                f"{path.name} is damaged: its storage {key[:40]!r} is {have} and should have {claimed}"
            )
    return _loaded(path, summary, trust=trust, mmap=True)


def object_from_legacy(path: Path, size: int, *, trust: bool) -> Any:
    """What ``torch.save`` wrote before PyTorch 1.6: five pickles, then the storages.

    Raises:
        UntrustedError: loading it would run code, and ``trust`` is false.
        CheckpointError: it is cut off or damaged, or not of ``torch.save``, or a class that it needs cannot be
            imported.
    """
    with path.open("rb") as file:
        head = file.read(64)
        if _MAGIC_NUMBER not in head and not _BEGINNING.startswith(head):
            raise CheckpointError(
                f"{path.name} is a Python pickle that torch.save did not write: save the state_dict by torch.save"
            )
        file.seek(0)
        parts = [_summary(path, file, size - file.tell()) for _ in range(5)]
        needed = sum(8 + claimed for claimed in parts[3].storages.values())  # each begins with its length
        left = size - file.tell()
    if left < needed:
        raise CheckpointError(
            f"{path.name} is cut off: {left} bytes of tensors are left of {needed}, so copy or download it again"
        )
    names = tuple(dict.fromkeys(name for part in parts for name in part.globals))
    summary = PickleSummary(names, parts[3].storages, parts[3].protocol)
    return _loaded(path, summary, trust=trust, mmap=False)


def object_from_tar(path: Path, *, trust: bool) -> Any:
    """What PyTorch wrote before 0.1.10; its tensors cannot be read without running the pickle.

    Raises:
        UntrustedError: ``trust`` is false.
        CheckpointError: the archive is not PyTorch's, or it is damaged.
    """
    try:
        with tarfile.open(path, mode="r:") as archive:
            names = set(archive.getnames())
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path.name} is a tar archive that is cut off or damaged: {error}") from error
    if not {"pickle", "storages", "tensors"} <= names:
        raise CheckpointError(f"{path.name} is a tar archive of other files: unpack it and name the checkpoint in it")
    if not trust:
        raise UntrustedError(
            f"{path.name} is in PyTorch's oldest format, which can only be read by running the pickle inside: {HOW} it"
            " again by a newer PyTorch"
        )
    return _trusted(path, (), mmap=False)


def _summary(path: Path, file: Any, limit: int) -> PickleSummary:
    try:
        return summary_from_pickle(file, limit=limit)
    except MalformedPickleError as error:
        raise CheckpointError(
            f"{path.name} is cut off or damaged, its pickle cannot be read ({error}): copy or download it again"
        ) from error


def _loaded(path: Path, summary: PickleSummary, *, trust: bool, mmap: bool) -> Any:
    unsafe = unsafe_globals(summary.globals, also=_declared_safe())
    if unsafe and not trust:
        raise _untrusted(path, unsafe)
    if unsafe:
        return _trusted(path, unsafe, mmap=mmap)
    try:
        return _torch_load(path, mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own list is shorter than the one here, or an opcode is none that it runs.
        if trust:
            return _trusted(path, summary.globals, mmap=mmap)
        raise UntrustedError(
            f"{path.name} has a pickle of protocol {summary.protocol} that needs more than tensors and plain values,"
            f" which may run code: {HOW} the state_dict alone by torch.save as it is"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises nearly anything for a damaged file
        raise _damaged(path, error) from error


def _declared_safe() -> list[str]:
    names = []
    for entry in torch.serialization.get_safe_globals():
        known, name = entry if isinstance(entry, tuple) else (entry, "")
        names.append(name or f"{known.__module__}.{known.__qualname__}")
    return names


def _untrusted(path: Path, unsafe: tuple[str, ...]) -> UntrustedError:
    if any(name.startswith("torch.nn.") for name in unsafe):
        return UntrustedError(
            f"{path.name} holds a pickled module ({listed(unsafe[:1])}), and loading it runs the code inside: {HOW}"
            " model.state_dict()"
        )
    return UntrustedError(
        f"{path.name} needs {listed(unsafe)} to be loaded, which is not plain data and may run code: {HOW} the"
        " state_dict alone"
    )


def _trusted(path: Path, names: Iterable[str], *, mmap: bool) -> Any:
    """Load with Python's own pickle: whatever the file holds is run."""
    try:
        return _torch_load(path, mmap=mmap, weights_only=False)
    except MemoryError:
        raise
    except Exception as error:  # the code inside may raise anything
        missing = listed(name for name in names if not _is_importable(name))
        if missing:
            raise CheckpointError(
                f"{path.name} needs {missing}, which cannot be imported here: put the code of the model on PYTHONPATH,"
                " or save model.state_dict()"
            ) from error
        raise _damaged(path, error) from error


def _is_importable(name: str) -> bool:
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(f"{path.name} cannot be loaded, it is damaged or of a PyTorch unknown here: {reason}")


def _torch_load(path: Path, *, mmap: bool, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old pickles and classes: what matters is refused, or noted
        return _quiet_load(path, mmap=mmap, weights_only=weights_only)


def _quiet_load(path: Path, *, mmap: bool, weights_only: bool) -> Any:
    # torch goes by a name that ends in ".safetensors", whatever is in the file: then it gets the file without its name.
    if not mmap or path.name.endswith(".safetensors"):
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=weights_only)
    return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)
