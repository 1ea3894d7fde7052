"""A folder of ``save_pretrained``: what its JSON files say is taken over, and what the user says comes first."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import resnet_runtime
from resnet_export import ExportOptions, bundle_from_checkpoint
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError
from resnet_export.hugging_face import folder_from_path, is_pretrained_folder
from resnet_export.options import ModelOptions, PreprocessingOptions
from resnet_runtime.manifest import Resize
from tests.export.foreign_resnets import HuggingFace, alive
from tests.export.models import varied_images

LABELS = ("tench, Tinca tinca", "goldfish", "shark", "ray", "cock", "hen", "ostrich")
CONFIG: Mapping[str, Any] = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [1, 2],
    "hidden_sizes": [32, 64],
    "embedding_size": 8,
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "num_channels": 3,
    "downsample_in_first_stage": False,
    "id2label": {str(number): label for number, label in enumerate(LABELS)},
}
PROCESSOR: Mapping[str, Any] = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
    "size": {"shortest_edge": 64},
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return alive(HuggingFace((1, 2), (32, 64), 8, bottleneck=True), 64)


def saved(folder: Path, config: Mapping[str, Any] = CONFIG, processor: Mapping[str, Any] | None = PROCESSOR) -> Path:
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in network().state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(dict(config)))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(dict(processor)))
    return folder


def test_the_folder_is_exported_as_it_says(tmp_path: Path) -> None:
    folder = saved(tmp_path / "resnet-tiny")
    result = bundle_from_checkpoint(folder, tmp_path / "m.bundle", ExportOptions(engines=None, variants=("fp32",)))
    manifest = result.manifest
    rules = manifest.preprocessing
    assert manifest.input.shape == (3, 64, 64)
    assert rules.resize == Resize(mode="shorter", size=(73,), interpolation="bicubic", antialias=True)
    assert (rules.crop, rules.mean, rules.std) == ((64, 64), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert {item.option for item in manifest.model.assumptions} == {"--color-order", "--reference"}
    assert not [item for item in manifest.model.assumptions if "stage" in item.subject]
    images = varied_images(3, (3, 64, 64), seed=4)
    with torch.inference_mode(), resnet_runtime.load(result.path) as session:
        expected, found = network()(images).numpy(), session.infer(images.numpy())["logits"]
        assert session.labels == LABELS
    assert abs(found - expected).max() < 1e-4 * (expected.max() - expected.min())


def test_what_the_user_says_comes_first(tmp_path: Path) -> None:
    told = folder_from_path(saved(tmp_path / "f"))
    own = PreprocessingOptions(mean=(0.0,), resize=False)
    options = told.filled_in(ExportOptions(preprocessing=own, model=ModelOptions(stride_in="1x1")))
    assert options.model == ModelOptions(stride_in="1x1", input_shape=(3, 64, 64))
    assert options.preprocessing == PreprocessingOptions(
        mean=(0.0,), std=(0.2, 0.3, 0.4), scale=1 / 255, resize=False, crop=None
    )
    other = told.filled_in(ExportOptions(model=ModelOptions(input_shape=(3, 32, 32))))
    assert (other.preprocessing.resize, other.preprocessing.crop) == (None, None)
    assert other.preprocessing.mean == (0.5, 0.4, 0.3)


def changed(**changes: Any) -> dict[str, Any]:
    found = {**PROCESSOR, **changes}
    return {key: value for key, value in found.items() if value is not None}


def resized(mode: str, *size: int, interpolation: str = "bicubic") -> Resize:
    return Resize(mode=mode, size=size, interpolation=interpolation, antialias=True)


VIT = {"feature_extractor_type": None, "image_processor_type": "ViTImageProcessor", "crop_pct": None}


@pytest.mark.parametrize(
    ("changes", "resize", "crop", "size"),
    [
        ({"size": {"shortest_edge": 384}}, resized("exact", 384, 384), False, (384, 384)),
        ({"size": 224}, resized("shorter", 256), (224, 224), (224, 224)),
        ({**VIT, "size": 64}, resized("exact", 64, 64), False, (64, 64)),
        ({**VIT, "size": {"height": 48, "width": 64}}, resized("exact", 48, 64), False, (48, 64)),
        (
            {**VIT, "size": {"shortest_edge": 80}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
            resized("shorter", 80),
            (64, 64),
            (64, 64),
        ),
        ({**VIT, "do_resize": False, "do_center_crop": True, "crop_size": 64}, False, (64, 64), (64, 64)),
        ({"resample": 2}, resized("shorter", 73, interpolation="bilinear"), (64, 64), (64, 64)),
    ],
)
def test_the_geometry_of_each_processor(
    changes: Mapping[str, Any],
    resize: Resize | bool,
    crop: tuple[int, int] | bool,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    told = folder_from_path(saved(tmp_path / "f", processor=changed(**changes)))
    assert (told.preprocessing.resize, told.preprocessing.crop) == (resize, crop)
    assert told.input_shape == (3, *size)


@pytest.mark.parametrize("size", [{"shortest_edge": 64}, {}, None])
def test_a_size_that_is_not_told_is_said(size: Any, tmp_path: Path) -> None:
    told = folder_from_path(saved(tmp_path / "f", processor=changed(**VIT, size=size)))
    assert told.notes == (
        "preprocessor_config.json does not tell at what size images come out: its resize was not taken over",
    )
    assert (told.input_shape, told.preprocessing.resize, told.preprocessing.mean) == (None, None, (0.5, 0.4, 0.3))


def test_what_is_not_normalized_or_scaled_is_not(tmp_path: Path) -> None:
    told = folder_from_path(saved(tmp_path / "f", processor=changed(do_normalize=False, do_rescale=False)))
    assert (told.preprocessing.mean, told.preprocessing.std, told.preprocessing.scale) == ((0.0,), (1.0,), 1.0)


def test_a_processor_that_is_not_known_is_said_and_not_guessed(tmp_path: Path) -> None:
    told = folder_from_path(saved(tmp_path / "f", processor=changed(feature_extractor_type="Own")))
    assert told.preprocessing == PreprocessingOptions()
    assert told.notes == (
        "preprocessor_config.json is of 'Own', which is not known here: its preprocessing was not taken over",
    )


def test_without_a_processor_the_usual_is_assumed(tmp_path: Path) -> None:
    told = folder_from_path(saved(tmp_path / "f", processor=None))
    assert (told.preprocessing, told.input_shape, told.notes) == (PreprocessingOptions(), None, ())


@pytest.mark.parametrize(
    ("changes", "stride_in", "labels"),
    [
        ({"downsample_in_bottleneck": True}, "1x1", LABELS),
        ({"layer_type": "basic"}, None, LABELS),
        ({"id2label": {str(number): f"LABEL_{number}" for number in range(7)}}, "3x3", None),
        ({"id2label": {}}, "3x3", None),
    ],
)
def test_what_the_configuration_tells(
    changes: Mapping[str, Any], stride_in: str | None, labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    told = folder_from_path(saved(tmp_path / "f", config={**CONFIG, **changes}))
    assert (told.stride_in, told.labels) == (stride_in, labels)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> None:
    without_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def config(**changes: Any) -> Callable[[Path], object]:
    return written("config.json", json.dumps({**CONFIG, **changes}))


def processor(**changes: Any) -> Callable[[Path], object]:
    return written("preprocessor_config.json", json.dumps(changed(**changes)))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_weights, "has no model.safetensors and no pytorch_model.bin: copy them there"),
        (sharded, "its tensors are split as model.safetensors.index.json lists: save them in one file"),
        (written("config.json", "{"), r"config\.json is no JSON file"),
        (written("config.json", "[]"), r"config\.json holds no object"),
        (written("preprocessor_config.json", "nothing"), r"preprocessor_config\.json is no JSON file"),
        (config(architectures=["ViTForImageClassification"]), "is of 'ViTForImageClassification', and no ResNetFor"),
        (config(architectures=5), "is of 5, and no ResNetFor"),
        (processor(crop_pct=1e-9), "crop_pct in .* is 1e-09, and is a share up to 1"),
        (processor(crop_pct=1e300), "crop_pct in .* is 1e\\+300, and is a number over 0"),
        (processor(crop_pct=10**400), "crop_pct in .* is 1000"),
        (processor(image_mean=[10**400]), "image_mean in .* is"),
        (processor(size=True), "a size of .* is True"),
        (processor(size=64.5), "a size of .* is 64.5"),
        (config(hidden_act="gelu"), "has the activation 'gelu'"),
        (config(downsample_in_first_stage=True), "has downsample_in_first_stage, which has no form here"),
        (config(id2label={"1": "a"}), "does not number the classes from 0"),
        (config(id2label={"0": "a\nb"}), "has a label that is no line of text"),
        (config(num_channels="three"), "num_channels in .* is 'three'"),
        (processor(resample=9), "resample of .* is 9"),
        (processor(size={"shortest_edge": -3}), "a size of .* is"),
        (processor(crop_pct=0), "crop_pct in .* is 0"),
        (processor(image_mean=["a"]), "image_mean in .* is"),
        (processor(rescale_factor=None, image_std=[float("inf")]), "image_std in .* is"),
    ],
)
def test_what_is_wrong_is_a_sentence(damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "f")
    damage(folder)
    with pytest.raises(CheckpointError, match=said):
        folder_from_path(folder)


def test_another_folder_is_none(tmp_path: Path) -> None:
    assert not is_pretrained_folder(tmp_path)
    assert not is_pretrained_folder(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is a folder: name the checkpoint file in it"):
        checkpoint_from_file(tmp_path)
