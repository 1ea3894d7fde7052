"""The GPU of this host, as the cases of ``gpu_cases.py`` and ``gpu_peers.py`` take it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from resnet_runtime.backends import facts_of
from resnet_runtime.backends.base import BackendFacts, TensorSpec
from resnet_runtime.backends.tensorrt.cuda import Cuda
from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.backends.tensorrt.pycuda_device import cuda_device, device_info
from resnet_runtime.errors import UnavailableError

from .cases import Array


class ThisGpu:
    """The first GPU of this host."""

    def facts(self) -> BackendFacts:
        """What the backend ``tensorrt`` is here."""
        return facts_of("tensorrt")

    def library(self, name: str) -> Library:
        """Import it."""
        return library_named(name)

    def cuda(self) -> Cuda:
        """Its primary context, which PyTorch uses too."""
        return cuda_device()

    def device(self) -> TorchDevice:
        """Made once."""
        return _torch_device()

    def describe(self) -> dict[str, str]:
        """What a record says of it; empty where there is none."""
        torch = _torch()
        found: dict[str, str] = {}
        with suppress(OSError, IndexError):
            found["driver"] = _DRIVER.read_text().splitlines()[0]
        try:
            info = device_info()
            found |= {"gpu": info.name, "compute_capability": info.capability, "driver_runs_cuda": info.driver}
        except UnavailableError:
            if torch.cuda.is_available():
                major, minor = torch.cuda.get_device_capability(0)
                found |= {"gpu": torch.cuda.get_device_name(0), "compute_capability": f"{major}.{minor}"}
        if torch.cuda.is_available():
            found |= {"torch_cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        return found


def has_gpu() -> bool:
    """Whether PyCUDA or PyTorch finds one."""
    try:
        device_info()
    except UnavailableError:
        return bool(_torch().cuda.is_available())
    return True


class TorchDevice:
    """PyTorch's arrays and events, on a stream of its own that is PyTorch's current one from now on.

    Raises:
        UnavailableError: PyTorch cannot use a GPU here.

    Attributes:
        torch: the module.
        place: where its tensors are, as PyTorch names it.
    """

    place = "cuda"

    def __init__(self) -> None:
        torch = _torch()
        if not torch.cuda.is_available():
            raise UnavailableError(
                f"PyTorch {torch.__version__} finds no GPU that it can use: install a build for CUDA, see pytorch.org"
            )
        self.torch = torch
        torch.backends.cudnn.benchmark = True  # as PyTorch's tuning guide says for convolutions
        self._stream = torch.cuda.Stream()
        torch.cuda.set_stream(self._stream)

    @property
    def stream(self) -> int:
        """Its handle."""
        return int(self._stream.cuda_stream)

    def array(self, values: Array) -> Any:
        """A tensor."""
        found = self.torch.from_numpy(values).to(self.place)
        self.synchronize()
        return found

    def empty(self, spec: TensorSpec, count: int) -> Any:
        """A tensor."""
        return self.torch.empty((count, *spec.shape), dtype=getattr(self.torch, spec.dtype.name), device=self.place)

    def pinned(self, values: Array) -> Any:
        """A tensor on the host that the device copies by itself."""
        return self.torch.from_numpy(values).pin_memory()

    @property
    def fp32(self) -> str:
        """What FP32 is: PyTorch computes convolutions in TF32 by default where the GPU has it."""
        tf32 = self.torch.backends.cudnn.allow_tf32 and self.torch.cuda.get_device_capability(0) >= (8, 0)
        return "fp32, convolutions in TF32 as is its default" if tf32 else "fp32"

    def address(self, array: Any) -> int:
        """Of a tensor's first value."""
        return int(array.data_ptr())

    def host(self, array: Any) -> Array:
        """A tensor's values."""
        return np.asarray(array.cpu().numpy())

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def seconds(self, queue: Callable[[], None], calls: int) -> float:
        """Between two events."""
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(self._stream)
        for _ in range(calls):
            queue()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls  # it is in milliseconds


def _torch() -> Any:
    """Untyped: much of its CUDA interface has no annotations."""
    return importlib.import_module("torch")


_DRIVER = Path("/proc/driver/nvidia/version")


@functools.cache
def _torch_device() -> TorchDevice:
    return TorchDevice()
