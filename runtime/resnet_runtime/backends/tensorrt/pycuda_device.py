"""PyCUDA behind the interface of ``cuda``, with cuda-bindings for what it lacks.

The device's primary context, which torch, CuPy and the CUDA runtime use as well, is retained once, pushed for each call
and popped after it, so that no thread is left with a context that it did not have.

PyCUDA knows neither the capture of graphs nor streams that another library made; both are taken from cuda-bindings
where it is installed.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from resnet_runtime.errors import UnavailableError

from .cuda import Bytes, Cuda, CudaError, DeviceInfo, Event, Graph, Memory, OutOfMemoryError, Pinned, Stream

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING, for which PyCUDA has no name."""


def device_info(ordinal: int = 0) -> DeviceInfo:
    """What a device of this host is, without a context on it.

    Raises:
        UnavailableError: PyCUDA is not installed, or there is no driver or no such device.
    """
    return _info(_driver(ordinal), ordinal)


def cuda_device(ordinal: int = 0) -> Cuda:
    """A device of this host, with its primary context retained.

    Raises:
        UnavailableError: as ``device_info``.
        CudaError: the context cannot be made.
    """
    return _PyCuda(_driver(ordinal), ordinal, _bindings(), _pop_context)


def _driver(ordinal: int) -> Any:
    try:
        driver = importlib.import_module("pycuda.driver")
    except ImportError as error:
        hint = "pip install 'resnet-export[tensorrt]'"
        if getattr(error, "name", None) == "pycuda":
            raise UnavailableError(f"pycuda is not installed here: {hint}") from error
        raise UnavailableError(
            f"pycuda cannot be loaded: {error}; it needs NVIDIA's driver, and to be installed anew ({hint}) where that "
            "is here"
        ) from error
    try:
        driver.init()
        count = driver.Device.count()
        if ordinal >= count:
            raise UnavailableError(f"there is no CUDA device {ordinal}: this host has {count}")
    except driver.Error as error:
        raise UnavailableError(f"CUDA cannot be used here: {error}") from error
    return driver


