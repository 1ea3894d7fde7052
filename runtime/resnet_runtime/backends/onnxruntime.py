"""ONNX Runtime on the CPU: the portable fallback. It computes FP32, and INT8 where it is seen to fuse Q/DQ nodes.

It takes Q/DQ graphs on every CPU. Where its optimizer makes no QLinearConv of DQ, Conv and Q, it computes the
convolution in FP32 between the two: right, and slower than in the fp32 graph.
"""

from __future__ import annotations

import functools
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.errors import BackendError, ClosedError, UnavailableError, lines_of

from .base import (
    NATIVE,
    THROUGHPUT,
    Arrays,
    BackendFacts,
    Finished,
    Model,
    OpenOptions,
    Pending,
    Signature,
    bytes_of,
    deliver,
    refuse_misfit,
    refuse_stream,
)
from .cores import quota_in_cores, usable_cores
from .instructions import host_instructions
from .kept_facts import forget, kept_or_shown
from .quantized_probe import QUANTIZED_CONVOLUTION

_AS_USUAL: Final = OpenOptions()


@functools.cache
def facts() -> BackendFacts:
    """FP32, and INT8 where ``fuses_int8``, seen now or by an earlier process on such a host."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
    return kept_or_shown("onnxruntime", names, _shown)


def shown_facts() -> BackendFacts:
    """FP32, and INT8 where ``fuses_int8``; FP16 graphs are accepted by this library and computed in FP32."""
    return _shown()[0]


def _shown() -> tuple[BackendFacts, bool]:
    """And whether it could be looked whether INT8 is fused."""
    try:
        import onnxruntime
    except ImportError:
        hint = "pip install 'resnet-export[onnxruntime]'"
        return BackendFacts("onnxruntime", None, f"onnxruntime is not installed here: {hint}"), False
    fused = fuses_int8()
    precisions = {"fp32": NATIVE, "int8": NATIVE} if fused else {"fp32": NATIVE}
    version = onnxruntime.__version__
    found = BackendFacts("onnxruntime", version, precisions=precisions, instructions=host_instructions())
    return found, fused is not None


def fuses_int8() -> bool | None:
    """Whether the optimizer makes a QLinearConv of a quantized convolution, seen in the graph that it leaves.

    That graph can only be had as a file. Where no temporary file can be written it is not seen: None, and INT8 is not
    offered. The loaded graph is not looked at in the same way: its file would be as large as the model.
    """
    import onnxruntime

    options = _options()
    options.intra_op_num_threads = 1  # a pool of threads would cost more than the probe
    try:
        with tempfile.TemporaryDirectory(prefix="resnet-runtime-", ignore_cleanup_errors=True) as folder:
            optimized = Path(folder, "optimized.onnx")
            options.optimized_model_filepath = str(optimized)
            onnxruntime.InferenceSession(QUANTIZED_CONVOLUTION, options, providers=["CPUExecutionProvider"])
            return b"QLinearConv" in optimized.read_bytes()
    except Exception:  # its exceptions share no base class but Exception; a build may lack what the probe needs
        return None


def open_backend(
    model: Model, signature: Signature, precision: str, options: OpenOptions = _AS_USUAL
) -> OnnxRuntimeBackend:
    """Load the bytes of an ONNX file; see ``OnnxRuntimeBackend``."""
    return OnnxRuntimeBackend(model, signature, precision, options)


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # what goes wrong is raised; warnings about graph shapes are not for users
    return options


def _options_for(intent: str, threads: int | None = None) -> Any:
    """For latency all cores work on a call, for throughput one, and each works on another call."""
    options = _options()
    latency = threads or quota_in_cores() or 0  # 0: as many as it sees
    options.intra_op_num_threads = 1 if intent == THROUGHPUT else latency
    return options


class OnnxRuntimeBackend:
    """A graph in ONNX Runtime, whose batch axis is dynamic.

    Args:
        model: an ONNX file, or its bytes.
        signature: what the graph takes and gives.
        precision: fp32 or int8. Of an int8 graph, a convolution whose output a float layer reads is computed in FP32.
        options: how; only the intent and the threads say something to it.

    Raises:
        UnavailableError: another precision was asked for.
        BackendError: ONNX Runtime refuses the graph.
    """

    def __init__(self, model: Model, signature: Signature, precision: str, options: OpenOptions = _AS_USUAL) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            facts.cache_clear()
            forget("onnxruntime")
            hint = "install it anew with pip install 'resnet-export[onnxruntime]'"
            raise UnavailableError(f"onnxruntime cannot be imported: {error}; {hint}") from error
        if precision not in facts().precisions:
            raise UnavailableError(
                f"ONNX Runtime computes {precision} graphs in FP32 on a CPU: take --precision fp32, "
                "or the openvino backend"
            )
        self.signature = signature
        intent = options.intent
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {precision}" + (
            ", for throughput" if intent == THROUGHPUT else ""
        )
        self.calls_at_once = (options.threads or usable_cores()) if intent == THROUGHPUT else 1
        self._names = [spec.name for spec in signature.outputs]
        self._lock = threading.Lock()
        data = bytes_of(model)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, _options_for(intent, options.threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot load the {precision} graph: {lines_of(error)[0]}") from None
        # Its ``run`` waits; calls that are started together need threads to wait in.
        self._workers = (
            ThreadPoolExecutor(self.calls_at_once, thread_name_prefix="resnet-runtime")
            if intent == THROUGHPUT
            else None
        )

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """See ``Backend.start``. For latency, the call is finished when this returns."""
        refuse_stream(stream, "onnxruntime")
        with self._lock:
            session = self._session
            if session is None:
                raise ClosedError("the backend was closed: load the bundle again")
            if self._workers is not None:
                return self._workers.submit(self._run, session, inputs, outputs)
        return Finished(self._run(session, inputs, outputs))

    def _run(self, session: Any, inputs: Arrays, outputs: Arrays | None) -> dict[str, NDArray[Any]]:
        name = self.signature.input.name
        batch = inputs[name]
        count = len(batch)
        if count < self.signature.smallest_batch:
            missing = self.signature.smallest_batch - count
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        try:
            results = session.run(self._names, {name: batch})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {lines_of(error)[0]}") from None
        named = {output: array[:count] for output, array in zip(self._names, results, strict=True)}
        refuse_misfit(named, self.signature, count, "onnxruntime")
        return deliver(named, outputs)

    def close(self) -> None:
        """Free the session once its last calls are done."""
        with self._lock:
            self._session = None
        if self._workers is not None:
            self._workers.shutdown()
