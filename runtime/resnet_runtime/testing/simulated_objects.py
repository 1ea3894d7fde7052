"""What the simulated CUDA device hands out: streams, events, memory, and graphs. ``simulated_cuda`` makes them.

Each refuses to be used after it was freed, by breaking the context: on a device that is undefined, and found out late.
"""

# ruff: noqa: D102  the interfaces say what their methods do

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from resnet_runtime.backends.tensorrt.cuda import Bytes, CudaError, Event, Stream

if TYPE_CHECKING:
    from .simulated_cuda import SimulatedCuda

POISON = 0xFF
"""A byte of a NaN, as float32."""

Operation = Callable[[], None]


class SimulatedMemory:
    """Bytes on the device.

    Attributes:
        pending: how many copies are queued that use it.
    """

    def __init__(self, cuda: SimulatedCuda, address: int, data: Bytes) -> None:
        self._cuda = cuda
        self._address = address
        self.data = data
        self.pending = 0

    @property
    def address(self) -> int:
        return self._address

    def free(self) -> None:
        with self._cuda.lock:
            self._cuda.check()
            self._cuda.check_no_capture("freeing memory")
            self._cuda.forget(self, "device", len(self.data))
            if self.pending:
                self._cuda.breaks("device memory was freed before a copy that uses it was done")


class SimulatedPinned:
    """Bytes of the host.

    Attributes:
        data: them, whether freed or not.
        reads: how many copies from it are queued.
        writes: how many copies to it are queued.
    """

    def __init__(self, cuda: SimulatedCuda, data: Bytes) -> None:
        self._cuda = cuda
        self._freed = False
        self.data = data
        self.reads = 0
        self.writes = 0

    @property
    def array(self) -> Bytes:
        self.check()
        return self.data

    def check(self) -> None:
        """It was not freed."""
        if self._freed:
            self._cuda.breaks("pinned memory was used after it was freed")

    def free(self) -> None:
        with self._cuda.lock:
            self._cuda.check()
            self._cuda.check_no_capture("freeing memory")
            self._cuda.forget(self, "pinned", len(self.data))
            self._freed = True
            self.data[:] = POISON
            if self.reads or self.writes:
                self._cuda.breaks("pinned memory was freed before a copy that uses it was done")


class Deferred(ABC):
    """Work of which something happens as soon as it is queued: not when it is captured, but at each launch."""

    @abstractmethod
    def queued(self) -> Operation:
        """What is left to do when its turn comes."""


class Copy(Deferred):
    """A copy between pinned memory and the device's."""

    def __init__(self, cuda: SimulatedCuda, pinned: SimulatedPinned, host: Bytes, address: int) -> None:
        assert host.dtype == np.uint8
        assert host.ndim == 1
        self._cuda = cuda
        self._pinned = pinned
        self._host = host
        self._address = address

    def _there(self) -> Bytes:
        self._pinned.check()
        return self._cuda.memory_at(self._address, self._host.nbytes)

    def _begins(self) -> SimulatedMemory | None:
        self._pinned.check()
        memory = self._cuda.block_at(self._address, self._host.nbytes)
        if memory is not None:
            memory.pending += 1
        return memory

    @staticmethod
    def _ends(memory: SimulatedMemory | None) -> None:
        if memory is not None:
            memory.pending -= 1


class Upload(Copy):
    """To the device. A device may read the source at any time until then, so that it has to stay as it is."""

    def queued(self) -> Operation:
        memory = self._begins()
        changes_by_itself = self._pinned.writes > 0
        kept = self._host.copy()
        self._pinned.reads += 1

        def run() -> None:
            there = self._there()
            self._pinned.reads -= 1
            self._ends(memory)
            if not changes_by_itself and not np.array_equal(kept, self._host):
                self._cuda.breaks("pinned memory was changed before it was copied to the device")
            there[:] = self._host

        return run


class Download(Copy):
    """To the host. A device may write the target at any time from now on, so that nothing there counts any more."""

    def queued(self) -> Operation:
        memory = self._begins()
        if not self._pinned.reads:  # what is to be copied to the device first has to stay
            self._host[:] = POISON
        self._pinned.writes += 1

        def run() -> None:
            there = self._there()
            self._pinned.writes -= 1
            self._ends(memory)
            self._host[:] = there

        return run


class Mark:
    """A point in a stream."""

    def __init__(self, stream: SimulatedStream) -> None:
        self.stream = stream
        self.passed = False


