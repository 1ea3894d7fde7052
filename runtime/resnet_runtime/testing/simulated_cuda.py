"""A CUDA device for tests: the interfaces of ``backends.tensorrt.cuda`` over NumPy.

It is as lazy as a device may be: what is queued on a stream is done only when the host waits for that stream or for
an event in it, in the stream's order, and only so much of other streams as is waited for from there. A wait that is
missing is thus a copy or a computation that has not happened, not one that happened in time by luck. Memory is full
of ``POISON`` (a NaN as float32) until it is written and again when it is freed; using it then breaks the context for
good, as an illegal address does. A host array that is queued to be copied is read when the copy is done, not before.
"""

# ruff: noqa: D102  the interfaces say what their methods do

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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

POISON = 0xFF

Operation = Callable[[], None]
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
        self._blocks: dict[int, _Block] = {}
        self._streams: dict[int, _Stream] = {}
        self._live: set[object] = set()
        self._broken: str | None = None
        self._failing: deque[tuple[CudaError, bool]] = deque()
        self.done = 0
        self.launched = 0
        self.closed = 0
        self._streams[LEGACY_STREAM] = _Stream(self, LEGACY_STREAM)

    # What tests ask for.

    def fail_next(self, error: CudaError, *, sticky: bool = False) -> None:
        """The next thing that is queued fails so; ``sticky``: and the context is broken from then on."""
        self._failing.append((error, sticky))

    def alive(self, kind: object) -> int:
        """How many objects of a kind (``Memory``, ``Pinned``, ``Event``, ``Stream``, ``Graph``) were not freed."""
        kinds: dict[object, type] = {Memory: _Block, Pinned: _Pinned, Event: _Event, Stream: _Stream, Graph: _Graph}
        return sum(isinstance(item, kinds[kind]) for item in self._live)

    @property
    def depth(self) -> int:
        """How often the context is pushed in this thread."""
        return int(getattr(self._depth, "value", 0))

    def read(self, address: int, size: int) -> Bytes:
        """What is in memory now, whatever is still queued."""
        return self.memory_at(address, size).copy()

    def write(self, address: int, data: Bytes) -> None:
        """Put something there now."""
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
        self.check()
        return self._new_stream()

    def external(self, handle: int) -> Stream:
        self.check()
        if self._no_graphs is not None:
            raise UnavailableError(f"a stream of the caller's needs cuda-bindings: {self._no_graphs}")
        return self.stream_of(handle)

    def event(self) -> Event:
        self.check()
        return self._kept(_Event(self))

    def allocate(self, size: int) -> Memory:
        self.check()
        self._fail()
        self._take("device", size)
        with self._lock:
            block = _Block(self, self._next, np.full(max(size, 1), POISON, np.uint8))
            self._next += (size // 512 + 2) * 512
            self._blocks[block.address] = block
        return self._kept(block)

    def pinned(self, size: int) -> Pinned:
        self.check()
        self._take("pinned", size)
        return self._kept(_Pinned(self, np.full(max(size, 1), POISON, np.uint8)))

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        owner = self._pinned_of(source)

        def copy() -> None:
            owner.check()
            self.memory_at(address, source.nbytes)[:] = source

        self.queue(stream, copy)

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        owner = self._pinned_of(target)

        def copy() -> None:
            owner.check()
            target[:] = self.memory_at(address, target.nbytes)

        self.queue(stream, copy)

    def begin_capture(self, stream: Stream) -> None:
        self.check()
        assert self._no_graphs is None
        _own(stream).begin_capture()

    def end_capture(self, stream: Stream) -> Graph:
        self.check()
        return self._kept(_Graph(self, _own(stream).end_capture()))

    def synchronize(self) -> None:
        self.check()
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

    def queue(self, stream: Stream, operation: Operation) -> None:
        """Put something at a stream's end, or into the graph that is captured there."""
        self.check()
        self._fail()
        _own(stream).add(operation)

    def capturing(self, handle: int) -> bool:
        """Whether what is queued on the stream goes into a graph."""
        return _own(self.stream_of(handle)).capturing

    def stream_of(self, handle: int) -> Stream:
        """By its handle."""
        if handle not in self._streams:
            self.breaks("invalid resource handle")
        return self._streams[handle]

    def memory_at(self, address: int, size: int) -> Bytes:
        """A view; breaks the context where nothing is allocated there."""
        for base, block in self._blocks.items():
            if base <= address and address + size <= base + len(block.data):
                return block.data[address - base : address - base + size]
        self.breaks(f"an illegal memory access of {size} bytes at {address:#x}")
        raise AssertionError

    def breaks(self, reason: str) -> None:
        """Fail, now and for ever."""
        self._broken = reason
        raise CudaError(f"CUDA: {reason}")

    def forget(self, item: object, kind: str = "", size: int = 0) -> None:
        """It was freed; a second time is an error."""
        if item not in self._live:
            self.breaks(f"{type(item).__name__} was freed twice")
        self._live.discard(item)
        if kind:
            self._left[kind] += size
        if isinstance(item, _Block):
            del self._blocks[item.address]

    @property
    def lock(self) -> threading.RLock:
        """Held while anything is done."""
        return self._lock

    def _new_stream(self) -> _Stream:
        with self._lock:
            self._next += 512
            made = _Stream(self, self._next)
            self._streams[made.handle] = made
        return self._kept(made)

    def _kept(self, item: _Kept) -> _Kept:
        self._live.add(item)
        return item

    def _take(self, kind: str, size: int) -> None:
        with self._lock:
            if size > self._left[kind]:
                raise OutOfMemoryError(
                    f"CUDA: {size} bytes of {kind} memory were asked for, {self._left[kind]} are left"
                )
            self._left[kind] -= size

    def _fail(self) -> None:
        if self._failing:
            error, sticky = self._failing.popleft()
            if sticky:
                self._broken = str(error)
            raise error

    def _pinned_of(self, array: Bytes) -> _Pinned:
        first = array.__array_interface__["data"][0]
        for item in self._live:
            if isinstance(item, _Pinned):
                start = item.array.__array_interface__["data"][0]
                if start <= first and first + array.nbytes <= start + item.array.nbytes:
                    return item
        raise CudaError("CUDA: an asynchronous copy of a host array that is not pinned would not be asynchronous")


def _own(stream: Stream) -> _Stream:
    assert isinstance(stream, _Stream)
    return stream


class _Mark:
    """A point in a stream."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream
        self.passed = False


class _Stream:
    def __init__(self, cuda: SimulatedCuda, handle: int) -> None:
        self._cuda = cuda
        self._handle = handle
        self._queue: deque[Operation | _Mark | tuple[_Mark]] = deque()
        self._captured: list[Operation] | None = None

    @property
    def handle(self) -> int:
        return self._handle

    @property
    def capturing(self) -> bool:
        return self._captured is not None

    def add(self, operation: Operation) -> None:
        with self._cuda.lock:
            if self._captured is not None:
                self._captured.append(operation)
            else:
                self._queue.append(operation)

    def wait(self, event: Event) -> None:
        self._cuda.check()
        assert isinstance(event, _Event)
        self._not_capturing("a wait")
        if event.mark is not None:
            self._queue.append((event.mark,))

    def mark(self) -> _Mark:
        self._not_capturing("an event")
        made = _Mark(self)
        self._queue.append(made)
        return made

    def synchronize(self) -> None:
        self._cuda.check()
        self._not_capturing("synchronize")
        self.drain(None)
        self._cuda.check()

    def drain(self, until: _Mark | None) -> None:
        """Do what is queued, up to a mark or all."""
        with self._cuda.lock:
            while self._queue and not (until is not None and until.passed):
                item = self._queue.popleft()
                if isinstance(item, _Mark):
                    item.passed = True
                elif isinstance(item, tuple):
                    (mark,) = item
                    mark.stream.drain(mark)
                else:
                    self._cuda.done += 1
                    item()

    def begin_capture(self) -> None:
        self._not_capturing("a second capture")
        self._captured = []

    def end_capture(self) -> list[Operation]:
        assert self._captured is not None
        captured, self._captured = self._captured, None
        return captured

    def free(self) -> None:
        self._cuda.check()
        if self._queue:
            self._cuda.breaks("a stream was freed whose work is not done")
        self._cuda.forget(self)

    def _not_capturing(self, what: str) -> None:
        if self._captured is not None:
            raise CudaError(f"CUDA: {what} is not permitted while the stream is captured")


class _Event:
    def __init__(self, cuda: SimulatedCuda) -> None:
        self._cuda = cuda
        self.mark: _Mark | None = None

    def record(self, stream: Stream) -> None:
        self._cuda.check()
        self.mark = _own(stream).mark()

    def synchronize(self) -> None:
        self._cuda.check()
        if self.mark is not None:
            self.mark.stream.drain(self.mark)
        self._cuda.check()

    def free(self) -> None:
        self._cuda.check()
        self._cuda.forget(self)


class _Block:
    """Device memory."""

    def __init__(self, cuda: SimulatedCuda, address: int, data: Bytes) -> None:
        self._cuda = cuda
        self._address = address
        self.data = data

    @property
    def address(self) -> int:
        return self._address

    def free(self) -> None:
        self._cuda.check()
        self._cuda.forget(self, "device", len(self.data))


class _Pinned:
    def __init__(self, cuda: SimulatedCuda, array: Bytes) -> None:
        self._cuda = cuda
        self._array = array
        self._freed = False

    @property
    def array(self) -> Bytes:
        return self._array

    def check(self) -> None:
        if self._freed:
            self._cuda.breaks("a copy from or to pinned memory that was freed")

    def free(self) -> None:
        self._cuda.check()
        self._cuda.forget(self, "pinned", len(self._array))
        self._freed = True
        self._array[:] = POISON


class _Graph:
    def __init__(self, cuda: SimulatedCuda, operations: list[Operation]) -> None:
        self._cuda = cuda
        self._operations = operations
        self._freed = False

    def launch(self, stream: Stream) -> None:
        self._cuda.launched += 1
        for operation in self._operations:
            self._cuda.queue(stream, self._checked(operation))

    def free(self) -> None:
        self._cuda.check()
        self._cuda.forget(self)
        self._freed = True

    def _checked(self, operation: Operation) -> Operation:
        def run() -> None:
            if self._freed:
                self._cuda.breaks("a graph that was freed is run")
            operation()

        return run
