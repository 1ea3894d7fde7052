"""The infer requests of a graph that OpenVINO compiled."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.errors import BackendError, ClosedError, lines_of

from .base import Arrays, Finished, Pending, Signature, deliver, refuse_misfit


class Compiled:
    """A compiled graph of one batch size, with its idle infer requests."""

    def __init__(self, compiled: Any, signature: Signature, data: NDArray[np.uint8] | None = None) -> None:
        self.model = compiled
        self._signature = signature
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._outputs = [(spec.name, compiled.output(spec.name)) for spec in signature.outputs]
        import openvino

        self._tensor = openvino.Tensor
        self._data = data  # what it was imported of: OpenVINO points into it, so that it is the last to go

    def start(self, batch: NDArray[Any], count: int, outputs: Arrays | None) -> Pending:
        """Start one call.

        Args:
            batch: of the compiled size, writable, not to be written to before the call is done.
            count: of its samples, how many were asked for.
            outputs: the caller's arrays, by name.

        Raises:
            BackendError: OpenVINO does not start it.
        """
        with self._lock:
            request = self._idle.pop() if self._idle else self.model.create_infer_request()
        try:
            request.set_input_tensor(self._tensor(batch, shared_memory=True))
            request.start_async()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {lines_of(error)[-1]}") from None
        return Running(self, request, batch, count, outputs)

    def finish(self, request: Any, count: int, outputs: Arrays | None) -> dict[str, NDArray[Any]]:
        """Wait for a request, and copy its answers; arguments as of ``start``.

        Raises:
            BackendError: the call failed, or gave something else than the signature lists.
        """
        try:
            request.wait()
            # The request's own buffers are overwritten by its next call, so the answers are copied out of them.
            results = {name: request.get_tensor(port).data[:count].copy() for name, port in self._outputs}
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {lines_of(error)[-1]}") from None
        with self._lock:
            self._idle.append(request)
        refuse_misfit(results, self._signature, count, "openvino")
        return deliver(results, outputs)


class Running:
    """A started infer request. It keeps the input alive; ``result`` may be called again."""

    def __init__(self, owner: Compiled, request: Any, batch: NDArray[Any], count: int, outputs: Arrays | None) -> None:
        self._request = request  # it goes before the owner, whose memory it reads
        self._owner = owner
        self._batch = batch
        self._count = count
        self._outputs = outputs
        self._lock = threading.Lock()
        self._finished: Finished | None = None
        self._process = os.getpid()

    def __del__(self) -> None:
        """Of a call that nobody waited for: it is done before the memory that it reads is freed."""
        request = getattr(self, "_request", None)
        if request is None:
            return
        if self._process != os.getpid():  # in the parent it is done, and here no thread ends it
            for left in (request, self._owner, self._batch):  # freeing them at the end of the process would wait too
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))
            return
        with suppress(Exception):
            request.wait()

    def result(self) -> dict[str, NDArray[Any]]:
        """The outputs by name.

        Raises:
            BackendError: the call failed.
            ClosedError: it was started before this process was forked.
        """
        if self._process != os.getpid():
            raise ClosedError("the call was started before this process was forked: start it in the process that waits")
        with self._lock:
            if self._finished is None:
                self._finished = Finished(self._owner.finish(self._request, self._count, self._outputs))
                del self._request, self._batch
            return self._finished.result()
