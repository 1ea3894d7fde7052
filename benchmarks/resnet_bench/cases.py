"""What ``resnet-bench run`` measures: a case is one way to answer one batch, set up as its own documentation says.

A case knows nothing of how it is measured, and the loop of ``speed.py`` nothing of what a case does: another peer is
another class here, or in a file beside this one, and its name in a table. The cases of this file run on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import NATIVE, Backend, BackendFacts, misfit
from resnet_runtime.bundle import Bundle, CheckData
from resnet_runtime.errors import DetailedError, UnavailableError
from resnet_runtime.manifest import Limits, Variant
from resnet_runtime.selection import Choice
from resnet_runtime.session import Session, backend_from_variant

if TYPE_CHECKING:
    from .eager_network import Network

Array = NDArray[Any]

Answers: TypeAlias = Mapping[str, Array]
"""By output name, (N, ...) on the host."""

WHOLE_CALL: Final = "the call"
"""Of a CPU: from an array of the caller's to the answers."""

WITH_TRANSFERS: Final = "with transfers"
"""From an array of the host to answers on the host."""

WITHOUT_TRANSFERS: Final = "no transfers"
"""From an array on the device to answers on the device."""


class RunError(DetailedError):
    """What was asked for cannot be measured on any host."""

    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a row says of its case.

    Attributes:
        name: as ``--against`` knows it, if it is a peer.
        batch: how many samples a call answers.
        timed: ``WHOLE_CALL``, ``WITH_TRANSFERS`` or ``WITHOUT_TRANSFERS``.
        limits: what its answers are held to.
        yardstick: the name of the case that does the same work without the runtime, timed alike; None: there is none.
    """

    name: str
    batch: int
    timed: str
    limits: Limits
    yardstick: str | None = None


class Case(Protocol):
    """One configuration. ``prepare`` comes first, ``close`` last and always; cases are closed in reverse order."""

    @property
    def label(self) -> Label:
        """What it is."""

    def prepare(self, inputs: Array) -> str:
        """Load it.

        Args:
            inputs: (batch, ...) as the bundle's graph takes them: what ``call`` answers.

        Returns:
            The library, its version, and what else a reader of the figures has to know.

        Raises:
            UnavailableError: it cannot run on this host.
        """

    def call(self) -> None:
        """Answer the inputs of ``prepare`` once, and wait until the answers are there."""

    def answers(self, inputs: Array) -> Answers:
        """The answers to other inputs of the same shape, computed as ``call`` does it."""

    def device_seconds(self, calls: int) -> float | None:
        """Seconds a call by the device's own clock, of ``calls`` that are queued at once; None where it has none."""

    def close(self) -> None:
        """Free what ``prepare`` loaded, even where that was not all."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        bundle: with its variants and engines.
        check: the inputs, and eager's answers.
        network: of ``--model``; None: not given.
    """

    bundle: Bundle
    check: CheckData
    network: Network | None = None


@dataclass(frozen=True)
class MissingCase:
    """A case that cannot run here, so that its row says why."""

    label: Label
    reason: str

    def prepare(self, inputs: Array) -> str:
        """Say why not."""
        raise UnavailableError(self.reason)

    def call(self) -> None:
        """Never called."""
        raise AssertionError(self.reason)

    def answers(self, inputs: Array) -> Answers:
        """Never called."""
        raise AssertionError(self.reason)

    def device_seconds(self, calls: int) -> float | None:
        """Never called."""
        raise AssertionError(self.reason)

    def close(self) -> None:
        """There is nothing to free."""


