"""Rounding weights to int8, to the nearest or so that the layer's output changes least.

Adaptive rounding takes the columns of the weights one after another, and lets the columns that are yet to come make up
for each one's rounding error (Frantar et al., "GPTQ", 2022, after Hassibi and Stork's "Optimal Brain Surgeon", 1993).
With X the layer's inputs, one position a row, what is kept small is |X W' - X Q'|^2 = tr(D H D'), D = W - Q, H = X'X.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_export.passes.insert_qdq import QuantizedWeights

Float64 = NDArray[np.float64]

LEVELS = 127

SMALLEST_SCALE = 2.0**-20
"""Of weights. In FP16 it is one of the numbers below the smallest normal one, which are 2**-24 apart: a scale there is
off by 3% at most, and the weights are rounded by the scale as it is stored. Preprocessing in the graph makes the first
layer's weights a fiftieth of what they were, so that a larger bound would leave them a few levels."""

_BLOCK = 128
_SHRINKS = np.linspace(1.0, 0.7, 31)


def nearest(weights: NDArray[np.floating], axis: int) -> QuantizedWeights:
    """Round to the nearest of 255 levels up to the largest magnitude of each output channel.

    Args:
        weights: of a layer.
        axis: of the output channels.
    """
    rows = _rows(weights, axis)
    scale = scale_from_magnitude(np.abs(rows).max(axis=1))
    values = np.clip(np.rint(rows / scale[:, None].astype(np.float64)), -LEVELS, LEVELS)
    return quantized_from_rows(values, scale, weights.shape, axis)


def scale_from_magnitude(magnitude: NDArray[np.floating]) -> NDArray[np.float32]:
    """(rows,) float32, what one step is; each is a number that FP16 holds exactly, so that both schemes can use it."""
    scale = np.maximum(magnitude.astype(np.float64) / LEVELS, SMALLEST_SCALE)
    return scale.astype(np.float16).astype(np.float32)


def best_scale(rows: Float64, importance: Float64) -> NDArray[np.float32]:
    """The scale of each row with the smallest error of rounding to the nearest, columns weighted by importance.

    Args:
        rows: (rows, K).
        importance: (K,), the mean square of the inputs.
    """
    magnitude = np.abs(rows).max(axis=1)
    best, least = scale_from_magnitude(magnitude), np.full(len(rows), np.inf)
    for shrink in _SHRINKS:
        scale = scale_from_magnitude(magnitude * shrink)
        step = scale[:, None].astype(np.float64)
        error = (np.clip(np.rint(rows / step), -LEVELS, LEVELS) * step - rows) ** 2 @ importance
        better = error < least
        best[better], least[better] = scale[better], error[better]
    return best


def adaptive(rows: Float64, hessian: NDArray[np.floating], scale: NDArray[np.float32], damping: float) -> Float64:
    """Round the rows to ``scale`` times integers of -127..127.

    Args:
        rows: (rows, K).
        hessian: (K, K), X'X / positions.
        scale: (rows,).
        damping: what is added to the hessian's diagonal, relative to its mean.

    Returns:
        (rows, K) integers.
    """
    size = hessian.shape[0]
    diagonal = np.diag(hessian).copy()
    mean = float(diagonal.mean())
    if mean <= 0:
        return np.clip(np.rint(rows / scale[:, None].astype(np.float64)), -LEVELS, LEVELS)
    order = np.argsort(-diagonal, kind="stable")
    # FP32 is enough: the damping keeps the condition number below K / damping.
    matrix = torch.from_numpy((hessian[np.ix_(order, order)] / np.float32(mean)).astype(np.float32, copy=False))
    matrix.diagonal().add_(damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left = torch.from_numpy(rows[:, order].astype(np.float32))
    step = torch.from_numpy(scale)
    values = torch.empty_like(left)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        block = left[:, start:stop].clone()
        errors = torch.empty_like(block)
        factor = upper[start:stop, start:stop]
        for column in range(stop - start):
            current = block[:, column]
            rounded = torch.clamp(torch.round(current / step), -LEVELS, LEVELS)
            values[:, start + column] = rounded
            error = (current - rounded * step) / factor[column, column]
            errors[:, column] = error
            block[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :][None, :]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    result = np.empty_like(rows)
    result[:, order] = values.numpy()
    return result


def quantized_from_rows(
    values: NDArray[np.floating], scale: NDArray[np.float32], shape: tuple[int, ...], axis: int
) -> QuantizedWeights:
    """``values`` (output channels, K) in the layer's own shape."""
    integers = values.astype(np.int8)
    whole = integers.reshape(shape) if axis == 0 else integers.T.reshape(shape)
    return QuantizedWeights(np.ascontiguousarray(whole), scale, axis)


def _rows(weights: NDArray[np.floating], axis: int) -> Float64:
    array = weights.astype(np.float64)
    return array.reshape(array.shape[0], -1) if axis == 0 else array.T.copy()
