"""A TensorRT engine behind the backend's interface: host arrays through pinned staging, device arrays as they are.

A *slot* is everything that one call needs to itself: an execution context, a stream, device buffers and pinned staging
for the largest batch, allocated once. A call on host arrays takes a slot, copies its input into the staging, and queues
copy-in, computation and copy-out on the slot's stream; calls that are started before the ones before them are done take
other slots, whose streams overlap. The three steps are captured as one CUDA graph for each batch size, since a slot's
addresses never change.

Nothing here knows whether the device is real: ``cuda.py`` has the interface, and ``testing.simulated_cuda`` another
implementation of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from numpy.typing import NDArray

from resnet_runtime.backends.base import Arrays, Pending, Signature
from resnet_runtime.errors import BackendError, InputError, ResnetRuntimeError

from .cuda import Cuda, CudaError, OutOfMemoryError, Stream
from .device_arrays import LEGACY_STREAM, checked_array, count_of, device_array, is_device_array, new_array
from .pool import SlotPool
from .slot import Slot

CONTEXTS: Final = 4
"""Slots at most: two overlap copies with computation; the others are for threads that wait for each other."""

_DTYPES: Final[Mapping[str, str]] = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8"}


class TensorRTBackend:
    """One engine on one device.

    Args:
        engine: an ``ICudaEngine``.
        cuda: the device that it was deserialized on.
        signature: what the bundle says that it takes and gives.
        description: of the library and the precision.
        contexts: how many calls run at once, at most.
        graphs: whether CUDA graphs are captured here, where they can be.
        on_close: called when all calls are done, before anything is freed.

    Raises:
        BackendError: the engine takes or gives something else than the signature, or there is no memory for one call.
    """

    takes_device_arrays: Final = True
    """Arrays on the device may be given as they are: see ``start``."""

    calls_at_once: Final = 2
    """Copies of one overlap with the computation of the other."""

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        signature: Signature,
        description: str,
        *,
        contexts: int = CONTEXTS,
        graphs: bool = True,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        assert contexts >= 1
        self._engine = engine
        self._cuda = cuda
        self._signature = signature
        self._description = description
        self._graphs = graphs and cuda.no_graphs is None
        self._no_graphs = cuda.no_graphs if graphs else None
        self._on_close = on_close
        self._lock = threading.Lock()
        self._cause: str | None = None
        self._pool: SlotPool[Slot] = SlotPool(self._made, self._freed, contexts, self._refuse)
        _check_signature(engine, signature)
        with cuda.current():
            self._profiles = _profiles(engine, signature.input.name)
            self._pool.make_first()

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        return self._signature

    @property
    def description(self) -> str:
        """The library, its version and the precision; why there are no CUDA graphs, where they were to be."""
        return self._description + ("" if self._no_graphs is None else f", without CUDA graphs: {self._no_graphs}")

    def _gave_up(self, reason: str) -> None:
        self._no_graphs = self._no_graphs or reason

    @property
    def engine(self) -> Any:
        """The ``ICudaEngine``, for its inspector."""
        return self._engine

    def start(self, inputs: Arrays, outputs: Arrays | None = None, stream: object | None = None) -> Pending:
        """As ``base.Backend.start``; an input on the device is not copied, and its outputs stay there.

        Then the call is queued behind what ``stream`` has, what ``stream`` gets from now on comes after it, and
        ``result()`` returns at once. Without a stream it is the one that the array names, or the device's own.

        Args:
            inputs: host arrays, or arrays of ``is_device_array``.
            outputs: of the same kind.
            stream: the handle of the caller's CUDA stream, for an input on the device.

        Raises:
            InputError: a device array is not what the engine takes, or a stream is given with arrays of the host.
            UnavailableError: device arrays need cuda-bindings, which is not installed.
            BackendError: CUDA or TensorRT failed; where that broke the device's context, every later call fails too.
        """
        array = inputs[self._signature.input.name]
        if is_device_array(array):
            return self._start_on_device(array, outputs, stream)
        if stream is not None:
            raise InputError(
                "a stream orders arrays on the GPU, and this batch is an array of the host: leave stream out"
            )
        profile, run = self._profile_of(len(array))
        slot = self._pool.take()
        try:
            with self._cuda.current():
                slot.queue(array, run, profile)
            call = _HostCall(self, slot, len(array), outputs)
            self._pool.started(call, slot)
        except BaseException as error:
            self._give_back_after(error, slot)
            raise self._failure(error) from error
        return call

    def _start_on_device(self, value: object, outputs: Arrays | None, stream: object | None) -> Pending:
        handle = None if stream is None else int(stream) or LEGACY_STREAM  # type: ignore[call-overload]
        array = device_array(value, handle)
        count = count_of(array, self._signature.input, self._signature.largest_batch)
        handle = handle or array.stream or LEGACY_STREAM
        profile, run = self._profile_of(count)
        if run != count:
            raise InputError(f"the engine takes batches from {run} on the device, not of {count}: fill them up")
        given = {name: device_array(item, handle) for name, item in (outputs or {}).items()}
        for spec in self._signature.outputs:
            if spec.name in given:
                checked_array(given[spec.name], spec, count)
        slot = self._pool.take()
        try:
            with self._cuda.current():
                caller = self._cuda.external(handle)
                found = {
                    spec.name: given[spec.name] if spec.name in given else new_array(self._cuda, spec, count, handle)
                    for spec in self._signature.outputs
                }
                slot.queue_on_device(array, found, profile, caller)
        except BaseException as error:
            self._give_back_after(error, slot)
            raise self._failure(error) from error
        self._pool.give_back(slot)  # the next call's work comes after this one's on its stream
        return _DeviceCall({name: (outputs or {}).get(name, item) for name, item in found.items()})

    def close(self) -> None:
        """Finish what was started, and free everything."""
        slots = self._pool.close()
        if slots is None:
            return
        with ExitStack() as stack:
            stack.callback(self._cuda.close)
            if self._cause is None:  # a broken context takes its memory with it
                stack.enter_context(self._cuda.current())
            stack.callback(self._forget)  # TensorRT's objects go while their context is there
            if self._cause is None:
                for slot in slots:
                    stack.callback(slot.free)
                if self._on_close is not None:
                    self._on_close()

    def finish(self, call: _HostCall) -> dict[str, NDArray[Any]]:
        """Wait for a call's slot, take the answers from its staging, and give it back, whatever happens."""
        slot = call.slot
        try:
            with self._cuda.current():
                slot.stream.synchronize()
            return slot.answers(call.count, call.outputs)
        except BaseException as error:
            self._judge(error, slot.stream)
            raise self._failure(error) from error
        finally:
            self._pool.give_back(slot, call)

    def _made(self) -> Slot:
        try:
            with self._cuda.current():
                return Slot(self._engine, self._cuda, self._signature, self._graphs, self._gave_up)
        except OutOfMemoryError:
            raise
        except BaseException as error:
            self._judge(error)
            raise self._failure(error) from error

    def _freed(self, slot: Slot) -> None:
        with self._cuda.current():
            slot.free()

    def _forget(self) -> None:
        self._engine = None
        self._on_close = None

    def _give_back_after(self, error: BaseException, slot: Slot) -> None:
        """What a call that failed has queued still comes before the next call's work on the slot's stream."""
        try:
            self._judge(error, slot.stream)
        finally:
            self._pool.give_back(slot)

    def _judge(self, error: BaseException, stream: Stream | None = None) -> None:
        """Is the context broken? Then every call on it fails from now on, and so does waiting for it.

        Only the call's own stream is waited for, or a new one is made: waiting for the whole context is not allowed
        while another thread captures a graph, and would spoil that.
        """
        if self._cause is not None or isinstance(error, OutOfMemoryError):
            return
        try:
            with self._cuda.current():
                if stream is not None:
                    stream.synchronize()
                else:
                    self._cuda.stream().free()  # a broken context gives none
        except CudaError:
            with self._lock:
                self._cause = self._cause or str(error)
            self._pool.wake()

    def _failure(self, error: BaseException) -> BaseException:
        if isinstance(error, ResnetRuntimeError) or not isinstance(error, Exception):
            return error
        return BackendError(f"TensorRT failed: {error}")

    def _refuse(self) -> None:
        if self._cause is not None:
            raise BackendError(
                f"the device's context broke in an earlier call, and only a new process has another one: {self._cause}"
            )

    def _profile_of(self, count: int) -> tuple[int, int]:
        """The profile that ``count`` images are run with, and how many it then runs: fewer than it takes are filled up.

        The least is filled up, and of the profiles that are left, it is the one tuned for what is nearest.
        """
        fits = [
            (max(count, smallest), abs(math.log(optimal / count)), index)
            for index, (smallest, optimal, largest) in enumerate(self._profiles)
            if count <= largest
        ]
        if not fits:
            sizes = ", ".join(f"{smallest} to {largest}" for smallest, _, largest in self._profiles)
            raise BackendError(f"the engine takes batches of {sizes}, not of {count}")
        run, _, index = min(fits)
        return index, run


