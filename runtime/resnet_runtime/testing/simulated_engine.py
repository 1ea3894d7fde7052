"""A TensorRT engine on the simulated device: a function, behind the methods of TensorRT's classes that are used."""

# ruff: noqa: D102  TensorRT's documentation says what its methods do

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .simulated_cuda import SimulatedCuda


@dataclass(frozen=True)
class SimulatedTensor:
    """An input or an output of an engine: name, NumPy dtype, shape without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class SimulatedEngine:
    """An ``ICudaEngine`` over a function, with the methods that the backend uses.

    Args:
        cuda: the device.
        function: from the inputs by name, each (N, ...), to the outputs.
        inputs, outputs: what it takes and gives.
        profiles: (smallest, optimal, largest) batch sizes.
        contexts: how many execution contexts there is memory for.
    """

    def __init__(
        self,
        cuda: SimulatedCuda,
        function: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
        inputs: Sequence[SimulatedTensor],
        outputs: Sequence[SimulatedTensor],
        profiles: Sequence[tuple[int, int, int]] = ((1, 4, 8),),
        contexts: int = 100,
    ) -> None:
        self.cuda = cuda
        self.function = function
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.profiles = tuple(profiles)
        self._contexts = contexts

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return (*self.inputs, *self.outputs)[index].name

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if any(item.name == name for item in self.inputs) else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"float32": "FLOAT", "float16": "HALF", "uint8": "UINT8"}
        return SimpleNamespace(name=names[self._tensor(name).dtype])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self._tensor(name).shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self._tensor(name).shape) for size in self.profiles[profile]]

    def create_execution_context(self) -> SimulatedContext | None:
        self.cuda.check()
        if self._contexts == 0:
            return None
        self._contexts -= 1
        return SimulatedContext(self)

    def _tensor(self, name: str) -> SimulatedTensor:
        return next(item for item in (*self.inputs, *self.outputs) if item.name == name)


class SimulatedContext:
    """An ``IExecutionContext``: two runs of one that are not in each other's order break the device."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._settled: tuple[int, dict[str, tuple[int, ...]]] | None = None
        self._queued = 0
        self._ran = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._engine.cuda.check()
        if not 0 <= index < len(self._engine.profiles):
            return False
        self._profile = index
        self._shapes = {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine.profiles[self._profile]
        if not smallest <= shape[0] <= largest:
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda, engine = self._engine.cuda, self._engine
        cuda.check()
        wanted = {tensor.name for tensor in (*engine.inputs, *engine.outputs)}
        if set(self._shapes) != {tensor.name for tensor in engine.inputs} or not wanted <= set(self._addresses):
            return False
        target = cuda.stream_of(stream)
        state = (self._profile, dict(self._shapes))
        captured = cuda.capturing(stream)
        if captured and self._settled != state:
            return False  # what a new shape changes is done by the first run, and cannot be captured
        self._settled = state
        addresses = dict(self._addresses)
        shapes = dict(self._shapes)
        if captured:
            cuda.queue(target, lambda: self._compute(shapes, addresses))
            return True
        self._queued += 1
        ticket = self._queued

        def run() -> None:
            if ticket != self._ran + 1:
                cuda.breaks("an execution context was run before what was queued on it earlier was done")
            self._ran = ticket
            self._compute(shapes, addresses)

        cuda.queue(target, run)
        return True

    def _compute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        cuda, engine = self._engine.cuda, self._engine
        found = {}
        for tensor in engine.inputs:
            shape = shapes[tensor.name]
            size = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
            data = cuda.memory_at(addresses[tensor.name], size)
            found[tensor.name] = data.view(tensor.dtype).reshape(shape)
        answers = engine.function(found)
        for tensor in engine.outputs:
            data = np.ascontiguousarray(answers[tensor.name], tensor.dtype)
            cuda.memory_at(addresses[tensor.name], data.nbytes)[:] = data.reshape(-1).view(np.uint8)
