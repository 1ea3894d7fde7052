"""ONNX Runtime on the CPU: the portable fallback. It computes every graph in FP32, and nothing else is offered."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from resnet_runtime.errors import BackendError, ClosedError, UnavailableError

from .base import (
    NATIVE,
    Arrays,
    BackendFacts,
    Finished,
    Pending,
    Signature,
    deliver,
    refuse_misfit,
    refuse_stream,
)


@functools.cache
def facts() -> BackendFacts:
    """FP32 alone: FP16 graphs are accepted by this library and computed in FP32."""
    try:
        import onnxruntime
    except ImportError:
        return BackendFacts(
            "onnxruntime", None, "onnxruntime is not installed here: pip install 'resnet-export[onnxruntime]'"
        )
    return BackendFacts("onnxruntime", onnxruntime.__version__, precisions={"fp32": NATIVE})


def open_backend(model: bytes, signature: Signature, precision: str) -> OnnxRuntimeBackend:
    """Load the bytes of an ONNX file; see ``OnnxRuntimeBackend``."""
    return OnnxRuntimeBackend(model, signature, precision)


class OnnxRuntimeBackend:
    """A graph in ONNX Runtime, whose batch axis is dynamic.

    Args:
        model: the bytes of an ONNX file.
        signature: what the graph takes and gives.
        precision: fp32.

    Raises:
        UnavailableError: another precision was asked for.
        BackendError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: bytes, signature: Signature, precision: str) -> None:
        import onnxruntime

        if precision not in facts().precisions:
            raise UnavailableError(
                f"ONNX Runtime computes {precision} graphs in FP32 on a CPU: take --precision fp32, "
                "or the openvino backend"
            )
        self.signature = signature
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {precision}"
        self._names = [spec.name for spec in signature.outputs]
        self._lock = threading.Lock()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # what goes wrong is raised; warnings about graph shapes are not for users
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot load the {precision} graph: {_first_line(error)}") from None

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """See ``Backend.start``. The call is finished when this returns."""
        refuse_stream(stream, "onnxruntime")
        session = self._session
        if session is None:
            raise ClosedError("the backend was closed: load the bundle again")
        name = self.signature.input.name
        batch = inputs[name]
        count = len(batch)
        if count < self.signature.smallest_batch:
            missing = self.signature.smallest_batch - count
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        try:
            results = session.run(self._names, {name: batch})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {_first_line(error)}") from None
        named = {output: array[:count] for output, array in zip(self._names, results, strict=True)}
        refuse_misfit(named, self.signature, count, "onnxruntime")
        return Finished(deliver(named, outputs))

    def close(self) -> None:
        """Free the session once its last calls are done."""
        with self._lock:
            self._session = None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
