"""What ``backends.tensorrt.cuda.Cuda`` promises of graphs, kept by the simulated device and by PyCUDA on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.cuda import (
    Graph,
    Memory,
    Pinned,
    Stream,
)
from tests.runtime.contract_device import (
    SIZE,
    Device,
    device,
    free,
    needs_graphs,
    ramp,
)
from tests.runtime.threads import in_threads

__all__ = ["device", "needs_graphs"]  # fixtures


def captured(device: Device, memory: Memory, source: Pinned, target: Pinned, stream: Stream) -> Graph:
    cuda = device.cuda
    cuda.begin_capture(stream)
    cuda.upload(memory.address, source.array, stream)
    device.work.add(memory.address, SIZE, 4, stream)
    cuda.download(target.array, memory.address, stream)
    return cuda.end_capture(stream)


@pytest.mark.usefixtures("needs_graphs")
def test_nothing_that_is_captured_is_done_by_that(device: Device) -> None:
    cuda, data = device.cuda, ramp(9)
    with cuda.current():
        stream, other, source, target = cuda.stream(), cuda.stream(), cuda.pinned(SIZE), cuda.pinned(SIZE)
        memory, pinned = device.uploaded(data, stream)
        target.array[:] = 9
        graph = captured(device, memory, source, target, stream)  # behind the upload, which is not part of it
        stream.synchronize()
        assert set(target.array) == {9}
        np.testing.assert_array_equal(device.read(memory, SIZE, other), data)
        free(graph, memory, pinned, source, target, stream, other)


@pytest.mark.usefixtures("needs_graphs")
def test_a_graph_is_launched_as_often_as_one_likes_on_what_its_staging_holds_then(device: Device) -> None:
    cuda, work = device.cuda, device.work
    with cuda.current():
        stream, other = cuda.stream(), cuda.stream()
        memory, source, target = cuda.allocate(SIZE), cuda.pinned(SIZE), cuda.pinned(SIZE)
        graph = captured(device, memory, source, target, stream)
        for seed in range(5):
            on = other if seed == 3 else stream
            source.array[:] = ramp(seed)
            graph.launch(on)
            work.add(memory.address, SIZE, 1, on)
            on.synchronize()
            np.testing.assert_array_equal(target.array, ramp(seed) + np.uint8(4))
            np.testing.assert_array_equal(device.read(memory, SIZE, on), ramp(seed) + np.uint8(5))
        free(graph, memory, source, target, stream, other)


@pytest.mark.usefixtures("needs_graphs")
def test_other_threads_go_on_while_one_captures(device: Device) -> None:
    cuda, work, data = device.cuda, device.work, ramp(10)

    def go_on(_: int) -> None:
        with cuda.current():
            stream = cuda.stream()
            memory, pinned = device.uploaded(data, stream)
            work.add(memory.address, SIZE, 1, stream)
            np.testing.assert_array_equal(device.read(memory, SIZE, stream), data + np.uint8(1))
            free(memory, pinned, stream)

    with cuda.current():
        stream, memory, target = cuda.stream(), cuda.allocate(SIZE), cuda.pinned(SIZE)
        cuda.begin_capture(stream)
        work.add(memory.address, SIZE, 4, stream)
        in_threads(2, go_on)
        cuda.download(target.array, memory.address, stream)
        graph = cuda.end_capture(stream)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(target.array, device.read(memory, SIZE, stream))
        free(graph, memory, target, stream)
