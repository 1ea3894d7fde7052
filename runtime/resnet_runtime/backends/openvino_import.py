"""``import openvino`` without its model conversion, which is half of the time that the import takes.

The runtime converts nothing, and what is left out also starts a process that reports the import to OpenVINO's makers,
unless the user has opted out. ``openvino.convert_model`` is there as ever for the rest of the program: its first call
imports what it needs.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any, Final

_CONVERSION: Final = "openvino.tools.ovc"

_lock = threading.RLock()


def openvino_without_conversion() -> Any:
    """The package, as it is where the program has imported it before.

    Raises:
        ImportError: it is not installed, or not whole.
    """
    with _lock:
        if "openvino" in sys.modules or _CONVERSION in sys.modules:
            return importlib.import_module("openvino")
        stand_in: Any = ModuleType(_CONVERSION)
        stand_in.convert_model = _convert_model
        stand_in.__getattr__ = _of_the_conversion
        sys.modules[_CONVERSION] = stand_in
        try:
            return importlib.import_module("openvino")
        finally:
            if sys.modules.get(_CONVERSION) is stand_in:
                del sys.modules[_CONVERSION]


def _convert_model(*args: Any, **kwargs: Any) -> Any:
    """See OpenVINO's ``convert_model``, which this imports and calls."""
    convert_model = _of_the_conversion("convert_model")
    sys.modules["openvino"].convert_model = convert_model  # type: ignore[attr-defined]
    return convert_model(*args, **kwargs)


def _of_the_conversion(name: str) -> Any:
    """An attribute of the real module. Another thread that came by the stand-in waits until that is gone."""
    if name.startswith("__"):
        raise AttributeError(name)
    with _lock:
        return getattr(importlib.import_module(_CONVERSION), name)