class SimulatedStream:
    """Work that is done when it is waited for."""

    def __init__(self, cuda: SimulatedCuda, handle: int) -> None:
        self._cuda = cuda
        self._handle = handle
        self._queue: deque[Operation | Mark | tuple[Mark]] = deque()
        self._captured: list[Operation | Deferred] | None = None
        self._thread = 0
        self._invalid = False
        self._freed = False

    @property
    def handle(self) -> int:
        return self._handle

    @property
    def capturing(self) -> bool:
        """Whether what is queued goes into a graph."""
        return self._captured is not None

    @property
    def captured_here(self) -> bool:
        """Whether this thread has begun that."""
        return self.capturing and self._thread == threading.get_ident()

    def add(self, operation: Operation | Deferred) -> None:
        """Under the device's lock."""
        self._check()
        if self._captured is not None:
            self._captured.append(operation)
        else:
            self._queue.append(operation.queued() if isinstance(operation, Deferred) else operation)

    def wait(self, event: Event) -> None:
        assert isinstance(event, SimulatedEvent)
        with self._cuda.lock:
            self._check()
            mark = event.mark()
            self.check_not_capturing("a wait")
            if mark is not None:
                self._queue.append((mark,))

    def mark(self) -> Mark:
        """A new one at the end. Under the device's lock."""
        self._check()
        self.check_not_capturing("an event")
        made = Mark(self)
        self._queue.append(made)
        return made

    def synchronize(self) -> None:
        with self._cuda.lock:
            self._check()
            if self.capturing:
                self.invalidate()
            self.check_not_capturing("synchronize")
            self.drain(None)
            self._cuda.check()

    def drain(self, until: Mark | None) -> None:
        """Do what is queued, up to a mark or all."""
        with self._cuda.lock:
            while self._queue and not (until is not None and until.passed):
                item = self._queue.popleft()
                if isinstance(item, Mark):
                    item.passed = True
                elif isinstance(item, tuple):
                    (mark,) = item
                    mark.stream.drain(mark)
                else:
                    self._cuda.done += 1
                    item()

    def begin_capture(self) -> None:
        """Under the device's lock."""
        self._check()
        self.check_not_capturing("a second capture")
        self._captured, self._thread, self._invalid = [], threading.get_ident(), False

    def end_capture(self) -> list[Operation | Deferred]:
        """Under the device's lock. Raises CudaError where something has spoilt the capture."""
        self._check()
        if self._captured is None:
            raise CudaError("CUDA: the stream is not captured")
        if self._thread != threading.get_ident():
            raise CudaError("CUDA: a capture was ended in another thread than it was begun in")
        captured, self._captured = self._captured, None
        if self._invalid:
            raise CudaError("CUDA: the capture was invalidated by what was not permitted while it went on")
        return captured

    def invalidate(self) -> None:
        """Nothing comes of the capture that goes on."""
        self._invalid = True

    def free(self) -> None:
        with self._cuda.lock:
            self._check()
            if self._queue or self.capturing:
                self._cuda.breaks("a stream was freed whose work is not done")
            self._cuda.forget(self)
            self._freed = True

    def check_not_capturing(self, what: str) -> None:
        """Raises CudaError where the stream is captured."""
        if self._captured is not None:
            raise CudaError(f"CUDA: {what} is not permitted while the stream is captured")

    def _check(self) -> None:
        self._cuda.check()
        if self._freed:
            self._cuda.breaks("invalid resource handle: the stream was freed")


class ExternalStream:
    """A stream by its handle: who made it frees it."""

    def __init__(self, cuda: SimulatedCuda, handle: int) -> None:
        self._cuda = cuda
        self._handle = handle

    @property
    def handle(self) -> int:
        return self._handle

    @property
    def owner(self) -> SimulatedStream:
        """The stream itself; breaks the context where it was freed."""
        return self._cuda.stream_of(self._handle)

    def wait(self, event: Event) -> None:
        self.owner.wait(event)

    def synchronize(self) -> None:
        self.owner.synchronize()

    def free(self) -> None:
        return


def own(stream: Stream) -> SimulatedStream:
    """The stream behind one of the interface's."""
    if isinstance(stream, ExternalStream):
        return stream.owner
    assert isinstance(stream, SimulatedStream)
    return stream


class SimulatedEvent:
    """A point in a stream, or none yet."""

    def __init__(self, cuda: SimulatedCuda) -> None:
        self._cuda = cuda
        self._mark: Mark | None = None
        self._freed = False

    def mark(self) -> Mark | None:
        """Where it is now; what waits for it waits for that, whatever it becomes later."""
        self._check()
        return self._mark

    def record(self, stream: Stream) -> None:
        with self._cuda.lock:
            self._check()
            self._mark = own(stream).mark()

    def synchronize(self) -> None:
        with self._cuda.lock:
            self._check()
            if self._mark is not None:
                self._mark.stream.drain(self._mark)
            self._cuda.check()

    def free(self) -> None:
        with self._cuda.lock:
            self._check()
            self._cuda.forget(self)
            self._freed = True

    def _check(self) -> None:
        self._cuda.check()
        if self._freed:
            self._cuda.breaks("invalid resource handle: the event was freed")


class Launched(Deferred):
    """A part of a graph that was launched."""

    def __init__(self, check: Operation, operation: Operation | Deferred) -> None:
        self._check = check
        self._operation = operation

    def queued(self) -> Operation:
        rest = self._operation.queued() if isinstance(self._operation, Deferred) else self._operation

        def run() -> None:
            self._check()
            rest()

        return run


class SimulatedGraph:
    """What was captured."""

    def __init__(self, cuda: SimulatedCuda, operations: list[Operation | Deferred]) -> None:
        self._cuda = cuda
        self._operations = operations
        self._freed = False

    def launch(self, stream: Stream) -> None:
        with self._cuda.lock:
            self._cuda.check()
            self._check()
            own(stream).check_not_capturing("the launch of a graph")
            self._cuda.queue(stream, *(Launched(self._check, operation) for operation in self._operations))
            self._cuda.launched += 1

    def free(self) -> None:
        with self._cuda.lock:
            self._cuda.check()
            self._cuda.forget(self)
            self._freed = True

    def _check(self) -> None:
        if self._freed:
            self._cuda.breaks("a graph that was freed is run")
