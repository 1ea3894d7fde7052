"""``resnet-export --calibration``: what it prints, what it writes, its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_export.resnet import ResNet
from tests.export.commands import SHAPE, invoked, names, refused
from tests.export.conftest import TINY_SHAPE
from tests.export.models import varied_images

pytestmark = pytest.mark.usefixtures("few_rounds", "here")

INT8 = (*SHAPE, "--precision", "fp32", "--precision", "int8")


@pytest.fixture
def calibration(here: Path) -> str:
    np.save(here / "calibration.npy", varied_images(40, TINY_SHAPE, seed=11).numpy())
    return "calibration.npy"


@pytest.fixture
def evaluation(here: Path, tiny_network: ResNet) -> str:
    images = varied_images(50, TINY_SHAPE, seed=21)
    with torch.inference_mode():
        labels = tiny_network(images).argmax(dim=1).numpy()
    np.savez(here / "evaluation.npz", input=images.numpy(), labels=labels)
    return "evaluation.npz"


def test_one_command_makes_both_schemes_and_says_what_they_cost(
    here: Path, tiny_checkpoint: Path, calibration: str, evaluation: str
) -> None:
    result = invoked(
        tiny_checkpoint, *INT8, "--calibration", calibration, "--evaluation", evaluation, "--max-drop", "10", "-o", "b"
    )
    assert result.exit_code == 0
    assert {"calibration.json", "model.int8-cpu.onnx", "model.int8-tensorrt.onnx"} <= set(names(here / "b"))
    stages = [line[4:].split("  ")[0].strip() for line in result.stderr.splitlines() if line.startswith("  ✓ ")]
    assert stages[stages.index("calibrate") :] == [
        "calibrate", "clipping", "shortcuts",
        "int8-tensorrt", "verify int8-tensorrt", "int8-cpu", "verify int8-cpu", "speed", "publish",
    ]  # fmt: skip
    assert "40 images" in result.stderr
    (said,) = [line for line in result.stdout.splitlines() if line.startswith("int8-cpu: ")]
    assert "top-1" in said
    assert "eager 100.00%, over 50 images" in said
    assert "times as fast as fp32 on openvino" in said


def test_json_holds_the_accuracy_the_speeds_and_what_was_kept(
    tiny_checkpoint: Path, calibration: str, evaluation: str
) -> None:
    result = invoked(
        tiny_checkpoint, *INT8, "--calibration", calibration, "--evaluation", evaluation, "--max-drop", "10", "--json"
    )
    report = json.loads(result.stdout)["report"]
    cpu = next(variant for variant in report["variants"] if variant["id"] == "int8-cpu")
    assert cpu["gate"]["accuracy"]["samples"] == 50
    assert {speed["backend"] for speed in cpu["speeds"]} == {"openvino", "onnxruntime"}
    assert cpu["kept_costs"] == []


def test_a_gate_that_cannot_be_met_is_status_3(here: Path, tiny_checkpoint: Path, calibration: str) -> None:
    result = invoked(
        tiny_checkpoint, *INT8, "--calibration", calibration, "--gate", "int8.centred_cosine=0.999999999", "-o", "b"
    )
    assert result.exit_code == 3
    assert "int8-cpu is not in the bundle" in result.stdout
    assert not [name for name in names(here / "b") if "int8" in name]


def test_int8_without_images_is_refused(tiny_checkpoint: Path) -> None:
    message = refused(tiny_checkpoint, *SHAPE, "--precision", "int8")["message"]
    assert "--calibration DIR" in message


def test_a_folder_that_does_not_exist_is_refused_before_anything_is_done(tiny_checkpoint: Path) -> None:
    message = refused(tiny_checkpoint, *SHAPE, "--calibration", "nowhere")["message"]
    assert "nowhere" in message


def test_a_table_that_is_none_is_refused(here: Path, tiny_checkpoint: Path) -> None:
    (here / "table.json").write_text("{}")
    message = refused(tiny_checkpoint, *INT8, "--calibration-table", "table.json")["message"]
    assert "table.json" in message


def test_labels_that_do_not_fit_the_classes_are_refused(here: Path, tiny_checkpoint: Path, calibration: str) -> None:
    images = varied_images(4, TINY_SHAPE, seed=21).numpy()
    np.savez(here / "evaluation.npz", input=images, labels=np.array([0, 1, 2, 99]))
    error = refused(tiny_checkpoint, *INT8, "--calibration", calibration, "--evaluation", "evaluation.npz")
    assert "99" in json.dumps(error)


def test_a_corrupt_image_is_named_and_skipped_only_where_that_is_asked_for(here: Path, tiny_checkpoint: Path) -> None:
    from PIL import Image

    drawn = np.random.default_rng(0)
    (here / "images").mkdir()
    for index in range(40):
        coarse = np.kron(drawn.integers(0, 256, (5, 5, 3)), np.ones((5, 5, 1))).astype(np.uint8)
        Image.fromarray(coarse).save(here / "images" / f"{index}.png")
    (here / "images" / "7.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    message = refused(tiny_checkpoint, *INT8, "--calibration", "images")["message"]
    assert "7.png" in message
    assert "--skip-bad-images" in message
    result = invoked(tiny_checkpoint, *INT8, "--calibration", "images", "--skip-bad-images", "-o", "b")
    assert result.exit_code == 0
    assert "images that were skipped: 1, the first: " in result.stderr


def test_max_drop_without_images_to_measure_it_on_is_refused(here: Path, tiny_checkpoint: Path) -> None:
    (here / "images").mkdir()
    error = refused(tiny_checkpoint, *SHAPE, "--calibration", "images", "--max-drop", "0.5")
    assert error["message"] == "--max-drop is measured on the images of --evaluation: give them too"
