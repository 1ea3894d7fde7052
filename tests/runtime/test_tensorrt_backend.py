"""The TensorRT backend on the simulated device, on which nothing happens before something waits for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resnet_runtime.backends.base import Backend, Signature
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import Graph, Stream
from resnet_runtime.backends.tensorrt.slot import GRAPHS
from resnet_runtime.errors import BackendError, ClosedError
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine

from .tensorrt_calls import INPUTS, LARGEST, OUTPUTS, SIGNATURE, answer, batch, check, freed, made
from .threads import in_threads


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

    def work(seed: int) -> None:
        for index in range(30):
            image = batch(1 + (seed + index) % LARGEST, 100 * seed + index)
            check(backend.start({"input": image}).result(), image)
        assert cuda.depth == 0

    in_threads(8, work)
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
