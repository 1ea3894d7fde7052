"""A CUDA device for tests: the interfaces of ``backends.tensorrt.cuda`` over NumPy.

It is as lazy as a device may be: what is queued on a stream is done only when the host waits for that stream or for
an event in it, in the stream's order, and only so much of other streams as is waited for from there. A wait that is
missing is thus a copy or a computation that has not happened, not one that happened in time by luck.

It is as eager as a device may be, too: the target of a copy to the host is full of ``POISON`` (a NaN as float32) from
the moment that the copy is queued, and the source of a copy to the device must not have changed when the copy is done.

Memory is full of ``POISON`` until it is written and again when it is freed. What is undefined on a device breaks the
context here, for good, as an illegal address does: using what was freed, freeing what is still used, changing what is
being copied. What CUDA forbids during a capture fails, and spoils the capture.
"""

# ruff: noqa: D102  the interfaces say what their methods do

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn, TypeVar

import numpy as np

from resnet_runtime.backends.tensorrt.cuda import (
    Bytes,
    CudaError,
    DeviceInfo,
    Event,
    Graph,
    Memory,
    OutOfMemoryError,
    Pinned,
    Stream,
)
from resnet_runtime.backends.tensorrt.device_arrays import LEGACY_STREAM
from resnet_runtime.errors import UnavailableError

from .simulated_objects import (
    POISON,
    Deferred,
    Download,
    ExternalStream,
    Operation,
    SimulatedEvent,
    SimulatedGraph,
    SimulatedMemory,
    SimulatedPinned,
    SimulatedStream,
    Upload,
    own,
)

_Kept = TypeVar("_Kept")


