"""ONNX files as checkpoints: what they compute is kept, however they are written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import resnet_runtime
from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError, SignatureError
from resnet_export.graph import graph_from_bytes
from resnet_export.source import model_from_checkpoint
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch
from tests.export.foreign_resnets import PytorchCifar, alive
from tests.export.models import TINY, live_resnet
from tests.export.onnx_files import SHAPE, Change, answers, function, images, model, saved, sized


def flat_for(batch: int) -> Change:
    """The batch fixed, and named in the Reshape before the classifier, as exporters without dynamic axes write it."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        shapes = {node.input[1] for node in proto.graph.node if node.op_type == "Reshape"}
        assert len(shapes) == 1
        for tensor in proto.graph.initializer:
            if tensor.name in shapes:
                _, features = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.array([batch, features], np.int64), tensor.name))
        return sized(proto, batch)

    return change


def channels_last(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As tf2onnx writes a Keras model: a Transpose after the input."""
    entry = proto.graph.input[0]
    first = entry.name
    entry.CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE[1:], SHAPE[0]]))
    proto.graph.node.insert(0, helper.make_node("Transpose", ["image"], [first], "turn", perm=[0, 3, 1, 2]))
    return proto


def scaled_before_the_turn(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Preprocessing of channels-last images in the file."""
    proto = channels_last(proto)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0.5, 1.0, 2.0], np.float32), "factors"))
    proto.graph.node.insert(0, helper.make_node("Mul", ["image", "factors"], ["scaled"], "scale"))
    proto.graph.node[1].input[0] = "scaled"
    return proto


def opset(version: int) -> Change:
    """As PyTorch's exporter of then wrote it."""

    def change(_: onnx.ModelProto) -> onnx.ModelProto:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                live_resnet(TINY, size=16),
                (torch.zeros(2, *SHAPE),),
                buffer,
                dynamo=False,
                opset_version=version,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": {0: "b"}, "y": {0: "b"}},
            )
        return onnx.load_from_string(buffer.getvalue())

    return change


def listed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As before IR version 4: initializers are inputs too."""
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def without_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    for node in proto.graph.node:
        node.ClearField("name")
    return proto


WRITTEN = {
    "as it is": lambda proto: proto,
    "another name of the batch": lambda proto: sized(proto, None),
    "opset 9": opset(9),
    "opset 13": opset(13),
    "opset 17": opset(17),
    "a newer opset": lambda proto: onnx.version_converter.convert_version(proto, 21),
    "initializers listed as inputs": listed,
    "nodes without names": without_names,
    "channels last": channels_last,
    "channels last and scaled": scaled_before_the_turn,
    "a batch of 1": flat_for(1),
    "a batch of 3": flat_for(3),
}


def of_module(module: torch.nn.Module, *, dynamo: bool, side: int = 16) -> onnx.ModelProto:
    """As a user without dynamic axes exports it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        images = (torch.zeros(1, 3, side, side),)
        if dynamo:
            program = torch.onnx.export(module, images, dynamo=True)
            assert program is not None
            return program.model_proto
        torch.onnx.export(module, images, buffer, dynamo=False, opset_version=17)
    return onnx.load_from_string(buffer.getvalue())


def viewed() -> torch.nn.Module:
    """A network that flattens by ``out.view(out.size(0), -1)``."""
    torch.manual_seed(0)
    return alive(PytorchCifar((1, 1), (8, 16)), 16)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("make", [lambda: live_resnet(TINY, size=16), viewed])
