"""Arrays of the host, whatever library made them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .backends.tensorrt.device_arrays import is_device_array
from .errors import InputError

_ON_THE_HOST: Final = (1, 3)
"""DLPack's numbers of the CPU, and of pinned memory of CUDA's."""


def as_host_array(array: Any, what: str) -> NDArray[Any]:
    """A NumPy view of an array that speaks DLPack and lies on the host; a NumPy array as it is.

    Args:
        array: of any library.
        what: it is, for messages.

    Raises:
        InputError: it is no such array.
    """
    if isinstance(array, np.ndarray):
        return array
    device = getattr(array, "__dlpack_device__", None)
    if device is None or not hasattr(array, "__dlpack__"):
        raise InputError(f"{what} is a {type(array).__name__}, not a numpy array{_hint(array)}")
    if int(device()[0]) not in _ON_THE_HOST:
        raise InputError(f"{what} is a {type(array).__name__}, not a numpy array{_hint(array)}")
    try:
        found: NDArray[Any] = np.from_dlpack(array)
        if found.flags.writeable:
            return found
        same = np.asarray(array)  # as older versions of NumPy take what may be written to, too
        return same if same.flags.writeable and np.shares_memory(found, same) else found
    except Exception as error:  # what a library raises on an array that it does not hand out, such as with a gradient
        raise InputError(f"{what} is a {type(array).__name__} that cannot be read where it lies: {error}") from None


def _hint(array: object) -> str:
    return ": start() takes an array on a GPU as it is" if is_device_array(array) else ""
