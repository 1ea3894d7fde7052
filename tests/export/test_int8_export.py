"""INT8 through the whole pipeline: calibrated, gated, fallen back, refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import resnet_runtime
from resnet_export import int8
from resnet_export.errors import CalibrationError, RequestError
from resnet_export.graph import graph_from_bytes
from resnet_export.options import (
    CalibrationOptions,
    EvaluationOptions,
    ExportOptions,
    ModelOptions,
    PreprocessingOptions,
)
from resnet_export.passes.insert_qdq import undequantized_layers
from resnet_export.pipeline import bundle_from_checkpoint
from resnet_export.quantization.quantize import QuantizeOptions
from resnet_export.quantization.table import table_from_file
from resnet_runtime.manifest import Limits
from tests.export.commands import invoked
from tests.export.conftest import TINY_CLASSES, TINY_SHAPE
from tests.export.models import varied_images

CLASSIFIER = {"fc/Gemm"}

pytestmark = pytest.mark.usefixtures("few_rounds")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """48 preprocessed images in an .npy file."""
    path = tmp_path_factory.mktemp("calibration") / "images.npy"
    np.save(path, varied_images(48, TINY_SHAPE, seed=11).numpy())
    return path


def options(images=None, **more) -> ExportOptions:
    calibration = CalibrationOptions(images=images, **more.pop("calibration", {}))
    return ExportOptions(
        model=ModelOptions(input_shape=TINY_SHAPE),
        calibration=calibration,
        **{"variants": ("fp32", "int8"), **more},
    )


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, batches, tmp_path_factory):
    return bundle_from_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("int8") / "b", options(batches))


def test_both_schemes_ship_with_their_gates(exported) -> None:
    assert exported.dropped == {}
    found = {variant.id: variant for variant in exported.manifest.variants}
    assert set(found) == {"fp32", "int8-tensorrt", "int8-cpu"}
    for scheme in ("tensorrt", "cpu"):
        variant = found[f"int8-{scheme}"]
        assert (variant.precision, variant.scheme) == ("int8", scheme)
        assert variant.gate.passed
        assert variant.gate.emulated == (scheme == "tensorrt")
        assert variant.gate.parity.centred_cosine > 0.99
        assert {layer.node for layer in variant.kept_higher} == CLASSIFIER


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_shortcuts_that_is_none_is_refused(tiny_checkpoint, batches, share, tmp_path) -> None:
    made = options(batches, calibration={"quantize": QuantizeOptions(whole_shortcuts=share)})
    with pytest.raises(RequestError, match=r"whole_shortcuts is .*, and is a share from 0 to 1"):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", made)


def test_shortcuts_that_stay_whole_are_listed_and_a_table_keeps_them(tiny_checkpoint, batches, exported, tmp_path):
    quantize = QuantizeOptions(whole_shortcuts=1.0)
    made = options(batches, calibration={"quantize": quantize})
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", made)
    table = table_from_file(result.path / "calibration.json")
    adds = set(table.whole_shortcuts)
    assert adds
    listed = {variant.id: {layer.node for layer in variant.kept_higher} for variant in result.manifest.variants}
    assert adds <= listed["int8-tensorrt"]
    assert not adds & listed["int8-cpu"]
    usual = (exported.path / "model.int8-tensorrt.onnx").read_bytes()
    assert (result.path / "model.int8-tensorrt.onnx").read_bytes() != usual
    again = options(batches, calibration={"table": result.path / "calibration.json"})
    repeated = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "again", again)
    assert (repeated.path / "model.int8-tensorrt.onnx").read_bytes() == (
        result.path / "model.int8-tensorrt.onnx"
    ).read_bytes()


def test_every_convolution_of_the_shipped_files_is_quantized(exported) -> None:
    bundle = resnet_runtime.load(exported.path).bundle
    for variant in exported.manifest.variants:
        if variant.precision == "int8":
            assert set(undequantized_layers(graph_from_bytes(bundle.read(variant.file)))) == CLASSIFIER


def test_the_runtime_serves_it(exported, batches) -> None:
    images = np.load(batches)
    with resnet_runtime.load(exported.path, precision="fp32") as session:
        expected = session.infer(images)["logits"]
    for backend in ("openvino", "onnxruntime"):
        with resnet_runtime.load(exported.path, precision="int8", backend=backend) as session:
            assert session.choice.variant == "int8-cpu"
            found = session.infer(images)["logits"]
        assert 0 < np.abs(found - expected).max() < 0.2 * np.ptp(expected, axis=0).max()


def test_the_calibration_images_are_the_check_inputs(exported, batches) -> None:
    with np.load(exported.path / "check.npz") as check:
        given = {array.tobytes() for array in np.load(batches)}
        assert len(check["input"]) == 32
        assert all(array.tobytes() in given for array in check["input"])


def test_the_table_is_in_the_bundle_and_can_be_given_back(exported, tiny_checkpoint, tmp_path) -> None:
    path = exported.path / "calibration.json"
    assert exported.manifest.calibration.path == "calibration.json"
    assert table_from_file(path).images == 48
    again = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(calibration={"table": path}))
    assert (tmp_path / "b" / "calibration.json").read_bytes() == path.read_bytes()
    assert again.dropped == {}
    assert any("rounded to the nearest" in text for text in again.report.warnings)


def test_the_same_images_give_the_same_bytes(exported, tiny_checkpoint, batches, tmp_path) -> None:
    bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(batches))
    for name in ("calibration.json", "model.int8-cpu.onnx", "model.int8-tensorrt.onnx"):
        assert (tmp_path / "b" / name).read_bytes() == (exported.path / name).read_bytes()


def test_a_table_of_image_files_needs_their_preprocessing(tiny_checkpoint, tmp_path) -> None:
    drawn = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(34):
        pixels = drawn.integers(0, 256, (*TINY_SHAPE[1:], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    scaled = PreprocessingOptions(mean=(0.4,), std=(0.3,))
    bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(tmp_path / "images", preprocessing=scaled))
    table = tmp_path / "b" / "calibration.json"
    assert table_from_file(table).preprocessing is not None
    made = options(calibration={"table": table}, preprocessing=PreprocessingOptions(mean=(0.5,), std=(0.3,)))
    with pytest.raises(CalibrationError, match="were preprocessed otherwise than this bundle says"):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "c", made)
    again = bundle_from_checkpoint(
        tiny_checkpoint, tmp_path / "c", options(calibration={"table": table}, preprocessing=scaled)
    )
    assert (again.path / "calibration.json").read_bytes() == table.read_bytes()


def test_evaluation_images_choose_the_clipping_too(tiny_checkpoint, batches, exported, tmp_path) -> None:
    before = table_from_file(exported.path / "calibration.json")
    assert "entropy" in before.methods.values()
    far = 4 * varied_images(200, TINY_SHAPE, seed=21).numpy()  # all are clipped, by each method differently
    np.save(tmp_path / "far.npy", far)
    made = options(
        batches,
        evaluation=EvaluationOptions(images=tmp_path / "far.npy", max_drop=100.0),
        limits={**options().limits, "int8": LOOSE},
    )
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", made)
    after = table_from_file(result.path / "calibration.json")
    assert after.methods != before.methods  # which they are depends on how the CPU rounds
    assert dataclasses.replace(after, methods=before.methods, whole_shortcuts=before.whole_shortcuts) == before


def test_a_table_of_another_model_is_refused(exported, tmp_path, tiny_network) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    state["conv1.weight"] *= 1.5
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(RequestError, match="belongs to the graph with SHA-256"):
        bundle_from_checkpoint(
            tmp_path / "other.pt", tmp_path / "b", options(calibration={"table": exported.path / "calibration.json"})
        )
    assert not (tmp_path / "b").exists()


def test_int8_without_images_is_refused(tiny_checkpoint, tmp_path) -> None:
    with pytest.raises(RequestError, match="--precision int8 needs images like those to come"):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options())


def test_int8_joins_the_variants_where_images_are_given(batches) -> None:
    assert dataclasses.replace(options(batches), variants=None).wanted == ("fp32", "bf16", "fp16", "int8")
    assert dataclasses.replace(options(), variants=None).wanted == ("fp32", "bf16", "fp16")


def test_few_images_are_warned_of(tiny_checkpoint, tmp_path) -> None:
    images = list(varied_images(9, TINY_SHAPE, seed=11).numpy())
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(images))
    assert any("9 images are few to calibrate with" in text for text in result.report.warnings)
    assert "int8-cpu" in {variant.id for variant in result.manifest.variants}


def test_an_iterator_is_read_once(tiny_checkpoint, tmp_path) -> None:
    read = []

    def images():
        for index, image in enumerate(varied_images(40, TINY_SHAPE, seed=11).numpy()):
            read.append(index)
            yield image

    bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(images()))
    assert read == list(range(40))


def test_images_that_are_all_the_same_are_refused(tiny_checkpoint, tmp_path) -> None:
    images = np.zeros((40, *TINY_SHAPE), np.float32)
    with pytest.raises(RequestError, match="--calibration"):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(list(images)))


def test_non_finite_activations_are_refused_by_name(tiny_checkpoint, tmp_path) -> None:
    images = varied_images(40, TINY_SHAPE, seed=11).numpy()
    images[36:] *= 1e38  # finite, but not for long; after those that become check.npz
    with pytest.raises(RequestError, match="not finite"):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(list(images)))


def test_a_dead_channel_and_a_dead_tensor_are_survived(tiny_network, batches, tmp_path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_network.state_dict().items()}
    state["layer1.0.bn1.weight"][2] = 0
    state["layer1.0.bn1.bias"][2] = 0  # one channel is always zero
    state["layer2.0.bn1.weight"].zero_()
    state["layer2.0.bn1.bias"].zero_()  # and one tensor
    torch.save(state, tmp_path / "dead.pt")
    result = bundle_from_checkpoint(tmp_path / "dead.pt", tmp_path / "b", options(batches))
    assert any("is zero for every image" in text for text in result.report.warnings)
    assert result.dropped == {}


def labelled(network, tmp_path, count: int = 60):
    """Images with the network's own answers as labels, so that eager is always right."""
    images = varied_images(count, TINY_SHAPE, seed=21)
    with torch.inference_mode():
        labels = network(images).argmax(dim=1).numpy()
    np.savez(tmp_path / "evaluation.npz", input=images.numpy(), labels=labels)
    return tmp_path / "evaluation.npz"