class SimulatedCuda:
    """One device, whose context every method but ``current`` needs.

    Args:
        memory: bytes that it has; pinned memory is limited to the same.
        graphs: whether graphs can be captured, as with cuda-bindings.
        capability: its compute capability.

    Attributes:
        done: how many queued operations were done.
        launched: how many graphs were launched.
        closed: how often the context was released.
    """

    def __init__(self, *, memory: int = 2**30, graphs: bool = True, capability: str = "8.6") -> None:
        self._info = DeviceInfo("Simulated GPU", capability, "13.0")
        self._no_graphs = None if graphs else "cuda-bindings cannot be imported: it is simulated to be missing"
        self._left = {"device": memory, "pinned": memory}
        self._lock = threading.RLock()
        self._depth = threading.local()
        self._next = 0x7F00_0000_0000
        self._blocks: dict[int, SimulatedMemory] = {}
        self._streams: dict[int, SimulatedStream] = {}
        self._live: set[object] = set()
        self._broken: str | None = None
        self._failing: deque[tuple[CudaError, bool]] = deque()
        self.done = 0
        self.launched = 0
        self.closed = 0
        self._streams[LEGACY_STREAM] = SimulatedStream(self, LEGACY_STREAM)

    # What tests ask for.

    def fail_next(self, error: CudaError, *, sticky: bool = False) -> None:
        """The next thing that is queued fails so; ``sticky``: and the context is broken from then on."""
        self._failing.append((error, sticky))

    def alive(self, kind: object) -> int:
        """How many objects of a kind (``Memory``, ``Pinned``, ``Event``, ``Stream``, ``Graph``) were not freed."""
        with self._lock:
            return sum(isinstance(item, _KINDS[kind]) for item in self._live)

    @property
    def depth(self) -> int:
        """How often the context is pushed in this thread."""
        return int(getattr(self._depth, "value", 0))

    def read(self, address: int, size: int) -> Bytes:
        """What is in memory now, whatever is still queued."""
        with self._lock:
            return self.memory_at(address, size).copy()

    def write(self, address: int, data: Bytes) -> None:
        """Put something there now."""
        with self._lock:
            self.memory_at(address, len(data))[:] = data

    # The interface.

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def no_graphs(self) -> str | None:
        return self._no_graphs

    @contextmanager
    def current(self) -> Iterator[None]:
        self._depth.value = self.depth + 1
        try:
            yield
        finally:
            self._depth.value -= 1

    def stream(self) -> Stream:
        with self._lock:
            self.check()
            self._next += 512
            made = SimulatedStream(self, self._next)
            self._streams[made.handle] = made
            return self._kept(made)

    def external(self, handle: int) -> Stream:
        self.check()
        if self._no_graphs is not None:
            raise UnavailableError(f"a stream of the caller's needs cuda-bindings: {self._no_graphs}")
        self.stream_of(handle)
        return ExternalStream(self, handle)

    def event(self) -> Event:
        self.check()
        return self._kept(SimulatedEvent(self))

    def allocate(self, size: int) -> Memory:
        with self._lock:
            self.check()
            self.check_no_capture("an allocation")
            self._fail()
            self._take("device", size)
            block = SimulatedMemory(self, self._next, np.full(max(size, 1), POISON, np.uint8))
            self._next += (size // 512 + 2) * 512
            self._blocks[block.address] = block
            return self._kept(block)

    def pinned(self, size: int) -> Pinned:
        with self._lock:
            self.check()
            self.check_no_capture("an allocation")
            self._take("pinned", size)
            return self._kept(SimulatedPinned(self, np.full(max(size, 1), POISON, np.uint8)))

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        self.queue(stream, Upload(self, self._pinned_of(source), source, address))

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        self.queue(stream, Download(self, self._pinned_of(target), target, address))

    def begin_capture(self, stream: Stream) -> None:
        with self._lock:
            self.check()
            assert self._no_graphs is None
            own(stream).begin_capture()

    def end_capture(self, stream: Stream) -> Graph:
        with self._lock:
            self.check()
            return self._kept(SimulatedGraph(self, own(stream).end_capture()))

    def synchronize(self) -> None:
        with self._lock:
            self.check()
            captured = [stream for stream in self._streams.values() if stream.capturing]
            for stream in captured:
                stream.invalidate()
            if captured:
                raise CudaError("CUDA: the context cannot be waited for while any stream of it is captured")
            for stream in list(self._streams.values()):
                stream.drain(None)
            self.check()

    def close(self) -> None:
        self.closed += 1

    # What the other objects of the device use.

    def check(self) -> None:
        """The context is current, and not broken."""
        if self.depth == 0:
            raise CudaError("CUDA: the device's context is not current in this thread")
        if self._broken is not None:
            raise CudaError(f"CUDA: {self._broken}")

    def check_no_capture(self, what: str) -> None:
        """What is not queued cannot be captured either: CUDA refuses it to a thread that captures."""
        for stream in self._streams.values():
            if stream.captured_here:
                stream.invalidate()
                raise CudaError(f"CUDA: {what} is not permitted in a thread that captures a stream")

    def queue(self, stream: Stream, *operations: Operation | Deferred) -> None:
        """Put something at a stream's end, or into the graph that is captured there: all of it, or none."""
        with self._lock:
            self.check()
            self._fail()
            for operation in operations:
                own(stream).add(operation)

    def capturing(self, handle: int) -> bool:
        """Whether what is queued on the stream goes into a graph."""
        return self.stream_of(handle).capturing

    def stream_of(self, handle: int) -> SimulatedStream:
        """By its handle."""
        with self._lock:
            if handle not in self._streams:
                self.breaks("invalid resource handle")
            return self._streams[handle]

    def block_at(self, address: int, size: int) -> SimulatedMemory | None:
        """What is allocated there, or None."""
        with self._lock:
            for base, block in self._blocks.items():
                if base <= address and address + size <= base + len(block.data):
                    return block
        return None

    def memory_at(self, address: int, size: int) -> Bytes:
        """A view; breaks the context where nothing is allocated there."""
        block = self.block_at(address, size)
        if block is None:
            self.breaks(f"an illegal memory access of {size} bytes at {address:#x}")
        return block.data[address - block.address : address - block.address + size]

    def breaks(self, reason: str) -> NoReturn:
        """Fail, now and for ever; the first reason is the one that stays."""
        self._broken = self._broken or reason
        raise CudaError(f"CUDA: {reason}")

    def forget(self, item: object, kind: str = "", size: int = 0) -> None:
        """It was freed; a second time is an error. Under the lock."""
        if item not in self._live:
            self.breaks(f"{type(item).__name__} was freed twice")
        self._live.discard(item)
        if kind:
            self._left[kind] += size
        if isinstance(item, SimulatedMemory):
            del self._blocks[item.address]
            item.data[:] = POISON
        if isinstance(item, SimulatedStream):
            del self._streams[item.handle]

    @property
    def lock(self) -> threading.RLock:
        """Held while anything is done."""
        return self._lock

    def _kept(self, item: _Kept) -> _Kept:
        with self._lock:
            self._live.add(item)
        return item

    def _take(self, kind: str, size: int) -> None:
        if size > self._left[kind]:
            raise OutOfMemoryError(f"CUDA: {size} bytes of {kind} memory were asked for, {self._left[kind]} are left")
        self._left[kind] -= size

    def _fail(self) -> None:
        if self._failing:
            error, sticky = self._failing.popleft()
            if sticky:
                self._broken = str(error)
            raise error

    def _pinned_of(self, array: Bytes) -> SimulatedPinned:
        first = array.__array_interface__["data"][0]
        with self._lock:
            for item in self._live:
                if isinstance(item, SimulatedPinned):
                    start = item.data.__array_interface__["data"][0]
                    if start <= first and first + array.nbytes <= start + item.data.nbytes:
                        return item
        raise CudaError("CUDA: an asynchronous copy of a host array that is not pinned would not be asynchronous")


_KINDS: Final[dict[object, type]] = {
    Memory: SimulatedMemory,
    Pinned: SimulatedPinned,
    Event: SimulatedEvent,
    Stream: SimulatedStream,
    Graph: SimulatedGraph,
}
