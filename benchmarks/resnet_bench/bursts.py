"""Throughput on a CPU: bursts of batches of which several are under way at once.

A call of such a case is a burst, from the first start to the last answer, in which each answer makes room for the next
start. Its figures are seconds a batch, so that they compare with those of one call at a time.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import numpy as np

from resnet_runtime.backends import facts_of
from resnet_runtime.backends.base import THROUGHPUT
from resnet_runtime.backends.cores import usable_cores
from resnet_runtime.bundle import Bundle
from resnet_runtime.loading import backend_from_variant
from resnet_runtime.manifest import Limits, Variant
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session

from .cases import Answers, Array, Case, Label, MissingCase, Subject, peer_name

BURST_IMAGES: Final = 16
"""In each of the places that are under way at once, at least; and at least ``_BATCHES`` batches."""

_BATCHES: Final = 4
SUFFIX: Final = "-throughput"
"""Of the names of such cases."""


class Started(Protocol):
    """A batch that is under way."""

    def result(self) -> Answers:
        """Wait."""


class Starter(Protocol):
    """Something that can be given a batch before it has answered the one before."""

    description: str

    def start(self, batch: Array) -> Started:
        """The batch is under way."""

    def close(self) -> None:
        """Free it."""


class BurstCase:
    """Bursts of ``label.calls`` batches.

    Args:
        label: of the row.
        at_once: how many are under way.
        opened: makes the starter for the shape of a batch; raises UnavailableError.
    """

    def __init__(self, label: Label, at_once: int, opened: Callable[[tuple[int, ...]], Starter]) -> None:
        self.label = label
        self._at_once = at_once
        self._opened = opened
        self._starter: Starter | None = None
        self._inputs: Array = np.empty(0)

    def prepare(self, inputs: Array) -> str:
        """Make the starter."""
        self._starter = self._opened(inputs.shape)
        self._inputs = inputs
        return self._starter.description

    def call(self) -> None:
        """A burst."""
        assert self._starter is not None
        under_way: deque[Started] = deque()
        for _ in range(self.label.calls):
            if len(under_way) == self._at_once:
                under_way.popleft().result()
            under_way.append(self._starter.start(self._inputs))
        for started in under_way:
            started.result()

    def answers(self, inputs: Array) -> Answers:
        """Of one batch, with others under way."""
        assert self._starter is not None
        before = [self._starter.start(self._inputs) for _ in range(self._at_once - 1)]
        found = self._starter.start(inputs).result()
        for started in before:
            started.result()
        return found

    def device_seconds(self, calls: int) -> float | None:
        """The wall clock says all."""
        return None

    def close(self) -> None:
        """Close the starter."""
        if self._starter is not None:
            self._starter.close()
        self._starter = None


class _SessionStarter:
    """This runtime, as its users call it for throughput."""

    def __init__(self, bundle: Bundle, variant: Variant, backend: str) -> None:
        choice = Choice(backend, variant.id, variant.precision, ("it is being measured",))
        self._session = Session(bundle, backend_from_variant(bundle, variant, backend, intent=THROUGHPUT), choice, None)
        self.description = self._session.description

    def start(self, batch: Array) -> Started:
        return self._session.start(batch)

    def close(self) -> None:
        self._session.close()


class _OpenVinoStarter:
    """Infer requests of a model with a static shape, compiled with the hint for throughput."""

    def __init__(self, bundle: Bundle, variant: Variant, shape: tuple[int, ...], at_once: int) -> None:
        import openvino

        from resnet_runtime.backends.openvino import HINTS

        core = openvino.Core()
        model = core.read_model(bundle.read(variant.file))
        model.reshape(list(shape))
        config = {"INFERENCE_PRECISION_HINT": HINTS[variant.precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        compiled = core.compile_model(model, "CPU", config)
        self._ports = [(output.name, compiled.output(output.name)) for output in bundle.manifest.outputs]
        self._idle = [compiled.create_infer_request() for _ in range(at_once)]
        streams = compiled.get_property("NUM_STREAMS")
        self.description = f"OpenVINO {openvino.get_version()}, {variant.precision}, static shape, {streams} streams"

    def start(self, batch: Array) -> Started:
        request = self._idle.pop()
        request.start_async({0: batch}, share_inputs=True)
        return _OpenVinoStarted(self, request)

    def finished(self, request: Any) -> Answers:
        request.wait()
        found = {name: np.array(request.get_tensor(port).data) for name, port in self._ports}
        self._idle.append(request)
        return found

    def close(self) -> None:
        self._idle.clear()


class _OpenVinoStarted:
    def __init__(self, owner: _OpenVinoStarter, request: Any) -> None:
        self._owner = owner
        self._request = request

    def result(self) -> Answers:
        return self._owner.finished(self._request)


class _OnnxRuntimeStarter:
    """A session whose calls take one thread each, called from as many threads as are under way."""

    def __init__(self, bundle: Bundle, variant: Variant, shape: tuple[int, ...], at_once: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            bundle.read(variant.file), options, providers=["CPUExecutionProvider"]
        )
        self._workers = ThreadPoolExecutor(at_once)
        self._name = bundle.manifest.input.name
        self._outputs = [output.name for output in bundle.manifest.outputs]
        self.description = (
            f"ONNX Runtime {onnxruntime.__version__}, {variant.precision}, {at_once} threads of the caller's, "
            f"one each inside, {shape[0]} at once"
        )

    def start(self, batch: Array) -> Started:
        return self._workers.submit(self._run, batch)

    def _run(self, batch: Array) -> Answers:
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._name: batch}), strict=True))

    def close(self) -> None:
        self._workers.shutdown()


_BY_HAND: Final[Mapping[str, Callable[[Bundle, Variant, tuple[int, ...], int], Starter]]] = {
    "openvino": _OpenVinoStarter,
    "onnxruntime": _OnnxRuntimeStarter,
}

THROUGHPUT_PEERS: Final = (
    "openvino-throughput",
    "openvino-bf16-throughput",
    "openvino-fp16-throughput",
    "openvino-int8-throughput",
    "onnxruntime-throughput",
    "onnxruntime-int8-throughput",
)
"""The libraries on the files that the runtime gives them, tuned by hand for throughput."""

Native = Callable[[Any, Any, str], Variant | str]


def places() -> tuple[int, ...]:
    """How many batches are tried to be under way at once: one a core, and two."""
    cores = usable_cores()
    return (cores, 2 * cores)


def runtime_bursts(subject: Subject, batch: int, backend: str, variant: Variant) -> list[Case]:
    """This runtime for throughput, with each of ``places``."""
    name, yardstick = f"runtime-{backend}-{variant.id}{SUFFIX}", f"{peer_name(backend, variant.precision)}{SUFFIX}"
    opened = functools.partial(_opened_session, subject.bundle, variant, backend)
    return [
        BurstCase(_label(name, batch, at_once, variant, yardstick), at_once, lambda shape: opened())
        for at_once in places()
    ]


def burst_peers(subject: Subject, batch: int, name: str, native: Native) -> list[Case]:
    """One of ``THROUGHPUT_PEERS``, with each of ``places``; where it cannot run here, a case that says so.

    Args:
        subject: what is measured.
        batch: of the cases.
        name: of the peer.
        native: ``cpu_cases.native_variant``.
    """
    backend, _, precision = name.removesuffix(SUFFIX).partition("-")
    variant = native(subject.bundle.manifest.variants, facts_of(backend), precision or "fp32")
    if isinstance(variant, str):
        return [MissingCase(_label(name, batch, places()[0], None), variant)]
    return [
        BurstCase(
            _label(name, batch, at_once, variant),
            at_once,
            functools.partial(_opened_by_hand, backend, subject.bundle, variant, at_once),
        )
        for at_once in places()
    ]


def _opened_session(bundle: Bundle, variant: Variant, backend: str) -> Starter:
    return _SessionStarter(bundle, variant, backend)


def _opened_by_hand(backend: str, bundle: Bundle, variant: Variant, at_once: int, shape: tuple[int, ...]) -> Starter:
    return _BY_HAND[backend](bundle, variant, shape, at_once)


def _label(name: str, batch: int, at_once: int, variant: Variant | None, yardstick: str | None = None) -> Label:
    return Label(
        name=name,
        batch=batch,
        timed=f"{at_once} at once",
        limits=Limits() if variant is None else variant.gate.limits,
        yardstick=yardstick,
        calls=at_once * max(_BATCHES, BURST_IMAGES // batch),
    )
