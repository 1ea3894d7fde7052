"""What builds and runs engines on this host: the one door to libraries and device, so that tests can have another."""

from __future__ import annotations

from typing import Protocol

from resnet_runtime.backends import open_engine
from resnet_runtime.backends.base import Backend, Signature
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.backends.tensorrt.pycuda_device import device_info
from resnet_runtime.manifest import Engine


class EngineHost(Protocol):
    """A host."""

    def library(self, name: str) -> Library:
        """One of ``library.LIBRARIES``. Raises UnavailableError where it is not installed."""

    def device(self) -> DeviceInfo:
        """The GPU that engines would run on. Raises UnavailableError, with the reason, where PyCUDA can use none."""

    def open(self, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
        """Load an engine as the runtime does. Raises UnavailableError, or BackendError where it cannot be loaded."""


class ThisHost:
    """The host that this process is on."""

    def library(self, name: str) -> Library:
        """Import it."""
        return library_named(name)

    def device(self) -> DeviceInfo:
        """The first CUDA device."""
        return device_info()

    def open(self, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
        """On the first device."""
        return open_engine("tensorrt", engine, data, signature, precision)
