"""The files that a path stands for, and image files as samples."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from numpy.typing import NDArray

from resnet_export.errors import RequestError
from resnet_runtime.manifest import Input, Preprocessing

from .samples import Unusable, fixed_order, refusal, sample_from_image

# The usual suffixes of preprocess.FORMATS.
# fmt: off
IMAGE_SUFFIXES: Final = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".jp2", ".j2k", ".jpx",
)
# fmt: on
ARRAY_SUFFIXES: Final = (".npy", ".npz")
ACCEPTED: Final = f"images ({' '.join(IMAGE_SUFFIXES)}) or arrays ({' '.join(ARRAY_SUFFIXES)})"

_WORKERS: Final = max(2, min(4, os.cpu_count() or 2))
_AHEAD: Final = 2 * _WORKERS


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a path stands for: image files or array files, never both, and at least one.

    Attributes:
        what: the option that named it.
        path: what was named.
        root: what the names are relative to.
        images, arrays: relative POSIX paths, sorted.
        folders: the names of the folders in ``root``, sorted, those without a file included.
        faults: a sentence for everything else that was found.
    """

    what: str
    path: Path
    root: Path
    images: tuple[str, ...]
    arrays: tuple[str, ...]
    folders: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def title(self) -> str:
        """How an error names it."""
        return f"{self.what} {self.path}"


def listing_from_path(path: Path, what: str, ignored: Path | None = None) -> Listing:
    """List a folder with all that is below it, or take one file.

    Files and folders whose names begin with a dot do not count. Links are followed; a folder that several links lead
    to counts once, by its own path if that is below ``path``.

    Args:
        path: a folder, an image file or an array file.
        what: the option that named it, for errors.
        ignored: a file that does not count, wherever it is.

    Raises:
        RequestError: it does not exist, cannot be read, or holds no image and no array, or both kinds.
    """
    try:
        mode = path.stat().st_mode
        is_folder = stat.S_ISDIR(mode)
        files, folders, faults = _walk(path) if is_folder else ([path.name], [], [])
    except FileNotFoundError:
        raise RequestError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise RequestError(f"{what}: {error.filename or path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a null byte
        raise RequestError(f"{what} {str(path)!r} cannot be a path: {error}") from None
    if not is_folder and not stat.S_ISREG(mode):
        raise RequestError(f"{what} {path} is neither a file nor a folder")
    root = path if is_folder else path.parent
    names = sorted(name for name in files if ignored is None or not _is_same(root / name, ignored))
    images = tuple(name for name in names if _suffix(name) in IMAGE_SUFFIXES)
    arrays = tuple(name for name in names if _suffix(name) in ARRAY_SUFFIXES)
    others = [name for name in names if _suffix(name) not in IMAGE_SUFFIXES + ARRAY_SUFFIXES]
    if images and arrays:
        raise RequestError(
            f"{what} {path} holds both images and arrays, as {images[0]} and {arrays[0]}: move one kind away"
        )
    if not images and not arrays:
        raise _nothing(path, what, is_folder, others, faults)
    faults += [f"{root / name} has a suffix that {what} does not take: it takes {ACCEPTED}" for name in others]
    return Listing(
        what=what,
        path=path,
        root=root,
        images=images,
        arrays=arrays,
        folders=tuple(sorted(folders)),
        faults=tuple(faults),
    )


def _nothing(path: Path, what: str, is_folder: bool, others: list[str], faults: list[str]) -> RequestError:
    if not is_folder:
        return RequestError(f"{what} {path} has a suffix that it does not take: give {ACCEPTED}")
    if others:
        found = f"no image and no array, but {len(others)} other file{'s' * (len(others) > 1)}, as {others[0]}"
        return RequestError(f"{what} {path} holds {found}: give {ACCEPTED}", details=faults)
    if faults:
        return refusal(faults, f"{what} {path} holds nothing that can be read")
    return RequestError(f"{what} {path} is an empty folder: put {ACCEPTED} into it")


def _is_same(path: Path, ignored: Path) -> bool:
    return path.name == ignored.name and path.resolve() == ignored.resolve()


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _walk(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Files below ``root``, folders in it, and faults; the same whatever order the system lists them in."""
    files: list[str] = []
    folders: list[str] = []
    faults: list[str] = []
    seen: set[tuple[int, int]] = set()
    own = [""]
    linked: deque[str] = deque()  # after all others, so that a folder counts by its own path
    while own or linked:
        folder = own.pop() if own else linked.popleft()
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        for entry in shown:
            name = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else own).append(name)
                if not folder:
                    folders.append(name)
            elif kind == "file":
                files.append(name)
            else:
                faults.append(f"{root / name} is {kind}")
    return files, folders, faults


def _kind(entry: os.DirEntry[str]) -> str:
    """``file``, ``folder``, or what else it is."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # as a link to itself
        pass
    return "a link to nothing that can be read" if entry.is_symlink() else "neither a file nor a folder"


@dataclass(frozen=True)
class FileSamples:
    """Image files, in ``fixed_order`` of their sorted names; the position of a sample is that of its name.

    Attributes:
        root: what the names are relative to.
        names: relative POSIX paths, sorted.
    """

    root: Path
    names: tuple[str, ...]
    entry: Input
    preprocessing: Preprocessing
    repeatable: bool = True
    decoded: bool = True

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.names)

    def read(self) -> Iterator[tuple[int, NDArray[Any] | Unusable]]:
        """Decode a few files ahead of the reader, in threads: Pillow lets go of the interpreter while it works."""
        waiting: deque[tuple[int, Future[NDArray[Any] | Unusable]]] = deque()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="images") as pool:
            for position in fixed_order(len(self.names)).tolist():
                waiting.append((position, pool.submit(self._sample, position)))
                if len(waiting) > _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()

    def _sample(self, position: int) -> NDArray[Any] | Unusable:
        return sample_from_image(self.root / self.names[position], self.entry, self.preprocessing)
