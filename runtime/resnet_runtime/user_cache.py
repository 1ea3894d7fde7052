"""Small files that are kept in the user's cache folder for the next process. All of them can be made anew."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def cache_folder(name: str) -> Path:
    """``resnet-runtime/NAME`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; it need not exist.

    Where there is no home either, it is a folder that can neither be read nor made.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # a user without an entry in the password database, as in some containers
        root = Path(os.devnull)
    return root / "resnet-runtime" / name


def keep(path: Path, data: bytes) -> bool:
    """Make or replace the file at ``path``, whole or not at all; a disk that cannot is no reason to fail.

    Returns:
        Whether it was written.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
            return True
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
            raise
    return False
