"""The TensorRT backend on the simulated device, on which nothing happens before something waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_runtime.backends.base import Backend, Signature, TensorSpec
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import CudaError, Event, Graph, Memory, OutOfMemoryError, Pinned, Stream
from resnet_runtime.backends.tensorrt.slot import GRAPHS
from resnet_runtime.errors import BackendError, ClosedError
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor

SHAPE = (2, 3)
KINDS = (Memory, Pinned, Event, Stream, Graph)
LARGEST = 8


def answer(found: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    image = found["input"]
    total = image.sum(axis=(1, 2), dtype=np.float32)
    return {"logits": np.stack([total, -total], axis=1), "embedding": image.reshape(len(image), -1)[:, :3] * 2}


SIGNATURE = Signature(
    TensorSpec("input", np.dtype(np.float32), SHAPE),
    (TensorSpec("logits", np.dtype(np.float32), (2,)), TensorSpec("embedding", np.dtype(np.float32), (3,))),
    largest_batch=LARGEST,
)
INPUTS = (SimulatedTensor("input", "float32", SHAPE),)
OUTPUTS = (SimulatedTensor("logits", "float32", (2,)), SimulatedTensor("embedding", "float32", (3,)))


def made(
    cuda: SimulatedCuda,
    *,
    contexts: int = 4,
    graphs: bool = True,
    profiles: tuple[tuple[int, int, int], ...] = ((1, 4, LARGEST),),
    function: Callable[..., dict[str, NDArray[np.float32]]] = answer,
    room_for: int = 100,
) -> TensorRTBackend:
    engine = SimulatedEngine(cuda, function, INPUTS, OUTPUTS, profiles, contexts=room_for)
    return TensorRTBackend(engine, cuda, SIGNATURE, "simulated", contexts=contexts, graphs=graphs)


def batch(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def check(found: dict[str, NDArray[np.float32]], image: NDArray[np.float32]) -> None:
    expected = answer({"input": image})
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def freed(cuda: SimulatedCuda) -> bool:
    return all(cuda.alive(kind) == 0 for kind in KINDS)


@pytest.mark.parametrize("graphs", [True, False])
def test_a_call_answers_and_everything_is_freed(graphs: bool) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, graphs=graphs)
    assert isinstance(backend, Backend)
    for round_ in range(4):
        image = batch(3, round_)
        check(backend.start({"input": image}).result(), image)
    assert cuda.launched == (2 if graphs else 0), "the third call of a size is the first that is a graph"
    assert cuda.depth == 0
    backend.close()
    backend.close()
    assert freed(cuda)
    assert cuda.closed == 1
    with pytest.raises(ClosedError):
        backend.start({"input": batch(1)})


def test_the_caller_may_write_into_its_array_once_the_call_is_started() -> None:
    backend = made(SimulatedCuda())
    image = batch(4)
    kept = image.copy()
    pending = backend.start({"input": image})
    image[:] = 0
    check(pending.result(), kept)


def test_outputs_are_the_caller_s_arrays_or_new_ones() -> None:
    backend = made(SimulatedCuda())
    image = batch(2)
    mine = {"logits": np.zeros((2, 2), np.float32)}
    found = backend.start({"input": image}, mine).result()
    assert found["logits"] is mine["logits"]
    check(found, image)
    first = backend.start({"input": image}).result()
    backend.start({"input": batch(2, 9)}).result()
    check(first, image)


@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_more_calls_than_slots_may_be_started_by_one_thread(contexts: int) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=contexts)
    images = [batch(1 + index % LARGEST, index) for index in range(12)]
    pending = [backend.start({"input": image}) for image in images]
    assert cuda.alive(Stream) == contexts
    for index in reversed(range(12)):
        check(pending[index].result(), images[index])
    check(pending[3].result(), images[3])
    backend.close()
    assert freed(cuda)


def test_a_call_whose_result_nobody_takes_is_finished_by_close() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    image = batch(5)
    pending = backend.start({"input": image})
    backend.close()
    assert freed(cuda)
    check(pending.result(), image)


def test_calls_that_are_started_together_overlap() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, graphs=False)
    first, second = backend.start({"input": batch(1)}), backend.start({"input": batch(2)})
    before = cuda.done
    second.result()
    assert cuda.done - before == 4, "copy-in, computation, two copies out; nothing of the first call"
    first.result()


def test_graphs_are_kept_for_the_sizes_that_are_used() -> None:
    cuda = SimulatedCuda()
    engine = SimulatedEngine(cuda, answer, INPUTS, OUTPUTS, ((1, 8, 20),))
    wide = Signature(SIGNATURE.input, SIGNATURE.outputs, largest_batch=20)
    backend = TensorRTBackend(engine, cuda, wide, "simulated", contexts=1)
    for _ in range(3):
        for size in range(1, 13):
            image = batch(size, size)
            check(backend.start({"input": image}).result(), image)
    assert cuda.alive(Graph) == GRAPHS

    def is_a_graph(size: int) -> bool:
        launched = cuda.launched
        image = batch(size, size + 50)
        check(backend.start({"input": image}).result(), image)
        return cuda.launched > launched

    assert is_a_graph(5), "the oldest of sizes 5 to 12"
    assert not is_a_graph(1), "captured now, in the place of 6, which was not used since"
    assert is_a_graph(5)
    assert is_a_graph(1)
    assert not is_a_graph(6)
    backend.close()
    assert freed(cuda)


def test_each_batch_is_run_by_the_profile_tuned_for_it() -> None:
    seen: list[int] = []

    def function(found):
        seen.append(len(found["input"]))
        return answer(found)

    cuda = SimulatedCuda()
    backend = made(cuda, profiles=((1, 1, 2), (2, 8, 8)), function=function, contexts=1)
    for size in (1, 8, 2, 1, 1, 8, 8, 2, 3, 3, 3):
        image = batch(size, size)
        check(backend.start({"input": image}).result(), image)
    assert set(seen) == {1, 2, 3, 8}
    with pytest.raises(BackendError, match="the engine takes batches of 1 to 2, 2 to 8, not of 9"):
        backend.start({"input": batch(9)})


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


@settings(max_examples=60, deadline=None)
@given(
    contexts=st.integers(1, 3),
    graphs=st.booleans(),
    steps=st.lists(st.tuples(st.integers(1, LARGEST), st.integers(0, 3)), min_size=1, max_size=25),
)
def test_any_interleaving_answers_each_call_with_its_own(
    contexts: int, graphs: bool, steps: list[tuple[int, int]]
) -> None:
    """Each step starts a call and takes the results of some that are open."""
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=contexts, graphs=graphs)
    started = []
    for seed, (size, taken) in enumerate(steps):
        image = batch(size, seed)
        started.append((backend.start({"input": image}), image.copy()))
        image[:] = np.nan
        for _ in range(min(taken, len(started))):
            call, expected = started.pop(seed % len(started))
            check(call.result(), expected)
    for call, expected in started:
        check(call.result(), expected)
    assert cuda.depth == 0
    backend.close()
    assert freed(cuda)


@pytest.mark.parametrize("graphs", [True, False])
def test_threads_get_their_own_answers(graphs: bool) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=3, graphs=graphs)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for index in range(30):
                image = batch(1 + (seed + index) % LARGEST, 100 * seed + index)
                check(backend.start({"input": image}).result(), image)
            assert cuda.depth == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
    backend.close()
    assert freed(cuda)


@pytest.mark.parametrize("graphs", [True, False])
def test_fewer_than_an_engine_takes_are_filled_up(graphs: bool) -> None:
    ran: list[NDArray[np.float32]] = []

    def function(found: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        ran.append(found["input"].copy())
        return answer(found)

    cuda = SimulatedCuda()
    backend = made(cuda, profiles=((1, 1, 1), (4, 8, 8)), function=function, contexts=1, graphs=graphs)
    for size, run in ((1, 1), (2, 4), (3, 4), (4, 4), (5, 5), (3, 4), (2, 4), (3, 4), (8, 8)):
        image = batch(size, size)
        check(backend.start({"input": image}).result(), image)
        assert len(ran[-1]) == run
        np.testing.assert_array_equal(ran[-1][size:], np.repeat(image[-1:], run - size, axis=0))
    backend.close()
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
