"""A backend that answers from a function: for demos, and for the tests of those who embed the runtime.

::

    from resnet_runtime.backends.simulated import SimulatedBackend

    backend = SimulatedBackend(signature, lambda batch: {"logits": batch.mean(axis=(2, 3))})
    session = resnet_runtime.load("resnet50.bundle", backend=backend)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from resnet_runtime.errors import BackendError, ClosedError

from .base import Arrays, Finished, Pending, Signature, deliver, refuse_misfit, refuse_stream


class SimulatedBackend:
    """Answers from ``function``, and holds it to the signature.

    Args:
        signature: what it claims to take and give.
        function: from a batch (N, ...) to the outputs by name, each (N, ...) float32.
    """

    def __init__(self, signature: Signature, function: Callable[[NDArray[Any]], dict[str, NDArray[Any]]]) -> None:
        self.signature = signature
        self.description = "simulated"
        self._function = function
        self._closed = False

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """Call the function.

        Raises:
            BackendError: its answer does not fit the signature.
        """
        refuse_stream(stream, "simulated")
        if self._closed:
            raise ClosedError("the backend was closed: make a new one")
        batch = inputs[self.signature.input.name]
        results = self._function(batch)
        if not isinstance(results, Mapping):
            raise BackendError(
                f"the simulated backend's function gave a {type(results).__name__}, not a dict of arrays by output name"
            )
        refuse_misfit(results, self.signature, len(batch), "simulated")
        # Copied: an answer is the caller's own, and the function may give its input or an array that it keeps.
        return Finished(deliver({spec.name: results[spec.name].copy() for spec in self.signature.outputs}, outputs))

    def close(self) -> None:
        """Refuse every later call."""
        self._closed = True
