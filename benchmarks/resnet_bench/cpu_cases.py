"""Cases on a CPU: this runtime on each backend, and the same work by the libraries' own API.

``cpu_peers.py`` has what else one would pick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from resnet_export.options import DEFAULT_LIMITS
from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import NATIVE, BackendFacts, misfit
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from resnet_runtime.loading import backend_from_variant
from resnet_runtime.manifest import Limits, Variant
from resnet_runtime.selection import choose

from .bursts import THROUGHPUT_PEERS, burst_peers, runtime_bursts
from .cases import (
    WHOLE_CALL,
    Answers,
    Array,
    Case,
    FunctionCase,
    Label,
    MissingCase,
    Opened,
    SessionCase,
    Subject,
    peer_name,
)
from .cpu_peers import OTHERS, other_peer

_DEFAULTS: Final = "-defaults"

SAME_FILES: Final = (
    "openvino",
    "openvino-bf16",
    "openvino-fp16",
    "openvino-int8",
    "openvino-defaults",
    "openvino-int8-defaults",
    "onnxruntime",
    "onnxruntime-int8",
)
"""Each backend's library on the file that the runtime gives it: tuned by hand, and with its defaults."""

CPU_PEERS: Final = (*OTHERS, *SAME_FILES, *THROUGHPUT_PEERS)
"""What ``--against`` knows on a CPU."""

ALL_ON_A_CPU: Final = (*OTHERS, *SAME_FILES, "openvino-int8-throughput", "onnxruntime-int8-throughput")
"""``--against all``: without the libraries' throughput in other precisions than the fastest, which takes minutes."""


def cpu_cases(subject: Subject, batch: int, against: Sequence[str] | None) -> list[Case]:
    """The reference, this runtime on each backend with the variants that it computes natively, and the peers.

    For throughput it is what ``auto`` takes.

    Args:
        subject: what is measured.
        batch: of every case.
        against: names of peers; None: eager, and for each of the runtime's cases the same work by the library's API.
    """
    own: list[Case] = []
    for name in BACKENDS:
        own += _runtime_cases(subject, batch, facts_of(name))
    own += _bursts_of_auto(subject, batch)
    wanted = against
    if wanted is None:
        wanted = ["eager", *(case.label.yardstick for case in own if case.label.yardstick is not None)]
    peers: list[Case] = []
    for name in dict.fromkeys(wanted):
        if name in THROUGHPUT_PEERS:
            peers += burst_peers(subject, batch, name, native_variant)
        else:
            peers.append(cpu_peer(subject, batch, name))
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
    if name in OTHERS:
        return other_peer(subject, batch, name)
    defaults = name.endswith(_DEFAULTS)
    backend, _, precision = name.removesuffix(_DEFAULTS).partition("-")
    facts = facts_of(backend)
    variant = native_variant(subject.bundle.manifest.variants, facts, precision or "fp32")
    if isinstance(variant, str):
        return MissingCase(_label(name, batch, None), variant)

    def opened(shape: tuple[int, ...]) -> Opened:
        return (_openvino_defaults if defaults else _OWN[backend])(subject.bundle, variant, shape)

    label = _label(name, batch, variant)
    if defaults and variant.precision == "fp32":
        label = dataclasses.replace(label, limits=DEFAULT_LIMITS["bf16"])
    return FunctionCase(label, opened)


def native_variant(variants: Iterable[Variant], facts: BackendFacts, precision: str) -> Variant | str:
    """The variant of a precision that the backend computes natively, or why there is none, in a sentence."""
    if facts.missing is not None:
        return facts.missing
    if facts.precisions.get(precision) != NATIVE:
        return f"{facts.name} does not compute {precision} natively on this CPU"
    held = [item for item in variants if item.precision == precision and misfit(item, facts) is None]
    return held[0] if held else f"the bundle has no {precision} variant for {facts.name}"


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


def _bursts_of_auto(subject: Subject, batch: int) -> list[Case]:
    """For throughput, what ``auto`` takes here: every variant would be minutes, and the others are slower."""
    manifest = subject.bundle.manifest
    try:
        choice = choose(manifest, [facts_of(name) for name in BACKENDS])
    except UnavailableError:
        return []  # the rows of the backends say why
    variant = manifest.variant(choice.variant)
    assert variant is not None
    return runtime_bursts(subject, batch, choice.backend, variant)


def _runtime_case(subject: Subject, batch: int, backend: str, variant: Variant) -> Case:
    label = _label(f"runtime-{backend}-{variant.id}", batch, variant, peer_name(backend, variant.precision))
    bundle = subject.bundle
    return SessionCase(label, bundle, variant, lambda: backend_from_variant(bundle, variant, backend))


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


def _openvino_defaults(bundle: Bundle, variant: Variant, shape: tuple[int, ...]) -> Opened:
    """``compile_model`` of the file and nothing else: on some CPUs it computes an FP32 file in BF16."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(bundle.read(variant.file)), "CPU")
    ports = [(output.name, compiled.output(output.name)) for output in bundle.manifest.outputs]

    def answers(batch: Array) -> Answers:
        found = compiled(batch)
        return {name: np.asarray(found[port]) for name, port in ports}

    hint = compiled.get_property("INFERENCE_PRECISION_HINT")
    precision = getattr(hint, "get_type_name", lambda: str(hint))()
    return answers, f"OpenVINO {openvino.get_version()}, its defaults, {precision}, {shape[0]} at once"


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