def test_the_drop_is_measured_on_the_evaluation_images(tiny_checkpoint, tiny_network, batches, tmp_path) -> None:
    evaluation = EvaluationOptions(images=labelled(tiny_network, tmp_path), max_drop=5.0)
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(batches, evaluation=evaluation))
    for variant in result.manifest.variants[1:]:
        accuracy = variant.gate.accuracy
        assert (accuracy.samples, accuracy.labelled, accuracy.eager, accuracy.max_drop) == (60, True, 1.0, 5.0)
        assert accuracy.drop <= 5.0 + 1e-9  # 100 (1 - 0.95)
    assert result.manifest.variants[0].gate.accuracy is None


def test_without_labels_agreement_is_measured(tiny_checkpoint, batches, tmp_path) -> None:
    np.save(tmp_path / "plain.npy", varied_images(30, TINY_SHAPE, seed=21).numpy())
    evaluation = EvaluationOptions(images=tmp_path / "plain.npy", max_drop=10.0)
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(batches, evaluation=evaluation))
    assert {variant.gate.accuracy.labelled for variant in result.manifest.variants[1:]} == {False}


def bad_table(exported, tmp_path, *tensors: str, factor: float = 100):
    """The table of the tiny network with some ranges so small that the layers behind them are ruined."""
    data = json.loads((exported.path / "calibration.json").read_text())
    for tensor in tensors:
        for by_method in data["tensors"][tensor]["thresholds"].values():
            for method in by_method:
                by_method[method] = float(np.float32(by_method[method] / factor))
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    return path


