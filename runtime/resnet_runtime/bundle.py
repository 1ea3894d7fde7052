"""A bundle on disk, opened: its manifest, and the bytes of its files, each checked against its digest.

The bytes that are hashed are the bytes that are returned. Links inside a bundle are refused;
the bundle itself may be reached through one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import strictjson
from .errors import BundleError
from .manifest import MANIFEST_NAME, FileRecord, Manifest
from .manifest_parser import manifest_from_bytes

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

_BLOCK = 1 << 20


@dataclass(frozen=True)
class CheckData:
    """What ``check.npz`` holds.

    Attributes:
        inputs: (N, ...) in the graph's own input dtype and layout.
        outputs: by output name, (N, ...) float32 or float64: what eager PyTorch computed.
    """

    inputs: NDArray[np.generic]
    outputs: Mapping[str, NDArray[np.floating[Any]]]


class Bundle:
    """An opened bundle.

    Attributes:
        path: the directory.
        manifest: its parsed manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open the directory at ``path`` and parse its manifest.

        Raises:
            BundleError: there is no such directory, or it is not a bundle.
            ManifestError: its manifest is not valid.
        """
        directory = Path(path)
        manifest_path = directory / MANIFEST_NAME
        try:
            if not directory.is_dir():
                found = "is a file" if directory.exists() else "does not exist"
                raise BundleError(f"{directory} {found}, and a bundle is a directory that resnet-export wrote")
            if not manifest_path.exists():
                raise BundleError(f"{directory} is not a bundle: it has no {MANIFEST_NAME}")
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise BundleError(f"{directory} cannot be opened: {error.strerror}") from None
        data = _read(manifest_path, MANIFEST_NAME, strictjson.MAX_BYTES)
        return cls(directory, manifest_from_bytes(data, name=str(manifest_path)))

    def read(self, record: FileRecord) -> bytes:
        """The bytes of a listed file, of which size and SHA-256 were checked.

        Raises:
            BundleError: the file is missing, is a link, or is not the file that the manifest lists.
        """
        data = self.read_unchecked(record)
        self.check_digest(record, data)
        return data

    def read_unchecked(self, record: FileRecord) -> bytes:
        """The bytes of a listed file, of which the size alone was checked: ``check_digest`` has to follow."""
        data = _read(self._path_of(record), record.path, record.size)
        self._check_size(record, len(data))
        return data

    def verify(self, record: FileRecord) -> None:
        """Check the size and the SHA-256 of a listed file, without holding it in memory.

        Raises:
            BundleError: as ``read``.
        """
        digest, size = hashlib.sha256(), 0
        with _opened(self._path_of(record), record.path) as file:
            while size <= record.size and (block := file.read(_BLOCK)):
                digest.update(block)
                size += len(block)
        self._check_size(record, size)
        self._check_sha256(record, digest.hexdigest())

    def check_digest(self, record: FileRecord, data: bytes) -> None:
        """Raise BundleError where ``data`` is not what ``record`` lists."""
        self._check_sha256(record, hashlib.sha256(data).hexdigest())

    def _path_of(self, record: FileRecord) -> Path:
        parts = record.path.split("/")
        for depth in range(1, len(parts)):
            if (self.path / "/".join(parts[:depth])).is_symlink():
                raise BundleError(f"{self.path}: {record.path} goes through a link, and a bundle holds none")
        return self.path.joinpath(*parts)

    def _check_size(self, record: FileRecord, size: int) -> None:
        if size != record.size:
            found = "more" if size > record.size else f"{size} bytes"
            raise BundleError(
                f"{self.path}: the manifest lists {record.path} with {record.size} bytes, and it has {found}: "
                "copy the bundle again"
            )

    def _check_sha256(self, record: FileRecord, digest: str) -> None:
        if digest != record.sha256:
            raise BundleError(
                f"{self.path}: {record.path} does not match the SHA-256 in the manifest: copy the bundle again"
            )

    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, or None where the bundle has none.

        Raises:
            BundleError: the file is not the one that was listed, is not UTF-8, or does not hold one label a class.
        """
        if self.manifest.labels is None:
            return None
        try:
            text = self.read(self.manifest.labels).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{self.path}: labels.txt is not UTF-8 at byte {error.start}") from None
        labels = tuple(text.removesuffix("\n").split("\n"))
        shape = self.manifest.outputs[0].shape
        if shape != (len(labels),):
            found = f"{shape[0]} classes" if len(shape) == 1 else f"an output of the shape {shape}"
            raise BundleError(
                f"{self.path}: labels.txt has {len(labels)} labels, and the model has {found}: export the model again "
                "with one label a class"
            )
        return labels

    def check_data(self) -> CheckData:
        """The inputs of ``check.npz`` and eager's answers."""
        data = self.read(self.manifest.check)
        names = [output.name for output in self.manifest.outputs]
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                # A member that is no array is given as its bytes.
                inputs = np.asarray(archive["input"])
                outputs = {name: np.asarray(archive[f"output.{name}"]) for name in names}
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on what is not an archive
            raise BundleError(f"{self.path}: {self.manifest.check.path} cannot be read: {error}") from None
        entry = self.manifest.input
        if inputs.ndim == 0 or len(inputs) == 0 or inputs.shape[1:] != entry.shape or inputs.dtype != entry.dtype:
            raise BundleError(
                f"{self.path}: the inputs in {self.manifest.check.path} are {inputs.shape} {inputs.dtype}, "
                f"which does not fit the manifest's input"
            )
        for output in self.manifest.outputs:
            array = outputs[output.name]
            if array.shape != (len(inputs), *output.shape) or array.dtype not in (np.float32, np.float64):
                raise BundleError(
                    f"{self.path}: output.{output.name} in {self.manifest.check.path} does not fit its inputs"
                )
        return CheckData(inputs, outputs)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file that is not a link. What fails inside is said as a sentence."""
    if path.is_symlink():
        raise BundleError(f"{path.parent}: {name} is a link, and a bundle holds none")
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    except FileNotFoundError:
        raise BundleError(f"{path.parent}: {name} is missing: copy the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path.parent}: {name} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{path.parent}: {name} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise BundleError(f"{path.parent}: {name} cannot be read: {error.strerror}") from None


def _read(path: Path, name: str, limit: int) -> bytes:
    """At most ``limit`` + 1 bytes."""
    with _opened(path, name) as file:
        # No more than there is: what the manifest claims must not decide how much memory is taken.
        return file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
