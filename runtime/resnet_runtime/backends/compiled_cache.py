"""What a library compiled of a graph, kept in the user's cache folder: a process that finds it starts without the work.

A file holds the SHA-256 of what follows it, so that one that was damaged is not given to a library that trusts it. It
is named for all that it depends on; what cannot be read or does not fit is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.user_cache import cache_folder, keep

LARGEST: Final = 2 * 2**30
"""Bytes of all files together; the ones that were used the longest ago go first."""

_DIGEST = hashlib.sha256().digest_size


_ABANDONED = 3600.0
"""Seconds after which a file that nobody finished is taken for abandoned."""


def _is_mine(about: os.stat_result) -> bool:
    """A library runs what it holds: another user's is not taken, wherever the cache folder is."""
    return not hasattr(os, "getuid") or about.st_uid == os.getuid()


class CompiledCache:
    """The files of one library.

    Args:
        library: as the folder is named.
        largest: bytes of all files together.
    """

    def __init__(self, library: str, largest: int = LARGEST) -> None:
        self._folder = cache_folder("compiled") / library
        self._largest = largest

    def path(self, depends_on: Mapping[str, object]) -> Path:
        """The file for what was compiled of these: a JSON object of everything that makes a difference."""
        text = json.dumps(depends_on, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.compiled"

    def load(self, path: Path) -> NDArray[np.uint8] | None:
        """What is in the file; None where there is none, or it is damaged.

        Returns:
            (bytes,) of its own memory, into which a library may point.
        """
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode) or about.st_size > self._largest + _DIGEST or not _is_mine(about):
                return None
            found = np.fromfile(path, np.uint8)
        except OSError:
            return None
        data = found[_DIGEST:]
        if hashlib.sha256(data.data).digest() != found[:_DIGEST].tobytes():
            return None
        with suppress(OSError):  # it was used now; a folder that cannot be written to is no reason to fail
            os.utime(path)
        return data

    def store(self, path: Path, data: bytes) -> None:
        """Make or replace the file; a disk that cannot is no reason to fail."""
        if len(data) > self._largest:
            return
        keep(path, hashlib.sha256(data).digest() + data)
        self._prune(path)

    def _prune(self, newest: Path) -> None:
        with suppress(OSError):
            found = [(item.stat().st_mtime, item.stat().st_size, item) for item in self._folder.glob("*.compiled")]
            total = sum(size for _, size, _ in found)
            old = time.time() - _ABANDONED
            for item in self._folder.glob("tmp*"):  # of a process that was killed while it wrote
                if item.stat().st_mtime < old:
                    item.unlink(missing_ok=True)
            for _, size, item in sorted(found):
                if total <= self._largest:
                    return
                if item != newest:
                    item.unlink(missing_ok=True)
                    total -= size
