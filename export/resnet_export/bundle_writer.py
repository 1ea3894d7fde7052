"""A bundle on its way to disk: staged beside its destination, synced, renamed into place.

A reader of the destination sees nothing, or the old bundle, or the new one. The staging folder is locked while it is
written; one that nobody holds was left by a killed export, and the next one clears it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from resnet_runtime.manifest import MANIFEST_NAME, FileRecord, Manifest, bytes_from_manifest

from .errors import DestinationError, WriteError

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100


class StagedBundle:
    """A folder that becomes the bundle by ``publish``, and is gone otherwise. Made by ``staged_bundle``.

    Attributes:
        path: of the folder.
        destination: where it goes.
    """

    def __init__(self, path: Path, destination: Path, force: bool) -> None:
        self.path = path
        self.destination = destination
        self._force = force

    def add(self, name: str, data: bytes) -> FileRecord:
        """Write a file; ``publish`` syncs it, and until then the disk has time to write it by itself.

        Raises:
            WriteError: the disk is full or fails.
        """
        with ThreadPoolExecutor(1) as pool:
            digest = pool.submit(lambda: hashlib.sha256(data).hexdigest())
            try:
                with (self.path / name).open("xb") as file:
                    file.write(data)
            except OSError as error:
                raise WriteError(f"{name} of {self.destination} cannot be written: {error.strerror}") from error
        return FileRecord(path=name, sha256=digest.result(), size=len(data))

    def remove(self, record: FileRecord) -> None:
        """Take a file back."""
        (self.path / record.path).unlink()

    def discard(self, name: str) -> None:
        """Take a file back, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest and rename the folder to its destination.

        Raises:
            DestinationError: something stands at the destination by now.
            WriteError: the disk is full or fails.
        """
        self.add(MANIFEST_NAME, bytes_from_manifest(manifest))
        for path in sorted(self.path.iterdir()):
            try:
                sync(path)
            except OSError as error:
                raise WriteError(f"{path.name} of {self.destination} cannot be written: {error.strerror}") from error
        try:
            sync(self.path)
            self.path.chmod(0o777 & ~_umask())
            if self._force and _refuse_unless_free(self.destination, force=True):
                _exchange(self.path, self.destination)
            else:
                _rename_to_nothing(self.path, self.destination)
            sync(self.destination.parent)
        except FileExistsError:
            raise DestinationError(
                f"{self.destination} appeared while the model was exported, and was left alone: choose another -o"
            ) from None
        except OSError as error:
            raise WriteError(f"{self.destination} cannot be put into place: {error.strerror}") from error


def check_destination(destination: Path, *, force: bool) -> None:
    """Say now what would fail at the end.

    Raises:
        DestinationError: something stands there that may not be replaced, or the folder around it is missing or
            cannot be written.
        WriteError: the disk is full.
    """
    _refuse_unless_free(destination, force=force)
    folder = destination.parent
    if not folder.is_dir():
        raise DestinationError(f"the folder {folder} for the bundle does not exist: make it first")
    # Tried rather than asked: access() knows nothing of file systems that refuse even root, or of names too long.
    _new_folder(destination).rmdir()


def _refuse_unless_free(destination: Path, *, force: bool) -> bool:
    """Whether there is a bundle to replace; whatever else stands there is refused."""
    try:
        link = destination.is_symlink()
        if not link and not destination.exists():
            return False
        bundle = not link and (destination / MANIFEST_NAME).is_file()
    except OSError as error:
        raise DestinationError(f"{destination} cannot be written: {error.strerror}: choose another -o") from None
    if not force:
        raise DestinationError(f"{destination} exists: choose another -o, or replace it with --force")
    if not bundle:
        raise DestinationError(f"{destination} exists and is not a bundle, so --force does not replace it")
    return True


@contextmanager
def staged_bundle(destination: Path, *, force: bool = False) -> Iterator[StagedBundle]:
    """A staging folder beside ``destination``; whatever of it is not published is removed.

    Raises:
        DestinationError, WriteError: as ``check_destination``.
    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100  resolve() would follow the last link
    check_destination(destination, force=force)
    _clear_stale(destination)
    path = _new_folder(destination)
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield StagedBundle(path, destination, force)
    finally:
        # After an exchange this folder is the old bundle; after a plain rename there is none.
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _new_folder(destination: Path) -> Path:
    """An empty folder beside ``destination``."""
    try:
        return Path(tempfile.mkdtemp(prefix=_prefix(destination), dir=destination.parent))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise WriteError(f"{destination} cannot be written: {error.strerror}") from error
        raise DestinationError(f"{destination} cannot be written: {error.strerror}: choose another -o") from None


def _prefix(destination: Path) -> str:
    return f".{destination.name}.staging-"


def _clear_stale(destination: Path) -> None:
    for path in destination.parent.glob(f"{glob.escape(_prefix(destination))}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _rename_to_nothing(source: Path, destination: Path) -> None:
    """Rename, and never replace: a plain rename() would replace an empty directory."""
    if not _renameat2(source, destination, _RENAME_NOREPLACE):
        if destination.exists() or destination.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        source.rename(destination)


def _exchange(source: Path, destination: Path) -> None:
    """Put ``source`` where ``destination`` was, and the other way round; the old one is removed with the staging."""
    if _renameat2(source, destination, _RENAME_EXCHANGE):
        return
    # Not by the prefix of staging: after a kill between the two renames it is the only copy of the old bundle.
    aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.replaced-", dir=destination.parent)) / "old"
    try:
        destination.rename(aside)
        try:
            source.rename(destination)
        except BaseException:
            aside.rename(destination)
            raise
    finally:
        if destination.exists():
            shutil.rmtree(aside.parent, ignore_errors=True)


def _renameat2(source: Path, destination: Path, flags: int) -> bool:
    """The system call; False where the system or the file system has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number))


def sync(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on the disk. Raises OSError where it fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
