"""A TensorRT backend that fails: without memory, with a context that breaks, interrupted; nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import CudaError, Event, Graph, Memory, OutOfMemoryError, Pinned, Stream
from resnet_runtime.errors import BackendError
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine

from .tensorrt_calls import INPUTS, LARGEST, OUTPUTS, SIGNATURE, answer, batch, check, freed, made


def test_without_memory_for_a_second_slot_calls_share_the_first() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, room_for=1)
    images = [batch(2, index) for index in range(4)]
    pending = [backend.start({"input": image}) for image in images]
    assert cuda.alive(Stream) == 1
    for call, image in zip(pending, images, strict=True):
        check(call.result(), image)
    backend.close()
    assert freed(cuda)


@pytest.mark.parametrize("memory", [0, 200, 300])
def test_without_memory_for_one_call_nothing_is_left(memory: int) -> None:
    cuda = SimulatedCuda(memory=memory)
    with pytest.raises(OutOfMemoryError):
        made(cuda)
    assert freed(cuda)


def test_a_failure_that_breaks_nothing_leaves_the_backend_as_it_was() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    for after in range(6):
        cuda.fail_next(CudaError("CUDA: launch failed for want of resources"))
        with pytest.raises(CudaError, match="for want of resources"):
            backend.start({"input": batch(2, after)})
        image = batch(3, after)
        check(backend.start({"input": image}).result(), image)
    backend.close()
    assert freed(cuda)


def test_a_capture_that_fails_costs_the_graphs_and_no_call() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    backend.start({"input": batch(2)}).result()
    begin, end = cuda.begin_capture, cuda.end_capture
    begun = 0

    def began(stream: Stream) -> None:
        nonlocal begun
        begun += 1
        begin(stream)
        cuda.fail_next(CudaError("CUDA: the first"))

    def ended(stream: Stream) -> Graph:
        end(stream).free()
        raise CudaError("CUDA: the capture was invalidated")

    cuda.begin_capture, cuda.end_capture = began, ended
    for seed in range(4):
        image = batch(2, seed)
        check(backend.start({"input": image}).result(), image)
    assert backend.description == "simulated, without CUDA graphs: CUDA: the first"
    assert (begun, cuda.launched, cuda.alive(Graph)) == (1, 0, 0)
    backend.close()
    assert freed(cuda)


def test_a_context_that_breaks_while_a_graph_is_captured_is_seen_by_the_call() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    backend.start({"input": batch(2)}).result()
    begin = cuda.begin_capture

    def began(stream: Stream) -> None:
        begin(stream)
        cuda.fail_next(CudaError("CUDA: an illegal memory access"), sticky=True)

    cuda.begin_capture = began
    pending = backend.start({"input": batch(2)})
    with pytest.raises(BackendError, match="an illegal memory access"):
        pending.result()
    with pytest.raises(BackendError, match="broke in an earlier call"):
        backend.start({"input": batch(2)})
    backend.close()


@pytest.mark.parametrize("contexts", [1, 2])
def test_a_broken_context_fails_every_later_call_with_the_first_cause(contexts: int) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=contexts)
    pending = backend.start({"input": batch(1)})
    if contexts == 1:
        pending.result()
    cuda.fail_next(CudaError("CUDA: an illegal memory access"), sticky=True)
    with pytest.raises(CudaError, match="an illegal memory access"):
        backend.start({"input": batch(2)})
    with pytest.raises(BackendError, match=r"broke in an earlier call.*an illegal memory access"):
        backend.start({"input": batch(2)})
    if contexts > 1:
        with pytest.raises(BackendError):
            pending.result()
    backend.close()
    assert cuda.closed == 1


def test_an_engine_of_another_model_is_refused() -> None:
    cuda = SimulatedCuda()
    engine = SimulatedEngine(cuda, answer, INPUTS, OUTPUTS[:1])
    with pytest.raises(BackendError, match="another model's engine"):
        TensorRTBackend(engine, cuda, SIGNATURE, "simulated")
    assert freed(cuda)


def test_a_failure_does_not_spoil_what_another_thread_captures() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=2)
    image = batch(2)
    for pending in [backend.start({"input": image}) for _ in range(2)]:  # each in a slot of its own
        pending.result()
    begin = cuda.begin_capture
    failed: list[BaseException] = []

    def capture(stream: Stream) -> None:
        begin(stream)
        cuda.begin_capture = begin
        cuda.fail_next(CudaError("CUDA: launch failed for want of resources"))
        other = threading.Thread(target=fail)  # it takes the other slot
        other.start()
        other.join(60)

    def fail() -> None:
        try:
            backend.start({"input": batch(3)})
        except CudaError as error:
            failed.append(error)

    cuda.begin_capture = capture
    check(backend.start({"input": image}).result(), image)
    assert [str(error) for error in failed] == ["CUDA: launch failed for want of resources"]
    launched = cuda.launched
    for pending in [backend.start({"input": image}) for _ in range(2)]:
        check(pending.result(), image)
    assert cuda.launched > launched, "the graph was captured all the same"
    backend.close()
    assert freed(cuda)


def test_a_slot_that_cannot_be_made_breaks_nothing_unless_the_context_is_broken() -> None:
    for sticky in (False, True):
        cuda = SimulatedCuda()
        backend = made(cuda)
        image = batch(2)
        pending = backend.start({"input": image})
        streams = cuda.alive(Stream)
        cuda.fail_next(CudaError("CUDA: it failed"), sticky=sticky)
        with pytest.raises(CudaError, match="CUDA: it failed"):
            backend.start({"input": image})
        assert sticky or cuda.alive(Stream) == streams  # a broken context takes its own with it
        if sticky:
            with pytest.raises(BackendError, match="broke in an earlier call"):
                backend.start({"input": image})
        else:
            check(pending.result(), image)
            check(backend.start({"input": image}).result(), image)
        backend.close()


def test_a_slot_that_nobody_gets_is_freed() -> None:
    """Which the pool asks for where it was closed while the slot was made: ``test_tensorrt_pool.py``."""
    cuda = SimulatedCuda()
    backend = made(cuda)
    before = [cuda.alive(kind) for kind in (Memory, Pinned, Event, Stream)]
    slot = backend._made()
    assert [cuda.alive(kind) for kind in (Memory, Pinned, Event, Stream)] != before
    backend._freed(slot)
    assert [cuda.alive(kind) for kind in (Memory, Pinned, Event, Stream)] == before
    backend.close()


@pytest.mark.parametrize("where", ["synchronize", "twice"])
def test_a_call_that_is_interrupted_gives_its_slot_back_once(where: str) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1, graphs=False)
    current = cuda.current
    left = 1 if where == "synchronize" else 2

    @contextmanager
    def interrupted() -> Iterator[None]:
        nonlocal left
        with current():
            if left:
                left -= 1
                raise KeyboardInterrupt
            yield

    pending = backend.start({"input": batch(1)})
    cuda.current = interrupted
    with pytest.raises(KeyboardInterrupt):
        pending.result()
    image = batch(2, 5)
    check(backend.start({"input": image}).result(), image)
    with pytest.raises(BackendError, match="the call was interrupted while it was waited for"):
        pending.result()
    other = backend.start({"input": image})
    check(other.result(), image)
    backend.close()
    assert freed(cuda)


def test_what_cannot_be_kept_at_the_end_frees_the_rest_all_the_same() -> None:
    def fails() -> None:
        raise BackendError("the cache cannot be serialized")

    cuda = SimulatedCuda()
    engine = SimulatedEngine(cuda, answer, INPUTS, OUTPUTS, ((1, 4, LARGEST),))
    backend = TensorRTBackend(engine, cuda, SIGNATURE, "simulated", on_close=fails)
    for pending in [backend.start({"input": batch(1)}) for _ in range(3)]:
        pending.result()
    with pytest.raises(BackendError, match="cannot be serialized"):
        backend.close()
    assert freed(cuda)
    assert (cuda.closed, cuda.depth) == (1, 0)
    assert backend.engine is None


def test_the_engine_is_gone_before_its_context() -> None:
    cuda = SimulatedCuda()
    seen: list[object] = []
    backend = made(cuda)
    close = cuda.close

    def closed() -> None:
        seen.append(backend.engine)
        close()

    cuda.close = closed
    backend.close()
    assert seen == [None]


def test_a_first_slot_that_breaks_the_context_is_told() -> None:
    cuda = SimulatedCuda()
    cuda.fail_next(CudaError("CUDA: an illegal memory access"), sticky=True)
    with pytest.raises(CudaError, match="an illegal memory access"):
        made(cuda)
