"""Files of arrays that are preprocessed already, as samples: .npy and .npz, never unpickled, never read whole."""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from resnet_runtime.manifest import Input

from .samples import Unusable, array_fault, fixed_order, sample_from_array

INPUT_NAMES: Final = ("input", "images")
LABELS_NAME: Final = "labels"

_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")


class ArrayFileError(Exception):
    """A sentence that says why a file of arrays cannot be used."""


@dataclass(frozen=True, kw_only=True)
class ArrayFile:
    """One array of N samples in a file.

    Attributes:
        path: of the file.
        member: the name in an .npz; None for an .npy.
        offset: of the array's values in the file; None where they are compressed, and can only be read in order.
        shape: (N, ...), also of a single sample that was stored without a batch axis.
        dtype: as stored, in either byte order.
        order: ``C`` or ``F``.
        labelled: whether the .npz has an array ``labels`` too.
    """

    path: Path
    member: str | None
    offset: int | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    labelled: bool

    @property
    def count(self) -> int:
        """N."""
        return self.shape[0]


def array_file_from_path(path: Path, entry: Input) -> ArrayFile:
    """Read the header of an .npy file, or of the one array of an .npz file that holds samples.

    Raises:
        ArrayFileError: it cannot be read, is cut short, or holds something else than samples of ``entry``.
    """
    try:
        found = _from_npz(path) if path.suffix.lower() == ".npz" else _from_npy(path)
    except ArrayFileError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on what is not an array
        raise ArrayFileError(f"{path} cannot be read as an array: {_reason(error)}") from None
    fault = array_fault(str(path), found.shape, found.dtype, entry)
    if fault is not None:
        raise ArrayFileError(fault)
    if found.shape == entry.shape:
        found = dataclasses.replace(found, shape=(1, *found.shape))
    if found.offset is None and found.order == "F":
        raise ArrayFileError(f"{path} is compressed and in Fortran order: save numpy.ascontiguousarray of its array")
    return found


def labels_from_array_file(path: Path, count: int) -> NDArray[Any]:
    """The labels in an .npy file, or in the array ``labels`` of an .npz file: (``count``,) integers or strings.

    Raises:
        ArrayFileError: there are not ``count`` integers or strings.
    """
    try:
        with np.load(path, allow_pickle=False) if path.suffix.lower() == ".npz" else path.open("rb") as file:
            if isinstance(file, np.lib.npyio.NpzFile):
                labels: NDArray[Any] = file[LABELS_NAME]
            else:
                labels = npy.read_array(file, allow_pickle=False)
    except KeyError:
        raise ArrayFileError(f"{path} has no array {LABELS_NAME!r}") from None
    except Exception as error:  # as above
        raise ArrayFileError(f"the labels in {path} cannot be read: {_reason(error)}") from None
    if labels.dtype.kind not in "iuU" or labels.size != count or labels.ndim > 1:
        raise ArrayFileError(
            f"the labels in {path} are an array of the shape {labels.shape} and the dtype {labels.dtype}: "
            f"give one integer or class name for each of the {count} samples"
        )
    return labels.reshape(-1)


def _from_npy(path: Path) -> ArrayFile:
    with path.open("rb") as file:
        return _mapped(file, path, None, os.fstat(file.fileno()).st_size, labelled=False)


def _from_npz(path: Path) -> ArrayFile:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = _input_name(path, [*members])
        info, labelled = members[name], LABELS_NAME in members and name != LABELS_NAME
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            file.seek(info.header_offset)
            magic, name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if magic != b"PK\3\4":
                raise zipfile.BadZipFile("a member is not where the archive says")
            file.seek(name_size + extra_size, os.SEEK_CUR)
            return _mapped(file, path, name, file.tell() + info.file_size, labelled=labelled)
        with archive.open(info) as stream:
            shape, order, dtype = _header(stream, path)
            _check_size(path, stream.tell(), info.file_size, shape, dtype)
        return ArrayFile(
            path=path, member=info.filename, offset=None, shape=shape, dtype=dtype, order=order, labelled=labelled
        )


def _input_name(path: Path, names: list[str]) -> str:
    known = [name for name in INPUT_NAMES if name in names]
    if len(known) == 1:
        return known[0]
    if len(names) == 1:
        return names[0]
    found = ", ".join(map(repr, names[:10])) or "none"
    wanted = " or ".join(map(repr, INPUT_NAMES))
    raise ArrayFileError(f"{path} has the arrays {found}: give it one array, or one that is called {wanted}")


