"""A session inside an application: arrays of other libraries, the caller's buffers, asyncio and forked processes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import ClosedError, InputError, Session, UnavailableError
from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.backends.openvino import LEFT_BEHIND
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle

from .forks import said_by_a_child
from .graphs import answers, colors, write_linear

torch = pytest.importorskip("torch", reason="an array of another library is needed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_linear(tmp_path_factory.mktemp("embedded") / "linear.bundle")


def loaded(path: Path, backend: Any) -> Session:
    if backend == "simulated":
        backend = SimulatedBackend(signature_from_manifest(Bundle.open(path).manifest), answers)
    return resnet_runtime.load(path, backend=backend, precision="fp32")


@pytest.fixture(scope="module", params=["simulated", "openvino", "onnxruntime"])
def session(request: pytest.FixtureRequest, path: Path) -> Iterator[Session]:
    with loaded(path, request.param) as session:
        yield session


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_an_array_of_another_library_in(session: Session, count: int) -> None:
    batch = colors(count, seed=count)
    found = session.infer(torch.from_numpy(batch.copy()))
    for name, expected in answers(batch).items():
        np.testing.assert_array_equal(found[name], expected, strict=True)


def test_an_answer_goes_to_another_library_without_a_copy(session: Session) -> None:
    found = session.infer(colors(2))["logits"]
    tensor = torch.from_dlpack(found)
    tensor[0, 0] = 77
    assert found[0, 0] == 77


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_the_answer_in_buffers_of_the_caller(session: Session, count: int, kind: str) -> None:
    batch = colors(count, seed=count)
    expected = answers(batch)
    out: dict[str, Any] = {name: np.full_like(array, -1) for name, array in expected.items()}
    if kind == "torch":
        out = {name: torch.from_numpy(array) for name, array in out.items()}
    found = session.infer(batch, out=out)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.asarray(out[name]), array)
        assert np.shares_memory(found[name], np.asarray(out[name]))


def test_some_outputs_alone_may_be_the_callers(session: Session) -> None:
    batch = colors(2)
    out = {"colors": np.empty_like(answers(batch)["colors"])}
    found = session.infer(batch, out=out)
    np.testing.assert_array_equal(out["colors"], answers(batch)["colors"])
    np.testing.assert_array_equal(found["logits"], answers(batch)["logits"])


def test_buffers_that_do_not_fit(session: Session) -> None:
    batch = colors(2)
    logits = answers(batch)["logits"]
    with pytest.raises(InputError, match="there is no output 'extra'"):
        session.infer(batch, out={"extra": logits})
    with pytest.raises(InputError, match="the output array 'logits' is"):
        session.infer(batch, out={"logits": logits[:1].copy()})
    with pytest.raises(InputError, match="the output array 'logits' is a list, not a numpy array"):
        session.infer(batch, out={"logits": [1.0]})
    fixed = logits.copy()
    fixed.flags.writeable = False
    with pytest.raises(InputError, match="the output array 'logits' is read-only"):
        session.infer(batch, out={"logits": fixed})


def test_arrays_that_cannot_be_read(session: Session) -> None:
    with pytest.raises(InputError, match="the batch is a Tensor that cannot be read where it lies"):
        session.infer(torch.from_numpy(colors(1)).requires_grad_())
    with pytest.raises(InputError, match=r"the batch is a list, not a numpy array$"):
        session.infer([1.0])
    with pytest.raises(InputError, match="the batch has the dtype float64"):
        session.infer(torch.from_numpy(colors(1)).double())


def test_the_event_loop_goes_on(path: Path) -> None:
    def slow(batch: np.ndarray) -> dict[str, np.ndarray]:
        time.sleep(0.2)
        return answers(batch)

    async def both() -> tuple[dict[str, np.ndarray], int]:
        ticks = 0
        task = asyncio.create_task(session.infer_async(colors(1)))
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return task.result(), ticks

    signature = signature_from_manifest(Bundle.open(path).manifest)
    with resnet_runtime.load(path, backend=SimulatedBackend(signature, slow)) as session:
        found, ticks = asyncio.run(both())
    np.testing.assert_array_equal(found["logits"], answers(colors(1))["logits"])
    assert ticks > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("backend", ["simulated", "openvino", "onnxruntime"])
def test_a_session_after_a_fork_says_so_and_the_parents_goes_on(path: Path, backend: str) -> None:
    session = loaded(path, backend)

    def child() -> str:
        nonlocal session
        try:
            session.infer(colors(1))
            said = "answered"
        except ClosedError as error:
            said = str(error)
        session.close()
        session = loaded(path, "onnxruntime")
        gc.collect()
        return f"{said}, {len(session.infer(colors(1)))}"

    said = said_by_a_child(child)
    assert (
        said
        == "the session was loaded before this process was forked: fork first, and load the bundle in each process, 2"
    )
    np.testing.assert_array_equal(session.infer(colors(1))["logits"], answers(colors(1))["logits"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_openvino_is_not_loaded_in_a_child_of_a_process_that_ran_it(path: Path) -> None:
    """It would wait for a lock that one of the parent's threads held, one time in four or so."""

    def child() -> str:
        with pytest.raises(UnavailableError) as caught:
            loaded(path, "openvino")
        with resnet_runtime.load(path) as session:
            return "; ".join((caught.value.message, session.choice.backend, *session.choice.reasons))

    with loaded(path, "openvino") as session:
        session.infer(colors(1))
        alone, backend, *reasons = said_by_a_child(child).split("; ")
    assert (alone, backend) == (LEFT_BEHIND, "onnxruntime")
    assert LEFT_BEHIND in reasons


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_call_that_was_under_way_at_a_fork_is_its_parents(path: Path) -> None:
    with loaded(path, "openvino") as session:
        pending = [session.start(colors(1))]

        def child() -> str:
            try:
                pending[0].result()
                return "answered"
            except ClosedError as error:
                pending.clear()  # what is freed of it would be waited for
                gc.collect()
                return error.message

        assert said_by_a_child(child) == (
            "the call was started before this process was forked: start it in the process that waits"
        )
        np.testing.assert_array_equal(pending[0].result()["logits"], answers(colors(1))["logits"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_that_was_forked_before_loads_openvino(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK_FIRST, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "openvino\nopenvino\n"


FORK_FIRST = """
import os, sys
import resnet_runtime
child = os.fork()
with resnet_runtime.load(sys.argv[1], backend="openvino", precision="fp32") as session:
    print(session.choice.backend, flush=True)
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""
