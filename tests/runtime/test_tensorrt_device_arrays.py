"""Arrays that are on the device are read and written where they are, in the order of the caller's stream."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.backends.tensorrt.cuda import CudaError, Event, Graph, Memory, Pinned, Stream
from resnet_runtime.backends.tensorrt.device_arrays import (
    LEGACY_STREAM,
    DeviceArray,
    _DLManagedTensor,
    device_array,
    is_device_array,
)
from resnet_runtime.errors import InputError, UnavailableError
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from tests.runtime.tensorrt_calls import batch, check, made

FLOAT = np.dtype(np.float32)


class Array:
    """The caller's array on the device: filled by work on a stream, not now."""

    def __init__(self, cuda: SimulatedCuda, data: NDArray[np.float32], stream: Stream | None = None) -> None:
        self.cuda, self.shape = cuda, data.shape
        with cuda.current():
            self.memory = cuda.allocate(data.nbytes)
            pinned = cuda.pinned(data.nbytes)
            pinned.array[:] = data.reshape(-1).view(np.uint8)
            cuda.upload(self.memory.address, pinned.array[: data.nbytes], stream or cuda.external(LEGACY_STREAM))
        self.handle = None if stream is None else stream.handle

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self.memory.address, False),
            "version": 3,
            "stream": self.handle,
        }

    def __len__(self) -> int:
        return self.shape[0]


def read(cuda: SimulatedCuda, array: Any, stream: Stream) -> NDArray[np.float32]:
    """What the caller's stream finds there."""
    found = device_array(array, None)
    size = int(np.prod(found.shape)) * 4
    with cuda.current():
        pinned = cuda.pinned(size)
        cuda.download(pinned.array[:size], found.address, stream)
        stream.synchronize()
    return pinned.array[:size].view(np.float32).reshape(found.shape).copy()


def stream_of(cuda: SimulatedCuda) -> Stream:
    with cuda.current():
        return cuda.stream()


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("contexts", [1, 2])
def test_the_answers_are_there_when_the_caller_s_stream_comes_to_them(contexts: int, graphs: bool) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=contexts, graphs=graphs)
    mine = stream_of(cuda)
    for seed in range(4):
        host = batch(3, seed)
        done = cuda.done
        found = backend.start({"input": Array(cuda, host, mine)}, stream=mine.handle).result()
        assert cuda.done == done, "nothing was waited for"
        check({name: read(cuda, item, mine) for name, item in found.items()}, host)
        other = batch(5, seed + 10)
        check(backend.start({"input": other}).result(), other)


def test_the_array_s_own_stream_is_taken_where_none_is_named() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    mine = stream_of(cuda)
    host = batch(2)
    found = backend.start({"input": Array(cuda, host, mine)}).result()
    assert found["logits"].stream == mine.handle
    check({name: read(cuda, item, mine) for name, item in found.items()}, host)
    found = backend.start({"input": Array(cuda, host)}).result()
    assert found["logits"].stream == LEGACY_STREAM
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    check({name: read(cuda, item, legacy) for name, item in found.items()}, host)


def test_outputs_may_be_the_caller_s() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    mine = stream_of(cuda)
    host = batch(2)
    target = Array(cuda, np.zeros((2, 2), np.float32), mine)
    found = backend.start({"input": Array(cuda, host, mine)}, {"logits": target}, mine.handle).result()
    assert found["logits"] is target
    check({name: read(cuda, item, mine) for name, item in found.items()}, host)


def test_calls_on_two_streams_of_one_slot_do_not_disturb_each_other() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    streams = [stream_of(cuda), stream_of(cuda)]
    calls = []
    for seed in range(6):
        stream = streams[seed % 2]
        host = batch(1 + seed, seed)
        calls.append((backend.start({"input": Array(cuda, host, stream)}, stream=stream.handle).result(), host, stream))
    for found, host, stream in reversed(calls):
        check({name: read(cuda, item, stream) for name, item in found.items()}, host)


def test_memory_is_given_back_with_the_last_array_and_by_close() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    mine = stream_of(cuda)
    image = Array(cuda, batch(2), mine)
    before = cuda.alive(Memory)
    found = backend.start({"input": image}, stream=mine.handle).result()
    assert cuda.alive(Memory) == before + 2
    with cuda.current():
        mine.synchronize()
    del found
    gc.collect()
    assert cuda.alive(Memory) == before
    found = backend.start({"input": image}, stream=mine.handle).result()
    backend.close()
    assert [cuda.alive(kind) for kind in (Event, Graph)] == [0, 0]
    assert cuda.alive(Pinned) == 1
    assert cuda.alive(Memory) == 1 + 2, "the caller's input, and the outputs, which are the caller's too"
    check({name: read(cuda, item, mine) for name, item in found.items()}, batch(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"shape": (2, 4, 3)},
            r"the device array for 'input' is float32 \(2, 4, 3\), and the engine's is float32 \(2, 2, 3\)",
        ),
        ({"typestr": "<f2"}, r"is float16 \(2, 2, 3\)"),
        ({"strides": (48, 24, 8)}, "not C-contiguous"),
    ],
)
def test_what_the_engine_does_not_take_is_refused(change: dict[str, Any], said: str) -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    image = Array(cuda, batch(2))
    interface = image.__cuda_array_interface__ | change

    class Changed:
        __cuda_array_interface__ = interface

        def __len__(self) -> int:
            return 2

    with pytest.raises(InputError, match=said):
        backend.start({"input": Changed()})
    host = batch(1)
    check(backend.start({"input": host}).result(), host)


