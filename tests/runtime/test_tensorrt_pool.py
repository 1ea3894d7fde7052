"""No slot is lost, none has two calls, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from resnet_runtime.backends.tensorrt.cuda import OutOfMemoryError
from resnet_runtime.backends.tensorrt.pool import SlotPool
from resnet_runtime.errors import ClosedError


class Slots:
    """Numbers; the ones that are made and freed."""

    def __init__(self, room: int = 100, before: Callable[[], None] = lambda: None) -> None:
        self.made: list[int] = []
        self.freed: list[int] = []
        self._room = room
        self._before = before

    def make(self) -> int:
        if len(self.made) >= self._room:
            raise OutOfMemoryError("no room")
        if self.made:
            self._before()
        self.made.append(len(self.made))
        return self.made[-1]


def pool_of(slots: Slots, most: int = 4, refuse: Callable[[], None] = lambda: None) -> SlotPool[int]:
    pool = SlotPool(slots.make, slots.freed.append, most, refuse)
    pool.make_first()
    return pool


class Call:
    def __init__(self, pool: SlotPool[int]) -> None:
        self.pool, self.slot = pool, pool.take()
        self.settled = 0
        pool.started(self, self.slot)

    def settle(self) -> None:
        self.settled += 1
        if self.settled == 1:
            self.pool.give_back(self.slot, self)


def started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> None:
    thread.join(30)
    assert not thread.is_alive(), "it waits for ever"


def test_slots_are_made_when_they_are_needed_and_used_again() -> None:
    slots = Slots()
    pool = pool_of(slots, most=2)
    first, second = pool.take(), pool.take()
    assert slots.made == [first, second] == [0, 1]
    pool.give_back(first)
    assert pool.take() == first
    pool.give_back(first)
    pool.give_back(second)
    assert pool.close() == [0, 1]
    assert pool.close() is None
    with pytest.raises(ClosedError):
        pool.take()


def test_without_an_idle_slot_the_oldest_call_is_settled() -> None:
    pool = pool_of(Slots(), most=2)
    calls = [Call(pool), Call(pool)]
    assert pool.take() == calls[0].slot
    assert [call.settled for call in calls] == [1, 0]


def test_where_there_is_no_room_no_more_is_tried() -> None:
    slots = Slots(room=2)
    pool = pool_of(slots, most=4)
    calls = [Call(pool) for _ in range(5)]
    assert slots.made == [0, 1]
    assert [call.settled for call in calls] == [1, 1, 1, 0, 0]
    slots._room = 100
    Call(pool)
    assert slots.made == [0, 1], "it was settled that there is none"


def test_a_slot_that_cannot_be_made_is_tried_again() -> None:
    failing = [ValueError("not now")]

    def before() -> None:
        if failing:
            raise failing.pop()

    slots = Slots(before=before)
    pool = pool_of(slots)
    pool.take()
    with pytest.raises(ValueError, match="not now"):
        pool.take()
    assert pool.take() == 1


def test_a_slot_that_is_made_belongs_to_who_made_it() -> None:
    """Another thread that comes meanwhile gets one of its own."""
    inside, go = threading.Semaphore(0), threading.Semaphore(0)

    def before() -> None:
        inside.release()
        assert go.acquire(timeout=30)

    slots = Slots(before=before)
    pool = pool_of(slots)
    pool.take()
    taken: list[int] = []
    threads = [started(lambda: taken.append(pool.take())) for _ in range(2)]
    for _ in threads:
        assert inside.acquire(timeout=30)
        go.release()
    for thread in threads:
        joined(thread)
    assert sorted(taken) == [1, 2]


def test_two_slots_are_not_made_at_once() -> None:
    at_once: list[int] = []
    count = 0

    def before() -> None:
        nonlocal count
        count += 1
        at_once.append(count)
        time.sleep(0.02)
        count -= 1

    pool = pool_of(Slots(before=before), most=6)
    taken = [pool.take()]
    threads = [started(lambda: taken.append(pool.take())) for _ in range(5)]
    for thread in threads:
        joined(thread)
    assert at_once == [1] * 5


@pytest.mark.parametrize("how", ["give back", "start a call", "break"])
def test_who_waits_is_woken(how: str) -> None:
    broken: list[Exception] = []

    def refuse() -> None:
        if broken:
            raise broken[0]

    pool = pool_of(Slots(), most=1, refuse=refuse)
    slot = pool.take()
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(pool.take())
        except ValueError as error:
            got.append(str(error))

    thread = started(wait)
    time.sleep(0.05)
    assert got == []
    begin = time.perf_counter()
    if how == "give back":
        pool.give_back(slot)
    elif how == "start a call":
        call = Call.__new__(Call)
        call.pool, call.slot, call.settled = pool, slot, 0
        pool.started(call, slot)
    else:
        broken.append(ValueError("broken"))
        pool.wake()
    joined(thread)
    assert time.perf_counter() - begin < 0.5, "it was not woken, but looked by itself"
    assert got == (["broken"] if how == "break" else [slot])


def test_close_settles_a_call_that_was_starting() -> None:
    pool = pool_of(Slots(), most=1)
    slot = pool.take()
    closed: list[object] = []
    thread = started(lambda: closed.append(pool.close()))
    time.sleep(0.05)
    assert closed == []
    call = Call.__new__(Call)
    call.pool, call.slot, call.settled = pool, slot, 0
    begin = time.perf_counter()
    pool.started(call, slot)
    joined(thread)
    assert time.perf_counter() - begin < 0.5
    assert (call.settled, closed) == (1, [[slot]])


def test_close_waits_for_a_slot_that_is_being_made_and_who_made_it_gets_none() -> None:
    inside, go = threading.Event(), threading.Event()

    def before() -> None:
        inside.set()
        assert go.wait(30)

    slots = Slots(before=before)
    pool = pool_of(slots)
    pool.give_back(pool.take())
    first = pool.take()
    got: list[object] = []

    def take() -> None:
        try:
            got.append(pool.take())
        except ClosedError:
            got.append("closed")

    taking = started(take)
    assert inside.wait(30)
    pool.give_back(first)
    closed: list[object] = []
    closing = started(lambda: closed.append(pool.close()))
    time.sleep(0.05)
    assert closed == []
    begin = time.perf_counter()
    go.set()
    joined(taking)
    joined(closing)
    assert time.perf_counter() - begin < 0.5
    assert (got, closed, slots.freed) == (["closed"], [[0]], [1])


def test_close_wakes_who_waits_for_a_slot() -> None:
    pool = pool_of(Slots(), most=1)
    slot = pool.take()
    got: list[str] = []
    closed: list[object] = []

    def take() -> None:
        with pytest.raises(ClosedError):
            pool.take()
        got.append("closed")

    taking = started(take)
    time.sleep(0.05)
    closing = started(lambda: closed.append(pool.close()))
    begin = time.perf_counter()
    joined(taking)
    assert time.perf_counter() - begin < 0.5
    pool.give_back(slot)
    joined(closing)
    assert got == ["closed"]
