"""The backends below the session: what each offers on this host, and what it refuses to pretend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime.backends import (
    BACKENDS,
    ENGINE_BACKENDS,
    NAMES,
    facts_of,
    host_facts,
    onnxruntime,
    open_backend,
    openvino,
)
from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts, Signature, TensorSpec, signature_from_manifest
from resnet_runtime.backends.instructions import host_instructions
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, ClosedError, InputError, UnavailableError
from resnet_runtime.manifest import PRECISIONS, Output, Variant

from .bundles import record, sample_gate
from .graphs import answers, colors, convolution_graph, linear_graph, write_linear
from .test_session import assert_answers

FLOAT32 = np.dtype("float32")
IMAGES = TensorSpec("images", FLOAT32, (3, 8, 8))
LINEAR = Signature(IMAGES, (TensorSpec("logits", FLOAT32, (4,)), TensorSpec("colors", FLOAT32, (3,))), 64)
CONVOLUTION = Signature(IMAGES, (TensorSpec("logits", FLOAT32, (4,)),), 4)


def test_facts_of_every_backend() -> None:
    host = host_facts()
    assert tuple(facts.name for facts in host) == NAMES
    for facts in host[len(ENGINE_BACKENDS) :]:
        assert facts.missing is None
        assert facts.version
        assert set(facts.precisions) <= set(PRECISIONS)
        assert set(facts.precisions.values()) <= {NATIVE, EMULATED}
        assert facts.precisions["fp32"] == NATIVE
        assert facts.instructions == host_instructions()
        assert facts.scheme == "cpu"
        assert host_facts(facts.name) == (facts,)


def test_facts_of_an_unknown_backend() -> None:
    with pytest.raises(InputError, match="there is no backend 'simulated': take auto, tensorrt, openvino, onnxruntime"):
        facts_of("simulated")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The facts are found anew in the test, and again after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = (openvino.facts, onnxruntime.facts, openvino._core)
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


@pytest.mark.parametrize("name", BACKENDS)
def test_facts_without_the_library(name: str, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # makes "import" raise ImportError
    assert facts_of(name) == BackendFacts(
        name, None, f"{name} is not installed here: pip install 'resnet-export[{name}]'"
    )


def test_openvino_without_a_usable_device(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_property(device: str, name: str) -> object:
        raise RuntimeError("Exception from src/inference/src/core.cpp:1:\nDevice CPU is not registered.\n\n")

    monkeypatch.setattr(openvino, "_core", lambda: SimpleNamespace(get_property=get_property))
    assert openvino.facts() == BackendFacts(
        "openvino", None, "openvino finds no usable CPU device here: Device CPU is not registered."
    )


@pytest.mark.parametrize("precision", openvino.HINTS)
def test_openvino_offers_what_it_is_seen_to_compute(precision: str) -> None:
    assert (precision in openvino.facts().precisions) == openvino.computes_in(precision)


def test_openvino_calls_native_what_the_device_lists() -> None:
    listed = openvino._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision, how in openvino.facts().precisions.items():
        assert how == (NATIVE if precision.upper() in listed else EMULATED)


def overflowed(hint: str) -> bool:
    """Whether 8 * 100 * 300 = 240000, which FP16 cannot hold, is infinite between two convolutions with ``hint``.

    Written apart from ``computes_in``, whose verdict it holds to account.
    """
    import openvino as library
    from onnx import TensorProto, helper, numpy_helper

    weights = {"up": np.full((8, 8, 1, 1), 300, np.float32), "down": np.full((8, 8, 1, 1), 1 / 2400, np.float32)}
    shape = [1, 8, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "up"], ["large"]), helper.make_node("Conv", ["large", "down"], ["small"])],
        "overflow",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("small", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    core = library.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    found = compiled(np.full(shape, 100, np.float32))[0]
    finite = np.isfinite(found)
    assert finite.all() or not finite.any()
    return not finite.any()


def test_openvino_offers_fp16_only_where_it_overflows() -> None:
    assert not overflowed("f32")
    rounds_to_fp16 = overflowed("f16")
    assert ("fp16" in openvino.facts().precisions) == rounds_to_fp16
    if rounds_to_fp16:
        assert "fp16" in open_backend("openvino", convolution_graph(), CONVOLUTION, "fp16").description
    else:  # the hint was taken for a wish, and the finite answer was FP32's
        with pytest.raises(UnavailableError) as caught:
            open_backend("openvino", convolution_graph(), CONVOLUTION, "fp16")
        assert str(caught.value) == (
            "OpenVINO does not compute fp16 on this CPU, it would compute the graph in another precision: "
            f"take one of {', '.join(openvino.facts().precisions)}"
        )


def answered(backend: Any, batch: np.ndarray) -> np.ndarray:
    return np.asarray(backend.start({"images": batch}).result()["logits"])


def test_bf16_is_rounded_to_bf16() -> None:
    if "bf16" not in openvino.facts().precisions:
        pytest.skip("OpenVINO computes no bf16 on this CPU, not even emulated")
    batch = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    exact = answered(open_backend("openvino", convolution_graph(), CONVOLUTION, "fp32"), batch)
    rounded = answered(open_backend("openvino", convolution_graph(), CONVOLUTION, "bf16"), batch)
    spread = np.mean(exact.max(axis=0) - exact.min(axis=0))
    error = np.abs(rounded - exact).max() / spread
    # bf16 keeps 8 bits, 2**-9 = 0.2% relative: float32 would be right to 1e-6, and 10% is the design's limit for bf16.
    assert 1e-4 < error < 0.1


def test_a_convolution_that_is_not_computed_as_asked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here OpenVINO is given the hint of FP32, as if it had passed over that of bf16.
    monkeypatch.setattr(
        openvino, "_config", lambda precision, intent, threads=None: {"INFERENCE_PRECISION_HINT": "f32"}
    )
    facts = BackendFacts("openvino", "1", precisions={"fp32": NATIVE, "bf16": NATIVE})
    monkeypatch.setattr(openvino, "facts", lambda: facts)
    graph = convolution_graph()
    file = record("model.fp32.onnx", graph)
    path = write_linear(
        tmp_path / "b",
        graph=graph,
        outputs=(Output(name="logits", shape=(4,)),),
        variants=tuple(
            Variant(id=name, precision=name, scheme=None, file=file, gate=sample_gate()) for name in ("fp32", "bf16")
        ),
    )
    with resnet_runtime.load(path, backend="openvino", precision="fp32") as session:
        assert session.infer(colors(1))["logits"].shape == (1, 4)
    with (
        pytest.raises(UnavailableError) as caught,
        resnet_runtime.load(path, backend="openvino", precision="bf16") as session,
    ):
        session.infer(colors(1))
    assert str(caught.value).startswith("OpenVINO computes ")
    assert str(caught.value).endswith(" in f32 where bf16 was asked for: take --precision fp32")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_onnxruntime_refuses_what_it_would_compute_in_fp32(precision: str) -> None:
    assert set(onnxruntime.facts().precisions) <= {"fp32", "int8"}
    with pytest.raises(UnavailableError) as caught:
        open_backend("onnxruntime", linear_graph(), LINEAR, precision)
    assert str(caught.value) == (
        f"ONNX Runtime computes {precision} graphs in FP32 on a CPU: take --precision fp32, or the openvino backend"
    )


def test_openvino_refuses_a_precision_that_it_has_no_hint_for() -> None:
    with pytest.raises(UnavailableError, match="OpenVINO does not compute fp8 on this CPU"):
        open_backend("openvino", linear_graph(), LINEAR, "fp8")


def test_openvino_compiles_few_sizes_and_drops_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = openvino.OpenVINOBackend(linear_graph(), LINEAR, "fp32")
    compiled: list[int] = []
    compile_ = backend._compile

    def counted(size: int) -> Any:
        compiled.append(size)
        return compile_(size)

    monkeypatch.setattr(backend, "_compile", counted)

    def ask(count: int) -> list[int]:
        """The sizes that were compiled for a batch of ``count``."""
        compiled.clear()
        assert_answers(backend.start({"images": colors(count)}).result(), colors(count))
        return list(compiled)

    assert [ask(count) for count in (1, 2, 3, 4, 5, 8)] == [[1], [2], [4], [], [8], []]
    assert ask(1) == []  # four are kept; now 2 is the least recently used
    assert ask(16) == [16]
    assert [ask(count) for count in (1, 4, 8, 16)] == [[], [], [], []]
    assert ask(2) == [2]  # and dropped 1
    assert [ask(count) for count in (4, 8, 16)] == [[], [], []]
    assert ask(1) == [1]
    assert ask(33) == [64]
    assert len(backend._compiled) == 4


def test_openvino_compiles_no_size_over_the_largest() -> None:
    signature = Signature(IMAGES, LINEAR.outputs, largest_batch=7, smallest_batch=3)
    backend = openvino.OpenVINOBackend(linear_graph(), signature, "fp32")
    for count in (1, 3, 4, 6, 7):
        assert_answers(backend.start({"images": colors(count)}).result(), colors(count))
    assert list(backend._compiled) == [3, 6, 7]


NOT_GRAPHS = {
    "nothing": b"",
    "text": b"not a graph",
    "half a graph": linear_graph()[:200],
    "zeros": bytes(100),
    "a file's name": b"/etc/passwd",
}


@pytest.mark.parametrize("data", NOT_GRAPHS.values(), ids=NOT_GRAPHS.keys())
@pytest.mark.parametrize("name", BACKENDS)
def test_what_is_not_a_graph(name: str, data: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(name, data, LINEAR, "fp32")
    library = {"openvino": "OpenVINO cannot read", "onnxruntime": "ONNX Runtime cannot load"}[name]
    assert str(caught.value).startswith(f"{library} the fp32 graph: ")
    assert "\n" not in str(caught.value)


def signature(*outputs: tuple[str, tuple[int, ...]]) -> Signature:
    return Signature(IMAGES, tuple(TensorSpec(name, FLOAT32, shape) for name, shape in outputs), 4)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("claimed", "found"),
    [
        (signature(("logits", (5,))), "gave 'logits' as (2, 4) float32, and the manifest lists (2, 5) float32"),
        (signature(("logits", (4,)), ("colors", (3, 1))), "gave 'colors' as (2, 3) float32, and the manifest lists"),
        (signature(("logits", (4,)), ("features", (3,))), "features"),
    ],
)
def test_a_graph_whose_outputs_are_not_the_manifests(name: str, claimed: Signature, found: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_backend(name, linear_graph(), claimed, "fp32").start({"images": colors(2)}).result()
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_graph_of_another_input(name: str) -> None:
    other = Signature(TensorSpec("images", FLOAT32, (5, 8, 8)), LINEAR.outputs, 4)
    with pytest.raises(BackendError) as caught:
        open_backend(name, linear_graph(), other, "fp32").start({"images": np.zeros((1, 5, 8, 8), np.float32)}).result()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_closed_backend(name: str) -> None:
    backend = open_backend(name, linear_graph(), LINEAR, "fp32")
    backend.close()
    backend.close()
    with pytest.raises(ClosedError, match="the backend was closed: load the bundle again"):
        backend.start({"images": colors(1)})


def answer_of(function: Any) -> dict[str, np.ndarray]:
    return SimulatedBackend(LINEAR, function).start({"images": colors(2)}).result()


NOT_ANSWERS = {
    "nothing": (lambda batch: None, "function gave a NoneType, not a dict of arrays by output name"),
    "one array": (lambda batch: batch[:, 0], "function gave a ndarray, not a dict of arrays by output name"),
    "an output less": (
        lambda batch: {"logits": answers(batch)["logits"]},
        "gave no output 'colors', which the manifest lists",
    ),
    "a list": (
        lambda batch: {**answers(batch), "logits": [[0.0] * 4] * 2},
        "gave no output 'logits', which the manifest lists",
    ),
    "one row": (
        lambda batch: answers(batch[:1]),
        "gave 'logits' as (1, 4) float32, and the manifest lists (2, 4) float32",
    ),
    "float64": (
        lambda batch: {**answers(batch), "colors": batch.mean(axis=(2, 3), dtype=np.float64)},
        "gave 'colors' as (2, 3) float64, and the manifest lists (2, 3) float32",
    ),
}


@pytest.mark.parametrize(("function", "message"), NOT_ANSWERS.values(), ids=NOT_ANSWERS.keys())
def test_the_simulated_backend_holds_its_function_to_the_signature(function: Any, message: str) -> None:
    with pytest.raises(BackendError) as caught:
        answer_of(function)
    assert str(caught.value).endswith(message)


def test_the_simulated_backend_hands_on_what_the_signature_names() -> None:
    assert_answers(answer_of(lambda batch: {"more": batch, **answers(batch)}), colors(2))


def test_the_simulated_backend_closed(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "b")
    backend = SimulatedBackend(signature_from_manifest(Bundle.open(path).manifest), answers)
    with resnet_runtime.load(path, backend=backend) as session:
        session.infer(colors(1))
    with pytest.raises(ClosedError, match="the backend was closed: make a new one"):
        backend.start({"images": colors(1)})
