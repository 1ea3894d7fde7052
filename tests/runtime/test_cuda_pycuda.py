"""What is asked of PyCUDA, of a module that keeps contexts as PyCUDA does: on a stack of its own over the driver's.

PyCUDA pops the driver's stack whenever its own has something, takes the release of a context for a pop, and frees
nothing of a context that it has released. Its source (``src/cpp/cuda.hpp``) is what this follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.cuda import CudaError, OutOfMemoryError
from resnet_runtime.backends.tensorrt.pycuda_device import _PyCuda

TORCH = "torch's primary context"
PRIMARY = "the primary context"


class Error(Exception):
    pass


class NoMemoryError(Error):
    pass


class Context:
    def __init__(self, driver: Driver, handle: str) -> None:
        self.driver, self.handle = driver, handle
        self.valid = True
        self.thread = threading.get_ident()

    def push(self) -> None:
        if self.driver.broken:
            raise Error("cuCtxPushCurrent failed: an illegal memory access was encountered")
        self.driver.leave()
        self.driver.cuda_stack.append(self.handle)
        self.driver.own_stack.append(self)

    def detach(self) -> None:
        assert self.valid, "cannot detach from invalid context"
        active = self.driver.active() is self
        if active:
            self.driver.retained -= 1
        elif self.thread == threading.get_ident():
            self.driver.cuda_stack.append(self.handle)
            self.driver.retained -= 1
        self.valid = False
        if active and (other := self.driver.active(but=self)) is not None:
            self.driver.cuda_stack.append(other.handle)


class Memory:
    def __init__(self, driver: Driver, address: int) -> None:
        self.driver, self.address = driver, address
        self.context = driver.active()
        assert self.context is not None

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        if self.context.valid and (
            self.context is self.driver.active() or self.context.thread == threading.get_ident()
        ):
            self.driver.freed.append(self.address)


class Driver:
    """``pycuda.driver``, as far as contexts and memory go."""

    Error, MemoryError = Error, NoMemoryError
    event_flags = SimpleNamespace(DISABLE_TIMING=2)

    def __init__(self) -> None:
        self.local = threading.local()
        self.retained = 0
        self.freed: list[int] = []
        self.stream_flags_given: list[int] = []
        self.broken = False
        self.pop_fails = False
        self.Context = SimpleNamespace(pop=self.pop, synchronize=lambda: None)

    @property
    def cuda_stack(self) -> list[str]:
        return self.local.__dict__.setdefault("cuda", [])

    @property
    def own_stack(self) -> list[Context]:
        return self.local.__dict__.setdefault("own", [])

    def Device(self, ordinal: int) -> Any:  # noqa: N802
        def retain() -> Context:
            self.retained += 1
            return Context(self, PRIMARY)

        return SimpleNamespace(
            name=lambda: "Fake GPU", compute_capability=lambda: (8, 6), retain_primary_context=retain
        )

    def get_driver_version(self) -> int:
        return 12080

    def active(self, but: Context | None = None) -> Context | None:
        while self.own_stack and (self.own_stack[-1] is but or not self.own_stack[-1].valid):
            self.own_stack.pop()
        return self.own_stack[-1] if self.own_stack else None

    def leave(self) -> None:
        if self.own_stack:
            self.cuda_stack.pop()

    def pop(self) -> None:
        self.leave()
        if self.active() is None:
            raise Error("context::pop failed: invalid device context - cannot pop non-current context")
        self.own_stack.pop()
        if (other := self.active()) is not None:
            self.cuda_stack.append(other.handle)
        if self.pop_fails:
            raise Error("cuCtxPopCurrent failed: an illegal memory access was encountered")

    def Stream(self, flags: int = 0) -> Any:  # noqa: N802
        self.stream_flags_given.append(flags)
        return SimpleNamespace(handle=77)

    def mem_alloc(self, size: int) -> Memory:
        if size > 2**40:
            raise NoMemoryError("cuMemAlloc failed: out of memory")
        return Memory(self, 4096 + size)

    def pagelocked_empty(self, size: int, dtype: type) -> None:
        raise NoMemoryError("cuMemHostAlloc failed: out of memory")


def made(driver: Driver) -> _PyCuda:
    return _PyCuda(driver, 0, (None, "it is missing in this test"), lambda: driver.cuda_stack.pop())


def in_a_thread(work: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_the_device_is_described() -> None:
    info = made(Driver()).info
    assert (info.name, info.capability, info.driver) == ("Fake GPU", "8.6", "12.8")


def test_streams_wait_for_no_other() -> None:
    driver = Driver()
    cuda = made(driver)
    with cuda.current():
        assert cuda.stream().handle == 77
    assert driver.stream_flags_given == [1], "CU_STREAM_NON_BLOCKING"


@pytest.mark.parametrize("before", [[], [TORCH]])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_close_releases_once_and_leaves_the_thread_s_contexts(before: list[str], elsewhere: bool) -> None:
    driver = Driver()
    cuda = made(driver)

    def close() -> None:
        driver.cuda_stack[:] = before
        with cuda.current(), cuda.current():
            assert driver.cuda_stack == [*before, PRIMARY]
        cuda.close()
        assert driver.cuda_stack == before
        assert driver.own_stack == []

    if elsewhere:
        in_a_thread(close)
    else:
        close()
    assert driver.retained == 0
    with pytest.raises(CudaError, match="the device was closed"), cuda.current():
        pass


def test_another_context_of_pycuda_s_stays_current() -> None:
    driver = Driver()
    other = Context(driver, "the caller's")
    other.push()
    cuda = made(driver)
    with cuda.current():
        assert driver.cuda_stack == [PRIMARY]
    assert driver.cuda_stack == ["the caller's"]
    cuda.close()
    assert driver.retained == 0
    assert driver.cuda_stack == ["the caller's"]
    assert driver.own_stack == [other]


def test_memory_that_outlives_the_backend_is_freed_before_the_context_is_released() -> None:
    driver = Driver()
    cuda = made(driver)
    with cuda.current():
        first, second = cuda.allocate(1), cuda.allocate(2)
    cuda.close()
    assert driver.retained == 1

    def free() -> None:
        with cuda.current():
            second.free()

    with cuda.current():
        first.free()
    assert driver.retained == 1
    in_a_thread(free)
    assert driver.freed == [4097, 4098]
    assert driver.retained == 0
    assert driver.cuda_stack == []


def test_a_thread_that_is_at_work_keeps_the_context() -> None:
    driver = Driver()
    cuda = made(driver)
    with cuda.current():
        in_a_thread(cuda.close)
        assert driver.retained == 1
        assert driver.cuda_stack == [PRIMARY]
    assert driver.retained == 0
    assert driver.cuda_stack == []


def test_a_broken_context_can_be_closed() -> None:
    driver = Driver()
    cuda = made(driver)
    driver.broken = True
    with pytest.raises(CudaError, match="illegal memory access"), cuda.current():
        pass
    cuda.close()


def test_whatever_pycuda_raises_is_one_of_ours() -> None:
    driver = Driver()
    cuda = made(driver)
    with cuda.current():
        with pytest.raises(OutOfMemoryError, match="cuMemAlloc failed: out of memory"):
            cuda.allocate(2**50)
        with pytest.raises(OutOfMemoryError, match="cuMemHostAlloc failed: out of memory"):
            cuda.pinned(np.iinfo(np.int64).max)
    driver.pop_fails = True
    with pytest.raises(CudaError, match="cuCtxPopCurrent failed"), cuda.current():
        pass
    driver.pop_fails = False
    cuda.close()
    assert driver.retained == 0, "what failed counts as no user"
