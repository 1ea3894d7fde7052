"""What is assumed of images where nothing is said, and what is refused, exactly."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_export.errors import RequestError
from resnet_export.options import PreprocessingOptions
from resnet_export.preprocessing import preprocessing_from_options
from resnet_runtime.manifest import Assumption, Preprocessing, Resize


def resize(*size: int, interpolation: str = "bilinear") -> Resize:
    mode = "shorter" if len(size) == 1 else "exact"
    return Resize(mode=mode, size=size, interpolation=interpolation, antialias=True)


def made(shape: tuple[int, int, int] = (3, 224, 224), stem: str = "imagenet", **options: Any) -> Preprocessing:
    return preprocessing_from_options(PreprocessingOptions(**options), shape, stem)[0]


def assumed(shape: tuple[int, int, int] = (3, 224, 224), stem: str = "imagenet", **options: Any) -> dict[str, str]:
    found = preprocessing_from_options(PreprocessingOptions(**options), shape, stem)[1]
    assert all(isinstance(item, Assumption) for item in found)
    return {item.option: item.value for item in found}


def test_imagenet() -> None:
    assert made() == Preprocessing(
        exif="apply",
        alpha="drop",
        color_order="RGB",
        resize=resize(256),
        crop=(224, 224),
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        in_graph=False,
    )
    assert assumed() == {
        "--resize": "shorter side to 256, bilinear",
        "--crop": "224x224",
        "--mean": "0.485,0.456,0.406",
        "--std": "0.229,0.224,0.225",
        "--color-order": "RGB",
    }


def test_cifar() -> None:
    assert made((3, 32, 32), "cifar") == Preprocessing(
        exif="apply",
        alpha="drop",
        color_order="RGB",
        resize=resize(32, 32),
        crop=None,
        scale=1 / 255,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        in_graph=False,
    )
    assert assumed((3, 32, 32), "cifar") == {
        "--resize": "32x32, bilinear",
        "--mean": "0.4914,0.4822,0.4465",
        "--std": "0.247,0.2435,0.2616",
        "--color-order": "RGB",
    }


def test_one_channel() -> None:
    found = made((1, 32, 32), "cifar")
    assert (found.color_order, found.mean, found.std) == ("L", (0.5,), (0.5,))
    assert assumed((1, 32, 32), "cifar") == {"--resize": "32x32, bilinear", "--mean": "0.5", "--std": "0.5"}


def test_what_is_said_is_taken_and_not_assumed() -> None:
    told = {
        "resize": resize(20, 24, interpolation="box"), "crop": (16, 20), "mean": (0.0, 0.25, -1.0), "std": (2.0,),
        "scale": 1.0, "color_order": "BGR", "in_graph": True,
    }  # fmt: skip
    found = made((3, 16, 20), **told)
    assert {name: getattr(found, name) for name in told} == {**told, "std": (2.0, 2.0, 2.0)}
    assert assumed((3, 16, 20), **told) == {}


@pytest.mark.parametrize(
    ("shape", "stem", "options", "expected"),
    [
        # 256/224 of the longer side of the input, so that the crop fits into every image.
        ((3, 112, 112), "imagenet", {}, (resize(128), (112, 112))),
        ((3, 112, 224), "imagenet", {}, (resize(256), (112, 224))),
        ((3, 224, 224), "imagenet", {"crop": False}, (resize(224, 224), None)),
        ((3, 224, 224), "imagenet", {"resize": resize(232)}, (resize(232), (224, 224))),
        ((3, 224, 224), "imagenet", {"resize": resize(224), "crop": False}, (resize(224), None)),
        ((3, 224, 224), "imagenet", {"resize": resize(224, 224)}, (resize(224, 224), None)),
        ((3, 224, 224), "imagenet", {"resize": False}, (None, None)),
        ((3, 224, 224), "imagenet", {"resize": False, "crop": (224, 224)}, (None, (224, 224))),
        ((3, 32, 32), "cifar", {"resize": resize(36)}, (resize(36), (32, 32))),
        ((3, 32, 32), "cifar", {"interpolation": "bicubic"}, (resize(32, 32, interpolation="bicubic"), None)),
        ((3, 224, 224), "imagenet", {"interpolation": "box"}, (resize(256, interpolation="box"), (224, 224))),
    ],
)
def test_geometry(
    shape: tuple[int, int, int], stem: str, options: dict[str, Any], expected: tuple[Resize | None, object]
) -> None:
    found = made(shape, stem, **options)
    assert (found.resize, found.crop) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, "--mean has 2 values, and the input has 3 channels: give one each"),
        ({"std": (0.5,) * 4}, "--std has 4 values, and the input has 3 channels: give one each"),
        ({"std": (0.5, 0.0, 0.5)}, "--std is 0.5,0,0.5, and a deviation is over 0 and finite"),
        ({"std": (float("nan"),)}, "--std is nan,nan,nan, and a deviation is over 0 and finite"),
        ({"mean": (float("-inf"),)}, "--mean is -inf,-inf,-inf, and a mean is a finite number"),
        ({"scale": 0.0}, "--scale is 0, and what a byte is multiplied with is over 0 and finite"),
        ({"color_order": "L"}, "--color-order L does not fit an input of 3 channels"),
        (
            {"crop": (200, 224)},
            "--crop gives 200x224 pixels, and the model takes 224x224: set it by --input-shape C,H,W",
        ),
        (
            {"resize": resize(256, 256)},
            "--resize gives 256x256 pixels, and the model takes 224x224: set it by --input-shape C,H,W",
        ),
        (
            {"resize": resize(256), "crop": False},
            "--resize gives a shorter side of 256 pixels without a crop, and the model takes 224x224: "
            "set it by --input-shape C,H,W",
        ),
        (
            {"resize": False, "interpolation": "box"},
            "--interpolation box is of a resize, and --resize none makes none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        made(**options)
    assert (caught.value.message, caught.value.exit_status) == (message, 2)


def test_colors_of_one_channel_are_refused() -> None:
    with pytest.raises(RequestError, match="--color-order RGB does not fit an input of 1 channels"):
        made((1, 32, 32), "cifar", color_order="RGB")
