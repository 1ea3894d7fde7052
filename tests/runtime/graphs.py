"""Small ONNX graphs whose answers are known, and bundles that hold them. Needs the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnet_runtime.manifest import Batch, Input, Output

from .bundles import check_npz, sample_files, sample_manifest, sample_preprocessing, write_bundle
from .goldens import BIAS, WEIGHTS

OUTPUTS = (Output(name="logits", shape=(4,)), Output(name="colors", shape=(3,)))
DYNAMIC = Batch(smallest=1, optimal=2, largest=4)


def colors(count: int, *, seed: int = 0, dtype: str = "float32") -> NDArray[Any]:
    """Plain images whose every sum in ``linear_graph`` is exact in float32: (N, 3, 8, 8), or (N, 8, 8, 3) uint8."""
    random = np.random.default_rng(seed)
    if dtype == "uint8":
        return np.ascontiguousarray(
            np.broadcast_to(random.integers(0, 256, (count, 1, 1, 3), "uint8"), (count, 8, 8, 3))
        )
    whole = random.integers(-256, 257, (count, 3, 1, 1)).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(whole / 64, (count, 3, 8, 8)))


def answers(batch: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """What ``linear_graph`` computes: the mean of each channel, and a linear layer on it."""
    means = batch.mean(axis=(1, 2) if batch.dtype == np.uint8 else (2, 3), dtype=np.float64)
    logits = means @ WEIGHTS.T.astype(np.float64) + BIAS
    return {"logits": logits.astype(np.float32), "colors": means.astype(np.float32)}


def linear_graph(*, batch: int | str = "batch", dtype: str = "float32", bias: NDArray[np.float32] = BIAS) -> bytes:
    """An ONNX file: ``images`` to ``logits`` and ``colors``, as ``answers`` computes them."""
    nodes, pixels = [], "images"
    shape: list[int | str] = [batch, 3, 8, 8]
    if dtype == "uint8":
        shape = [batch, 8, 8, 3]
        nodes = [
            helper.make_node("Cast", ["images"], ["numbers"], "cast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["numbers"], ["planes"], "transpose", perm=[0, 3, 1, 2]),
        ]
        pixels = "planes"
    nodes += [
        helper.make_node("GlobalAveragePool", [pixels], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["colors"], "flatten"),
        helper.make_node("Gemm", ["colors", "weight", "bias"], ["logits"], "fc", transB=1),
    ]
    initializers = [numpy_helper.from_array(WEIGHTS, "weight"), numpy_helper.from_array(bias, "bias")]
    kind = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    return _file(nodes, (kind, shape), {"logits": [batch, 4], "colors": [batch, 3]}, initializers)


def convolution_graph() -> bytes:
    """``images`` (N, 3, 8, 8) to ``logits`` (N, 4): one convolution of 3 x 3, then the mean."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["conv"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["logits"], "flatten"),
    ]
    initializers = [numpy_helper.from_array(weight, "weight")]
    return _file(nodes, (TensorProto.FLOAT, ["batch", 3, 8, 8]), {"logits": ["batch", 4]}, initializers)


def write_linear(
    path: Path, *, batch: Batch = DYNAMIC, dtype: str = "float32", graph: bytes | None = None, **changes: Any
) -> Path:
    """A bundle of ``linear_graph`` at ``path``; the graph's batch is fixed where smallest and largest are the same."""
    fixed = batch.smallest if batch.smallest == batch.largest else "batch"
    inputs = colors(8, seed=1, dtype=dtype)
    expected = {name: array.astype(np.float64) for name, array in answers(inputs).items()}
    files = {
        **sample_files(),
        "model.fp32.onnx": linear_graph(batch=fixed, dtype=dtype) if graph is None else graph,
        "check.npz": check_npz(inputs, expected),
    }
    in_graph = dtype == "uint8"
    entry = Input(
        name="images",
        layout="NHWC" if in_graph else "NCHW",
        dtype=dtype,
        shape=inputs.shape[1:],
        batch=batch,
    )
    given = {"input": entry, "outputs": OUTPUTS, "preprocessing": sample_preprocessing(in_graph=in_graph), **changes}
    return write_bundle(path, files, sample_manifest(files, **given))


def _file(nodes: list[Any], entry: tuple[int, Any], outputs: dict[str, Any], initializers: list[Any]) -> bytes:
    kind, shape = entry
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))
