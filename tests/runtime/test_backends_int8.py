"""INT8 on the CPU: computed in integers where it is offered, and refused where a layer silently is not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, load_model, numpy_helper

import resnet_runtime
from resnet_runtime.backends import BACKENDS, facts_of, onnxruntime, open_backend, openvino
from resnet_runtime.backends.base import LATENCY, NATIVE, Backend, BackendFacts, OpenOptions
from resnet_runtime.backends.quantized_probe import QUANTIZED_CONVOLUTION
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from resnet_runtime.loading import backend_from_variant
from resnet_runtime.manifest import KeptLayer, Output, Variant

from .bundles import record, sample_gate
from .executed import executed
from .graphs import write_linear
from .quantized import BLOCK, LAYERS, block_graph, off_grid, on_grid, reference, rounded

INT8 = block_graph("cpu")


def int8_backends() -> list[Any]:
    """The backends that compute int8 here; where one does not, its tests are skipped with the reason."""
    reason = "this CPU has no int8 arithmetic for {}"
    return [
        pytest.param(
            name, marks=pytest.mark.skipif("int8" not in facts_of(name).precisions, reason=reason.format(name))
        )
        for name in BACKENDS
    ]


on_every_backend = pytest.mark.parametrize("name", int8_backends())
with_openvino = pytest.mark.skipif("int8" not in openvino.facts().precisions, reason="OpenVINO has no int8 here")
with_onnxruntime = pytest.mark.skipif(
    "int8" not in onnxruntime.facts().precisions, reason="ONNX Runtime fuses no Q/DQ convolution here"
)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ONNX Runtime's facts are found anew in the test, and again after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnxruntime.facts.cache_clear()
    yield
    onnxruntime.facts.cache_clear()


def answered(backend: Backend, batch: np.ndarray) -> np.ndarray:
    return np.asarray(backend.start({"images": batch}).result()["logits"])


def executed_once(backend: Backend) -> dict[str, str]:
    answered(backend, on_grid(1))
    return executed(backend)


def probe_graph() -> bytes:
    """What ``QUANTIZED_CONVOLUTION`` was made by."""
    arrays = {
        "scale": np.float32(1 / 64),
        "signed": np.uint8(128),
        "zero": np.uint8(0),
        "values": np.eye(4, dtype=np.int8)[:, :, None, None] * np.int8(64),
        "steps": np.full(4, 1 / 64, np.float32),
        "zeros": np.zeros(4, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "signed"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "signed"], ["x"]),
        helper.make_node("DequantizeLinear", ["values", "steps", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "scale", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "scale", "zero"], ["output"]),
    ]
    shape = [1, 4, 2, 2]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def test_the_probe_is_the_graph_that_its_docstring_describes() -> None:
    # Parsed, because another version of onnx may write the same graph in another order of bytes.
    stored, made = ModelProto.FromString(QUANTIZED_CONVOLUTION), ModelProto.FromString(probe_graph())
    assert (stored.graph, stored.ir_version) == (made.graph, made.ir_version)
    assert stored.opset_import == made.opset_import


@on_every_backend
def test_an_int8_graph_computes_what_its_definition_says(name: str) -> None:
    backend = open_backend(name, INT8, BLOCK, "int8")
    assert backend.description.endswith(", int8")
    for batch in (on_grid(8), off_grid(8), off_grid(3, seed=1)):
        # Exact: every sum is one of integers, and every scale a power of two.
        np.testing.assert_array_equal(answered(backend, batch), reference(INT8, batch))
    backend.close()


@on_every_backend
def test_int8_rounds_where_fp32_does_not(name: str) -> None:
    batch = off_grid(4)
    fp32 = block_graph(None)
    int8 = answered(open_backend(name, INT8, BLOCK, "int8"), batch)
    np.testing.assert_array_equal(int8, reference(fp32, rounded(batch)))
    assert np.abs(int8 - reference(fp32, batch)).max() > 1e-3


@with_openvino
def test_openvino_executes_every_convolution_in_integers() -> None:
    found = executed_once(open_backend("openvino", INT8, BLOCK, "int8"))
    assert len(found) == len(LAYERS)
    assert set(found.values()) <= {"u8", "i8"}
    assert set(executed_once(open_backend("openvino", block_graph(None), BLOCK, "fp32")).values()) == {"f32"}


@with_openvino
@pytest.mark.parametrize("layer", LAYERS)
def test_openvino_computes_a_kept_layer_in_fp32(layer: str) -> None:
    graph = block_graph("cpu", kept={layer})
    backend = open_backend("openvino", graph, BLOCK, "int8", OpenOptions(kept=frozenset({layer, "fc"})))
    assert sorted(executed_once(backend).values()) == ["f32", "u8", "u8"]
    np.testing.assert_array_equal(answered(backend, off_grid(4)), reference(graph, off_grid(4)))


@with_openvino
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("others", [False, True])
def test_openvino_refuses_a_float_convolution_that_is_not_kept(layer: str, others: bool) -> None:
    kept = frozenset(LAYERS) - {layer} if others else frozenset()
    backend = open_backend("openvino", block_graph("cpu", kept={layer}), BLOCK, "int8", OpenOptions(kept=kept))
    with pytest.raises(UnavailableError) as caught:
        answered(backend, on_grid(1))
    assert str(caught.value) == f"OpenVINO computes {layer} in f32 where int8 was asked for: take --precision fp32"


@with_openvino
def test_openvino_refuses_an_fp32_graph_as_int8() -> None:
    with pytest.raises(UnavailableError, match="OpenVINO computes conv1 in f32 where int8 was asked for"):
        answered(open_backend("openvino", block_graph(None), BLOCK, "int8"), on_grid(1))


@with_openvino
def test_what_openvino_does_not_quantize_is_fp32_and_never_bf16() -> None:
    assert openvino._config("int8", LATENCY)["INFERENCE_PRECISION_HINT"] == "f32"


@with_openvino
def test_the_names_of_kept_layers_come_from_the_manifest(tmp_path: Path) -> None:
    graph = block_graph("cpu", kept={"conv2"})
    file = record("model.fp32.onnx", graph)
    kept = KeptLayer(node="conv2", precision="fp32", reason="it is worth more than it costs")
    listed = Variant(id="int8-cpu", precision="int8", scheme="cpu", file=file, gate=sample_gate(), kept_higher=(kept,))
    unlisted = Variant(id="unlisted", precision="int8", scheme="cpu", file=file, gate=sample_gate())
    path = write_linear(
        tmp_path / "b", graph=graph, outputs=(Output(name="logits", shape=(4,)),), variants=(listed, unlisted)
    )
    with resnet_runtime.load(path, backend="openvino", precision="int8") as session:
        np.testing.assert_array_equal(session.infer(on_grid(2))["logits"], reference(graph, on_grid(2)))
    with pytest.raises(UnavailableError, match="OpenVINO computes conv2 in f32"):
        answered(backend_from_variant(Bundle.open(path), unlisted, "openvino"), on_grid(2))


def optimized(graph: bytes, folder: Path) -> list[str]:
    """The operators that ONNX Runtime's optimizer leaves of ``graph``."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in load_model(folder / "optimized.onnx").graph.node]


