"""What one call of the TensorRT backend needs to itself: a context, a stream, buffers, staging, and CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends.base import Arrays, Signature, TensorSpec
from resnet_runtime.errors import BackendError

from .cuda import Cuda, CudaError, Event, Graph, Memory, OutOfMemoryError, Pinned, Stream
from .device_arrays import DeviceArray

GRAPHS: Final = 8
"""Graphs of each slot, one a batch size; the least recently used goes."""


class Slot:
    """What one call needs to itself. Made and used with the context current."""

    def __init__(
        self, engine: Any, cuda: Cuda, signature: Signature, graphs: bool, gave_up: Callable[[str], None]
    ) -> None:
        self._cuda = cuda
        self._signature = signature
        self._uses_graphs = graphs
        self._gave_up = gave_up
        self._staged = False
        self._graphs: OrderedDict[int, Graph] = OrderedDict()
        self._seen: set[int] = set()
        self._profile = 0
        self._memory: dict[str, Memory] = {}
        self._staging: dict[str, Pinned] = {}
        self._made: list[Stream | Event | Memory | Pinned] = []
        try:
            self.stream = cuda.stream()
            self._made.append(self.stream)
            self._ready = cuda.event()
            self._made.append(self._ready)
            self._done_event = cuda.event()
            self._made.append(self._done_event)
            for spec in (signature.input, *signature.outputs):
                size = signature.largest_batch * _bytes_of(spec)
                self._memory[spec.name] = cuda.allocate(size)
                self._made.append(self._memory[spec.name])
                self._staging[spec.name] = cuda.pinned(size)
                self._made.append(self._staging[spec.name])
            context = engine.create_execution_context()
            if context is None:
                raise OutOfMemoryError("TensorRT has no memory left for another execution context")
            self._context = context
        except BaseException:
            for item in reversed(self._made):
                item.free()
            raise

    def queue(self, array: NDArray[Any], count: int, profile: int) -> None:
        """Stage the input, and queue copy-in, computation and copy-out.

        Args:
            array: (n, ...) of the signature's input.
            count: how many are run, n or more: the last one is repeated.
            profile: that they are run with.
        """
        if self._staged:  # of a call that nobody waited for, as one that was interrupted twice
            self.stream.synchronize()
        self._staged = True
        spec = self._signature.input
        staging = self._staging[spec.name].array[: count * _bytes_of(spec)]
        staged = staging.view(spec.dtype).reshape(count, *spec.shape)
        np.copyto(staged[: len(array)], array)
        staged[len(array) :] = array[-1]
        graph = self._graphs.get(count)
        if graph is not None:
            self._graphs.move_to_end(count)
            graph.launch(self.stream)
            return
        self._steps(count, profile)
        if self._uses_graphs and count in self._seen:
            try:
                self._capture(count, profile)
            except BackendError as error:  # the call itself is queued already
                self._uses_graphs = False
                self._gave_up(error.message)
        self._seen.add(count)

    def queue_on_device(
        self, array: DeviceArray, outputs: Mapping[str, DeviceArray], profile: int, caller: Stream
    ) -> None:
        """Queue the computation alone, after what the caller's stream has and before what it gets."""
        self._ready.record(caller)
        self.stream.wait(self._ready)
        addresses = {name: item.address for name, item in outputs.items()}
        self._bind(len(array), profile, {self._signature.input.name: array.address, **addresses})
        self._done(self._context.execute_async_v3(self.stream.handle), "the call")
        self._done_event.record(self.stream)
        caller.wait(self._done_event)

    def answers(self, count: int, outputs: Arrays | None) -> dict[str, NDArray[Any]]:
        """What stands in the staging, copied to new arrays or to the caller's."""
        self._staged = False
        found = {}
        for spec in self._signature.outputs:
            staged = self._staging[spec.name].array[: count * _bytes_of(spec)]
            view = staged.view(spec.dtype).reshape(count, *spec.shape)
            if outputs is not None and spec.name in outputs:
                target = outputs[spec.name]
                np.copyto(target, view)
                found[spec.name] = target
            else:
                found[spec.name] = view.copy()
        return found

    def free(self) -> None:
        """Give back everything; only calls on device arrays may be under way."""
        self.stream.synchronize()
        for graph in self._graphs.values():
            graph.free()
        self._context = None
        for item in reversed(self._made):
            item.free()

    def _capture(self, count: int, profile: int) -> None:
        """For the next time. TensorRT settles a new shape in a run that is not captured: the one just queued."""
        self._cuda.begin_capture(self.stream)
        try:
            self._steps(count, profile)
        except BaseException:
            with suppress(CudaError):  # it says the same of what was captured before the failure
                self._cuda.end_capture(self.stream).free()
            raise
        graph = self._cuda.end_capture(self.stream)
        self._graphs[count] = graph
        while len(self._graphs) > GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            oldest.free()

    def _steps(self, count: int, profile: int) -> None:
        signature = self._signature
        size = count * _bytes_of(signature.input)
        name = signature.input.name
        self._bind(count, profile, {tensor: memory.address for tensor, memory in self._memory.items()})
        self._cuda.upload(self._memory[name].address, self._staging[name].array[:size], self.stream)
        self._done(self._context.execute_async_v3(self.stream.handle), "the call")
        for spec in signature.outputs:
            target = self._staging[spec.name].array[: count * _bytes_of(spec)]
            self._cuda.download(target, self._memory[spec.name].address, self.stream)

    def _bind(self, count: int, profile: int, addresses: Mapping[str, int]) -> None:
        """Tell the context what the next run is on."""
        context, signature = self._context, self._signature
        name = signature.input.name
        if profile != self._profile:
            self._done(context.set_optimization_profile_async(profile, self.stream.handle), f"profile {profile}")
            self._profile = profile
        self._done(context.set_input_shape(name, (count, *signature.input.shape)), f"a batch of {count}")
        for tensor, address in addresses.items():
            self._done(context.set_tensor_address(tensor, address), f"an address for {tensor!r}")

    @staticmethod
    def _done(accepted: bool, what: str) -> None:
        """TensorRT says False, and why in its log."""
        if not accepted:
            raise BackendError(f"TensorRT refused {what}")


def _bytes_of(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize
