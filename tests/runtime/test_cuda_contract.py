"""What ``backends.tensorrt.cuda.Cuda`` promises, kept by the simulated device and by PyCUDA on a GPU."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnet_runtime.backends.tensorrt.cuda import (
    CudaError,
    OutOfMemoryError,
)
from tests.runtime.contract_device import (
    ABSURD,
    SIZE,
    Device,
    device,
    free,
    needs_graphs,
    ramp,
    real,
    simulated,
)
from tests.runtime.threads import in_threads

__all__ = ["device", "needs_graphs"]  # fixtures


def test_the_device_says_what_it_is(device: Device) -> None:
    info = device.cuda.info
    assert info.name
    assert re.fullmatch(r"\d+\.\d", info.capability)
    assert re.fullmatch(r"\d+\.\d", info.driver)


def test_the_context_is_current_inside_and_only_there(device: Device) -> None:
    cuda, work = device.cuda, device.work

    def check(_: int) -> None:
        before = work.current()
        with cuda.current():
            inside = work.current()
            assert inside != 0
            with cuda.current():
                assert work.current() != 0
            assert work.current() == inside
        assert work.current() == before
        with pytest.raises(KeyError), cuda.current():
            raise KeyError("of the caller's")
        assert work.current() == before

    check(0)
    in_threads(3, check)
    with cuda.current():
        in_threads(3, check)


@pytest.mark.parametrize("size", [1, 511, 4096, 100_001])
def test_what_is_copied_there_and_back_is_the_same(device: Device, size: int) -> None:
    cuda, data = device.cuda, ramp(size, size)
    with cuda.current():
        stream = cuda.stream()
        memory, pinned = device.uploaded(data, stream)
        np.testing.assert_array_equal(device.read(memory, size, stream), data)
        free(memory, pinned, stream)


def test_copies_touch_only_what_they_are_asked_for(device: Device) -> None:
    cuda, data, more = device.cuda, ramp(1), ramp(2, 100)
    with cuda.current():
        stream = cuda.stream()
        memory, first = device.uploaded(data, stream)
        second, back = cuda.pinned(300), cuda.pinned(SIZE)
        second.array[:] = 0
        second.array[50:150] = more
        cuda.upload(memory.address + 200, second.array[50:150], stream)
        np.testing.assert_array_equal(device.read(memory, SIZE, stream), np.concatenate([data[:200], more, data[300:]]))
        back.array[:] = 7
        cuda.download(back.array[10:60], memory.address + 220, stream)
        stream.synchronize()
        np.testing.assert_array_equal(back.array[10:60], more[20:70])
        assert set(back.array[:10]) | set(back.array[60:SIZE]) == {7}
        free(memory, first, second, back, stream)


def test_a_stream_does_its_work_in_order(device: Device) -> None:
    cuda, work, data = device.cuda, device.work, ramp(3)
    with cuda.current():
        stream = cuda.stream()
        memory, pinned = device.uploaded(data, stream)
        early, late = cuda.pinned(SIZE), cuda.pinned(SIZE)
        work.add(memory.address, SIZE, 1, stream)
        cuda.download(early.array, memory.address, stream)
        work.add(memory.address, SIZE // 2, 10, stream)
        cuda.download(late.array, memory.address, stream)
        stream.synchronize()
        np.testing.assert_array_equal(early.array, data + np.uint8(1))
        np.testing.assert_array_equal(late.array[: SIZE // 2], data[: SIZE // 2] + np.uint8(11))
        np.testing.assert_array_equal(late.array[SIZE // 2 :], data[SIZE // 2 :] + np.uint8(1))
        free(memory, pinned, early, late, stream)


def test_a_stream_that_waits_for_an_event_comes_after_it(device: Device) -> None:
    cuda, work, data = device.cuda, device.work, ramp(4)
    with cuda.current():
        first, second, event = cuda.stream(), cuda.stream(), cuda.event()
        memory, pinned = device.uploaded(data, first)
        work.add(memory.address, SIZE, 5, first)
        event.record(first)
        second.wait(event)
        np.testing.assert_array_equal(device.read(memory, SIZE, second), data + np.uint8(5))
        first.synchronize()
        free(memory, pinned, event, first, second)


def test_what_waits_for_an_event_waits_for_what_it_was_then(device: Device) -> None:
    """The event is recorded anew in each stream, freed at the end, and still orders all three."""
    cuda, work, data = device.cuda, device.work, ramp(5)
    with cuda.current():
        streams, event = [cuda.stream() for _ in range(3)], cuda.event()
        memory, pinned = device.uploaded(data, streams[0])
        for stream, after in itertools.pairwise(streams):
            work.add(memory.address, SIZE, 3, stream)
            event.record(stream)
            after.wait(event)
        event.free()
        work.add(memory.address, SIZE, 3, streams[2])
        np.testing.assert_array_equal(device.read(memory, SIZE, streams[2]), data + np.uint8(9))
        for stream in streams:
            stream.synchronize()
        free(memory, pinned, *streams)


def test_the_host_waits_for_an_event(device: Device) -> None:
    cuda, work, data = device.cuda, device.work, ramp(6)
    with cuda.current():
        stream, event, back = cuda.stream(), cuda.event(), cuda.pinned(SIZE)
        memory, pinned = device.uploaded(data, stream)
        work.add(memory.address, SIZE, 2, stream)
        cuda.download(back.array, memory.address, stream)
        event.record(stream)
        work.add(memory.address, SIZE, 2, stream)
        event.synchronize()
        np.testing.assert_array_equal(back.array, data + np.uint8(2))
        stream.synchronize()
        free(memory, pinned, back, event, stream)


def test_an_event_that_was_never_recorded_is_done(device: Device) -> None:
    cuda, data = device.cuda, ramp(7)
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()
        event.synchronize()
        stream.wait(event)
        memory, pinned = device.uploaded(data, stream)
        np.testing.assert_array_equal(device.read(memory, SIZE, stream), data)
        free(memory, pinned, event, stream)


@pytest.mark.usefixtures("needs_graphs")
def test_a_stream_of_another_library_is_known_by_its_handle(device: Device) -> None:
    cuda, work, data = device.cuda, device.work, ramp(8)
    with cuda.current():
        theirs, mine, event, back = cuda.stream(), cuda.stream(), cuda.event(), cuda.pinned(SIZE)
        known = cuda.external(theirs.handle)
        assert known.handle == theirs.handle != mine.handle
        memory, pinned = device.uploaded(data, theirs)
        work.add(memory.address, SIZE, 1, theirs)
        event.record(known)
        mine.wait(event)
        work.add(memory.address, SIZE, 1, mine)
        event.record(mine)
        known.wait(event)
        cuda.download(back.array, memory.address, theirs)
        known.synchronize()
        np.testing.assert_array_equal(back.array, data + np.uint8(2))
        known.free()
        work.add(memory.address, SIZE, 1, theirs)
        np.testing.assert_array_equal(device.read(memory, SIZE, theirs), data + np.uint8(3))
        mine.synchronize()
        free(memory, pinned, back, event, theirs, mine)


def test_memory_that_is_freed_is_there_again(device: Device) -> None:
    cuda = device.cuda
    with cuda.current():
        for _ in range(device.rounds):
            memory = cuda.allocate(device.block)
            assert memory.address != 0
            memory.free()
        for _ in range(device.rounds):
            pinned = cuda.pinned(2**18)
            assert pinned.array.shape == (2**18,)
            assert pinned.array.dtype == np.uint8
            pinned.free()


def test_out_of_memory_breaks_nothing(device: Device) -> None:
    cuda, data = device.cuda, ramp(11)
    with cuda.current():
        stream = cuda.stream()
        memory, pinned = device.uploaded(data, stream)
        for allocate in (cuda.allocate, cuda.pinned):
            with pytest.raises(OutOfMemoryError):
                allocate(ABSURD)
        cuda.synchronize()
        device.work.add(memory.address, SIZE, 1, stream)
        np.testing.assert_array_equal(device.read(memory, SIZE, stream), data + np.uint8(1))
        free(memory, pinned, stream)


def test_synchronize_waits_for_every_stream(device: Device) -> None:
    cuda, data = device.cuda, ramp(12)
    with cuda.current():
        streams, targets = [cuda.stream() for _ in range(3)], [cuda.pinned(SIZE) for _ in range(3)]
        kept = [device.uploaded(data, stream) for stream in streams]
        for number, (stream, target, (memory, _)) in enumerate(zip(streams, targets, kept, strict=True)):
            device.work.add(memory.address, SIZE, number, stream)
            cuda.download(target.array, memory.address, stream)
        cuda.synchronize()
        for number, target in enumerate(targets):
            np.testing.assert_array_equal(target.array, data + np.uint8(number))
        for memory, pinned in kept:
            free(memory, pinned)
        free(*streams, *targets)


def test_eight_threads_have_streams_of_their_own(device: Device) -> None:
    cuda, work = device.cuda, device.work

    def run(index: int) -> None:
        with cuda.current():
            stream, event, back = cuda.stream(), cuda.event(), cuda.pinned(SIZE)
            for round_ in range(20):
                data = ramp(100 * index + round_)
                memory, pinned = device.uploaded(data, stream)
                work.add(memory.address, SIZE, index, stream)
                cuda.download(back.array, memory.address, stream)
                event.record(stream)
                event.synchronize()
                np.testing.assert_array_equal(back.array, data + np.uint8(index))
                stream.synchronize()
                free(memory, pinned)
            free(back, event, stream)

    in_threads(8, run)


def break_context(device: Device) -> list[str]:
    """What a device says once a kernel has written to an address that is not its own."""
    cuda, said = device.cuda, []
    with cuda.current():
        stream = cuda.stream()
        device.work.add(64, SIZE, 1, stream)
        for ask in (stream.synchronize, cuda.synchronize, cuda.synchronize):
            try:
                ask()
            except CudaError as error:
                said.append(f"{type(error).__name__}: {error.message}")
            else:
                said.append("nothing")
    cuda.close()
    return said


BROKEN = r"CudaError: CUDA: .*illegal (memory access|address)"


def test_a_context_that_broke_says_so_ever_after() -> None:
    for line in break_context(simulated()):
        assert re.match(BROKEN, line)


@pytest.mark.gpu
def test_a_real_context_that_broke_says_so_ever_after() -> None:
    """In a process of its own, which can do nothing on the device afterwards, and has to end in peace."""
    code = (
        "from tests.runtime.test_cuda_contract import break_context, real\n"
        "print(*break_context(real()), sep='\\n', flush=True)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert re.match(BROKEN, line)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_context_that_another_retained_stays(elsewhere: bool) -> None:
    """One of two is closed, from the thread that made it or from another; the other's memory is as it was."""
    first, second, data = real(), real(), ramp(13)
    before = first.work.current()
    with second.cuda.current():
        stream = second.cuda.stream()
        memory, pinned = second.uploaded(data, stream)
    with first.cuda.current():
        left = first.cuda.allocate(SIZE)  # freed after close, as an answer that the caller holds

    def close(_: int) -> None:
        found = first.work.current()
        first.work.close()
        first.cuda.close()
        assert first.work.current() == found

    if elsewhere:
        in_threads(1, close)
    else:
        close(0)
    assert first.work.current() == before
    with first.cuda.current():
        left.free()
    with second.cuda.current():
        np.testing.assert_array_equal(second.read(memory, SIZE, stream), data)
        free(memory, pinned, stream)
    second.work.close()
    second.cuda.close()
    assert first.work.current() == before