@with_onnxruntime
def test_onnxruntime_makes_integer_convolutions(tmp_path: Path) -> None:
    found = optimized(INT8, tmp_path)
    assert found.count("QLinearConv") == len(LAYERS)
    assert not {"Conv", "FusedConv"} & set(found)


@with_onnxruntime
def test_onnxruntime_computes_the_layer_before_a_kept_one_in_fp32(tmp_path: Path) -> None:
    """A known limit, which the docstring tells of: it fuses no convolution that has a reader of its float output."""
    graph = block_graph("cpu", kept={"conv3"})
    assert optimized(graph, tmp_path).count("QLinearConv") == len(LAYERS) - 2
    backend = open_backend("onnxruntime", graph, BLOCK, "int8", OpenOptions(kept=frozenset({"conv3"})))
    np.testing.assert_array_equal(answered(backend, off_grid(4)), reference(graph, off_grid(4)))


def assert_onnxruntime_offers_fp32_alone() -> None:
    assert onnxruntime.facts().precisions == {"fp32": NATIVE}
    with pytest.raises(UnavailableError, match="ONNX Runtime computes int8 graphs in FP32"):
        open_backend("onnxruntime", INT8, BLOCK, "int8")


def test_onnxruntime_does_not_offer_int8_that_it_does_not_fuse(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "QUANTIZED_CONVOLUTION", block_graph(None))
    assert_onnxruntime_offers_fp32_alone()


def test_onnxruntime_does_not_offer_int8_where_it_cannot_look(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert_onnxruntime_offers_fp32_alone()


def test_onnxruntime_leaves_no_file(fresh: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    onnxruntime.facts()
    assert list(folder.iterdir()) == []


def test_openvino_without_integers_does_not_offer_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "QUANTIZED_CONVOLUTION", block_graph(None))
    assert not openvino.computes_in("int8")


def test_openvino_that_reads_no_onnx_does_not_offer_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_model(data: bytes) -> object:
        raise RuntimeError("Unable to read the model")

    monkeypatch.setattr(openvino, "_core", lambda: SimpleNamespace(read_model=read_model, compile_model=None))
    assert not openvino.computes_in("int8")


def test_openvino_refuses_int8_that_it_does_not_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = BackendFacts("openvino", "1", precisions={"fp32": NATIVE})
    monkeypatch.setattr(openvino, "facts", lambda: facts)
    with pytest.raises(UnavailableError) as caught:
        open_backend("openvino", INT8, BLOCK, "int8")
    assert str(caught.value) == (
        "OpenVINO does not compute int8 on this CPU, it would compute the graph in another precision: take one of fp32"
    )
