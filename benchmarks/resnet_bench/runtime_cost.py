"""What the runtime adds: to a call of the backend's own API, and to ``import numpy``."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import resnet_runtime
from resnet_runtime.backends.openvino import HINTS
from resnet_runtime.session import Session

from .clock import interleaved, ratio


@dataclass(frozen=True)
class CallCost:
    """Seconds per call, a figure a round.

    Attributes:
        what: backend, precision and batch.
        session: by ``session.infer``.
        own: by the backend's own API on the same array.
    """

    what: str
    session: tuple[float, ...]
    own: tuple[float, ...]

    @property
    def overhead(self) -> float:
        """The median over the rounds of (session - own) / own."""
        return ratio(self.session, self.own) - 1

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {**asdict(self), "overhead": self.overhead}


class DifferentAnswersError(RuntimeError):
    """What is to be compared does not compute the same."""


def call_cost(bundle: Path, backend: str, batch_size: int, rounds: int, calls: int) -> CallCost:
    """Time both on the same array, whose answers are compared first.

    Raises:
        ResnetRuntimeError: the bundle cannot be run so.
        DifferentAnswersError: the two do not give the same bits, so that they do not do the same work.
    """
    with resnet_runtime.load(bundle, backend=backend, precision="fp32") as session:
        spec = session.signature.input
        random = np.random.default_rng(0)
        shape = (batch_size, *spec.shape)
        batch = (
            random.integers(0, 256, shape, dtype=np.uint8)
            if spec.dtype == np.uint8
            else random.standard_normal(shape, dtype=np.float32)
        )
        own = _OWN[backend](session, batch)
        name = session.signature.outputs[0].name
        if not np.array_equal(session.infer(batch)[name], own()):
            raise DifferentAnswersError(
                f"session.infer and {backend}'s own API give different answers for {batch_size}"
            )
        for _ in range(calls):
            session.infer(batch)
            own()
        seconds = interleaved({"session": lambda: session.infer(batch), "own": own}, rounds, calls)
        what = f"{session.description}, batch {batch_size}"
    return CallCost(what, tuple(seconds["session"]), tuple(seconds["own"]))


def _model(session: Session) -> bytes:
    variant = session.bundle.manifest.variant(session.choice.variant)
    assert variant is not None
    return session.bundle.read(variant.file)


def _own_openvino(session: Session, batch: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    """As OpenVINO's own documentation calls a compiled model with one input: an infer request, kept."""
    import openvino

    core = openvino.Core()
    model = core.read_model(_model(session))
    model.reshape(list(batch.shape))
    config = {"INFERENCE_PRECISION_HINT": HINTS["fp32"], "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda: np.asarray(request.infer({0: batch}, share_inputs=True)[0])


def _own_onnxruntime(session: Session, batch: NDArray[Any]) -> Callable[[], NDArray[Any]]:
    import onnxruntime

    own = onnxruntime.InferenceSession(_model(session), providers=["CPUExecutionProvider"])
    name = session.signature.input.name
    return lambda: np.asarray(own.run(None, {name: batch})[0])


_OWN: dict[str, Callable[[Session, NDArray[Any]], Callable[[], NDArray[Any]]]] = {
    "openvino": _own_openvino,
    "onnxruntime": _own_onnxruntime,
}


@dataclass(frozen=True)
class ImportCost:
    """Seconds that ``import resnet_runtime`` takes after ``import numpy``, a fresh interpreter a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """The raw figures and what follows from them."""
        return {**asdict(self), "median": self.median}


_IMPORT = """
import time, sys
import numpy
start = time.perf_counter()
import resnet_runtime
print(time.perf_counter() - start)
loaded = {"torch", "onnx", "onnx_ir", "resnet_export", "PIL", "click"} & set(sys.modules)
assert not loaded, loaded
"""


def import_cost(rounds: int) -> ImportCost:
    """Measure in ``rounds`` fresh interpreters, and see that nothing heavy was imported."""
    return ImportCost(tuple(float(subprocess.check_output([sys.executable, "-c", _IMPORT])) for _ in range(rounds)))
