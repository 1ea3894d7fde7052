"""A folder that ``save_pretrained`` of a Hugging Face ResNet wrote: its tensors, and what its JSON files tell of it.

``config.json`` settles what the tensors cannot (where a bottleneck strides) and names the classes;
``preprocessor_config.json`` says how its images are made ready. What the user says by an option comes first.
Source: https://huggingface.co/docs/transformers/model_doc/resnet, and each image processor's own page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resnet_runtime.manifest import Resize

from .errors import CheckpointError
from .families import FIRST_STAGE
from .options import ExportOptions, PreprocessingOptions

CONFIG: Final = "config.json"
PROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_LARGEST_NUMBER: Final = 3e38

ARCHITECTURE: Final = "ResNetForImageClassification"

SETTLED: Final = (FIRST_STAGE.subject,)
"""The subjects of assumptions that the configuration takes the place of."""

_SCALED_THEN_CROPPED: Final = ("ConvNextImageProcessor", "ConvNextFeatureExtractor")
"""The shorter side to size / crop_pct, then a crop of size; from 384 pixels on, exactly size."""
_RESIZED: Final = ("ViTImageProcessor", "ViTFeatureExtractor", "BitImageProcessor", "CLIPImageProcessor")
"""The shorter side, or exactly height and width; then a crop where there is one."""
_WITHOUT_CROP: Final = 384
_LARGEST_SIDE: Final = 2**15
_RESAMPLING: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By Pillow's numbers."""


@dataclass(frozen=True, kw_only=True)
class PretrainedFolder:
    """What such a folder says.

    Attributes:
        weights: the file of its tensors.
        stride_in: ``3x3`` or ``1x1``; None for basic blocks.
        labels: of the classes; None where it has none but numbers.
        input_shape: (C, H, W); None where no file tells the size.
        preprocessing: None in a field that no file tells.
        notes: what could not be taken over, a sentence each.
    """

    weights: Path
    stride_in: str | None
    labels: tuple[str, ...] | None
    input_shape: tuple[int, int, int] | None
    preprocessing: PreprocessingOptions
    notes: tuple[str, ...]

    def filled_in(self, options: ExportOptions) -> ExportOptions:
        """The options, with what the folder tells where they say nothing."""
        model, own = options.model, options.preprocessing
        if model.stride_in is None:
            model = dataclasses.replace(model, stride_in=self.stride_in)
        told = self.preprocessing
        given = any(value is not None for value in (own.resize, own.crop, own.interpolation))
        if given or model.input_shape not in (None, self.input_shape):  # a geometry is one thing, and of one size
            told = dataclasses.replace(told, resize=None, crop=None)
        fields = {
            field.name: getattr(told, field.name)
            for field in dataclasses.fields(told)
            if field.name != "in_graph" and getattr(own, field.name) is None
        }
        if model.input_shape is None:
            model = dataclasses.replace(model, input_shape=self.input_shape)
        return dataclasses.replace(options, model=model, preprocessing=dataclasses.replace(own, **fields))


def is_pretrained_folder(path: Path) -> bool:
    """Whether there is a folder with a configuration in it."""
    try:
        return path.is_dir() and (path / CONFIG).is_file()
    except OSError:  # a name that is too long: who reads the file says so
        return False


