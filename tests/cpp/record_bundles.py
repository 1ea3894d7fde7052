"""A pytest plugin: every bundle that the tests open is kept as it was then.

``python -m pytest -p tests.cpp.record_bundles tests/runtime/test_bundle.py`` with ``RECORDED`` naming a folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from resnet_runtime.bundle import Bundle

_open = Bundle.open
_folder = Path(os.environ["RECORDED"])
_numbers = itertools.count()
_LARGE = 1 << 24
"""What promises more than it has is not copied with it."""


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a name that the system refuses
        return False


def _recorded(path: str | os.PathLike[str]) -> Bundle:
    if _is_folder(path) and all(file.lstat().st_size < _LARGE for file in Path(path).rglob("*")):
        try:
            shutil.copytree(path, _folder / f"{next(_numbers):03}", symlinks=True)
        except shutil.Error:  # one with a pipe or a file that may not be read, which has a test of its own
            shutil.rmtree(_folder / f"{next(_numbers) - 1:03}", ignore_errors=True)
    return _open(path)


Bundle.open = staticmethod(_recorded)  # type: ignore[method-assign, assignment]
