"""An ONNX Runtime session on the CPU for the exporter's own looks into a graph; a bundle is run by resnet_runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .graph import Graph

_LARGE = 1024
"""Bytes from which an initializer is shared; smaller ones may be shapes, which a session has to see in the file."""


def session_from_graph(graph: Graph) -> Any:
    """An ``onnxruntime.InferenceSession`` that reads the graph's large initializers where they are, without a copy."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # what comes between two runs needs cores
    options.enable_mem_pattern = False  # planning for all tensors at once takes 0.3 GB more on a ResNet-50
    shared: dict[str, Any] = {}
    copy = graph.copy()
    for name, value in copy.model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if tensor.nbytes < _LARGE or tensor.dtype != ir.DataType.FLOAT:
            continue
        shared[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
        value.const_value = ir.ExternalTensor(
            "shared", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.numpy().shape), name=name, base_dir=""
        )
    options.add_external_initializers(list(shared), list(shared.values()))
    data = copy.to_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def executor_name() -> str:
    """What such a session is, for a report."""
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}, fp32"


def batches(graph: Graph, inputs: NDArray[np.generic], at_once: int) -> Iterator[NDArray[np.generic]]:
    """The inputs in batches of the graph's own fixed size, or of at most ``at_once``."""
    size = graph.fixed_batch or at_once
    for first in range(0, len(inputs), size):
        yield inputs[first : first + size]


def whole_batches(graph: Graph, inputs: NDArray[np.generic], at_most: int | None = None) -> NDArray[np.generic]:
    """The first inputs, ``at_most`` of them or all, less what does not fill the graph's own fixed batch.

    One batch is returned whole where ``at_most`` is less than it; all inputs where they do not fill one.
    """
    size = graph.fixed_batch or 1
    count = len(inputs) if at_most is None else min(len(inputs), max(at_most, size))
    return inputs[: count // size * size or len(inputs)]
