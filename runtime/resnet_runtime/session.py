"""A session: one variant of a bundle, loaded into one backend; ``loading`` makes them."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .backends.base import Arrays, Backend, Pending, Signature, calls_at_once, deliver
from .backends.tensorrt.device_arrays import is_device_array
from .bundle import Bundle
from .errors import ClosedError, InputError
from .host_arrays import as_host_array
from .selection import Choice

if TYPE_CHECKING:
    from .preprocess import Image


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_of_the_parent: list[Backend | None] = []


def _after_a_fork() -> None:
    """In the child: what a backend would free has its threads in the parent, so that it is kept."""
    _of_the_parent.extend(session._backend for session in _sessions)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_a_fork)


class Session:
    """Answers batches; thread-safe. Made by ``load``; close it, or use it with ``with``.

    Attributes:
        bundle: what it was loaded from. Nothing more of it is read later but the graph, where a batch size is compiled
            for the first time; its digest is checked then too.
        choice: which backend and variant were taken, and why.
        labels: the names of the classes, or None.
        signature: the input and the outputs.
    """

    def __init__(self, bundle: Bundle, backend: Backend, choice: Choice, labels: tuple[str, ...] | None) -> None:
        self.bundle = bundle
        self.choice = choice
        self.labels = labels
        self.signature: Signature = backend.signature
        self._backend: Backend | None = backend
        self._process = os.getpid()
        _sessions.add(self)

    @property
    def description(self) -> str:
        """The backend's library, its version and its precision."""
        return self._open().description

    @property
    def calls_at_once(self) -> int:
        """How many calls of ``start`` have to be under way for the backend to be at its fastest."""
        return calls_at_once(self._open())

    def preprocess(self, images: Sequence[Image]) -> NDArray[Any]:
        """The batch of some images, as the model was trained to see them.

        Args:
            images: file names, bytes of image files, Pillow images, or uint8 arrays (H, W) or (H, W, C).

        Returns:
            (N, C, H, W) float32, or (N, H, W, C) uint8 where the preprocessing is in the graph.

        Raises:
            ImageError: one of them cannot be read as an image.
        """
        from .preprocess import batch_from_images

        manifest = self.bundle.manifest
        return batch_from_images(images, manifest.preprocessing, manifest.input)

    def infer(self, batch: Any, *, out: Arrays | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name, each (N, ...) float32.

        Args:
            batch: (N, ...) of the signature's dtype and shape, N at least 1: a NumPy array, or one of the host's of
                any library that speaks DLPack, such as torch, which is read where it lies. A batch over the largest
                size is split, and a small one is padded; neither shows in the answer.
            out: arrays of the caller's to write into, by output name, of the same kinds; the answer is in them then.
                What is returned are NumPy arrays, which every library that speaks DLPack takes without a copy.

        Raises:
            InputError: the batch or an output has another shape or dtype, or an output is not known or is read-only.
            BackendError: the backend failed.
            ClosedError: the session is closed, or was loaded before this process was forked.
        """
        backend = self._open()
        batch = self._validated(batch)
        if out is not None:
            out = {name: as_host_array(array, f"the output array {name!r}") for name, array in out.items()}
            self._validate_outputs(out, len(batch))
        name, largest = self.signature.input.name, self.signature.largest_batch
        if len(batch) <= largest:
            return backend.start({name: batch}, out).result()
        at_once = self.calls_at_once
        started: deque[Pending] = deque()
        parts: list[dict[str, NDArray[Any]]] = []
        for first in range(0, len(batch), largest):
            if len(started) == at_once:
                parts.append(started.popleft().result())
            started.append(backend.start({name: batch[first : first + largest]}))
        parts += [call.result() for call in started]
        whole = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.signature.outputs}
        return deliver(whole, out)

    async def infer_async(self, batch: Any, *, out: Arrays | None = None) -> dict[str, NDArray[Any]]:
        """As ``infer``, for asyncio: the event loop goes on meanwhile. A call that began is not cut off."""
        return await asyncio.to_thread(self.infer, batch, out=out)

    def start(self, batch: NDArray[Any], outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """Start one call of the backend and return at once, where the backend can.

        Args:
            batch: as ``infer`` takes it, N up to the signature's largest batch; not to be written to before
                ``result()`` has returned. Where the backend is on a GPU, an array there, which has
                ``__cuda_array_interface__`` or ``__dlpack__`` (torch, CuPy), is taken without a copy, and the outputs
                are arrays there too.
            outputs: arrays of the caller's to write into, by output name: (N, ...) float32, where ``batch`` is.
            stream: the handle of the caller's CUDA stream, which an array on the GPU is ready on, and whose later work
                finds the outputs; None: the one that the array names. Not for arrays of the host.

        Raises:
            InputError: the batch or an output has another shape or dtype, or an output is not known or is read-only; or
                it is on a GPU and the backend is not.
        """
        backend = self._open()
        if is_device_array(batch):
            return self._started_on_device(backend, batch, outputs, stream)
        batch = self._validated(batch)
        if len(batch) > self.signature.largest_batch:
            raise InputError(
                f"the batch holds {len(batch)} samples, and one call takes {self.signature.largest_batch}: "
                "split it, or call infer(), which does"
            )
        if outputs is not None:
            outputs = {name: as_host_array(array, f"the output array {name!r}") for name, array in outputs.items()}
            self._validate_outputs(outputs, len(batch))
        return backend.start({self.signature.input.name: batch}, outputs, stream)

    def _started_on_device(
        self, backend: Backend, batch: NDArray[Any], outputs: Arrays | None, stream: object | None
    ) -> Pending:
        """What the engine takes is checked by the backend, which reads the array's address anyway."""
        if not getattr(backend, "takes_device_arrays", False):
            raise InputError(
                f"the batch is on a GPU, and {backend.description} takes arrays of the host: copy it there"
            )
        unknown = [name for name in outputs or {} if name not in {spec.name for spec in self.signature.outputs}]
        if unknown:
            names = ", ".join(spec.name for spec in self.signature.outputs)
            raise InputError(f"there is no output {unknown[0]!r}: the model has {names}")
        return backend.start({self.signature.input.name: batch}, outputs, stream)

    def close(self) -> None:
        """Free the backend; a second call does nothing."""
        if self._process != os.getpid():  # what would be freed has its threads in the parent
            return
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Backend:
        if self._process != os.getpid():
            raise ClosedError(
                "the session was loaded before this process was forked: fork first, and load the bundle in each process"
            )
        if self._backend is None:
            raise ClosedError("the session is closed: load the bundle again")
        return self._backend

    def _validated(self, batch: Any) -> NDArray[Any]:
        spec = self.signature.input
        batch = as_host_array(batch, "the batch")
        if batch.shape[1:] != spec.shape or batch.ndim == 0:
            wanted = ", ".join(map(str, spec.shape))
            raise InputError(f"the batch has the shape {batch.shape}, and the model takes (N, {wanted})")
        if batch.dtype != spec.dtype:
            raise InputError(
                f"the batch has the dtype {batch.dtype}, and the model takes {spec.dtype}: preprocess() makes it, "
                f"or convert it yourself"
            )
        if len(batch) == 0:
            raise InputError("the batch is empty: give at least one sample")
        return np.ascontiguousarray(batch)

    def _validate_outputs(self, outputs: Arrays, count: int) -> None:
        specs = {spec.name: spec for spec in self.signature.outputs}
        for name, array in outputs.items():
            if name not in specs:
                raise InputError(f"there is no output {name!r}: the model has {', '.join(specs)}")
            wanted, dtype = (count, *specs[name].shape), specs[name].dtype
            if array.shape != wanted or array.dtype != dtype:
                raise InputError(
                    f"the output array {name!r} is {array.shape} {array.dtype}, and the answer is {wanted} {dtype}"
                )
            if not array.flags.writeable:
                raise InputError(f"the output array {name!r} is read-only: give one that can be written to")