def _mapped(file: IO[bytes], path: Path, member: str | None, end: int, *, labelled: bool) -> ArrayFile:
    """From a file that stands at the header of an array which ends at ``end`` or before."""
    shape, order, dtype = _header(file, path)
    _check_size(path, file.tell(), min(end, os.fstat(file.fileno()).st_size), shape, dtype)
    return ArrayFile(
        path=path, member=member, offset=file.tell(), shape=shape, dtype=dtype, order=order, labelled=labelled
    )


def _check_size(path: Path, start: int, end: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    missing = start + math.prod(shape) * dtype.itemsize - end
    if missing > 0:
        raise ArrayFileError(f"{path} is cut short: the last {missing} bytes of its array are missing")


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], str, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):  # 3.0 is for the names of fields, and samples have none
        raise ArrayFileError(f"{path} holds records, and samples are plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if any(size < 0 for size in shape):
        raise ArrayFileError(f"{path} claims to hold an array of the shape {shape}")
    if dtype.hasobject:
        raise ArrayFileError(f"{path} holds pickled Python objects, which can run code and are not loaded")
    return shape, "F" if fortran else "C", dtype


@dataclass(frozen=True)
class ArraySamples:
    """Samples of some files; the position of a sample counts through the files in the order given.

    Those that are not compressed come first, in ``fixed_order``; compressed ones are streamed as they are stored.
    """

    files: tuple[ArrayFile, ...]
    entry: Input
    repeatable: bool = True
    decoded: bool = False

    @property
    def count(self) -> int:
        """How many samples the files hold."""
        return sum(file.count for file in self.files)

    def read(self) -> Iterator[tuple[int, NDArray[Any] | Unusable]]:
        """One sample in memory at a time."""
        starts = np.cumsum([0, *(file.count for file in self.files)])
        positions = _positions(self.files, starts)
        for position in positions[fixed_order(len(positions))].tolist():
            number = int(np.searchsorted(starts, position, side="right")) - 1
            file, index = self.files[number], position - int(starts[number])
            try:
                values = np.array(_memory_map(file)[index])  # a copy: what stays mapped is this process's memory
            except (OSError, ValueError) as error:  # it was changed since its header was read
                yield position, Unusable(f"{file.path} cannot be read as an array: {_reason(error)}")
            else:
                yield position, sample_from_array(f"sample {index} of {file.path}", values, self.entry)
        for number, file in enumerate(self.files):
            if file.offset is None:
                for index, sample in _streamed(file, self.entry):
                    yield int(starts[number]) + index, sample


def _positions(files: Sequence[ArrayFile], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of all samples that can be read in any order."""
    mapped = [np.arange(a, b) for file, a, b in zip(files, starts, starts[1:], strict=False) if file.offset is not None]
    return np.concatenate([np.empty(0, np.int64), *mapped])


def _memory_map(file: ArrayFile) -> NDArray[Any]:
    assert file.offset is not None
    order: Any = file.order
    return np.memmap(file.path, file.dtype, "r", file.offset, file.shape, order)


def _streamed(file: ArrayFile, entry: Input) -> Iterator[tuple[int, NDArray[Any] | Unusable]]:
    """The samples of a compressed array; ends at the first that cannot be read."""
    assert file.member is not None
    size = math.prod(entry.shape) * file.dtype.itemsize
    index = 0
    try:
        with zipfile.ZipFile(file.path) as archive, archive.open(file.member) as stream:
            _header(stream, file.path)
            for index in range(file.count):
                data = stream.read(size)
                if len(data) < size:
                    raise ArrayFileError(f"{file.path} is cut short in its sample {index}")
                values = np.frombuffer(data, file.dtype).reshape(entry.shape)
                yield index, sample_from_array(f"sample {index} of {file.path}", values, entry)
    except ArrayFileError as error:
        yield index, Unusable(str(error))
    except Exception as error:  # as above
        yield index, Unusable(f"{file.path} cannot be read as an array from its sample {index} on: {_reason(error)}")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.partition("\n")[0].rstrip(".") or type(error).__name__
