"""A host whose GPU is the simulated device, and a bundle with engines for it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_bench.cases import Case, Subject
from resnet_bench.gpu_host import has_gpu
from resnet_bench.speed import LoopOptions, Row, measure
from resnet_runtime.backends.base import NATIVE, BackendFacts, TensorSpec
from resnet_runtime.backends.tensorrt.cuda import Cuda, Memory
from resnet_runtime.backends.tensorrt.device_arrays import DeviceArray
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.bundle import Bundle
from resnet_runtime.engine_fit import DEVICE as FOR_THIS_GPU
from resnet_runtime.engine_fit import PORTABLE, Host
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Batch, Engine
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor
from tests.runtime.bundles import color_means, record, write_sample

SYSTEM = f"{platform.system().lower()}-{platform.machine().lower()}"
PROFILES = (Batch(smallest=1, optimal=1, largest=1), Batch(smallest=1, optimal=3, largest=4))
QUICK = LoopOptions(rounds=3, visit_seconds=0.0, warmup_seconds=0.0)
NO_GPU = pytest.mark.skipif(has_gpu(), reason="this host has a GPU, and the test is of what is said without one")

Found = dict[str, NDArray[Any]]


def engine_of(builder: str, version: str) -> Engine:
    return Engine(
        id=f"fp32-{builder}",
        variant="fp32",
        file=record("engines/a.engine", b"engine"),
        builder=builder,
        builder_version=version,
        platform=SYSTEM,
        gpu=None,
        compute_capabilities=("8.6",),
        compatibility=PORTABLE if builder == "tensorrt-rtx" else FOR_THIS_GPU,
        profiles=PROFILES,
        verified_on=None,
    )


class SimulatedDevice:
    """``Device`` over the simulated one; its clock counts what is queued."""

    def __init__(self, cuda: SimulatedCuda) -> None:
        self.cuda = cuda
        self.made = cuda.stream()
        self.stream = self.made.handle
        self.kept: list[Memory] = []

    def array(self, values: NDArray[Any]) -> DeviceArray:
        found = self._new(values.shape, values.dtype)
        self.cuda.write(found.address, values.reshape(-1).view(np.uint8))
        return found

    def empty(self, spec: TensorSpec, count: int) -> DeviceArray:
        return self._new((count, *spec.shape), spec.dtype)

    def address(self, array: DeviceArray) -> int:
        return array.address

    def host(self, array: DeviceArray) -> NDArray[Any]:
        self.synchronize()
        size = int(np.prod(array.shape)) * array.dtype.itemsize
        return self.cuda.read(array.address, size).view(array.dtype).reshape(array.shape)

    def synchronize(self) -> None:
        self.made.synchronize()

    def seconds(self, queue: Callable[[], None], calls: int) -> float:
        before = self.cuda.done
        for _ in range(calls):
            queue()
        self.synchronize()
        return (self.cuda.done - before) / calls

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        self.kept.append(self.cuda.allocate(int(np.prod(shape)) * dtype.itemsize))
        return DeviceArray(self.kept[-1].address, shape, dtype, None, None)

    def free(self) -> None:
        for memory in self.kept:
            memory.free()
        self.made.free()


class RuntimeConfig:
    """An ``IRuntimeConfig`` of TensorRT-RTX."""

    cuda_graph_strategy = "disabled"

    def create_runtime_cache(self) -> Any:
        return SimpleNamespace(deserialize=lambda data: False, serialize=lambda: b"")

    def set_runtime_cache(self, cache: Any) -> bool:
        return True


class AnEngine(SimulatedEngine):
    """Of either library; it remembers what its contexts were made with."""

    strategies: list[str]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig | None = None) -> Any:
        self.strategies.append("default" if config is None else config.cuda_graph_strategy)
        return super().create_execution_context()


class SimulatedGpu:
    """``GpuHost`` over the simulated device."""

    def __init__(self, builder: str = "tensorrt", version: str = "10.9", *, function: Any = color_means) -> None:
        self.simulated = SimulatedCuda()
        self.builder, self.version, self.function = builder, version, function
        self.strategies: list[str] = []
        with self.simulated.current():
            self.made = SimulatedDevice(self.simulated)

    def facts(self) -> BackendFacts:
        host = Host(self.builder, self.version, SYSTEM, "Simulated GPU", "8.6")
        return BackendFacts("tensorrt", self.version, precisions={"fp32": NATIVE}, scheme="tensorrt", hosts=(host,))

    def library(self, name: str) -> Library:
        assert name == self.builder
        strategies = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph", DISABLED="disabled")
        module = SimpleNamespace(
            __version__=self.version,
            Runtime=self._runtime,
            CudaGraphStrategy=strategies,
            ComputeCapability=SimpleNamespace(__members__={"SM86": 1}),
        )
        made = Library(name, module)
        object.__setattr__(made, "logger", lambda messages: messages)
        return made

    def _runtime(self, logger: list[str]) -> Any:
        def deserialize(data: bytes) -> Any:
            if data != b"engine":
                logger.append("error: it is damaged")
                return None
            made = AnEngine(
                self.simulated,
                lambda found: self.function(found["images"]),
                (SimulatedTensor("images", "float32", (3, 8, 8)),),
                (SimulatedTensor("logits", "float32", (4,)),),
                [(profile.smallest, profile.optimal, profile.largest) for profile in PROFILES],
            )
            made.strategies = self.strategies
            return made

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def cuda(self) -> Cuda:
        return self.simulated

    def device(self) -> SimulatedDevice:
        return self.made


def subject_of(folder: Path, *engines: Engine) -> Subject:
    bundle = Bundle.open(write_sample(folder / "a.bundle", engines=engines, files={"engines/a.engine": b"engine"}))
    return Subject(bundle=bundle, check=bundle.check_data())


def measured(subject: Subject, cases: list[Case], host: SimulatedGpu) -> list[Row]:
    with host.simulated.current():  # as PyTorch leaves it
        return measure(cases, subject.check, QUICK, rest=lambda: None)


def only(cases: list[Case]) -> tuple[str, str]:
    """The name of the one case, and what it says."""
    (case,) = cases
    with pytest.raises(UnavailableError) as caught:
        case.prepare(np.zeros(1))
    return case.label.name, caught.value.message
