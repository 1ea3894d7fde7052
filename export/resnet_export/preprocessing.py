"""The preprocessing of a bundle: what the user said, and for the rest what the architecture is usually trained with."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_runtime.manifest import Assumption, Preprocessing, Resize

from .errors import RequestError
from .options import PreprocessingOptions

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def preprocessing_from_options(
    options: PreprocessingOptions, input_shape: tuple[int, int, int], stem: str
) -> tuple[Preprocessing, tuple[Assumption, ...]]:
    """Fill in what was not said, and say so.

    Args:
        options: None in a field means that it was not said.
        input_shape: (C, H, W).
        stem: ``imagenet`` or ``cifar``: which way is usual.

    Raises:
        RequestError: mean or std does not have one value a channel; a number is not finite, or not positive where it
            divides or scales; or the images would not come out at the size that the model takes.
    """
    channels, height, width = input_shape
    assumed: list[Assumption] = []

    def taken(subject: str, value: object, option: str) -> None:
        assumed.append(Assumption(subject=subject, value=str(value), option=option))

    resize, crop = _geometry(options, (height, width), stem)
    _check_size(resize, crop, (height, width))
    if options.interpolation is not None and resize is None:
        raise RequestError(f"--interpolation {options.interpolation} is of a resize, and --resize none makes none")
    if options.resize is None:
        taken("resize", _resize_text(resize), "--resize")
    if options.crop is None and crop is not None:
        taken("center crop", f"{crop[0]}x{crop[1]}", "--crop")
    usual_mean, usual_std = _usual_statistics(channels, stem)
    mean = _per_channel("--mean", options.mean, usual_mean, channels)
    std = _per_channel("--std", options.std, usual_std, channels)
    if options.mean is None:
        taken("mean", ",".join(f"{value:g}" for value in mean), "--mean")
    if options.std is None:
        taken("std", ",".join(f"{value:g}" for value in std), "--std")
    if not all(math.isfinite(value) for value in mean):
        raise RequestError(f"--mean is {','.join(f'{value:g}' for value in mean)}, and a mean is a finite number")
    if not all(0 < value < math.inf for value in std):
        raise RequestError(f"--std is {','.join(f'{value:g}' for value in std)}, and a deviation is over 0 and finite")
    scale = 1 / 255 if options.scale is None else options.scale
    if not 0 < scale < math.inf:
        raise RequestError(f"--scale is {scale:g}, and what a byte is multiplied with is over 0 and finite")
    color_order = options.color_order or ("L" if channels == 1 else "RGB")
    if options.color_order is None and channels != 1:
        taken("color order", color_order, "--color-order")
    if (color_order == "L") != (channels == 1):
        raise RequestError(f"--color-order {color_order} does not fit an input of {channels} channels")
    preprocessing = Preprocessing(
        exif="apply",
        alpha="drop",
        color_order=color_order,
        resize=resize,
        crop=crop,
        scale=float(scale),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        in_graph=options.in_graph,
    )
    return preprocessing, tuple(assumed)


def _geometry(
    options: PreprocessingOptions, size: tuple[int, int], stem: str
) -> tuple[Resize | None, tuple[int, int] | None]:
    """ImageNet: the shorter side to 256/224 of the input, then a center crop; CIFAR: exactly the input's size."""
    interpolation = options.interpolation or "bilinear"
    crop = options.crop if isinstance(options.crop, tuple) else None
    if isinstance(options.resize, Resize):
        resize: Resize | None = options.resize
    elif options.resize is False:
        resize = None
    elif stem == "imagenet" and options.crop is not False:
        shorter = round(max(size) * 256 / 224)
        resize = Resize(mode="shorter", size=(shorter,), interpolation=interpolation, antialias=True)
    else:
        resize = Resize(mode="exact", size=size, interpolation=interpolation, antialias=True)
    if options.crop is None and resize is not None and resize.mode == "shorter":
        crop = size
    return resize, crop


def _check_size(resize: Resize | None, crop: tuple[int, int] | None, size: tuple[int, int]) -> None:
    """Refuse what gives images of another size than the model's, whatever the image."""
    taken = f"and the model takes {size[0]}x{size[1]}: set it by --input-shape C,H,W"
    if crop is not None:
        if crop != size:
            raise RequestError(f"--crop gives {crop[0]}x{crop[1]} pixels, {taken}")
    elif resize is not None and resize.mode == "exact":
        if resize.size != size:
            raise RequestError(f"--resize gives {resize.size[0]}x{resize.size[1]} pixels, {taken}")
    elif resize is not None and resize.size[0] != min(size):
        raise RequestError(f"--resize gives a shorter side of {resize.size[0]} pixels without a crop, {taken}")


def _usual_statistics(channels: int, stem: str) -> tuple[Sequence[float], Sequence[float]]:
    if channels == 3:
        return _IMAGENET if stem == "imagenet" else _CIFAR10
    return (0.5,) * channels, (0.5,) * channels


def _per_channel(
    option: str, given: tuple[float, ...] | None, usual: Sequence[float], channels: int
) -> tuple[float, ...]:
    values = tuple(usual) if given is None else given
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise RequestError(f"{option} has {len(values)} values, and the input has {channels} channels: give one each")
    return values


def _resize_text(resize: Resize | None) -> str:
    if resize is None:
        return "none"
    size = str(resize.size[0]) if resize.mode == "shorter" else "x".join(map(str, resize.size))
    what = "shorter side to " if resize.mode == "shorter" else ""
    return f"{what}{size}, {resize.interpolation}"
