"""The simulated CUDA device captures graphs as strictly as CUDA does, and fails as a context that broke."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.cuda import CudaError, Event, Graph
from resnet_runtime.testing.simulated_cuda import SimulatedCuda

from .simulated_device import SIZE, captured, cuda, data, filled, staged

__all__ = ["cuda"]  # a fixture


# Captures.


@pytest.mark.parametrize("what", ["allocate", "pinned", "free memory", "free pinned", "synchronize", "context"])
def test_what_cannot_be_captured_spoils_the_capture(cuda: SimulatedCuda, what: str) -> None:
    stream, memory, pinned = cuda.stream(), filled(cuda), staged(cuda)
    does: dict[str, Callable[[], object]] = {
        "allocate": lambda: cuda.allocate(1),
        "pinned": lambda: cuda.pinned(1),
        "free memory": memory.free,
        "free pinned": pinned.free,
        "synchronize": stream.synchronize,
        "context": cuda.synchronize,
    }
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match=r"not permitted|cannot be waited for"):
        does[what]()
    with pytest.raises(CudaError, match="the capture was invalidated"):
        cuda.end_capture(stream)
    assert cuda.alive(Graph) == 0
    does[what]()


def test_a_graph_is_not_launched_into_a_capture(cuda: SimulatedCuda) -> None:
    stream, memory, source, target = cuda.stream(), filled(cuda), staged(cuda), cuda.pinned(SIZE)
    graph = captured(cuda, stream, memory, source, target)
    cuda.begin_capture(stream)
    with pytest.raises(CudaError, match="the launch of a graph is not permitted"):
        graph.launch(stream)
    cuda.end_capture(stream).free()
    assert cuda.launched == 0


def test_a_context_is_not_waited_for_while_another_thread_captures(cuda: SimulatedCuda) -> None:
    said: list[str] = []

    def wait() -> None:
        with cuda.current():
            cuda.allocate(SIZE).free()
            try:
                cuda.synchronize()
            except CudaError as error:
                said.append(error.message)

    stream = cuda.stream()
    cuda.begin_capture(stream)
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert said == ["CUDA: the context cannot be waited for while any stream of it is captured"]
    with pytest.raises(CudaError, match="the capture was invalidated"):
        cuda.end_capture(stream)
    cuda.synchronize()


def test_a_capture_ends_in_its_thread(cuda: SimulatedCuda) -> None:
    said: list[str] = []

    def end() -> None:
        with cuda.current():
            try:
                cuda.end_capture(stream)
            except CudaError as error:
                said.append(error.message)

    stream = cuda.stream()
    with pytest.raises(CudaError, match="not captured"):
        cuda.end_capture(stream)
    cuda.begin_capture(stream)
    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert said == ["CUDA: a capture was ended in another thread than it was begun in"]
    cuda.end_capture(stream).free()


# Failures.


def test_a_graph_is_launched_whole_or_not_at_all(cuda: SimulatedCuda) -> None:
    stream, memory, source, target = cuda.stream(), filled(cuda), staged(cuda, 1), cuda.pinned(SIZE)
    graph = captured(cuda, stream, memory, source, target)
    cuda.fail_next(CudaError("CUDA: no resources"))
    with pytest.raises(CudaError, match="no resources"):
        graph.launch(stream)
    stream.synchronize()
    assert (cuda.launched, cuda.done) == (0, 0)
    graph.launch(stream)
    stream.synchronize()
    assert (cuda.launched, cuda.done) == (1, 2)


def test_the_first_cause_is_the_one_that_is_told(cuda: SimulatedCuda) -> None:
    with pytest.raises(CudaError, match="invalid resource handle"):
        cuda.external(12345)
    with pytest.raises(CudaError, match="illegal memory access"):
        cuda.read(12345, 1)
    with pytest.raises(CudaError, match="invalid resource handle"):
        cuda.synchronize()


def test_threads_may_make_and_free_while_others_copy(cuda: SimulatedCuda) -> None:
    """Each thread's list of what is alive changes under the others' searches."""
    raised: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with cuda.current():
                stream = cuda.stream()
                for round_ in range(200):
                    memory, pinned, event = cuda.allocate(SIZE), staged(cuda, seed + round_), cuda.event()
                    cuda.upload(memory.address, pinned.array, stream)
                    event.record(stream)
                    event.synchronize()
                    assert cuda.alive(Event) >= 1
                    np.testing.assert_array_equal(cuda.read(memory.address, SIZE), data(seed + round_))
                    for item in (memory, pinned, event):
                        item.free()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=work, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert raised == []
