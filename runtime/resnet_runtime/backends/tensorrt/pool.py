"""The slots of a backend, and the calls that have one: each slot belongs to one call at a time, and none is lost.

Nothing here knows what a slot is. Whoever waits is woken by every change; the time limits are for a wake-up that is
missing, which would be a mistake here, so that it costs a second and not for ever.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from resnet_runtime.errors import ClosedError

from .cuda import OutOfMemoryError

Slot = TypeVar("Slot")

_PATIENCE: Final = 1.0


class Call(Protocol):
    """A call that has a slot until it is settled."""

    def settle(self) -> None:
        """Be done, and give the slot back; at once where somebody else sees to it or did."""


class SlotPool(Generic[Slot]):
    """Slots, made when they are needed.

    Args:
        make: makes one; two are not made at once.
        free: frees one.
        most: how many there may be.
        refuse: raises where calls are not to be started any more.
    """

    def __init__(
        self, make: Callable[[], Slot], free: Callable[[Slot], None], most: int, refuse: Callable[[], None]
    ) -> None:
        self._make = make
        self._free = free
        self._most = most
        self._refuse = refuse
        self._changed = threading.Condition()
        self._maker = threading.Lock()
        self._calls: OrderedDict[Call, Slot] = OrderedDict()
        self._making = 0
        self._closed = False
        self._all: list[Slot] = []
        self._idle: list[Slot] = []

    def make_first(self) -> None:
        """Before anything else: without one slot there is nothing to wait for.

        Raises:
            OutOfMemoryError: there is no room for it.
            Whatever else ``make`` raises.
        """
        slot = self._make()
        with self._changed:
            self._all.append(slot)
            self._idle.append(slot)

    def take(self) -> Slot:
        """An idle slot; where there is none, a new one, or that of the oldest call, once that is done.

        Raises:
            ClosedError: the pool is closed.
            Whatever ``refuse`` or ``make`` raises; only where there is no memory for one more, none is tried again.
        """
        while True:
            with self._changed:
                self._check()
                if self._idle:
                    return self._idle.pop()
                grows = len(self._all) + self._making < self._most
                self._making += grows
                oldest = next(iter(self._calls), None)
                if not grows and oldest is None:
                    self._changed.wait(_PATIENCE)
                    continue
            if not grows and oldest is not None:
                oldest.settle()
                continue
            slot = self._grown()
            if slot is not None:
                return slot

    def started(self, call: Call, slot: Slot) -> None:
        """The slot is the call's, until ``give_back``."""
        with self._changed:
            self._calls[call] = slot
            self._changed.notify_all()

    def give_back(self, slot: Slot, call: Call | None = None) -> None:
        """The next one may have the slot; the call that had it, if any, is done."""
        with self._changed:
            if call is not None:
                self._calls.pop(call, None)
            self._idle.append(slot)
            self._changed.notify_all()

    def wake(self) -> None:
        """What ``refuse`` says has changed."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> list[Slot] | None:
        """Start no more calls, settle those that were, and hand out all slots; None where that has been done."""
        with self._changed:
            if self._closed:
                return None
            self._closed = True
            self._changed.notify_all()
        while True:
            with self._changed:
                if len(self._idle) == len(self._all) and not self._making:
                    slots, self._all, self._idle = self._all, [], []
                    return slots
                oldest = next(iter(self._calls), None)
                if oldest is None:
                    self._changed.wait(_PATIENCE)
                    continue
            oldest.settle()

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the session is closed")
        self._refuse()

    def _grown(self) -> Slot | None:
        """One more slot; None where there is no memory for it, and none is tried again."""
        made: list[Slot] = []
        try:
            with self._maker:
                made.append(self._make())
        except OutOfMemoryError:
            with self._changed:
                self._most = len(self._all)
            return None
        finally:
            with self._changed:
                self._making -= 1
                if self._closed and made:
                    self._free(made.pop())  # nobody else will
                else:
                    self._all += made
                self._changed.notify_all()
        if not made:
            raise ClosedError("the session is closed")
        return made[0]