def test_the_batch_that_an_exporter_fixed_is_opened(
    make: Callable[[], torch.nn.Module], dynamo: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "model.onnx", of_module(make(), dynamo=dynamo))
    capfd.readouterr()
    checkpoint = checkpoint_from_file(path)
    assert capfd.readouterr() == ("", "")
    assert checkpoint.onnx is not None
    assert checkpoint.onnx.fixed_batch is None
    assert "model.onnx takes batches of 1 alone: its batch axis was opened, and answers the same" in checkpoint.notes
    options = ExportOptions(engines=None, variants=("fp32",))
    result = bundle_from_checkpoint(path, tmp_path / "model.bundle", options)
    with torch.inference_mode(), resnet_runtime.load(result.path) as session:
        expected, found = make()(torch.from_numpy(images(5))).numpy(), session.infer(images(5))
    assert np.abs(next(iter(found.values())) - expected).max() < 2e-5 * np.ptp(expected)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_that_is_no_number_is_any(batch: int, tmp_path: Path) -> None:
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.onnx", proto))
    assert checkpoint.onnx is not None
    assert checkpoint.onnx.fixed_batch is None


@pytest.mark.parametrize("batch", [4096, 2**40])
def test_a_batch_too_large_to_try_stays(batch: int, tmp_path: Path) -> None:
    proto = sized(model(), batch)
    for axis in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = 224
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.onnx", proto))
    assert checkpoint.onnx is not None
    assert checkpoint.onnx.fixed_batch == batch
    assert checkpoint.notes[-1].startswith(f"model.onnx takes batches of {batch} alone, and does not")