def _info(driver: Any, ordinal: int) -> DeviceInfo:
    device, version = driver.Device(ordinal), driver.get_driver_version()
    major, minor = device.compute_capability()
    return DeviceInfo(device.name(), f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")


class _PyCuda:
    """PyCUDA's driver API on one device's primary context.

    The context is released when nobody uses it any more: ``close`` was called, the memory that outlives the backend is
    freed, and no thread has it current.
    """

    def __init__(
        self, driver: Any, ordinal: int, bindings: tuple[Any, str | None], pop_context: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._info = _info(driver, ordinal)
        with self._errors():
            self._context = driver.Device(ordinal).retain_primary_context()
        self._bindings, self._no_bindings = bindings
        self._pop_context = pop_context
        self._lock = threading.Lock()
        self._users = 1

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def no_graphs(self) -> str | None:
        return self._no_bindings

    @contextmanager
    def current(self) -> Iterator[None]:
        self._used()
        try:
            with self._errors():
                self._context.push()
            try:
                yield
            finally:
                with self._errors():
                    self._driver.Context.pop()
        finally:
            self.unused()

    def stream(self) -> Stream:
        with self._errors():
            made = self._driver.Stream(_NON_BLOCKING)
        return _PyStream(self, made)

    def external(self, handle: int) -> Stream:
        if self._bindings is None:
            raise UnavailableError(f"a stream of the caller's needs cuda-bindings: {self._no_bindings}")
        return _ExternalStream(self, self._bindings, handle)

    def event(self) -> Event:
        if self._bindings is not None:
            return _BoundEvent(self, self._bindings)
        with self._errors():
            made = self._driver.Event(self._driver.event_flags.DISABLE_TIMING)
        return _PyEvent(self, made)

    def allocate(self, size: int) -> Memory:
        with self._errors():
            made = self._driver.mem_alloc(max(size, 1))
        self._used()
        return _PyMemory(self, made)

    def pinned(self, size: int) -> Pinned:
        with self._errors():
            return _PyPinned(self, self._driver.pagelocked_empty(max(size, 1), np.uint8))

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        with self._errors():
            self._driver.memcpy_htod_async(address, source, _raw(stream))

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        with self._errors():
            self._driver.memcpy_dtoh_async(target, address, _raw(stream))

    def begin_capture(self, stream: Stream) -> None:
        assert self._bindings is not None
        # Relaxed: what the garbage collector frees in this thread meanwhile must not spoil the capture.
        mode = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self.checked(self._bindings.cuStreamBeginCapture(stream.handle, mode))

    def end_capture(self, stream: Stream) -> Graph:
        assert self._bindings is not None
        (graph,) = self.checked(self._bindings.cuStreamEndCapture(stream.handle))
        try:
            (instance,) = self.checked(self._bindings.cuGraphInstantiate(graph, 0))
        finally:
            self.checked(self._bindings.cuGraphDestroy(graph))
        return _BoundGraph(self, self._bindings, instance)

    def synchronize(self) -> None:
        with self._errors():
            self._driver.Context.synchronize()

    def close(self) -> None:
        self.unused()

    def unused(self) -> None:
        """One user less; after the last one the context is released."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        # PyCUDA's detach() releases a context that is current in whichever thread this is, and only in its own thread
        # one that is not. It takes the release for a pop, which it is not for a primary context: so that is done first.
        try:
            self._context.push()
        except self._driver.Error:
            return  # broken for good: it goes with the process
        self._pop_context()
        self._context.detach()

    def _used(self) -> None:
        with self._lock:
            if self._users == 0:
                raise CudaError("CUDA: the device was closed")
            self._users += 1

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """PyCUDA's exceptions as this file's."""
        try:
            yield
        except self._driver.MemoryError as error:
            raise OutOfMemoryError(f"CUDA: {error}") from error
        except self._driver.Error as error:
            raise CudaError(f"CUDA: {error}") from error

    def checked(self, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """What cuda-bindings returned after its status."""
        status, *values = answer
        if int(status) == 0:
            return tuple(values)
        kind = OutOfMemoryError if status.name == "CUDA_ERROR_OUT_OF_MEMORY" else CudaError
        raise kind(f"CUDA: {status.name}")

    @property
    def errors(self) -> Any:
        return self._errors


def _pop_context() -> None:
    """Take the thread's current context off its stack without PyCUDA's knowledge."""
    ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _bindings() -> tuple[Any, str | None]:
    """cuda-bindings' driver module, or why there is none."""
    try:
        return importlib.import_module("cuda.bindings.driver"), None
    except ImportError as error:
        return None, f"cuda-bindings cannot be imported ({error}): pip install cuda-bindings"


def _raw(stream: Stream) -> Any:
    assert isinstance(stream, _PyStream)
    return stream.raw


class _PyStream:
    def __init__(self, cuda: _PyCuda, raw: Any) -> None:
        self._cuda = cuda
        self.raw = raw

    @property
    def handle(self) -> int:
        return int(self.raw.handle)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _PyEvent | _BoundEvent)
        event.hold(self)

    def synchronize(self) -> None:
        with self._cuda.errors():
            self.raw.synchronize()

    def free(self) -> None:
        self.raw = None  # PyCUDA destroys it with its last reference


class _ExternalStream:
    """A stream that another library made and will destroy."""

    def __init__(self, cuda: _PyCuda, bindings: Any, handle: int) -> None:
        self._cuda = cuda
        self._bindings = bindings
        self._handle = handle

    @property
    def handle(self) -> int:
        return self._handle

    def wait(self, event: Event) -> None:
        assert isinstance(event, _BoundEvent)
        event.hold(self)

    def synchronize(self) -> None:
        self._cuda.checked(self._bindings.cuStreamSynchronize(self._handle))

    def free(self) -> None:
        return


class _PyEvent:
    """PyCUDA's event: its handle cannot be had, so that it knows PyCUDA's own streams alone."""

    def __init__(self, cuda: _PyCuda, raw: Any) -> None:
        self._cuda = cuda
        self._raw = raw

    def record(self, stream: Stream) -> None:
        with self._cuda.errors():
            self._raw.record(_raw(stream))

    def hold(self, stream: _PyStream) -> None:
        with self._cuda.errors():
            stream.raw.wait_for_event(self._raw)

    def synchronize(self) -> None:
        with self._cuda.errors():
            self._raw.synchronize()

    def free(self) -> None:
        self._raw = None


class _BoundEvent:
    """cuda-bindings' event, for anybody's stream."""

    def __init__(self, cuda: _PyCuda, bindings: Any) -> None:
        self._cuda = cuda
        self._bindings = bindings
        flags = bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING
        (self._raw,) = cuda.checked(bindings.cuEventCreate(flags))

    def record(self, stream: Stream) -> None:
        self._cuda.checked(self._bindings.cuEventRecord(self._raw, stream.handle))

    def hold(self, stream: Stream) -> None:
        self._cuda.checked(self._bindings.cuStreamWaitEvent(stream.handle, self._raw, 0))

    def synchronize(self) -> None:
        self._cuda.checked(self._bindings.cuEventSynchronize(self._raw))

    def free(self) -> None:
        self._cuda.checked(self._bindings.cuEventDestroy(self._raw))


class _PyMemory:
    def __init__(self, cuda: _PyCuda, raw: Any) -> None:
        self._cuda = cuda
        self._raw = raw
        self._address = int(raw)

    @property
    def address(self) -> int:
        return self._address

    def free(self) -> None:
        with self._cuda.errors():
            self._raw.free()
        self._cuda.unused()


class _PyPinned:
    def __init__(self, cuda: _PyCuda, array: Bytes) -> None:
        self._cuda = cuda
        self._array = array

    @property
    def array(self) -> Bytes:
        return self._array

    def free(self) -> None:
        base: Any = self._array.base
        with self._cuda.errors():
            base.free()


class _BoundGraph:
    def __init__(self, cuda: _PyCuda, bindings: Any, instance: Any) -> None:
        self._cuda = cuda
        self._bindings = bindings
        self._instance = instance

    def launch(self, stream: Stream) -> None:
        self._cuda.checked(self._bindings.cuGraphLaunch(self._instance, stream.handle))

    def free(self) -> None:
        self._cuda.checked(self._bindings.cuGraphExecDestroy(self._instance))