def test_the_layer_that_fails_the_gate_goes_back_and_no_other(exported, tiny_checkpoint, tmp_path) -> None:
    table = bad_table(exported, tmp_path, "layer2.0.relu/Relu")
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(calibration={"table": table}))
    assert result.dropped == {}
    verdicts = {verdict.variant.id: verdict for verdict in result.report.verdicts}
    for scheme, precision in (("tensorrt", "fp16"), ("cpu", "fp32")):
        verdict = verdicts[f"int8-{scheme}"]
        kept = {layer.node: layer for layer in verdict.variant.kept_higher if layer.node not in CLASSIFIER}
        assert set(kept) == {"layer2.0.conv2/Conv"}
        assert kept["layer2.0.conv2/Conv"].precision == precision
        assert "quantized alone it adds noise" in kept["layer2.0.conv2/Conv"].reason
        (cost,) = verdict.kept_costs
        assert cost.noise > 0.01
        assert (cost.slowdown is None) == (scheme == "tensorrt")
    graph = graph_from_bytes((tmp_path / "b" / "model.int8-cpu.onnx").read_bytes())
    assert set(undequantized_layers(graph)) == {"layer2.0.conv2/Conv"} | CLASSIFIER


LOOSE = Limits(centred_cosine=0.0, top1_agreement=0.0)
"""What a ruined graph passes too, so that only its accuracy is left to fail."""


def test_a_drop_over_what_is_allowed_sends_the_layer_back(exported, tiny_checkpoint, tiny_network, tmp_path) -> None:
    table = bad_table(exported, tmp_path, "layer2.0.relu/Relu")
    made = options(
        calibration={"table": table},
        evaluation=EvaluationOptions(images=labelled(tiny_network, tmp_path), max_drop=10.0),
        limits={**options().limits, "int8": LOOSE},
    )
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", made)
    assert result.dropped == {}
    assert sum("top-1 accuracy drops by" in text for text in result.report.warnings) == 2
    for variant in result.manifest.variants[1:]:
        assert {layer.node for layer in variant.kept_higher} - CLASSIFIER == {"layer2.0.conv2/Conv"}
        assert variant.gate.accuracy.drop <= 10.0