def test_without_cuda_bindings_device_arrays_are_refused() -> None:
    cuda = SimulatedCuda(graphs=False)
    backend = made(cuda)
    image = DeviceArray(1, (1, 2, 3), FLOAT, 5, None)
    with pytest.raises(UnavailableError, match="needs cuda-bindings"):
        backend.start({"input": image}, stream=5)


class Capsule:
    """An array that speaks DLPack alone, and counts how often it was given back."""

    def __init__(self, address: int, shape: tuple[int, ...], *, device: int = 2, code: int = 2) -> None:
        self.given_back = 0
        self.asked: list[int] = []
        self._device = device
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._managed = _DLManagedTensor()
        tensor = self._managed.tensor
        tensor.data, tensor.byte_offset = address - 8, 8
        tensor.device_type, tensor.ndim = device, len(shape)
        tensor.code, tensor.bits, tensor.lanes = code, 32, 1
        tensor.shape = ctypes.cast(self._shape, ctypes.POINTER(ctypes.c_int64))

        def give_back(pointer: object) -> None:
            self.given_back += 1

        self._managed.deleter = type(self._managed.deleter)(give_back)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, *, stream: int) -> object:
        self.asked.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)


def test_dlpack_is_read_and_given_back() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    mine = stream_of(cuda)
    host = batch(2)
    image = Array(cuda, host, mine)
    capsule = Capsule(image.memory.address, host.shape)
    found = backend.start({"input": capsule}, stream=mine.handle).result()
    assert capsule.asked == [mine.handle]
    check({name: read(cuda, item, mine) for name, item in found.items()}, host)
    gc.collect()
    assert capsule.given_back == 1
    with pytest.raises(InputError, match="which no engine takes"):
        device_array(Capsule(image.memory.address, host.shape, code=5), None)


def test_what_is_a_device_array() -> None:
    assert not is_device_array(np.zeros(3))
    assert not is_device_array(Capsule(64, (1,), device=1))
    assert is_device_array(Capsule(64, (1,)))
    assert is_device_array(DeviceArray(1, (1,), FLOAT, None, None))
    assert not is_device_array([1.0])


def test_fewer_than_the_engine_takes_are_refused_on_the_device() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, profiles=((4, 8, 8),))
    with pytest.raises(InputError, match="the engine takes batches from 4 on the device, not of 3: fill them up"):
        backend.start({"input": Array(cuda, batch(3))})
    image = batch(4)
    found = backend.start({"input": Array(cuda, image)}).result()
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    check({name: read(cuda, array, legacy) for name, array in found.items()}, image)


def test_a_call_that_fails_gives_its_slot_back() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    image = batch(2)
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    for _ in range(3):
        given = Array(cuda, image)
        cuda.fail_next(CudaError("CUDA: launch failed for want of resources"))
        with pytest.raises(CudaError, match="for want of resources"):
            backend.start({"input": given})
        found = backend.start({"input": Array(cuda, image)}).result()
        check({name: read(cuda, array, legacy) for name, array in found.items()}, image)


class Elsewhere:
    """An array that says where it is, and nothing else."""

    def __init__(self, kind: int, ordinal: int) -> None:
        self._where = (kind, ordinal)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._where


def test_arrays_that_are_elsewhere_are_refused() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda)
    with pytest.raises(InputError, match="the array is on GPU 1, and the session on GPU 0: move it there"):
        backend.start({"input": Elsewhere(2, 1)})
    given = Array(cuda, batch(2))
    for output in (Elsewhere(1, 0), np.zeros((2, 2), np.float32)):
        with pytest.raises(InputError, match=r"a (Elsewhere|ndarray) is not an array on the GPU, as the batch is"):
            backend.start({"input": given}, {"logits": output})
    image = batch(2, 3)
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    found = backend.start({"input": Array(cuda, image)}).result()
    check({name: read(cuda, array, legacy) for name, array in found.items()}, image)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((0, 2, 3), "the batch on the device holds 0 samples, and one call takes 1 to 8"),
        ((9, 2, 3), "the batch on the device holds 9 samples, and one call takes 1 to 8"),
        ((), r"the device array for 'input' is float32 \(\)"),
        ((2, 3), r"the device array for 'input' is float32 \(2, 3\)"),
    ],
)
def test_a_batch_of_another_shape_is_a_sentence(shape: tuple[int, ...], said: str) -> None:
    cuda = SimulatedCuda()
    array = Array(cuda, batch(8))
    array.shape = shape
    with pytest.raises(InputError, match=said):
        made(cuda).start({"input": array})


def test_stream_0_is_the_stream_that_everything_shares() -> None:
    cuda = SimulatedCuda()
    image = batch(2)
    found = made(cuda).start({"input": Array(cuda, image)}, stream=0).result()
    with cuda.current():
        legacy = cuda.external(LEGACY_STREAM)
    check({name: read(cuda, array, legacy) for name, array in found.items()}, image)


def test_an_output_of_another_shape_is_refused_before_anything_is_queued() -> None:
    cuda = SimulatedCuda()
    backend = made(cuda, contexts=1)
    given = Array(cuda, batch(2))
    done = cuda.done
    with pytest.raises(InputError, match=r"the device array for 'logits' is float32 \(3, 2\)"):
        backend.start({"input": given}, {"logits": Array(cuda, np.zeros((3, 2), np.float32))})
    assert cuda.done == done
