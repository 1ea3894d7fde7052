"""What a backend is: one method, a signature and ``close()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.engine_fit import Host
from resnet_runtime.errors import BackendError, InputError
from resnet_runtime.manifest import Manifest, Variant

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor. ``shape`` leaves the batch axis out."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The tensors of a session, and the largest batch that one call of the backend takes."""

    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    largest_batch: int
    smallest_batch: int = 1


def signature_from_manifest(manifest: Manifest) -> Signature:
    """What a backend of this bundle takes and gives."""
    entry = manifest.input
    return Signature(
        TensorSpec(entry.name, np.dtype(entry.dtype), entry.shape),
        tuple(TensorSpec(output.name, np.dtype(np.float32), output.shape) for output in manifest.outputs),
        largest_batch=entry.batch.largest,
        smallest_batch=entry.batch.smallest,
    )


NATIVE: Final = "native"
EMULATED: Final = "emulated"


LATENCY: Final = "latency"
"""One call at a time, as soon as possible: every core works on it."""

THROUGHPUT: Final = "throughput"
"""As many images a second as possible, of calls that are started before others are done: each has a core."""

INTENTS: Final = (LATENCY, THROUGHPUT)


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How a graph is loaded.

    Attributes:
        kept: the names of the nodes that compute in a higher precision on purpose.
        intent: of ``INTENTS``.
        threads: that compute; None: as the library decides, within the quota of a container.
        kept_as: the SHA-256 of the graph's file, under which what the library compiles of it is kept in the user's
            cache folder for the next process; None: nothing is kept.
    """

    kept: frozenset[str] = frozenset()
    intent: str = LATENCY
    threads: int | None = None
    kept_as: str | None = None


@dataclass(frozen=True)
class BackendFacts:
    """What a backend is on this host.

    Attributes:
        name: as in ``load(..., backend=name)``.
        version: of the library behind it, or None where it cannot be imported.
        missing: why it cannot be used, with what mends it; None where it can.
        precisions: how each precision is computed, ``NATIVE`` or ``EMULATED`` (right, and slow); one that is not
            named would be computed as another, and is never offered.
        scheme: the Q/DQ scheme of the int8 variants that it runs.
        instructions: the CPU's integer dot products, which decide how fast int8 is; see ``instructions.py``.
        hosts: for a backend that runs engines and no ONNX files, what they may have been built for.
    """

    name: str
    version: str | None
    missing: str | None = None
    precisions: Mapping[str, str] = field(default_factory=dict)
    scheme: str = "cpu"
    instructions: str = "unknown"
    hosts: tuple[Host, ...] | None = None


_MADE_FOR: Final = {"tensorrt": "TensorRT", "cpu": "a CPU"}


def misfit(variant: Variant, facts: BackendFacts) -> str | None:
    """Why the backend does not take the variant's Q/DQ scheme, or None where it does.

    Q/DQ nodes that stand where another library wants them give right answers, and give them slowly.
    """
    if variant.scheme is None or variant.scheme == facts.scheme:
        return None
    made_for = _MADE_FOR[variant.scheme]
    return f"{variant.id} is quantized for {made_for}, and {facts.name} runs the scheme {facts.scheme!r}"


class Pending(Protocol):
    """A call that was started."""

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait, and return the outputs by name, each (N, ...). Raises BackendError where the call failed."""


@runtime_checkable
class Backend(Protocol):
    """One loaded graph. Safe to call from several threads."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    @property
    def description(self) -> str:
        """The library, its version and the precision that it was seen to compute in."""

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """Start one call.

        Args:
            inputs: by name, C-contiguous, of the signature's dtype, (N, ...) with N up to the largest batch. They
                belong to the backend until ``result()`` returns.
            outputs: arrays of the caller's to write into, by name, (N, ...); without them new ones are made.
            stream: the caller's stream on the backend's device; None on a backend that has none.
        """

    def close(self) -> None:
        """Free what was loaded. Calls that were started finish first."""


@dataclass(frozen=True)
class Finished:
    """The ``Pending`` of a backend that answers at once."""

    outputs: dict[str, NDArray[Any]]

    def result(self) -> dict[str, NDArray[Any]]:
        """The outputs."""
        return self.outputs


@dataclass(frozen=True)
class GraphFile:
    """An ONNX file that need not be read where what was compiled of it is there.

    Attributes:
        verify: raises BundleError where it is not the file that the manifest lists.
        read: its bytes, verified.
    """

    verify: Callable[[], None]
    read: Callable[[], bytes]


Model = bytes | GraphFile
"""An ONNX file, or its bytes."""


def bytes_of(model: Model) -> bytes:
    """Read now."""
    return model if isinstance(model, bytes) else model.read()


def calls_at_once(backend: Backend) -> int:
    """How many calls have to be started before the first is waited for, for the backend to be at its fastest.

    A backend says so in an attribute ``calls_at_once``; one that has none answers when it is called.
    """
    return int(getattr(backend, "calls_at_once", 1))


def refuse_stream(stream: object | None, backend: str) -> None:
    """Raise InputError where a stream is given to a backend that runs on the host."""
    if stream is not None:
        raise InputError(f"the backend {backend} runs on the CPU and takes no stream: leave stream out")


def refuse_misfit(results: Mapping[str, Any], signature: Signature, count: int, backend: str) -> None:
    """Raise BackendError where the answer to ``count`` samples is not what the signature promises."""
    for spec in signature.outputs:
        array = results.get(spec.name)
        wanted = (count, *spec.shape)
        if not isinstance(array, np.ndarray):
            raise BackendError(f"the backend {backend} gave no output {spec.name!r}, which the manifest lists")
        if array.shape != wanted or array.dtype != spec.dtype:
            raise BackendError(
                f"the backend {backend} gave {spec.name!r} as {array.shape} {array.dtype}, and the manifest lists "
                f"{wanted} {spec.dtype}"
            )


def deliver(results: dict[str, NDArray[Any]], outputs: Arrays | None) -> dict[str, NDArray[Any]]:
    """``results``, copied into the caller's ``outputs`` where those are given."""
    if outputs is None:
        return results
    for name, array in results.items():
        if name in outputs:
            np.copyto(outputs[name], array, casting="no")
    return {name: outputs.get(name, array) for name, array in results.items()}