class _HostCall:
    """A call on host arrays that was started."""

    def __init__(self, backend: TensorRTBackend, slot: Slot, count: int, outputs: Arrays | None) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._found: dict[str, NDArray[Any]] | None = None
        self._error: BaseException | None = None
        self._done = False
        self.slot = slot
        self.count = count
        self.outputs = outputs

    def result(self) -> dict[str, NDArray[Any]]:
        """Wait, and return the outputs by name. Raises BackendError where the call failed."""
        self.settle()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def settle(self) -> None:
        """Be done: whoever needs the slot, or the result, comes first."""
        with self._lock:
            if self._done:
                return
            self._done = True  # also where this is interrupted: the slot goes back all the same, and only once
            self._error = BackendError("the call was interrupted while it was waited for")
            try:
                self._found = self._backend.finish(self)
                self._error = None
            except Exception as error:
                self._error = error


class _DeviceCall:
    """A call on device arrays: the caller's stream has it, and there is nothing to wait for here."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def result(self) -> dict[str, Any]:
        """The outputs by name, on the device, ready where the caller's stream has passed the call."""
        return self._found


def _profiles(engine: Any, name: str) -> list[tuple[int, int, int]]:
    found = []
    for index in range(engine.num_optimization_profiles):
        smallest, optimal, largest = (int(shape[0]) for shape in engine.get_tensor_profile_shape(name, index))
        found.append((smallest, optimal, largest))
    return found


def _check_signature(engine: Any, signature: Signature) -> None:
    """An engine whose tensors are not the bundle's is another model's."""
    found = {}
    for index in range(engine.num_io_tensors):
        name = str(engine.get_tensor_name(index))
        kind = engine.get_tensor_dtype(name).name
        found[name] = (
            engine.get_tensor_mode(name).name,
            _DTYPES.get(kind, kind),
            tuple(engine.get_tensor_shape(name))[1:],
        )
    wanted = {signature.input.name: ("INPUT", signature.input.dtype.name, signature.input.shape)}
    wanted |= {spec.name: ("OUTPUT", spec.dtype.name, spec.shape) for spec in signature.outputs}
    if found != wanted:
        raise BackendError(f"the engine's tensors are {found}, and the bundle's {wanted}: it is another model's engine")
