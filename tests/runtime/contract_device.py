"""The device that the contract's tests are given: simulated, and PyCUDA's on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.backends.tensorrt.cuda import (
    Cuda,
    Event,
    Graph,
    Memory,
    Pinned,
    Stream,
)
from resnet_runtime.backends.tensorrt.pycuda_device import cuda_device
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from tests.runtime.device_work import KernelWork, SimulatedWork, Work

SIZE = 1000
ABSURD = 2**50
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Device:
    """A device, work for it, and a size of which it has room for a few, but not for ``rounds``."""

    cuda: Cuda
    work: Work
    block: int
    rounds: int

    def uploaded(self, data: Bytes, stream: Stream) -> tuple[Memory, Pinned]:
        """Memory with ``data``, which is on its way there, from pinned memory that has to stay until then."""
        memory, pinned = self.cuda.allocate(len(data)), self.cuda.pinned(len(data))
        pinned.array[: len(data)] = data
        self.cuda.upload(memory.address, pinned.array[: len(data)], stream)
        return memory, pinned

    def read(self, memory: Memory, size: int, stream: Stream) -> Bytes:
        """What the stream finds in memory when it comes to it."""
        pinned = self.cuda.pinned(size)
        self.cuda.download(pinned.array[:size], memory.address, stream)
        stream.synchronize()
        found = pinned.array[:size].copy()
        pinned.free()
        return found


def simulated() -> Device:
    cuda = SimulatedCuda(memory=2**20)
    return Device(cuda, SimulatedWork(cuda), 2**18, 20)


def real() -> Device:
    cuda = cuda_device()
    return Device(cuda, KernelWork(cuda), 2**30, 400)


@pytest.fixture(params=[simulated, pytest.param(real, marks=pytest.mark.gpu)], ids=["simulated", "pycuda"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """Closed afterwards, with nothing left but the thread's context of before."""
    made: Device = request.param()
    before = made.work.current()
    yield made
    assert made.work.current() == before
    made.work.close()
    made.cuda.close()
    assert made.work.current() == before
    if isinstance(made.cuda, SimulatedCuda):
        left = [kind for kind in (Stream, Event, Memory, Pinned, Graph) if made.cuda.alive(kind)]
        assert left == [], "a test has to free what it made, or what is freed here is not tested"


@pytest.fixture
def needs_graphs(device: Device) -> None:
    if device.cuda.no_graphs is not None:
        pytest.skip(device.cuda.no_graphs)


def ramp(seed: int, size: int = SIZE) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def free(*items: Stream | Event | Memory | Pinned | Graph) -> None:
    for item in items:
        item.free()