@pytest.mark.parametrize("opset", [20, 13])
def test_functions_are_inlined(opset: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", function(opset)(model()))
    expected = answers(saved(tmp_path / "plain.onnx", model()), images())
    network = checkpoint_from_file(path).onnx
    assert network is not None
    np.testing.assert_allclose(network(torch.from_numpy(images()))["logits"].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_two_channels_are_no_channels_last(tmp_path: Path) -> None:
    """(N, 2, 128, 1), read by a convolution: signals."""
    weight = np.random.default_rng(0).standard_normal((4, 2, 3, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["signal", "w"], ["a"], "conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["logits"], "flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "signals",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, ["n", 2, 128, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = checkpoint_from_file(saved(tmp_path / "model.onnx", proto)).onnx
    assert network is not None
    assert network.image_shape == (2, 128, 1)


@pytest.mark.parametrize("name", ["Relu_1", "Conv", "input", "logits"])
def test_names_that_are_made_here_may_be_the_files(name: str, tmp_path: Path) -> None:
    proto = without_names(model())
    first = next(node for node in proto.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == first.input[1])
    entry = proto.graph.input[0]
    for node in proto.graph.node:
        node.input[:] = ["picture" if given == entry.name else given for given in node.input]
        node.input[:] = [name if given == tensor.name else given for given in node.input]
        node.output[:] = ["scores" if made == "logits" else made for made in node.output]
    tensor.name, entry.name, proto.graph.output[0].name = name, "picture", "scores"
    path = saved(tmp_path / "model.onnx", proto)
    result = bundle_from_checkpoint(path, tmp_path / "m.bundle", ExportOptions(engines=None, variants=("fp32",)))
    with resnet_runtime.load(result.path) as session:
        found = session.infer(images())["logits"]
    np.testing.assert_allclose(found, answers(path, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["weights.pbtxt", "model.json", "model"])
def test_a_files_name_says_nothing(name: str, tmp_path: Path) -> None:
    assert checkpoint_from_file(saved(tmp_path / name, model())).onnx is not None


def test_a_file_without_a_producer_is_known(tmp_path: Path) -> None:
    proto = model()
    proto.ClearField("producer_name")
    proto.ClearField("producer_version")
    proto.domain, proto.model_version = "org.example", 3
    assert checkpoint_from_file(saved(tmp_path / "model.onnx", proto)).onnx is not None


@pytest.mark.parametrize("how", WRITTEN)
def test_the_bundle_computes_what_the_file_computes(how: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", WRITTEN[how](model()))
    batch = images(6)
    expected = answers(path, batch.transpose(0, 2, 3, 1).copy() if "channels last" in how else batch)
    options = ExportOptions(engines=None, variants=("fp32", "fp16"))
    result = bundle_from_checkpoint(path, tmp_path / "model.bundle", options)
    bundle = Bundle.open(result.path)
    assert bundle.manifest.model.traced_by == "the ONNX file"
    assert (bundle.manifest.input.layout, bundle.manifest.input.shape) == ("NCHW", SHAPE)
    assert bundle.manifest.input.batch.largest > 6, "a batch that can be opened is open"
    fp32 = bundle.manifest.variant("fp32")
    assert fp32 is not None
    kinds = {node.op_type for node in graph_from_bytes(bundle.read(fp32.file)).nodes()}
    assert "BatchNormalization" not in kinds
    assert "Transpose" not in kinds or "scaled" in how
    with resnet_runtime.load(result.path, precision="fp32") as session:
        found = session.infer(batch)["logits"]
    assert np.abs(found - expected).max() < 2e-5 * np.ptp(expected)


def test_a_batch_that_cannot_be_opened_stays(tmp_path: Path) -> None:
    proto = sized(model(), 2)
    add = helper.make_node("Add", ["logits_before", "each"], ["logits"], "by_place")
    proto.graph.node[-1].output[0] = "logits_before"
    proto.graph.node.append(add)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([[0.0], [1.0]], np.float32), "each"))
    path = saved(tmp_path / "model.onnx", proto)
    result = bundle_from_checkpoint(path, tmp_path / "m.bundle", ExportOptions(engines=None, variants=("fp32",)))
    assert result.manifest.input.batch == Batch(smallest=2, optimal=2, largest=2)
    with resnet_runtime.load(result.path) as session:
        found = session.infer(images(2))["logits"]
    np.testing.assert_allclose(found, answers(path, images(2)), atol=1e-4)


def test_two_outputs_keep_their_names(tmp_path: Path) -> None:
    proto = model()
    pooled = next(node for node in proto.graph.node if node.op_type == "Reshape").output[0]
    proto.graph.output.append(helper.make_tensor_value_info(pooled, TensorProto.FLOAT, ["batch", 16]))
    proto = onnx.load_from_string(
        proto.SerializeToString().replace(pooled.encode(), b"embedding".ljust(len(pooled), b"_")[: len(pooled)])
    )
    second = proto.graph.output[1].name
    path = saved(tmp_path / "model.onnx", proto)
    result = bundle_from_checkpoint(path, tmp_path / "m.bundle", ExportOptions(engines=None, variants=("fp32",)))
    assert [output.name for output in result.manifest.outputs] == ["logits", second]


def test_tensors_in_files_of_their_own_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    found = checkpoint_from_file(path)
    assert found.onnx is not None
    digest = hashlib.sha256((tmp_path / "model.data").read_bytes()).hexdigest()
    assert found.notes == (f"tensors of model.onnx stand in model.data, SHA-256 {digest}",)
    (tmp_path / "model.data").unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx keeps tensors in other files, and one cannot be read: .*"):
        checkpoint_from_file(path)


def test_an_open_image_size_is_asked_for(tmp_path: Path) -> None:
    proto = model()
    for axis in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.Clear()
        axis.dim_param = "side"
    checkpoint = checkpoint_from_file(saved(tmp_path / "model.onnx", proto))
    with pytest.raises(SignatureError, match="leaves the size of its images open: give --input-shape C,H,W"):
        model_from_checkpoint(checkpoint, ModelOptions())
    assert model_from_checkpoint(checkpoint, ModelOptions(input_shape=SHAPE)).input_shape == SHAPE
    with pytest.raises(SignatureError, match=r"--input-shape is \(1, 16, 16\), and model.onnx takes \(3, any, any\)"):
        model_from_checkpoint(checkpoint, ModelOptions(input_shape=(1, 16, 16)))


def test_what_the_file_computes_is_what_the_gates_compare_with(tmp_path: Path) -> None:
    network = checkpoint_from_file(saved(tmp_path / "model.onnx", model())).onnx
    assert network is not None
    exact = live_resnet(TINY, size=16)(torch.from_numpy(images())).detach().numpy()
    found = network(torch.from_numpy(images()))["logits"].numpy()
    assert np.abs(found - exact).max() < 1e-5 * np.ptp(exact)
    with pytest.raises(TypeError, match="takes float32"):
        network(torch.zeros(1, *SHAPE, dtype=torch.float64))
