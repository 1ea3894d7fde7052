"""Latency and throughput: the same answers, and calls that overlap where they are started together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime.backends import BACKENDS, open_backend
from resnet_runtime.backends.base import INTENTS, THROUGHPUT, Finished, OpenOptions, calls_at_once
from resnet_runtime.backends.cores import usable_cores
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, ClosedError, InputError
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session

from .graphs import answers, colors, linear_graph, write_linear
from .test_backends import LINEAR
from .threads import in_threads


def check(found: dict[str, np.ndarray], images: np.ndarray) -> None:
    for name, expected in answers(images).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)  # float32, some hundred additions


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("intent", INTENTS)
def test_calls_that_are_started_together_have_their_own_answers(name: str, intent: str) -> None:
    backend = open_backend(name, linear_graph(), LINEAR, "fp32", OpenOptions(intent=intent))
    assert backend.description.endswith(", for throughput") == (intent == THROUGHPUT)
    images = [colors(1 + index % 5, seed=index) for index in range(12)]
    calls = [backend.start({"images": array}) for array in images]
    for call, array in reversed(list(zip(calls, images, strict=True))):
        check(call.result(), array)
        check(call.result(), array)
    backend.close()
    with pytest.raises(ClosedError):
        backend.start({"images": images[0]})


@pytest.mark.parametrize("name", BACKENDS)
def test_eight_threads_for_throughput(name: str) -> None:
    backend = open_backend(name, linear_graph(), LINEAR, "fp32", OpenOptions(intent=THROUGHPUT))

    def work(seed: int) -> None:
        for index in range(20):
            images = colors(1 + (seed + index) % 4, seed=100 * seed + index)
            check(backend.start({"images": images}).result(), images)

    in_threads(8, work)
    backend.close()


@pytest.mark.parametrize("name", BACKENDS)
def test_one_call_at_once_for_latency_and_one_a_core_or_fewer_for_throughput(name: str) -> None:
    assert calls_at_once(open_backend(name, linear_graph(), LINEAR, "fp32")) == 1
    found = calls_at_once(open_backend(name, linear_graph(), LINEAR, "fp32", OpenOptions(intent=THROUGHPUT)))
    assert 1 <= found <= usable_cores()
    assert found > 1 or usable_cores() == 1


def test_a_call_that_fails_for_throughput_says_so_when_it_is_waited_for() -> None:
    backend = open_backend("onnxruntime", linear_graph(), LINEAR, "fp32", OpenOptions(intent=THROUGHPUT))
    call = backend.start({"images": np.zeros((1, 5, 8, 8), np.float32)})
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        call.result()
    check(backend.start({"images": colors(2)}).result(), colors(2))
    backend.close()


def test_close_waits_for_what_was_started() -> None:
    backend = open_backend("onnxruntime", linear_graph(), LINEAR, "fp32", OpenOptions(intent=THROUGHPUT))
    images = colors(64)
    calls = [backend.start({"images": images}) for _ in range(8)]
    backend.close()
    for call in calls:
        check(call.result(), images)


def test_load_hands_the_intent_on(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "b")
    for name in BACKENDS:
        with resnet_runtime.load(path, backend=name, precision="fp32", intent=THROUGHPUT) as session:
            assert session.description.endswith(", for throughput")
            assert 1 <= session.calls_at_once <= usable_cores()
            images = colors(3 * session.signature.largest_batch + 1)
            check(session.infer(images), images)
    with pytest.raises(InputError, match="there is no intent 'speed': take latency or throughput"):
        resnet_runtime.load(path, intent="speed")


class Started:
    """A call that is under way until it is waited for."""

    def __init__(self, owner: Overlapping, outputs: dict[str, np.ndarray]) -> None:
        self._owner = owner
        self._outputs = outputs
        owner.open += 1
        owner.most = max(owner.most, owner.open)

    def result(self) -> dict[str, np.ndarray]:
        self._owner.open -= 1
        return self._outputs


class Overlapping(SimulatedBackend):
    """A backend that wants so many calls at once."""

    open = most = 0

    def __init__(self, calls: int) -> None:
        super().__init__(LINEAR, answers)
        self.calls_at_once = calls

    def start(self, *arguments: object, **keywords: object) -> Started:  # type: ignore[override]
        finished = super().start(*arguments, **keywords)  # type: ignore[arg-type]
        assert isinstance(finished, Finished)
        return Started(self, finished.outputs)


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_batch_over_the_largest_keeps_the_backend_busy(tmp_path: Path, calls: int) -> None:
    backend = Overlapping(calls)
    bundle = Bundle.open(write_linear(tmp_path / "b"))
    session = Session(bundle, backend, Choice("simulated", "fp32", "fp32", ()), None)
    images = colors(4 * LINEAR.largest_batch - 3)
    check(session.infer(images), images)
    assert backend.most == min(calls, 4)
    assert backend.open == 0


def test_latency_is_what_one_gets(tmp_path: Path) -> None:
    with resnet_runtime.load(write_linear(tmp_path / "b"), backend="openvino", precision="fp32") as session:
        assert session.calls_at_once == 1
