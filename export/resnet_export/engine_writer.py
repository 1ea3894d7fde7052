"""Engines put into a bundle that stands: the file first, then the manifest that lists it, by rename, under a lock.

A reader sees the manifest of before or the one of after, and both list files that are there; a file that no manifest
lists is ignored. The lock is on the folder itself, so that two builds wait for each other for the moment of writing,
and each adds its engine to the manifest that it then finds. Nothing but the standard library and the runtime is needed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import MANIFEST_NAME, Engine, FileRecord, Manifest, bytes_from_manifest

from .bundle_writer import sync
from .errors import DestinationError, WriteError

FOLDER = "engines"
_TEMPORARY = ".writing-"


def add_engine(path: Path, engine: Engine, data: bytes, built_from: FileRecord) -> Manifest:
    """Put an engine into a bundle, in the place of one with the same id.

    Args:
        path: of the bundle.
        engine: its record; ``file`` is filled in here.
        data: its bytes.
        built_from: the ONNX file that it was built from.

    Returns:
        The bundle's new manifest.

    Raises:
        DestinationError: the bundle cannot be written, or the variant is not what the engine was built from any more.
        BundleError: it is no bundle.
        WriteError: the disk is full or fails.
    """
    with _locked(path):
        manifest = Bundle.open(path).manifest
        variant = manifest.variant(engine.variant)
        if variant is None or variant.file.sha256 != built_from.sha256:
            raise DestinationError(
                f"{path} was replaced while the engine was built, and its {engine.variant} is another one: build again"
            )
        digest = hashlib.sha256(data).hexdigest()
        record = FileRecord(path=f"{FOLDER}/{engine.id}-{digest[:12]}.engine", sha256=digest, size=len(data))
        others = tuple(item for item in manifest.engines if item.id != engine.id)
        changed = dataclasses.replace(manifest, engines=(*others, dataclasses.replace(engine, file=record)))
        try:
            (path / FOLDER).mkdir(exist_ok=True)
            _clear(path)
            _write(path / record.path, data)
            _write(path / MANIFEST_NAME, bytes_from_manifest(changed))
            sync(path)
        except OSError as error:
            raise WriteError(f"the engine cannot be written to {path}: {error.strerror or error}") from error
        _remove_unlisted(path, changed)
    return changed


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder that stands at ``path``, also where it is replaced by another one while this waits."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DestinationError(f"the bundle {path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _stands_at(path, descriptor):
                yield
                return
        finally:
            os.close(descriptor)


def _stands_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing, on the disk when this returns."""
    temporary = path.parent / f"{_TEMPORARY}{path.name}"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def _clear(path: Path) -> None:
    """What a build left that was killed while it wrote: nobody else writes now."""
    for folder in (path, path / FOLDER):
        for left in folder.glob(f"{_TEMPORARY}*"):
            left.unlink(missing_ok=True)


def _remove_unlisted(path: Path, manifest: Manifest) -> None:
    """Engines that were replaced; a reader that has the old manifest still finds the file missing, not changed."""
    listed = {engine.file.path for engine in manifest.engines}
    for file in (path / FOLDER).glob("*.engine"):
        if f"{FOLDER}/{file.name}" not in listed:
            with suppress(OSError):
                file.unlink()
