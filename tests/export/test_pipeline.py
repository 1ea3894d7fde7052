"""The whole way from a checkpoint to a bundle that the runtime opens, on networks small enough for every run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import resnet_runtime
from resnet_export import ExportOptions, ModelOptions, PreprocessingOptions, bundle_from_checkpoint
from resnet_export.errors import RequestError, SignatureError, VerificationError
from resnet_export.graph import graph_from_bytes
from resnet_export.options import DEFAULT_LIMITS
from resnet_export.resnet_config import ResNetConfig
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch, Limits
from tests.export.models import live_resnet

CONFIG = ResNetConfig(block="bottleneck", layers=(1, 1), widths=(8, 16), stem="cifar", classes=7, width_per_group=64)
SHAPE = (3, 16, 16)
BASE = ExportOptions(engines=None, model=ModelOptions(input_shape=SHAPE))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return live_resnet(CONFIG, size=16)


@pytest.fixture(scope="module")
def checkpoint(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save({"model": network.state_dict(), "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    return bundle_from_checkpoint(checkpoint, tmp_path_factory.mktemp("out") / "small.bundle", BASE)


def eager(network: torch.nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(batch)).numpy()


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, *SHAPE)).astype(np.float32)


def test_the_bundle_holds_what_the_manifest_lists(exported) -> None:
    names = sorted(path.name for path in exported.path.iterdir())
    assert names == ["check.npz", "manifest.json", "model.fp16.onnx", "model.fp32.onnx", "report.html", "report.json"]
    manifest = Bundle.open(exported.path).manifest
    assert manifest == exported.manifest
    assert [variant.id for variant in manifest.variants] == ["fp32", "bf16", "fp16"]
    assert manifest.variants[0].file == manifest.variants[1].file
    assert manifest.engines == ()
    assert manifest.model.traced_by == "torch.export"
    assert all(variant.gate.passed for variant in manifest.variants)


def test_the_runtime_answers_what_the_model_answers(exported, network) -> None:
    batch = images(40)  # over the largest batch of 32
    for backend in ("openvino", "onnxruntime"):
        with resnet_runtime.load(exported.path, backend=backend, precision="fp32") as session:
            answers = session.infer(batch)["logits"]
        expected = eager(network, batch)
        # two float32 implementations of a small network whose answers spread over about 4
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


def test_the_graphs_are_valid_plain_onnx(exported) -> None:
    for name in ("model.fp32.onnx", "model.fp16.onnx"):
        model = onnx.load(exported.path / name)
        onnx.checker.check_model(model, full_check=True)
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_every_convolution_of_the_fp16_graph_is_fp16(exported) -> None:
    graph = graph_from_bytes((exported.path / "model.fp16.onnx").read_bytes())
    assert {value.dtype.name for node in graph.nodes("Conv") for value in node.inputs} == {"FLOAT16"}
    assert len(list(graph.nodes("Conv"))) == 9


def test_check_npz_holds_varied_inputs_and_eagers_answers(exported, network) -> None:
    data = Bundle.open(exported.path).check_data()
    assert data.inputs.shape == (8, *SHAPE)
    assert data.inputs.dtype == np.float32
    # the same float32 arithmetic on batches of other sizes
    np.testing.assert_allclose(data.outputs["logits"], eager(network, data.inputs), rtol=0, atol=1e-5)


def test_the_report_says_what_was_done(exported) -> None:
    report = json.loads((exported.path / "report.json").read_text())
    assert report["schema"] == "resnet-report/1"
    assert len(report["folding"]["folded"]) == 9
    assert report["folding"]["error"] <= report["folding"]["allowed"]
    assert [variant["shipped"] for variant in report["variants"]] == [True, True, True]
    assert set(report["seconds"]) >= {"read", "eager", "trace", "fold", "write", "verify fp32", "verify fp16"}


def test_assumptions_stand_in_the_manifest_and_given_options_do_not(exported, checkpoint, tmp_path) -> None:
    assumed = {item.option for item in exported.manifest.model.assumptions}
    assert {"--stride-in", "--resize", "--mean", "--std"} <= assumed
    assert "--input-shape" not in assumed
    options = dataclasses.replace(
        BASE,
        model=ModelOptions(input_shape=SHAPE, stride_in="3x3"),
        preprocessing=PreprocessingOptions(mean=(0.5,), std=(0.25, 0.25, 0.5), resize=False),
        variants=("fp32",),
    )
    manifest = bundle_from_checkpoint(checkpoint, tmp_path / "b", options).manifest
    assumed = {item.option for item in manifest.model.assumptions}
    assert not assumed & {"--stride-in", "--resize", "--mean", "--std"}
    assert manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    assert manifest.preprocessing.resize is None


def test_where_a_bottleneck_strides_changes_the_answers(checkpoint, exported, tmp_path) -> None:
    options = dataclasses.replace(BASE, model=ModelOptions(input_shape=SHAPE, stride_in="1x1"), variants=("fp32",))
    other = bundle_from_checkpoint(checkpoint, tmp_path / "b", options)
    ours, theirs = (Bundle.open(result.path).check_data().outputs["logits"] for result in (exported, other))
    assert np.abs(ours - theirs).max() > 0.1


def test_bytes_in_give_what_preprocessed_floats_give(checkpoint, exported, tmp_path, network) -> None:
    options = dataclasses.replace(BASE, preprocessing=PreprocessingOptions(in_graph=True))
    result = bundle_from_checkpoint(checkpoint, tmp_path / "bytes.bundle", options)
    assert result.dropped == {}
    pixels = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    with resnet_runtime.load(result.path, precision="fp32") as by_bytes:
        assert by_bytes.signature.input.dtype == np.uint8
        answers = by_bytes.infer(by_bytes.preprocess(list(pixels)))["logits"]
    with resnet_runtime.load(exported.path, precision="fp32") as by_floats:
        expected = by_floats.infer(by_floats.preprocess(list(pixels)))["logits"]
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)  # the same arithmetic in another order, float32


def test_a_variant_that_fails_its_gate_is_left_out(checkpoint, tmp_path) -> None:
    limits = {**DEFAULT_LIMITS, "fp16": Limits(max_error=1e-9)}
    result = bundle_from_checkpoint(checkpoint, tmp_path / "b", dataclasses.replace(BASE, limits=limits))
    assert set(result.dropped) == {"fp16"}
    assert "max error" in result.dropped["fp16"][0]
    assert not (result.path / "model.fp16.onnx").exists()
    assert [variant.id for variant in Bundle.open(result.path).manifest.variants] == ["fp32", "bf16"]


def test_where_none_passes_nothing_is_written(checkpoint, tmp_path) -> None:
    limits = dict.fromkeys(DEFAULT_LIMITS, Limits(max_error=0.0))
    with pytest.raises(VerificationError, match="no variant passed its gate") as caught:
        bundle_from_checkpoint(checkpoint, tmp_path / "b", dataclasses.replace(BASE, limits=limits))
    assert len(caught.value.details) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_ignores_its_input_is_refused(network, tmp_path) -> None:
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["fc.weight"].zero_()
    torch.save(state, tmp_path / "constant.pt")
    with pytest.raises(VerificationError, match="nearly the same for every input"):
        bundle_from_checkpoint(tmp_path / "constant.pt", tmp_path / "b", BASE)
    assert not (tmp_path / "b").exists()


def test_the_references_inputs_are_among_the_checks(checkpoint, network, tmp_path) -> None:
    batch = images(3)
    np.savez(tmp_path / "reference.npz", input=batch, output=eager(network, batch))
    model = ModelOptions(input_shape=SHAPE, reference=tmp_path / "reference.npz")
    result = bundle_from_checkpoint(checkpoint, tmp_path / "b", dataclasses.replace(BASE, model=model))
    np.testing.assert_array_equal(Bundle.open(result.path).check_data().inputs[:3], batch)


@pytest.fixture(scope="module")
def traced_files(network, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("traced")
    torch.jit.trace(network, torch.zeros(1, *SHAPE)).save(folder / "script.pt")
    torch.export.save(torch.export.export(network, (torch.zeros(4, *SHAPE),)), folder / "fixed.pt2")
    return {"script": folder / "script.pt", "fixed": folder / "fixed.pt2"}


def test_a_torchscript_file(traced_files, network, tmp_path) -> None:
    options = dataclasses.replace(BASE, model=ModelOptions(input_shape=SHAPE, trust=True), variants=("fp32",))
    result = bundle_from_checkpoint(traced_files["script"], tmp_path / "b", options)
    assert result.manifest.model.traced_by == "TorchScript"
    with resnet_runtime.load(result.path) as session:
        np.testing.assert_allclose(session.infer(images(5))["logits"], eager(network, images(5)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_program_of_a_fixed_batch_answers_any_number(traced_files, network, tmp_path, backend) -> None:
    options = dataclasses.replace(BASE, model=ModelOptions(trust=True), variants=("fp32", "fp16"))
    result = bundle_from_checkpoint(traced_files["fixed"], tmp_path / "b", options)
    assert result.manifest.input.batch == Batch(smallest=4, optimal=4, largest=4)
    with resnet_runtime.load(result.path, backend=backend, precision="fp32") as session:
        for count in (1, 4, 6):
            batch = images(count)
            answers = session.infer(batch)["logits"]
            np.testing.assert_allclose(answers, eager(network, batch), rtol=0, atol=1e-4)


def test_an_option_that_a_traced_file_settles_itself_is_refused(traced_files, tmp_path) -> None:
    options = dataclasses.replace(BASE, model=ModelOptions(trust=True, arch="resnet18"))
    with pytest.raises(RequestError, match="--arch is for a state_dict"):
        bundle_from_checkpoint(traced_files["script"], tmp_path / "b", options)
    options = dataclasses.replace(BASE, model=ModelOptions(trust=True, input_shape=(3, 8, 8)))
    with pytest.raises(SignatureError, match=r"fixed\.pt2 takes"):
        bundle_from_checkpoint(traced_files["fixed"], tmp_path / "b", options)


class NamesFloat32(torch.nn.Module):
    """A model whose own code names a dtype, and which therefore has no answer in float64."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.float())


