"""Scale, mean, std and transpose inside the graph: exact, at the borders too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from resnet_export.graph import constant_of
from resnet_export.passes import fold_preprocessing
from resnet_runtime.manifest import Preprocessing
from tests.export.graphs import answers, graph_of, operators, random

PREPROCESSING = Preprocessing(
    exif="apply",
    alpha="drop",
    color_order="RGB",
    resize=None,
    crop=None,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    in_graph=True,
)
WEIGHT = random((4, 3, 3, 3), 1)


def padded_convolution():
    conv = helper.make_node("Conv", ["input", "conv.weight"], ["logits"], name="conv", pads=[1, 1, 1, 1])
    return graph_of([conv], {"conv.weight": WEIGHT}, input_shape=("batch", 3, 8, 6), output_shape=("batch", 4, 8, 6))


def pixels(count: int = 2) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 8, 6, 3), dtype=np.uint8)


def exact(batch: np.ndarray) -> np.ndarray:
    """Normalize, then convolve with zero padding, in float64."""
    normalized = (batch * PREPROCESSING.scale - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    planes = torch.from_numpy(np.moveaxis(normalized, -1, 1).copy())
    return torch.nn.functional.conv2d(planes, torch.from_numpy(WEIGHT).double(), padding=1).numpy()


def test_bytes_give_what_normalized_floats_gave_borders_included() -> None:
    result = fold_preprocessing(padded_convolution(), PREPROCESSING)
    assert operators(result.graph) == ["Cast", "Transpose", "Sub", "Conv"]
    assert result.graph.input.dtype == ir.DataType.UINT8
    assert [str(dim) for dim in result.graph.input.shape] == ["batch", "8", "6", "3"]
    assert result.skipped == ()
    # float32 rounds 27 products of the order of 2 to 6e-8 each
    np.testing.assert_allclose(answers(result.graph, pixels()), exact(pixels()), rtol=0, atol=5e-6)


def test_a_bias_would_be_wrong_at_the_borders() -> None:
    """The shortcut that this pass does not take: were it right, the test above would show nothing."""
    scale, mean, std = PREPROCESSING.scale, np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    weight = torch.from_numpy(WEIGHT * (scale / std)[None, :, None, None])
    bias = -torch.from_numpy((WEIGHT * (mean / std)[None, :, None, None]).sum((1, 2, 3)))
    planes = torch.from_numpy(np.moveaxis(pixels(), -1, 1).astype(np.float64))
    shortcut = torch.nn.functional.conv2d(planes, weight, bias, padding=1).numpy()
    error = np.abs(shortcut - exact(pixels()))
    assert error[..., 1:-1, 1:-1].max() < 1e-9
    assert error[..., 0, :].max() > 0.1


def test_the_factor_goes_into_the_weights() -> None:
    node = next(fold_preprocessing(padded_convolution(), PREPROCESSING).graph.nodes("Conv"))
    factor = np.float64(PREPROCESSING.scale) / np.array(PREPROCESSING.std, np.float64)
    expected = (WEIGHT.astype(np.float64) * factor[None, :, None, None]).astype(np.float32)
    np.testing.assert_array_equal(constant_of(node.inputs[1]), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_where_there_is_no_convolution_the_factor_is_a_mul(shared: bool) -> None:
    nodes = [helper.make_node("Relu", ["input"], ["logits"], name="relu")]
    if shared:
        nodes = [
            helper.make_node("Conv", ["input", "w"], ["a"], name="conv1"),
            helper.make_node("Conv", ["a", "w"], ["logits"], name="conv2"),
        ]
    arrays = {"w": random((3, 3, 1, 1), 1)} if shared else {}
    graph = graph_of(nodes, arrays, input_shape=("batch", 3, 8, 6), output_shape=("batch", 3, 8, 6))
    result = fold_preprocessing(graph, PREPROCESSING)
    assert operators(result.graph)[:4] == ["Cast", "Transpose", "Sub", "Mul"]
    assert [item.node for item in result.skipped] == ["preprocessing/scaled"]
    normalized = (pixels() * PREPROCESSING.scale - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)
    planes = np.moveaxis(normalized, -1, 1).astype(np.float32)
    np.testing.assert_allclose(answers(result.graph, pixels()), answers(graph, planes), rtol=0, atol=2e-5)
