"""Where the C++ runtime's sources are: ``resnet-run --cmake-dir`` prints it, for CMake's ``add_subdirectory``."""

from __future__ import annotations

from pathlib import Path

from .errors import UnavailableError


def cmake_dir() -> Path:
    """The folder with the sources' CMakeLists.txt: in the installed package, or beside it in a checkout.

    Raises:
        UnavailableError: the package was installed without them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "cpp", package.parent / "cpp"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise UnavailableError("the C++ sources are not in this installation: install resnet-export from its wheel")
