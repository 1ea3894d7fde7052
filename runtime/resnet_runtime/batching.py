"""Single samples from many threads, answered in full batches."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .batching_counters import Counters, Tally
from .errors import ClosedError, DeadlineError, InputError, QueueFullError
from .host_arrays import as_host_array

if TYPE_CHECKING:
    from .session import Session

Answer = dict[str, NDArray[Any]]

_USUAL_BATCH: Final = 32

_SMOOTHING: Final = 0.2
"""Of the newest batch's time in the running mean that admission goes by."""


@dataclass(eq=False)
class _Request:
    sample: NDArray[Any]
    deadline: float
    submitted: float
    future: Future[Answer] = field(default_factory=Future)


class Batcher:
    """Collects samples into batches for a session; thread-safe. Use it with ``with``, or close it.

    A batch starts when ``max_batch`` samples wait, when the oldest has waited ``max_delay_ms``, or when one of them has
    spent half of its time or just as much is left as batches take. One batch more than
    the backend computes at once is under way, so that the next one is put together meanwhile. Every sample that was
    accepted is answered, fails, expires or is cancelled: none is lost, also when the batcher is closed.

    Args:
        session: which has to stay open for as long as the batcher.
        max_batch: samples of a batch, up to the session's largest; None: that, and 32 at most.
        max_delay_ms: milliseconds that a sample waits for others.
        max_queue: samples that may wait; one more is refused.

    Raises:
        InputError: a number is out of its range.
    """

    def __init__(
        self, session: Session, *, max_batch: int | None = None, max_delay_ms: float = 2.0, max_queue: int = 1024
    ) -> None:
        largest = session.signature.largest_batch
        max_batch = min(_USUAL_BATCH, largest) if max_batch is None else max_batch
        if not 1 <= max_batch <= largest:
            raise InputError(f"max_batch is {max_batch}, and the session takes batches of 1 to {largest}")
        if not (math.isfinite(max_delay_ms) and max_delay_ms >= 0):
            raise InputError(f"max_delay_ms is {max_delay_ms}, and a delay is a number of at least 0")
        if max_queue < max_batch:
            raise InputError(f"max_queue is {max_queue}, and a batch of {max_batch} has to fit into the queue")
        self._session = session
        self._max_batch = max_batch
        self._max_delay = max_delay_ms / 1000
        self._max_queue = max_queue
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._collecting = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._any_cancelled = False
        self._under_way = 0
        self._batch_seconds = 0.0
        self._tally = Tally()
        self._at_once = session.calls_at_once
        self._threads = [
            threading.Thread(target=self._work, name=f"resnet-batcher-{number}", daemon=True)
            for number in range(self._at_once + 1)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, sample: Any, *, timeout_s: float | None = None) -> Future[Answer]:
        """Accept one sample, or refuse it at once.

        Args:
            sample: of the session's input, without the batch axis: a NumPy array, or one of the host's of any library
                that speaks DLPack; not to be written to before the future is done.
            timeout_s: seconds in which it has to be answered; None: there is no hurry.

        Returns:
            The outputs by name, without the batch axis. Its ``cancel()`` takes back a sample that still waits. It
            raises DeadlineError where the time was over before the sample's batch began, and what the backend raised.

        Raises:
            InputError: the sample has another shape or dtype.
            QueueFullError: ``max_queue`` samples wait, or so many that this one could not be answered in time.
            ClosedError: the batcher is closed.
        """
        spec = self._session.signature.input
        sample = as_host_array(sample, "the sample")
        if sample.shape != spec.shape or sample.dtype != spec.dtype:
            raise InputError(
                f"the sample is {sample.shape} {sample.dtype}, and the model takes one of {spec.shape} {spec.dtype}"
            )
        if timeout_s is not None and not timeout_s > 0:
            raise InputError(f"timeout_s is {timeout_s}, and has to be above 0: leave it out where there is no hurry")
        self._refuse_in_a_fork()
        now = time.monotonic()
        request = _Request(sample, math.inf if timeout_s is None else now + timeout_s, now)
        request.future.add_done_callback(self._note_cancelled)
        with self._changed:
            self._refuse(timeout_s)
            self._waiting.append(request)
            self._tally.accepted(len(self._waiting))
            self._changed.notify_all()
        return request.future

    async def infer_async(self, sample: Any, *, timeout_s: float | None = None) -> Answer:
        """As ``submit``, awaited: a task that is cancelled takes its sample back where that still waits."""
        return await asyncio.wrap_future(self.submit(sample, timeout_s=timeout_s))

    def counters(self) -> Counters:
        """What was counted since the beginning, and how many samples wait now."""
        with self._changed:
            return self._tally.counters(len(self._waiting))

    def close(self, *, cancel: bool = False) -> None:
        """Accept nothing more, answer what was accepted, and return when that is done; a second call does nothing.

        Args:
            cancel: whether samples that still wait are cancelled instead.

        Not from a signal's handler, which may have interrupted this very batcher: start a thread that does it.
        """
        if self._process != os.getpid():  # its threads are in the parent
            return
        with self._changed:
            self._closed = True
            dropped = list(self._waiting) if cancel else []
            if cancel:
                self._waiting.clear()
            self._changed.notify_all()
        for request in dropped:
            self._tally.cancelled()
            with suppress(BaseException):  # a callback's own
                request.future.cancel()
            with suppress(BaseException):
                request.future.set_running_or_notify_cancel()
        if threading.current_thread() in self._threads:
            return  # a future's callback closes it: nobody waits for himself
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_in_a_fork(self) -> None:
        if self._process != os.getpid():
            raise ClosedError(
                "the batcher was made before this process was forked: fork first, and make one in each process"
            )

    def _refuse(self, timeout_s: float | None) -> None:
        if self._closed:
            raise ClosedError("the batcher is closed: make a new one")
        refusal = self._refusal(timeout_s)
        if refusal is not None and self._drop_cancelled():
            refusal = self._refusal(timeout_s)
        if refusal is not None:
            self._tally.refused()
            raise QueueFullError(f"{refusal}: try again later")

    def _refusal(self, timeout_s: float | None) -> str | None:
        """Why no more can be accepted now, or None."""
        waiting = len(self._waiting)
        if waiting >= self._max_queue:
            return f"{waiting} samples wait, and max_queue is {self._max_queue}"
        if timeout_s is None or self._batch_seconds == 0 or not (waiting or self._under_way):
            return None  # what an idle batcher knows of its batches may be old
        batches = (waiting + 1 + self._max_batch - 1) // self._max_batch + self._under_way
        needed = min(self._max_delay, timeout_s / 2) + batches * self._batch_seconds / self._at_once
        if needed <= timeout_s:
            return None
        return f"{waiting} samples wait, and an answer would take about {needed:.3f} s, more than {timeout_s:g} s"

    def _drop_cancelled(self) -> bool:
        """Whether some of those who wait had been cancelled, and make room now."""
        if not self._any_cancelled:
            return False
        self._any_cancelled = False
        gone = {request for request in self._waiting if request.future.cancelled()}
        self._waiting = deque(request for request in self._waiting if request not in gone)
        for request in gone:
            request.future.set_running_or_notify_cancel()
            self._tally.cancelled()
        return bool(gone)

    def _note_cancelled(self, future: Future[Answer]) -> None:
        """Of a future that is done. Without the lock: whoever cancels may hold others."""
        if future.cancelled():
            self._any_cancelled = True

    def _work(self) -> None:
        while (batch := self._collected()) is not None:
            self._answer(batch)

    def _collected(self) -> list[_Request] | None:
        """The next batch; None where there will be no more."""
        with self._collecting, self._changed:
            while not self._is_due():
                if self._closed and not self._waiting:
                    return None
                self._changed.wait(self._full_at() - time.monotonic() if self._waiting else None)
            taken = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            self._under_way += 1
        return taken

    def _is_due(self) -> bool:
        """Whether the next batch is to begin."""
        if not self._waiting:
            return False
        return len(self._waiting) >= self._max_batch or self._closed or time.monotonic() >= self._full_at()

    def _full_at(self) -> float:
        """When to wait no longer for more samples: one that is in a hurry spends at most half of its time so."""
        hurry = min(
            min((request.submitted + request.deadline) / 2, request.deadline - self._batch_seconds)
            for request in self._waiting
        )
        return min(self._waiting[0].submitted + self._max_delay, hurry)

    def _answer(self, taken: list[_Request]) -> None:
        begun = time.monotonic()
        batch = [request for request in taken if self._still_wanted(request, begun)]
        try:
            if batch:
                self._run(batch)
        finally:
            with self._changed:
                self._under_way -= 1

    def _still_wanted(self, request: _Request, now: float) -> bool:
        if not request.future.set_running_or_notify_cancel():
            self._tally.cancelled()
            return False
        if now > request.deadline:
            self._tally.expired()
            said = f"the sample's time was over {now - request.deadline:.3f} s before its batch began"
            with suppress(BaseException):  # a callback's own, which must not end the thread
                request.future.set_exception(DeadlineError(said))
            return False
        return True

    def _run(self, batch: list[_Request]) -> None:
        begun = time.monotonic()
        try:
            answers = self._session.start(np.stack([request.sample for request in batch])).result()
            each = [{name: array[index].copy() for name, array in answers.items()} for index in range(len(batch))]
        except BaseException as error:  # whatever it is, it belongs to those who wait
            self._tally.failed(len(batch))
            for request in batch:
                with suppress(BaseException):
                    request.future.set_exception(error)
            return
        now = time.monotonic()
        self._learn(now - begun)
        self._tally.answered([now - request.submitted for request in batch])
        for request, answer in zip(batch, each, strict=True):
            with suppress(BaseException):
                request.future.set_result(answer)

    def _learn(self, seconds: float) -> None:
        with self._changed:
            mean = self._batch_seconds
            self._batch_seconds = seconds if mean == 0 else mean + _SMOOTHING * (seconds - mean)