def test_a_model_without_an_answer_in_float64_is_held_to_float32(network, tmp_path) -> None:
    torch.jit.trace(NamesFloat32(network).eval(), torch.zeros(2, *SHAPE)).save(tmp_path / "script.pt")
    options = dataclasses.replace(BASE, model=ModelOptions(input_shape=SHAPE, trust=True), variants=("fp32",))
    result = bundle_from_checkpoint(tmp_path / "script.pt", tmp_path / "b", options)
    assert any("cannot be computed in float64" in text for text in result.report.warnings)
    folding = result.report.folding
    assert folding.error <= folding.allowed == 1e-5 * folding.spread


def test_a_backend_that_fails_on_a_variant_drops_that_variant_alone(checkpoint, tmp_path, monkeypatch) -> None:
    from resnet_export import verify

    backend = verify.backend_from_variant

    def failing(bundle, variant, name):
        if variant.id == "fp32":  # which every CPU computes, so that it is not emulated anywhere
            raise resnet_runtime.BackendError("the library refused the graph")
        return backend(bundle, variant, name)

    monkeypatch.setattr(verify, "backend_from_variant", failing)
    options = dataclasses.replace(BASE, variants=("fp32", "bf16"))
    result = bundle_from_checkpoint(checkpoint, tmp_path / "b", options)
    assert result.dropped == {"fp32": ("the library refused the graph",)}
    assert [variant.id for variant in result.manifest.variants] == ["bf16"]


def test_a_backend_that_would_compute_another_precision_gives_way_to_the_emulation(
    checkpoint, tmp_path, monkeypatch
) -> None:
    from resnet_export import verify

    def refusing(bundle, variant, name):
        raise resnet_runtime.UnavailableError("it computes in f32")

    monkeypatch.setattr(verify, "backend_from_variant", refusing)
    result = bundle_from_checkpoint(checkpoint, tmp_path / "b", dataclasses.replace(BASE, variants=("bf16",)))
    assert result.dropped == {}
    assert "each result rounded to bf16" in result.manifest.variants[0].gate.executor
