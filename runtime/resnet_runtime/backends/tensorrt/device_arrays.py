"""Arrays that are on the device already: taken from torch, CuPy and the like without a copy, and given back to them.

Two protocols say where an array is: ``__cuda_array_interface__`` (version 3, of Numba's documentation) and DLPack's
``__dlpack__`` (of the Python array API standard), which is read with ctypes. Whoever made the array keeps it alive
until the caller's stream has passed the call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from resnet_runtime.backends.base import TensorSpec
from resnet_runtime.errors import InputError

from .cuda import Cuda, CudaError, Memory

LEGACY_STREAM: Final = 1
"""The handle of the stream that everything shares where no other is named."""

_ORDINAL: Final = 0
"""Of the device that the backend takes."""

_DLPACK_CUDA: Final = 2
_DLPACK_KINDS: Final = {0: "i", 1: "u", 2: "f"}


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous memory on the device, with ``__cuda_array_interface__``.

    Attributes:
        address: of the first value.
        shape: of the array.
        dtype: of its values.
        stream: the handle of the stream on which it is ready; None: ready already.
        owner: what keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    owner: object

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For torch.as_tensor, cupy.asarray and the like."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self.stream,
        }

    def __len__(self) -> int:
        return self.shape[0]


def is_device_array(value: object) -> bool:
    """Whether it says that it is on a CUDA device; NumPy's arrays have ``__dlpack__`` too, and are not."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    device = getattr(value, "__dlpack_device__", None)
    return device is not None and int(device()[0]) == _DLPACK_CUDA


def device_array(value: Any, stream: int | None) -> DeviceArray:
    """Where an array is.

    Args:
        value: one of which ``is_device_array``.
        stream: the handle of the caller's stream, or None.

    Raises:
        InputError: it is not on the backend's GPU, not C-contiguous, or of a kind that no engine takes.
    """
    if isinstance(value, DeviceArray):
        return value
    if not is_device_array(value):
        raise InputError(f"a {type(value).__name__} is not an array on the GPU, as the batch is")
    device = getattr(value, "__dlpack_device__", None)
    if device is not None and int(device()[1]) != _ORDINAL:
        raise InputError(f"the array is on GPU {int(device()[1])}, and the session on GPU {_ORDINAL}: move it there")
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(value, interface)
    return _from_dlpack(value, LEGACY_STREAM if stream is None else stream)


def count_of(array: DeviceArray, spec: TensorSpec, largest: int) -> int:
    """How many samples of ``spec`` the array holds, 1 to ``largest``.

    Raises:
        InputError: it holds something else.
    """
    count = array.shape[0] if array.shape else 0
    checked_array(array, spec, count)
    if not 1 <= count <= largest:
        raise InputError(f"the batch on the device holds {count} samples, and one call takes 1 to {largest}")
    return count


def checked_array(array: DeviceArray, spec: TensorSpec, count: int) -> DeviceArray:
    """The array, if it is ``count`` samples of ``spec``.

    Raises:
        InputError: it is something else.
    """
    wanted = (count, *spec.shape)
    if array.shape != wanted or array.dtype != spec.dtype:
        raise InputError(
            f"the device array for {spec.name!r} is {array.dtype} {array.shape}, and the engine's is "
            f"{spec.dtype} {wanted}"
        )
    return array


def new_array(cuda: Cuda, spec: TensorSpec, count: int, stream: int) -> DeviceArray:
    """Memory for ``count`` samples of ``spec``, given back when nobody has it any more. Needs the context.

    Raises:
        OutOfMemoryError: there is none.
    """
    shape = (count, *spec.shape)
    memory = cuda.allocate(int(np.prod(shape)) * spec.dtype.itemsize)
    return DeviceArray(memory.address, shape, spec.dtype, stream, _Owned(cuda, memory))


class _Owned:
    """Device memory that is freed with its last array."""

    def __init__(self, cuda: Cuda, memory: Memory) -> None:
        self._cuda = cuda
        self._memory = memory

    def __del__(self) -> None:
        with suppress(CudaError), self._cuda.current():  # a broken context has no memory to give back
            self._memory.free()


def _from_interface(value: object, interface: dict[str, Any]) -> DeviceArray:
    shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    if strides is not None and not _contiguous(shape, tuple(int(step) // dtype.itemsize for step in strides)):
        raise InputError("the device array is not C-contiguous: make it so first, as with .contiguous()")
    return DeviceArray(int(interface["data"][0]), shape, dtype, interface.get("stream"), value)


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    pass


_DELETER = ctypes.CFUNCTYPE(None, ctypes.POINTER(_DLManagedTensor))
_DLManagedTensor._fields_ = (("tensor", _DLTensor), ("manager", ctypes.c_void_p), ("deleter", _DELETER))


class _Borrowed:
    """A DLPack tensor, given back to who made it when nobody needs it any more."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    def __del__(self) -> None:
        if self._pointer.contents.deleter:
            self._pointer.contents.deleter(self._pointer)


def _from_dlpack(value: Any, stream: int) -> DeviceArray:
    capsule = value.__dlpack__(stream=stream)
    get = _python_function("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    rename = _python_function("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
    pointer = ctypes.cast(get(capsule, b"dltensor"), ctypes.POINTER(_DLManagedTensor))
    rename(capsule, b"used_dltensor")  # now it is ours to give back
    owner = _Borrowed(pointer)
    tensor = pointer.contents.tensor
    shape = tuple(int(tensor.shape[axis]) for axis in range(tensor.ndim))
    if tensor.strides and not _contiguous(shape, tuple(int(tensor.strides[axis]) for axis in range(tensor.ndim))):
        raise InputError("the device array is not C-contiguous: make it so first, as with .contiguous()")
    if tensor.code not in _DLPACK_KINDS or tensor.lanes != 1:
        raise InputError(f"the device array is of DLPack's type {tensor.code}, which no engine takes")
    dtype = np.dtype(f"{_DLPACK_KINDS[tensor.code]}{tensor.bits // 8}")
    address = int(tensor.data or 0) + int(tensor.byte_offset)
    return DeviceArray(address, shape, dtype, stream, owner)


def _python_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function: Any = getattr(ctypes.pythonapi, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function  # type: ignore[no-any-return]


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """In values; an axis of one value may have any stride."""
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side > 1 and stride != step:
            return False
        step *= side
    return True
