"""A TensorRT backend on the simulated device, a batch for it, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends.base import Signature, TensorSpec
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import Event, Graph, Memory, Pinned, Stream
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor

SHAPE = (2, 3)
KINDS = (Memory, Pinned, Event, Stream, Graph)
LARGEST = 8


def answer(found: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    image = found["input"]
    total = image.sum(axis=(1, 2), dtype=np.float32)
    return {"logits": np.stack([total, -total], axis=1), "embedding": image.reshape(len(image), -1)[:, :3] * 2}


SIGNATURE = Signature(
    TensorSpec("input", np.dtype(np.float32), SHAPE),
    (TensorSpec("logits", np.dtype(np.float32), (2,)), TensorSpec("embedding", np.dtype(np.float32), (3,))),
    largest_batch=LARGEST,
)
INPUTS = (SimulatedTensor("input", "float32", SHAPE),)
OUTPUTS = (SimulatedTensor("logits", "float32", (2,)), SimulatedTensor("embedding", "float32", (3,)))


def made(
    cuda: SimulatedCuda,
    *,
    contexts: int = 4,
    graphs: bool = True,
    profiles: tuple[tuple[int, int, int], ...] = ((1, 4, LARGEST),),
    function: Callable[..., dict[str, NDArray[np.float32]]] = answer,
    room_for: int = 100,
) -> TensorRTBackend:
    engine = SimulatedEngine(cuda, function, INPUTS, OUTPUTS, profiles, contexts=room_for)
    return TensorRTBackend(engine, cuda, SIGNATURE, "simulated", contexts=contexts, graphs=graphs)


def batch(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


def check(found: dict[str, NDArray[np.float32]], image: NDArray[np.float32]) -> None:
    expected = answer({"input": image})
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def freed(cuda: SimulatedCuda) -> bool:
    return all(cuda.alive(kind) == 0 for kind in KINDS)
