"""A host with TensorRT for tests, on the simulated device, and bundles with engines for it. Needs the onnx package."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.backends.base import NATIVE, Backend, BackendFacts, Signature
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.backends.tensorrt.loading import backend_from_engine, host_from_device
from resnet_runtime.engine_fit import DEVICE, Host
from resnet_runtime.manifest import Batch, Engine, Limits, Variant
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor

from .bundles import record, sample_gate
from .graphs import answers, linear_graph, write_linear

BATCH = Batch(smallest=1, optimal=2, largest=2)
TIGHT = Limits(max_error=1e-5, mean_error=1e-6, top1_agreement=1.0)
INFO = DeviceInfo("NVIDIA L4", "8.9", "13.0")


class Gpu(SimulatedCuda):
    """A simulated device of a given name."""

    def __init__(self, info: DeviceInfo) -> None:
        super().__init__()
        self._named = info

    @property
    def info(self) -> DeviceInfo:
        return self._named


class TensorRTHost:
    """A host whose engines do as their bytes say: ``right``, ``wrong``, ``damaged`` (not loaded) or ``single`` (takes
    one image at a time).

    Attributes:
        facts: of its backend.
        opened: the ids of the engines that were to be loaded, in order.
        batches: the sizes of the batches that the engines computed, in order.
        devices: one for each of ``opened``.
    """

    def __init__(self, info: DeviceInfo = INFO, *, version: str = "10.13.2") -> None:
        self.info = info
        self.opened: list[str] = []
        self.batches: list[int] = []
        self.devices: list[Gpu] = []
        self._version = version
        computed = dict.fromkeys(("fp32", "fp16", "int8"), NATIVE)
        self.facts = BackendFacts("tensorrt", version, precisions=computed, scheme="tensorrt", hosts=(self.host,))

    @property
    def host(self) -> Host:
        """What engines run on."""
        return host_from_device(self._library(None), self.info)

    def open(self, name: str, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
        """As ``backends.open_engine``."""
        assert name == "tensorrt"
        self.opened.append(engine.id)
        self.devices.append(Gpu(self.info))
        cuda = self.devices[-1]
        return backend_from_engine(engine, data, signature, precision, self._library(cuda), cuda)

    def _library(self, cuda: SimulatedCuda | None) -> Library:
        module = ModuleType("tensorrt")
        module.__version__ = self._version  # type: ignore[attr-defined]
        module.ILogger = type("ILogger", (), {"WARNING": 2})  # type: ignore[attr-defined]

        def runtime(logger: Any) -> Any:
            return SimpleNamespace(deserialize_cuda_engine=lambda data: self._engine(cuda, data))

        module.Runtime = runtime  # type: ignore[attr-defined]
        return Library("tensorrt", module)

    def _engine(self, cuda: SimulatedCuda | None, data: bytes) -> SimulatedEngine | None:
        kind = data.decode().rpartition(" ")[2]
        if kind == "damaged":
            return None
        assert cuda is not None

        def compute(found: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            self.batches.append(len(found["images"]))
            answered = answers(found["images"])
            if kind == "wrong":
                answered["logits"][:, 1] += 0.25
            return answered

        inputs = [SimulatedTensor("images", "float32", (3, 8, 8))]
        outputs = [SimulatedTensor("logits", "float32", (4,)), SimulatedTensor("colors", "float32", (3,))]
        profiles = ((1, 1, 1),) if kind == "single" else ((1, 2, 2),)
        return SimulatedEngine(cuda, compute, inputs, outputs, profiles)


def content(name: str, kind: str) -> bytes:
    """The bytes of the engine ``name``."""
    return f"{name} is {kind}".encode()


def engine_of(name: str, variant: str, kind: str, **changes: Any) -> Engine:
    """The record of an engine that ``TensorRTHost`` runs."""
    made = Engine(
        id=name,
        variant=variant,
        file=record(f"engines/{name}.engine", content(name, kind)),
        builder="tensorrt",
        builder_version="10.13.2",
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        gpu=None,
        compute_capabilities=("8.6", "8.9"),
        compatibility=DEVICE,
        profiles=(BATCH,),
        verified_on=None,
    )
    return dataclasses.replace(made, **changes)


def variant_of(name: str, limits: Limits = TIGHT, **changes: Any) -> Variant:
    """A variant of ``linear_graph``; its id begins with its precision."""
    precision, _, scheme = name.partition("-")
    file = record("model.fp32.onnx", linear_graph())
    made = Variant(id=name, precision=precision, scheme=scheme or None, file=file, gate=sample_gate(limits=limits))
    return dataclasses.replace(made, **changes)


def write_engines(
    path: Path, *engines: tuple[Engine, str], variants: tuple[Variant, ...] = (variant_of("fp32"), variant_of("fp16"))
) -> Path:
    """The bundle of ``write_linear`` with engines, each of the kind that is given with it."""
    write_linear(path, batch=BATCH, variants=variants, engines=tuple(engine for engine, _ in engines))
    for engine, kind in engines:
        file = path / engine.file.path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content(engine.id, kind))
    return path
