"""A small residual network, quantized, whose every value is a multiple of its scale. Needs the onnx package.

Weights are powers of two, biases and inputs multiples of 1/16, and no value leaves the range of its 8 bits: of inputs
on that grid the quantized graph computes exactly what the FP32 graph does, and of others it does so once they are
rounded.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from resnet_runtime.backends.base import Signature, TensorSpec

STEP = 1 / 16
LAYERS = ("conv1", "conv2", "conv3")
_CHANNELS = 8
_FLOAT32 = np.dtype("float32")
BLOCK = Signature(TensorSpec("images", _FLOAT32, (3, 8, 8)), (TensorSpec("logits", _FLOAT32, (4,)),), largest_batch=8)


def on_grid(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(N, 3, 8, 8), multiples of 1/16 between -1/2 and 1/2."""
    return (np.random.default_rng(seed).integers(-8, 9, (count, 3, 8, 8)) * STEP).astype(np.float32)


def off_grid(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(N, 3, 8, 8), any numbers between -1/2 and 1/2."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 3, 8, 8)).astype(np.float32)


def rounded(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest values on the grid; halves to even, as QuantizeLinear does."""
    return (np.rint(batch / STEP) * STEP).astype(np.float32)


def reference(graph: bytes, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX' own evaluator computes, operator by operator in numpy: (N, 4)."""
    evaluator = ReferenceEvaluator(graph)
    return np.concatenate([evaluator.run(None, {"images": sample[None]})[0] for sample in batch])


class _Block:
    """The nodes and initializers, as they come."""

    def __init__(self, scheme: str | None, kept: Set[str]) -> None:
        self.scheme = scheme
        self.kept = kept
        self.pairs: dict[str, str] = {}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.random = np.random.default_rng(7)

    def constant(self, name: str, array: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}/out"], name, **attributes))
        return f"{name}/out"

    def quantized(self, value: str, name: str, *, signed: bool) -> str:
        """``value`` through Q and DQ of the scheme, one pair for all that read it."""
        if self.scheme is None:
            return value
        if value in self.pairs:
            return self.pairs[value]
        zero = np.int8(0) if self.scheme == "tensorrt" else np.uint8(128 if signed else 0)
        steps = [self.constant(f"{name}/scale", np.float32(STEP)), self.constant(f"{name}/zero_point", zero)]
        integers = self.node("QuantizeLinear", [value, *steps], f"{name}/quantized")
        self.pairs[value] = self.node("DequantizeLinear", [integers, *steps], f"{name}/dequantized")
        return self.pairs[value]

    def layer(self, value: str, name: str, taps: int, size: int, *, signed: bool = False, inputs: int = 8) -> str:
        """A convolution, each of whose output channels adds ``taps`` values; its input quantized unless it is kept."""
        weights = np.zeros((_CHANNELS, inputs * size * size), np.float32)
        for row in weights:
            row[self.random.choice(row.size, taps, replace=False)] = self.random.choice([-1, 1], taps)
        weights = weights.reshape(_CHANNELS, inputs, size, size)
        bias = (self.random.integers(-8, 9, _CHANNELS) * STEP).astype(np.float32)
        if self.scheme is None or name in self.kept:
            weight = self.constant(f"{name}.weight", weights)
        else:
            value = self.quantized(value, f"{name}.input", signed=signed)
            scale = np.exp2(-(np.arange(_CHANNELS) % 7)).astype(np.float32)  # of each channel its own
            integers = (weights / scale[:, None, None, None]).astype(np.int8)
            parts = [
                self.constant(f"{name}.weight/int8", integers),
                self.constant(f"{name}.weight/scale", scale),
                self.constant(f"{name}.weight/zero_point", np.zeros(_CHANNELS, np.int8)),
            ]
            weight = self.node("DequantizeLinear", parts, f"{name}.weight", axis=0)
        return self.node("Conv", [value, weight, self.constant(f"{name}.bias", bias)], name, pads=[size // 2] * 4)


def block_graph(scheme: str | None, *, kept: Set[str] = frozenset()) -> bytes:
    """An ONNX file: ``images`` (N, 3, 8, 8) to ``logits`` (N, 4), by three convolutions and a residual Add.

    Args:
        scheme: ``cpu`` or ``tensorrt``; None: the FP32 graph.
        kept: which of ``LAYERS`` are not quantized.
    """
    block = _Block(scheme, kept)
    stem = block.node("Relu", [block.layer("images", "conv1", 3, 3, signed=True, inputs=3)], "relu1")
    inner = block.node("Relu", [block.layer(stem, "conv2", 2, 3)], "relu2")
    deep = block.layer(inner, "conv3", 1, 1)
    if scheme == "cpu":
        deep = block.quantized(deep, "add.deep", signed=True)
    total = block.node("Add", [deep, block.quantized(stem, "add.shortcut", signed=False)], "add")
    pool = block.node("GlobalAveragePool", [block.node("Relu", [total], "relu3")], "pool")
    weight = block.constant("fc.weight", block.random.integers(-4, 5, (4, _CHANNELS)).astype(np.float32))
    flat = block.node("Flatten", [pool], "flatten")
    block.nodes.append(helper.make_node("Gemm", [flat, weight], ["logits"], "fc", transB=1))
    graph = helper.make_graph(
        block.nodes,
        "block",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        block.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))