def test_a_drop_that_no_layers_mend_ships_no_int8_and_is_status_3(
    exported, tiny_checkpoint, tiny_network, tmp_path
) -> None:
    data = json.loads((exported.path / "calibration.json").read_text())
    table = bad_table(exported, tmp_path, *data["tensors"], factor=6)
    done = invoked(
        tiny_checkpoint, "--input-shape", "3,16,16", "--precision", "fp32", "--precision", "int8",
        "--calibration-table", table, "--evaluation", labelled(tiny_network, tmp_path), "--max-drop", "3",
        "--gate", "int8.centred_cosine=0", "--gate", "int8.top1_agreement=0", "-o", tmp_path / "b",
    )  # fmt: skip
    assert done.exit_code == 3
    assert done.stdout.count("is not in the bundle: top-1 accuracy drops by") == 2
    assert "still does not pass" in done.stdout
    assert [path.name for path in (tmp_path / "b").glob("*int8*")] == []


def test_a_gate_that_cannot_be_met_ships_no_int8(tiny_checkpoint, batches, tmp_path) -> None:
    limits = {**options().limits, "int8": Limits(centred_cosine=0.999999999)}
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(batches, limits=limits))
    assert set(result.dropped) == {"int8-tensorrt", "int8-cpu"}
    assert any("still does not pass" in fault for faults in result.dropped.values() for fault in faults)
    assert [variant.id for variant in result.manifest.variants] == ["fp32"]
    assert not list((tmp_path / "b").glob("*int8*"))


def test_int8_that_is_not_faster_is_said_and_not_chosen(tiny_checkpoint, batches, tmp_path, monkeypatch) -> None:
    from resnet_runtime.manifest import Speed

    def slow(bundle, variant, others, inputs):
        return (Speed(backend="openvino", against="fp32", ratio=1.1, batch=1, instructions="avx512_vnni"),)

    monkeypatch.setattr(int8, "speeds_from_variants", slow)
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(batches))
    assert any("only 1.10 times as fast" in text for text in result.report.warnings)
    with resnet_runtime.load(tmp_path / "b", backend="openvino") as session:
        assert session.choice.variant == "fp32"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"evaluation": EvaluationOptions(images="x")}, "--evaluation measures INT8"),
        ({"evaluation": EvaluationOptions(labels="x")}, "--evaluation-labels needs the images"),
        ({"evaluation": EvaluationOptions(max_drop=-1.0)}, "--max-drop is -1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tiny_checkpoint, tmp_path, more, message) -> None:
    with pytest.raises(RequestError, match=message):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(**{"variants": ("fp32",), **more}))


def test_image_files_in_class_folders_and_bytes_in_the_graph(tiny_checkpoint, tmp_path) -> None:
    drawn = np.random.default_rng(0)
    for index in range(40):
        folder = tmp_path / "images" / f"class{index % TINY_CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        blurred = np.kron(drawn.integers(0, 256, (6, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(blurred).save(folder / f"{index}.png")
    asked = dataclasses.replace(
        options(tmp_path / "images", evaluation=EvaluationOptions(images=tmp_path / "images", max_drop=100.0)),
        preprocessing=PreprocessingOptions(in_graph=True),
    )
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", asked)
    cpu = result.manifest.variant("int8-cpu")
    assert cpu is not None
    assert cpu.gate.accuracy.samples == 40
    with np.load(tmp_path / "b" / "check.npz") as check:
        assert check["input"].dtype == np.uint8


def test_one_image_is_warned_of_and_joined_by_made_ones(tiny_checkpoint, tmp_path) -> None:
    result = bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options([varied_images(1, TINY_SHAPE).numpy()]))
    assert any("one image is few to calibrate with" in text for text in result.report.warnings)
    with np.load(result.path / "check.npz") as check:
        assert len(check["input"]) == 8
        np.testing.assert_array_equal(check["input"][0], varied_images(1, TINY_SHAPE).numpy()[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": ("fp32",), "images": True}, "--calibration is for INT8, which --precision leaves out"),
        ({"variants": ("fp32",), "calibration": {"method": "mse"}}, "--calibration-method is for calibrating INT8"),
        ({"variants": ("fp32",), "calibration": {"skip_bad_images": True}}, "--skip-bad-images leaves out images of"),
        ({"calibration": {"table": "t", "skip_bad_images": True}}, "--skip-bad-images leaves out images of"),
        ({"variants": ("fp32",), "calibration": {"table": "t"}}, "--calibration-table is for INT8, which --precision"),
    ],
)
def test_what_would_be_ignored_is_refused(tiny_checkpoint, batches, tmp_path, changes, said) -> None:
    changes = dict(changes)
    images = batches if changes.pop("images", False) else None
    with pytest.raises(RequestError, match=said):
        bundle_from_checkpoint(tiny_checkpoint, tmp_path / "b", options(images, **changes))
    assert list(tmp_path.iterdir()) == []