class SessionCase:
    """This runtime, as its users call it: ``session.infer``.

    Args:
        label: of the row.
        bundle: of the session.
        variant: of the bundle.
        open_backend: loads it.
    """

    def __init__(self, label: Label, bundle: Bundle, variant: Variant, open_backend: Callable[[], Backend]) -> None:
        self.label = label
        self._bundle = bundle
        self._variant = variant
        self._open_backend = open_backend
        self._session: Session | None = None
        self._inputs: Array = np.empty(0)

    def prepare(self, inputs: Array) -> str:
        """Open a session."""
        choice = Choice(self.label.name, self._variant.id, self._variant.precision, ("it is being measured",))
        self._session = Session(self._bundle, self._open_backend(), choice, None)
        self._inputs = inputs
        return self._session.description

    def call(self) -> None:
        """``infer``, which waits."""
        self.answers(self._inputs)

    def answers(self, inputs: Array) -> Answers:
        """As ``infer`` gives them."""
        assert self._session is not None
        return self._session.infer(inputs)

    def device_seconds(self, calls: int) -> float | None:
        """Each call waits for its answers, so that the wall clock says all."""
        return None

    def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            self._session.close()


Opened: TypeAlias = tuple[Callable[[Array], Answers], str]
"""What answers a batch by a library's own API, and its description."""


class FunctionCase:
    """A peer that is a function from arrays of the host to answers on the host.

    Args:
        label: of the row.
        opened: makes the function for the shape of a batch; raises UnavailableError.
    """

    def __init__(self, label: Label, opened: Callable[[tuple[int, ...]], Opened]) -> None:
        self.label = label
        self._opened = opened
        self._function: Callable[[Array], Answers] | None = None
        self._inputs: Array = np.empty(0)

    def prepare(self, inputs: Array) -> str:
        """Make the function."""
        self._function, description = self._opened(inputs.shape)
        self._inputs = inputs
        return description

    def call(self) -> None:
        """Answer once."""
        self.answers(self._inputs)

    def answers(self, inputs: Array) -> Answers:
        """The function's."""
        assert self._function is not None
        return self._function(inputs)

    def device_seconds(self, calls: int) -> float | None:
        """The wall clock says all."""
        return None

    def close(self) -> None:
        """Drop the function and what it holds."""
        self._function = None


CPU_PEERS: Final = (
    "eager",
    "openvino",
    "openvino-bf16",
    "openvino-fp16",
    "openvino-int8",
    "onnxruntime",
    "onnxruntime-int8",
)
"""What ``--against`` knows on a CPU: PyTorch's eager FP32, and each backend's library on the file that the runtime
gives it."""


def cpu_cases(subject: Subject, batch: int, against: Sequence[str] | None) -> list[Case]:
    """The reference, this runtime on each backend with the variants that it computes natively, and the peers.

    Args:
        subject: what is measured.
        batch: of every case.
        against: names of peers; None: eager, and for each of the runtime's cases the same work by the library's API.
    """
    own: list[Case] = []
    for name in BACKENDS:
        own += _runtime_cases(subject, batch, facts_of(name))
    wanted = against
    if wanted is None:
        wanted = ["eager", *(case.label.yardstick for case in own if case.label.yardstick is not None)]
    peers = [cpu_peer(subject, batch, name) for name in dict.fromkeys(wanted)]
    eager = [case for case in peers if case.label.name == "eager"]
    return [*eager, *own, *(case for case in peers if case.label.name != "eager")]


def cpu_peer(subject: Subject, batch: int, name: str) -> Case:
    """One peer; where it cannot run here, a case that says so.

    Args:
        subject: what is measured.
        batch: of the case.
        name: of a peer.
    """
    if name not in CPU_PEERS:
        return MissingCase(_label(name, batch, None), f"{name} runs on a GPU, and there is none here that can be used")
    if name == "eager":
        return _eager_case(subject, batch)
    backend, _, precision = name.partition("-")
    facts = facts_of(backend)
    variant = native_variant(subject.bundle.manifest.variants, facts, precision or "fp32")
    if isinstance(variant, str):
        return MissingCase(_label(name, batch, None), variant)

    def opened(shape: tuple[int, ...]) -> Opened:
        return _OWN[backend](subject.bundle, variant, shape)

    return FunctionCase(_label(name, batch, variant), opened)


