"""A simulated CUDA device that is closed after the test, and memory, staging and graphs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.backends.tensorrt.cuda import CudaError, Graph, Memory, Pinned, Stream
from resnet_runtime.testing.simulated_cuda import SimulatedCuda

SIZE = 16


@pytest.fixture
def cuda() -> Iterator[SimulatedCuda]:
    """With its context current."""
    made = SimulatedCuda()
    with made.current():
        yield made


def data(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 200, SIZE, np.uint8)


def filled(cuda: SimulatedCuda, seed: int = 0) -> Memory:
    memory = cuda.allocate(SIZE)
    cuda.write(memory.address, data(seed))
    return memory


def staged(cuda: SimulatedCuda, seed: int = 0) -> Pinned:
    pinned = cuda.pinned(SIZE)
    pinned.array[:] = data(seed)
    return pinned


def broken(cuda: SimulatedCuda, said: str, do: Callable[[], object]) -> None:
    """It breaks the context, and everything fails from then on."""
    with pytest.raises(CudaError, match=said):
        do()
    with pytest.raises(CudaError, match=said):
        cuda.stream()


def captured(cuda: SimulatedCuda, stream: Stream, memory: Memory, source: Pinned, target: Pinned) -> Graph:
    cuda.begin_capture(stream)
    cuda.upload(memory.address, source.array, stream)
    cuda.download(target.array, memory.address, stream)
    return cuda.end_capture(stream)
