"""Work for a device that is no copy, and what is current in a thread: on the simulated device and on a GPU."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np

from resnet_runtime.backends.tensorrt.cuda import Cuda, Stream
from resnet_runtime.testing.simulated_cuda import SimulatedCuda

CYCLES = 3_000_000
"""That a kernel idles first, so that whoever does not wait for it comes too early: about 2 ms."""

# For compute capability 7.5, TensorRT's oldest, and on: the driver compiles it, so that no compiler is needed here.
ADD = """
.version 6.3
.target sm_75
.address_size 64

.visible .entry add(.param .u64 address, .param .u32 size, .param .u32 number, .param .u64 cycles)
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %d<6>;
    ld.param.u64 %d1, [cycles];
    mov.u64 %d2, %clock64;
idle:
    mov.u64 %d3, %clock64;
    sub.u64 %d3, %d3, %d2;
    setp.lt.u64 %p, %d3, %d1;
    @%p bra idle;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, %r2, %r3;
    ld.param.u32 %r5, [size];
    setp.ge.u32 %p, %r4, %r5;
    @%p bra done;
    ld.param.u64 %d4, [address];
    cvt.u64.u32 %d5, %r4;
    add.u64 %d4, %d4, %d5;
    ld.u8 %r6, [%d4];
    ld.param.u32 %r7, [number];
    add.u32 %r6, %r6, %r7;
    st.u8 [%d4], %r6;
done:
    ret;
}
"""


class Work(Protocol):
    """What a test does on a device besides copying."""

    def add(self, address: int, size: int, number: int, stream: Stream) -> None:
        """Queue: each of ``size`` bytes there gets ``number`` more, modulo 256, after a while."""

    def current(self) -> int:
        """The context that is current in this thread, or 0."""

    def close(self) -> None:
        """Give back what it has of the device."""


class SimulatedWork:
    def __init__(self, cuda: SimulatedCuda) -> None:
        self._cuda = cuda

    def add(self, address: int, size: int, number: int, stream: Stream) -> None:
        def run() -> None:
            self._cuda.memory_at(address, size)[:] += np.uint8(number)

        self._cuda.queue(stream, run)

    def current(self) -> int:
        return self._cuda.depth

    def close(self) -> None:
        return


class KernelWork:
    """A kernel, by PyCUDA."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        driver: Any = importlib.import_module("pycuda.driver")
        with cuda.current():
            self._module = driver.module_from_buffer(ADD.encode() + b"\0")
            self._function = self._module.get_function("add")
            memory, stream = cuda.allocate(8), cuda.stream()
            self.add(memory.address, 8, 1, stream)  # the driver loads it now, and not during a capture
            stream.synchronize()
            stream.free()
            memory.free()

    def add(self, address: int, size: int, number: int, stream: Any) -> None:
        arguments = (np.uint64(address), np.uint32(size), np.uint32(number), np.uint64(CYCLES))
        blocks = (size + 255) // 256
        self._function(*arguments, block=(256, 1, 1), grid=(blocks, 1), stream=stream.raw)

    def current(self) -> int:
        return current_context()

    def close(self) -> None:
        with self._cuda.current():
            self._function = None
            self._module = None


def current_context() -> int:
    """What the driver itself says is current in this thread, or 0."""
    found = ctypes.c_void_p()
    status = ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(found))
    assert status == 0
    return found.value or 0
