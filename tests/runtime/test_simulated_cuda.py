"""The simulated device is at least as strict as a real one: a mistake that a device may forgive breaks it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.cuda import CudaError, Memory, OutOfMemoryError, Pinned, Stream
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_objects import POISON

from .simulated_device import SIZE, broken, captured, cuda, data, filled, staged

__all__ = ["cuda"]  # a fixture


def test_nothing_is_done_without_the_context() -> None:
    cuda = SimulatedCuda()
    with cuda.current():
        stream, event, pinned, memory = cuda.stream(), cuda.event(), cuda.pinned(SIZE), cuda.allocate(SIZE)
    for do in (
        cuda.stream,
        cuda.event,
        cuda.synchronize,
        stream.synchronize,
        stream.free,
        event.synchronize,
        event.free,
        memory.free,
        pinned.free,
        lambda: cuda.allocate(1),
        lambda: cuda.pinned(1),
        lambda: cuda.external(stream.handle),
        lambda: event.record(stream),
        lambda: stream.wait(event),
        lambda: cuda.upload(memory.address, pinned.array, stream),
        lambda: cuda.begin_capture(stream),
    ):
        with pytest.raises(CudaError, match="not current in this thread"):
            do()
    with cuda.current():
        stream.synchronize()


def test_new_memory_is_poisoned(cuda: SimulatedCuda) -> None:
    assert set(cuda.read(cuda.allocate(SIZE).address, SIZE)) == {POISON}
    assert set(cuda.pinned(SIZE).array) == {POISON}
    assert np.isnan(np.full(4, POISON, np.uint8).view(np.float32)).all()


# Staging.


def test_the_target_of_a_copy_holds_nothing_from_the_moment_it_is_queued(cuda: SimulatedCuda) -> None:
    """Or the answer of the call before could be read in its place."""
    stream, memory, target = cuda.stream(), filled(cuda), cuda.pinned(SIZE + 4)
    target.array[:] = 3
    cuda.download(target.array[2 : 2 + SIZE], memory.address, stream)
    assert set(target.array[2 : 2 + SIZE]) == {POISON}
    assert set(target.array[:2]) | set(target.array[2 + SIZE :]) == {3}
    stream.synchronize()
    np.testing.assert_array_equal(target.array[2 : 2 + SIZE], data())


def test_so_does_the_target_of_a_graph_that_is_launched(cuda: SimulatedCuda) -> None:
    stream, memory, source, target = cuda.stream(), cuda.allocate(SIZE), staged(cuda), cuda.pinned(SIZE)
    target.array[:] = 3
    graph = captured(cuda, stream, memory, source, target)
    assert set(target.array) == {3}, "a capture does nothing"
    for seed in range(3):
        source.array[:] = data(seed)
        graph.launch(stream)
        assert set(target.array) == {POISON}
        stream.synchronize()
        np.testing.assert_array_equal(target.array, data(seed))


@pytest.mark.parametrize("graph", [False, True])
def test_the_source_of_a_copy_has_to_stay_until_it_is_done(cuda: SimulatedCuda, graph: bool) -> None:
    """A device that reads it at once sees what was there, one that is late what is there now: neither is right."""
    stream, memory, source = cuda.stream(), cuda.allocate(SIZE), staged(cuda)
    if graph:
        captured(cuda, stream, memory, source, cuda.pinned(SIZE)).launch(stream)
    else:
        cuda.upload(memory.address, source.array, stream)
    source.array[:] = data(1)
    broken(cuda, "changed before it was copied", stream.synchronize)


def test_the_source_may_change_before_and_after(cuda: SimulatedCuda) -> None:
    stream, memory, source = cuda.stream(), cuda.allocate(SIZE), staged(cuda)
    for seed in range(3):
        source.array[:] = data(seed)
        cuda.upload(memory.address, source.array, stream)
        stream.synchronize()
        np.testing.assert_array_equal(cuda.read(memory.address, SIZE), data(seed))


def test_one_staging_may_serve_both_ways_in_a_stream_s_order(cuda: SimulatedCuda) -> None:
    stream, first, second, both = cuda.stream(), filled(cuda, 1), filled(cuda, 2), staged(cuda)
    cuda.upload(first.address, both.array, stream)
    cuda.download(both.array, second.address, stream)
    cuda.upload(first.address, both.array, stream)
    stream.synchronize()
    np.testing.assert_array_equal(both.array, data(2))
    np.testing.assert_array_equal(cuda.read(first.address, SIZE), data(2))


def test_only_pinned_memory_is_copied(cuda: SimulatedCuda) -> None:
    stream, memory, pinned = cuda.stream(), filled(cuda), staged(cuda)
    for array in (np.zeros(SIZE, np.uint8), pinned.array.copy()):
        with pytest.raises(CudaError, match="not pinned"):
            cuda.upload(memory.address, array, stream)
        with pytest.raises(CudaError, match="not pinned"):
            cuda.download(array, memory.address, stream)


# What was freed.


def test_pinned_memory_that_was_freed(cuda: SimulatedCuda) -> None:
    pinned = staged(cuda)
    array = pinned.array
    pinned.free()
    assert set(array) == {POISON}
    stream, memory = cuda.stream(), cuda.allocate(SIZE)
    with pytest.raises(CudaError, match="not pinned"):
        cuda.upload(memory.address, array, stream)
    broken(cuda, "pinned memory was used after it was freed", lambda: pinned.array)


@pytest.mark.parametrize("upload", [True, False])
def test_what_a_queued_copy_uses_is_not_to_be_freed(upload: bool) -> None:
    for which, said in (("memory", "device memory was freed before"), ("pinned", "pinned memory was freed before")):
        cuda = SimulatedCuda()
        with cuda.current():
            stream, memory, pinned = cuda.stream(), filled(cuda), staged(cuda)
            if upload:
                cuda.upload(memory.address, pinned.array, stream)
            else:
                cuda.download(pinned.array, memory.address, stream)
            broken(cuda, said, (memory if which == "memory" else pinned).free)


def test_what_a_done_copy_used_may_be(cuda: SimulatedCuda) -> None:
    stream, memory, pinned = cuda.stream(), filled(cuda), staged(cuda)
    cuda.upload(memory.address, pinned.array, stream)
    cuda.download(pinned.array, memory.address, stream)
    stream.synchronize()
    memory.free()
    pinned.free()
    stream.free()
    cuda.synchronize()
    assert [cuda.alive(kind) for kind in (Memory, Pinned, Stream)] == [0, 0, 0]


def test_freed_device_memory_is_poisoned(cuda: SimulatedCuda) -> None:
    memory = filled(cuda)
    seen = cuda.memory_at(memory.address, SIZE)
    memory.free()
    assert set(seen) == {POISON}


def test_queued_work_whose_memory_was_freed(cuda: SimulatedCuda) -> None:
    stream, memory = cuda.stream(), filled(cuda)
    address = memory.address
    cuda.queue(stream, lambda: cuda.write(address, data(1)))
    memory.free()
    other = cuda.allocate(SIZE)
    assert other.address != address, "or the work would find memory there"
    broken(cuda, "illegal memory access", stream.synchronize)


@pytest.mark.parametrize("which", ["memory", "source", "target"])
def test_a_graph_whose_memory_was_freed(cuda: SimulatedCuda, which: str) -> None:
    stream, memory, source, target = cuda.stream(), cuda.allocate(SIZE), staged(cuda), cuda.pinned(SIZE)
    graph = captured(cuda, stream, memory, source, target)
    {"memory": memory, "source": source, "target": target}[which].free()

    def run() -> None:
        graph.launch(stream)
        stream.synchronize()

    broken(cuda, "illegal memory access|used after it was freed", run)


def test_a_graph_that_was_freed(cuda: SimulatedCuda) -> None:
    stream, memory, source, target = cuda.stream(), cuda.allocate(SIZE), staged(cuda), cuda.pinned(SIZE)
    graph = captured(cuda, stream, memory, source, target)
    graph.launch(stream)
    graph.free()
    broken(cuda, "a graph that was freed is run", stream.synchronize)


def test_a_freed_graph_is_not_launched(cuda: SimulatedCuda) -> None:
    stream, memory, source, target = cuda.stream(), cuda.allocate(SIZE), staged(cuda), cuda.pinned(SIZE)
    graph = captured(cuda, stream, memory, source, target)
    graph.free()
    broken(cuda, "a graph that was freed is run", lambda: graph.launch(stream))
    assert cuda.launched == 0


@pytest.mark.parametrize("use", ["synchronize", "wait", "record", "upload", "capture", "external", "by handle"])
def test_a_stream_that_was_freed(cuda: SimulatedCuda, use: str) -> None:
    stream, event, memory, pinned = cuda.stream(), cuda.event(), filled(cuda), staged(cuda)
    known = cuda.external(stream.handle)
    stream.free()
    uses: dict[str, Callable[[], object]] = {
        "synchronize": stream.synchronize,
        "wait": lambda: stream.wait(event),
        "record": lambda: event.record(stream),
        "upload": lambda: cuda.upload(memory.address, pinned.array, stream),
        "capture": lambda: cuda.begin_capture(stream),
        "external": known.synchronize,
        "by handle": lambda: cuda.external(stream.handle),
    }
    broken(cuda, "invalid resource handle", uses[use])


@pytest.mark.parametrize("use", ["synchronize", "wait", "record"])
def test_an_event_that_was_freed(cuda: SimulatedCuda, use: str) -> None:
    stream, event = cuda.stream(), cuda.event()
    event.free()
    uses: dict[str, Callable[[], object]] = {
        "synchronize": event.synchronize,
        "wait": lambda: stream.wait(event),
        "record": lambda: event.record(stream),
    }
    broken(cuda, "invalid resource handle", uses[use])


def test_nothing_is_freed_twice() -> None:
    for make in (
        lambda cuda: cuda.stream(),
        lambda cuda: cuda.event(),
        lambda cuda: cuda.allocate(SIZE),
        lambda cuda: cuda.pinned(SIZE),
        lambda cuda: captured(cuda, cuda.stream(), filled(cuda), staged(cuda), staged(cuda)),
    ):
        cuda = SimulatedCuda()
        with cuda.current():
            item = make(cuda)
            item.free()
            broken(cuda, "freed twice|was freed", item.free)


def test_a_stream_whose_work_is_not_done_is_not_to_be_freed(cuda: SimulatedCuda) -> None:
    stream = cuda.stream()
    cuda.queue(stream, lambda: None)
    broken(cuda, "a stream was freed whose work is not done", stream.free)


def test_another_s_stream_is_not_freed_by_its_handle(cuda: SimulatedCuda) -> None:
    stream = cuda.stream()
    cuda.external(stream.handle).free()
    cuda.queue(stream, lambda: None)
    stream.synchronize()
    assert cuda.alive(Stream) == 1
    assert cuda.done == 1


def test_freed_memory_counts_as_free() -> None:
    cuda = SimulatedCuda(memory=SIZE)
    with cuda.current():
        for make in (cuda.allocate, cuda.pinned):
            first = make(SIZE)
            with pytest.raises(OutOfMemoryError, match="0 are left"):
                make(1)
            first.free()
            make(SIZE).free()


# Order.


def test_nothing_is_done_before_it_is_waited_for(cuda: SimulatedCuda) -> None:
    seen: list[int] = []
    first, second, event = cuda.stream(), cuda.stream(), cuda.event()
    cuda.queue(first, lambda: seen.append(1))
    event.record(first)
    cuda.queue(first, lambda: seen.append(2))
    second.wait(event)
    cuda.queue(second, lambda: seen.append(3))
    assert seen == []
    second.synchronize()
    assert seen == [1, 3], "of another stream only what is waited for"
    first.synchronize()
    assert seen == [1, 3, 2]


def test_a_wait_is_for_what_the_event_was_then(cuda: SimulatedCuda) -> None:
    seen: list[int] = []
    first, second, event = cuda.stream(), cuda.stream(), cuda.event()
    cuda.queue(first, lambda: seen.append(1))
    event.record(first)
    second.wait(event)
    cuda.queue(first, lambda: seen.append(2))
    event.record(first)
    event.free()
    second.synchronize()
    assert seen == [1]
    first.synchronize()
    assert seen == [1, 2]


def test_a_wait_before_the_event_is_recorded_is_for_nothing(cuda: SimulatedCuda) -> None:
    seen: list[int] = []
    first, second, event = cuda.stream(), cuda.stream(), cuda.event()
    second.wait(event)
    cuda.queue(first, lambda: seen.append(1))
    event.record(first)
    second.synchronize()
    assert seen == []
    event.synchronize()
    assert seen == [1]
