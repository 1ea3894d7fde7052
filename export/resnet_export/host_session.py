"""An ONNX Runtime session on the CPU for the exporter's own looks into a graph; a bundle is run by resnet_runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Graph


def session_from_graph(graph: Graph) -> Any:
    """An ``onnxruntime.InferenceSession``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])


def executor_name() -> str:
    """What such a session is, for a report."""
    import onnxruntime

    return f"ONNX Runtime {onnxruntime.__version__}, fp32"


def batches(graph: Graph, inputs: NDArray[np.generic], at_once: int) -> Iterator[NDArray[np.generic]]:
    """The inputs in batches of the graph's own fixed size, or of at most ``at_once``."""
    shape = graph.input.shape
    fixed = shape[0] if shape is not None else None
    size = fixed if isinstance(fixed, int) else at_once
    for first in range(0, len(inputs), size):
        yield inputs[first : first + size]