def native_variant(variants: Iterable[Variant], facts: BackendFacts, precision: str) -> Variant | str:
    """The variant of a precision that the backend computes natively, or why there is none, in a sentence."""
    if facts.missing is not None:
        return facts.missing
    if facts.precisions.get(precision) != NATIVE:
        return f"{facts.name} does not compute {precision} natively on this CPU"
    held = [item for item in variants if item.precision == precision and misfit(item, facts) is None]
    return held[0] if held else f"the bundle has no {precision} variant for {facts.name}"


def peer_name(library: str, precision: str) -> str:
    """Of a library's own API, as ``--against`` knows it."""
    return library if precision == "fp32" else f"{library}-{precision}"


def _label(name: str, batch: int, variant: Variant | None, yardstick: str | None = None) -> Label:
    limits = Limits() if variant is None else variant.gate.limits
    return Label(name=name, batch=batch, timed=WHOLE_CALL, limits=limits, yardstick=yardstick)


def _runtime_cases(subject: Subject, batch: int, facts: BackendFacts) -> list[Case]:
    if facts.missing is not None:
        return [MissingCase(_label(f"runtime-{facts.name}", batch, None), facts.missing)]
    found: list[Case] = []
    for precision in facts.precisions:
        variant = native_variant(subject.bundle.manifest.variants, facts, precision)
        if not isinstance(variant, str):
            found.append(_runtime_case(subject, batch, facts.name, variant))
    return found


def _runtime_case(subject: Subject, batch: int, backend: str, variant: Variant) -> Case:
    label = _label(f"runtime-{backend}-{variant.id}", batch, variant, peer_name(backend, variant.precision))
    bundle = subject.bundle
    return SessionCase(label, bundle, variant, lambda: backend_from_variant(bundle, variant, backend))


def _eager_case(subject: Subject, batch: int) -> Case:
    from resnet_export.options import DEFAULT_LIMITS

    label = Label(name="eager", batch=batch, timed=WHOLE_CALL, limits=DEFAULT_LIMITS["fp32"])
    network = subject.network
    if network is None:
        return MissingCase(label, NEEDS_MODEL)
    if network.fixed_batch not in (None, batch):
        return MissingCase(label, f"the model takes batches of {network.fixed_batch} alone")
    return FunctionCase(label, lambda shape: (network.answers, network.description))


NEEDS_MODEL: Final = "it needs the checkpoint: give --model model.pt"


def _own_openvino(bundle: Bundle, variant: Variant, shape: tuple[int, ...]) -> Opened:
    """An infer request of a model with a static shape that is kept, with the hint for latency."""
    import openvino

    from resnet_runtime.backends.openvino import HINTS

    core = openvino.Core()
    model = core.read_model(bundle.read(variant.file))
    model.reshape(list(shape))
    config = {"INFERENCE_PRECISION_HINT": HINTS[variant.precision], "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", config)
    request = compiled.create_infer_request()
    ports = [(output.name, compiled.output(output.name)) for output in bundle.manifest.outputs]

    def answers(batch: Array) -> Answers:
        found = request.infer({0: batch}, share_inputs=True)
        return {name: np.asarray(found[port]) for name, port in ports}

    return answers, f"OpenVINO {openvino.get_version()}, {variant.precision}, static shape, hint LATENCY"


def _own_onnxruntime(bundle: Bundle, variant: Variant, shape: tuple[int, ...]) -> Opened:
    """An inference session with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(bundle.read(variant.file), options, providers=["CPUExecutionProvider"])
    name = bundle.manifest.input.name
    outputs = [output.name for output in bundle.manifest.outputs]

    def answers(batch: Array) -> Answers:
        return dict(zip(outputs, session.run(outputs, {name: batch}), strict=True))

    return answers, f"ONNX Runtime {onnxruntime.__version__}, {variant.precision}, defaults, {shape[0]} at once"


_OWN: Final[Mapping[str, Callable[[Bundle, Variant, tuple[int, ...]], Opened]]] = {
    "openvino": _own_openvino,
    "onnxruntime": _own_onnxruntime,
}
