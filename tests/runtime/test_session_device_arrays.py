"""A session takes arrays on the device where its backend does, and refuses them in a sentence where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime import ClosedError, InputError, Session
from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.device_arrays import LEGACY_STREAM
from resnet_runtime.bundle import Bundle
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor
from tests.runtime.graphs import answers, colors, write_linear
from tests.runtime.test_tensorrt_device_arrays import Array, read, stream_of

OUTPUTS = (SimulatedTensor("logits", "float32", (4,)), SimulatedTensor("colors", "float32", (3,)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_linear(tmp_path_factory.mktemp("linear") / "linear.bundle")


@pytest.fixture
def cuda() -> SimulatedCuda:
    return SimulatedCuda()


@pytest.fixture
def session(path: Path, cuda: SimulatedCuda) -> Iterator[Session]:
    def compute(found: dict[str, Any]) -> dict[str, Any]:
        return answers(found["images"])

    inputs = (SimulatedTensor("images", "float32", (3, 8, 8)),)
    engine = SimulatedEngine(cuda, compute, inputs, OUTPUTS, ((1, 2, 4),))
    signature = signature_from_manifest(Bundle.open(path).manifest)
    backend = TensorRTBackend(engine, cuda, signature, "simulated TensorRT")
    with resnet_runtime.load(path, backend=backend) as session:
        yield session


def test_an_array_on_the_device_is_answered_there(session: Session, cuda: SimulatedCuda) -> None:
    stream = stream_of(cuda)
    batch = colors(3, seed=3)
    given = Array(cuda, batch, stream)
    found = session.start(given, stream=stream.handle).result()
    for name, expected in answers(batch).items():
        np.testing.assert_array_equal(read(cuda, found[name], stream), expected, strict=True)


def test_the_caller_s_outputs_are_written(session: Session, cuda: SimulatedCuda) -> None:
    batch = colors(2, seed=2)
    mine = Array(cuda, np.zeros((2, 4), np.float32))
    found = session.start(Array(cuda, batch), {"logits": mine}).result()
    assert found["logits"] is mine
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    np.testing.assert_array_equal(read(cuda, mine, legacy), answers(batch)["logits"], strict=True)


def test_host_arrays_go_on_as_before(session: Session) -> None:
    batch = colors(7, seed=7)
    for name, array in session.infer(batch).items():
        np.testing.assert_array_equal(array, answers(batch)[name], strict=True)


def test_what_cannot_be_is_a_sentence(session: Session, cuda: SimulatedCuda, path: Path) -> None:
    given = Array(cuda, colors(2, seed=1))
    with pytest.raises(InputError, match=r"the device array for 'images' is float32 \(5, 3, 8, 7\)"):
        session.start(Array(cuda, np.zeros((5, 3, 8, 7), np.float32)))
    with pytest.raises(InputError, match="there is no output 'other': the model has logits, colors"):
        session.start(given, {"other": given})
    with pytest.raises(InputError, match=r"is a Array, not a numpy array: start\(\) takes an array on a GPU as it is"):
        session.infer(given)
    with pytest.raises(InputError, match="a stream orders arrays on the GPU, and this batch is an array of the host"):
        session.start(colors(2, seed=1), stream=7)
    signature = signature_from_manifest(Bundle.open(path).manifest)
    on_cpu = resnet_runtime.load(path, backend=SimulatedBackend(signature, answers))
    with pytest.raises(InputError, match=r"the batch is on a GPU, and simulated.* takes arrays of the host: copy it"):
        on_cpu.start(given)
    session.close()
    with pytest.raises(ClosedError):
        session.start(given)
