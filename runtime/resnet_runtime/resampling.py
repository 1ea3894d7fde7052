"""Resizing without antialiasing, as ``torch.nn.functional.interpolate`` and OpenCV do it and Pillow does not.

Pillow widens its kernel by the factor by which an image shrinks. Models that were trained on tensors, or on what OpenCV
reads, may have seen images of which only the 2 x 2 (bilinear) or 4 x 4 (bicubic) pixels around each point were read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_CUBIC = -0.75  # the kernel's parameter in torch and in OpenCV; Pillow's, which antialiases, is -0.5


def resampled(pixels: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Resize to ``size`` (height, width).

    Args:
        pixels: (H, W) or (H, W, C).
        size: of the result.
        interpolation: bilinear or bicubic; the others are not defined without antialiasing.

    The middle of output pixel i lies at ``(i + 0.5) * old / new - 0.5`` of the input, whose border pixels go on without
    end. Computed in float64, rounded to the nearest (a half to the even), clipped to 0..255. Formula: torch's
    ``UpSampleKernel.cpp`` with ``align_corners=False``; it computes in float32, so that a sum near a half may differ.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise InputError(
            f"the interpolation {interpolation} without antialiasing is not defined: take it with, or bilinear"
        )
    result: NDArray[np.float64] = pixels.astype(np.float64)
    for axis in (0, 1):
        indices, weights = _taps(pixels.shape[axis], size[axis], interpolation)
        across = [1] * pixels.ndim
        across[axis] = size[axis]
        source, result = result, np.zeros((*result.shape[:axis], size[axis], *result.shape[axis + 1 :]))
        for index, weight in zip(indices, weights, strict=True):
            result += np.take(source, index, axis) * weight.reshape(across)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _taps(old: int, new: int, interpolation: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Of each tap: which pixel each output takes, and with what weight; both (taps, new)."""
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    below = np.floor(position)
    t = position - below
    if interpolation == "bilinear":
        offsets, weights = np.arange(2), np.stack([1 - t, t])
    else:
        offsets, weights = np.arange(-1, 3), np.stack([_far(1 + t), _near(t), _near(1 - t), _far(2 - t)])
    indices = np.clip(below.astype(np.intp) + offsets[:, None], 0, old - 1)
    return indices, weights


def _near(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel for 0 <= x <= 1."""
    return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1


def _far(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel for 1 <= x <= 2."""
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