def folder_from_path(path: Path) -> PretrainedFolder:
    """Read the JSON files.

    Raises:
        CheckpointError: one of them is damaged; the configuration is of something else, or of a ResNet that is
            computed in another way than is known here; or there is no file of tensors.
    """
    config = _json(path / CONFIG)
    _refuse_other_networks(path, config)
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        shards = sorted(item.name for item in path.glob("*.index.json"))
        why = f"its tensors are split as {shards[0]} lists: save them in one file" if shards else "copy them there"
        raise CheckpointError(f"{path} has no {' and no '.join(WEIGHTS)}: {why}")
    channels = _whole(path / CONFIG, config, "num_channels", 3)
    notes: list[str] = []
    preprocessing, size = PreprocessingOptions(), None
    if (path / PROCESSOR).is_file():
        preprocessing, size = _preprocessing(path, _json(path / PROCESSOR), notes)
    return PretrainedFolder(
        weights=weights,
        stride_in=_stride_in(config),
        labels=_labels(path, config),
        input_shape=None if size is None else (channels, *size),
        preprocessing=preprocessing,
        notes=tuple(notes),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON file: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no object, and a configuration is one")
    return value


def _refuse_other_networks(path: Path, config: Mapping[str, Any]) -> None:
    named = config.get("architectures") or [config.get("model_type")]
    if not isinstance(named, list) or (ARCHITECTURE not in named and named != ["resnet"]):
        found = ", ".join(map(str, named)) if isinstance(named, list) else named
        raise CheckpointError(f"{path / CONFIG} is of {found!r}, and no {ARCHITECTURE}")
    activation = config.get("hidden_act", "relu")
    if activation != "relu":
        raise CheckpointError(f"{path / CONFIG} has the activation {activation!r}, and relu alone is known here")
    if config.get("downsample_in_first_stage"):
        raise CheckpointError(f"{path / CONFIG} has downsample_in_first_stage, which has no form here")


def _stride_in(config: Mapping[str, Any]) -> str | None:
    if config.get("layer_type", "bottleneck") != "bottleneck":
        return None
    return "1x1" if config.get("downsample_in_bottleneck") else "3x3"


def _labels(path: Path, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """By number; None where they are what a configuration makes up."""
    found = config.get("id2label")
    if not found:
        return None
    if not isinstance(found, dict) or set(found) != {str(number) for number in range(len(found))}:
        raise CheckpointError(f"id2label of {path / CONFIG} does not number the classes from 0")
    labels = tuple(found[str(number)] for number in range(len(found)))
    if not all(isinstance(label, str) and label.strip() and label.isprintable() for label in labels):
        raise CheckpointError(f"id2label of {path / CONFIG} has a label that is no line of text")
    return None if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else labels


def _preprocessing(
    path: Path, config: Mapping[str, Any], notes: list[str]
) -> tuple[PreprocessingOptions, tuple[int, int] | None]:
    """The options, and (H, W) of the images that come out; None where that is not told."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "no processor")
    known = kind.removesuffix("Fast")
    if known not in (*_SCALED_THEN_CROPPED, *_RESIZED):
        notes.append(f"{PROCESSOR} is of {kind!a}, which is not known here: its preprocessing was not taken over")
        return PreprocessingOptions(), None
    normalized = config.get("do_normalize", True)
    scale = _number(path / PROCESSOR, config, "rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    arithmetic = PreprocessingOptions(
        mean=_numbers(path / PROCESSOR, config, "image_mean") if normalized else (0.0,),
        std=_numbers(path / PROCESSOR, config, "image_std") if normalized else (1.0,),
        scale=scale,
    )
    number = _whole(path / PROCESSOR, config, "resample", 2)
    if number >= len(_RESAMPLING):
        raise CheckpointError(f"resample of {path / PROCESSOR} is {number}, and Pillow has 0 to {len(_RESAMPLING) - 1}")
    resize, crop = _geometry(path, config, known, _RESAMPLING[number])
    size = crop or (resize.size if resize is not None and resize.mode == "exact" else None)
    if size is None:
        notes.append(f"{PROCESSOR} does not tell at what size images come out: its resize was not taken over")
        return arithmetic, None
    height, width = size
    chosen = dataclasses.replace(arithmetic, resize=resize or False, crop=crop or False)
    return chosen, (height, width)


def _geometry(
    path: Path, config: Mapping[str, Any], kind: str, interpolation: str
) -> tuple[Resize | None, tuple[int, int] | None]:
    shorter, exact = _size(path, config.get("size"), whole=kind.startswith("ViT"))

    def resized(mode: str, *size: int) -> Resize:
        return Resize(mode=mode, size=size, interpolation=interpolation, antialias=True)

    if not config.get("do_resize", True):
        resize = None
    elif kind in _SCALED_THEN_CROPPED and shorter is not None:
        if shorter >= _WITHOUT_CROP:
            return resized("exact", shorter, shorter), None
        share = _number(path / PROCESSOR, config, "crop_pct", 224 / 256)
        if not shorter <= shorter / share < _LARGEST_SIDE:
            raise CheckpointError(f"crop_pct in {path / PROCESSOR} is {share:g}, and is a share up to 1")
        return resized("shorter", int(shorter / share)), (shorter, shorter)
    else:
        resize = resized("exact", *exact) if exact is not None else None
        resize = resized("shorter", shorter) if shorter is not None else resize
    crop = _size(path, config.get("crop_size"), whole=True)[1] if config.get("do_center_crop") else None
    return resize, crop


def _size(path: Path, value: object, *, whole: bool) -> tuple[int | None, tuple[int, int] | None]:
    """The shorter side, or height and width: a number alone is both where it is a ``whole`` size."""
    alone = {"height": value, "width": value} if whole else {"shortest_edge": value}
    found = alone if isinstance(value, int) else value
    if found is None:
        return None, None
    if not isinstance(found, dict) or not all(
        type(item) is int and 0 < item < _LARGEST_SIDE for item in found.values()
    ):
        raise CheckpointError(f"a size of {path / PROCESSOR} is {value!r}, and one is in whole pixels")
    both = (found["height"], found["width"]) if {"height", "width"} <= set(found) else None
    return found.get("shortest_edge"), both


def _whole(path: Path, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CheckpointError(f"{key} in {path} is {value!r}, and is a whole number")
    return value


def _number(path: Path, config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not _is_number(value) or not value > 0:
        raise CheckpointError(f"{key} in {path} is {value!r}, and is a number over 0")
    return float(value)


def _numbers(path: Path, config: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    value = config.get(key)
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(_is_number, values)):
        raise CheckpointError(f"{key} in {path} is {value!r}, and has a number for each channel")
    return tuple(float(item) for item in values)


def _is_number(value: object) -> bool:
    """Whether it is one that float32 holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER
