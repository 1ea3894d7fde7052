"""CUDA, as far as the backend needs it: the interface. ``pycuda_device`` implements it, and ``testing.simulated_cuda``.

Everything but ``Cuda.current`` needs the device's context to be the thread's current one, which ``current`` sees to.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.errors import BackendError

Bytes = NDArray[np.uint8]


class CudaError(BackendError):
    """A CUDA call failed."""


class OutOfMemoryError(CudaError):
    """The device, or the host's pinned memory, has no room left. The context is as good as before."""


@dataclass(frozen=True)
class DeviceInfo:
    """The device.

    Attributes:
        name: as its driver says.
        capability: its compute capability, such as ``8.6``.
        driver: the newest CUDA version that the driver runs, such as ``13.0``.
    """

    name: str
    capability: str
    driver: str


class Stream(Protocol):
    """Work that is done in order."""

    @property
    def handle(self) -> int:
        """What other libraries know it by."""

    def wait(self, event: Event) -> None:
        """What is queued from now on begins after the event."""

    def synchronize(self) -> None:
        """Wait, on the host, until all that is queued is done."""

    def free(self) -> None:
        """What is queued is done first."""


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: Stream) -> None:
        """The event is now what has been queued there; before, it was something else, or done."""

    def synchronize(self) -> None:
        """Wait for it on the host."""

    def free(self) -> None:
        """It may be waited for still."""


class Memory(Protocol):
    """Bytes on the device."""

    @property
    def address(self) -> int:
        """On the device."""

    def free(self) -> None:
        """Nothing that is queued may use it."""


class Pinned(Protocol):
    """Bytes of the host that the device copies from and to by itself."""

    @property
    def array(self) -> Bytes:
        """(size,)"""

    def free(self) -> None:
        """Nothing that is queued may use it."""


class Graph(Protocol):
    """Work that was captured."""

    def launch(self, stream: Stream) -> None:
        """Queue all of it at once."""

    def free(self) -> None:
        """Nothing that is queued may use it."""


class Cuda(Protocol):
    """One device."""

    @property
    def info(self) -> DeviceInfo:
        """What it is."""

    @property
    def no_graphs(self) -> str | None:
        """Why graphs cannot be captured, or None."""

    def current(self) -> AbstractContextManager[None]:
        """The device's context is the thread's current one inside."""

    def stream(self) -> Stream:
        """A new one that waits for no other."""

    def external(self, handle: int) -> Stream:
        """Another library's stream. Raises UnavailableError without cuda-bindings."""

    def event(self) -> Event:
        """A new one, done until it is recorded."""

    def allocate(self, size: int) -> Memory:
        """``size`` bytes. Raises OutOfMemoryError."""

    def pinned(self, size: int) -> Pinned:
        """``size`` bytes. Raises OutOfMemoryError."""

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        """Queue a copy to the device. ``source`` is pinned, and has to stay as it is until the copy is done."""

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        """Queue a copy to the host. ``target`` is pinned, and has its bytes when the copy is done."""

    def begin_capture(self, stream: Stream) -> None:
        """What this thread queues there from now on is not done but captured."""

    def end_capture(self, stream: Stream) -> Graph:
        """What was captured, to be launched."""

    def synchronize(self) -> None:
        """Wait until everything is done; raises CudaError where the context is broken for good."""

    def close(self) -> None:
        """Release the context; whoever else retained it keeps it."""
