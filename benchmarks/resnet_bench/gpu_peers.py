"""The peers on a GPU: PyTorch in four ways, and ONNX Runtime's CUDA provider.

What each does is what its own documentation tells a user to do. PyTorch is imported when a case is prepared.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from resnet_runtime.backends.base import signature_from_manifest
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Variant

from .cases import (
    NEEDS_MODEL,
    WITH_TRANSFERS,
    WITHOUT_TRANSFERS,
    Answers,
    Array,
    Case,
    Label,
    MissingCase,
    Subject,
    peer_name,
)
from .gpu_cases import Device, GpuHost, Peer
from .gpu_host import TorchDevice

if TYPE_CHECKING:
    from .eager_network import Network


Runner = Callable[[], Any]
"""Computes what stands in the input tensor that it was made for."""


class TorchCase:
    """PyTorch on the GPU.

    Args:
        label: of the row.
        network: on the CPU; a copy of it is used.
        host: the GPU.
        made: from torch, the network on the GPU and its input tensor to what runs it.
        half: whether it computes in FP16 and channels last, as PyTorch's tuning guide says for Tensor Cores.
        says: of how it is run.
    """

    def __init__(
        self,
        label: Label,
        network: Network,
        host: GpuHost,
        made: Callable[[Any, Any, Any], Runner],
        half: bool,
        says: str,
    ) -> None:
        self.label = label
        self._network = network
        self._host = host
        self._made = made
        self._half = half
        self._says = says
        self._run: Runner | None = None
        self._given: Any = None
        self._pinned: Any = None

    def prepare(self, inputs: Array) -> str:
        """Copy the network and the inputs to the GPU, compile or capture."""
        device = self._host.device()
        assert isinstance(device, TorchDevice)
        self._device, self._torch = device, device.torch
        torch = self._torch
        network: Any = copy.deepcopy(self._network.module).to(device.place).requires_grad_(False)
        network = network.half().to(memory_format=torch.channels_last) if self._half else network
        self._given = self._tensor(inputs)
        self._pinned = device.pinned(inputs)
        self._inputs = inputs
        self._run = self._made(torch, network, self._given)
        device.synchronize()
        return f"PyTorch {torch.__version__}, {'fp16, channels last' if self._half else device.fp32}, {self._says}"

    def call(self) -> None:
        """Run and wait; with transfers, from the host's array to the host's answers."""
        if self.label.timed == WITH_TRANSFERS:
            self._pinned.copy_(self._torch.from_numpy(self._inputs))
            self._given.copy_(self._pinned, non_blocking=True)
            self._on_host(self._queue())
        else:
            self._queue()
            self._device.synchronize()

    def answers(self, inputs: Array) -> Answers:
        """Copied to the host. The input tensor is the same, since a graph knows its address."""
        before = self._given.clone()
        self._given.copy_(self._tensor(inputs))
        try:
            return self._on_host(self._queue())
        finally:
            self._given.copy_(before)

    def device_seconds(self, calls: int) -> float | None:
        """By the events of the stream, where nothing is transferred."""
        return None if self.label.timed == WITH_TRANSFERS else self._device.seconds(self._queue, calls)

    def close(self) -> None:
        """Drop what is on the GPU, and what was compiled for this batch."""
        ran, self._run, self._given, self._pinned = self._run, None, None, None
        if ran is not None:
            del ran
            if self._made is compiled:
                self._torch.compiler.reset()
            self._torch.cuda.empty_cache()

    def _queue(self) -> Any:
        assert self._run is not None
        return self._run()

    def _on_host(self, found: Any) -> Answers:
        from resnet_export.trace import named_outputs

        return {name: np.asarray(tensor.float().cpu().numpy()) for name, tensor in named_outputs(found).items()}

    def _tensor(self, inputs: Array) -> Any:
        """What the network takes: integers stay so; of a module that computes in FP16 the images are FP16."""
        found = self._device.array(inputs)
        if self._half and found.is_floating_point():
            return found.half().contiguous(memory_format=self._torch.channels_last)
        return found


def eager(torch: Any, network: Any, given: Any) -> Runner:
    """The module as it is."""

    def run() -> Any:
        with torch.inference_mode():
            return network(given)

    return run


def compiled(torch: Any, network: Any, given: Any) -> Runner:
    """``torch.compile`` with ``max-autotune``, which uses CUDA graphs too; of one shape, so that none is dynamic.

    Source: the docstring of ``torch.compile``.
    """
    run = eager(torch, torch.compile(network, mode="max-autotune", dynamic=False), given)
    for _ in range(3):  # it compiles, then records its graph, then replays it
        run()
    return run


@dataclass(frozen=True)
class GraphReplay:
    """Launches a graph, and keeps what it reads and writes.

    Attributes:
        graph: a ``torch.cuda.CUDAGraph``.
        found: the outputs that were captured.
        run: what was captured. A graph knows addresses alone: without this its weights would be freed.
    """

    graph: Any
    found: Any
    run: Runner

    def __call__(self) -> Any:
        """The captured outputs, which the next launch writes again."""
        self.graph.replay()
        return self.found


def graphed(torch: Any, network: Any, given: Any) -> Runner:
    """The whole network captured as a CUDA graph.

    Source: PyTorch's "CUDA semantics", "Whole-network capture": warmed up on a side stream first.
    """
    run = eager(torch, network, given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()

    return GraphReplay(graph, found, run)


class OnnxRuntimeCudaCase:
    """ONNX Runtime's CUDA provider: ``run`` with transfers, an I/O binding on the device without.

    Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html and "I/O Binding".

    Args:
        label: of the row.
        bundle: whose file it runs.
        variant: of the bundle.
        host: the GPU.
    """

    def __init__(self, label: Label, bundle: Bundle, variant: Variant, host: GpuHost) -> None:
        self.label = label
        self._bundle = bundle
        self._variant = variant
        self._host = host
        self._session: Any = None
        self._binding: Any = None
        self._device: Device | None = None
        self._arrays: dict[str, Any] = {}

    def prepare(self, inputs: Array) -> str:
        """Open a session, and see that the provider was loaded: where it cannot be, the library takes the CPU."""
        try:
            import onnxruntime
        except ImportError:
            raise UnavailableError("onnxruntime is not installed here: pip install onnxruntime-gpu") from None
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UnavailableError(
                f"ONNX Runtime {onnxruntime.__version__} here has no CUDA provider: pip install onnxruntime-gpu"
            )
        settings: dict[str, str] = {"device_id": "0"}
        if self.label.timed == WITHOUT_TRANSFERS:
            self._device = self._host.device()
            settings["user_compute_stream"] = str(self._device.stream)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        data = self._bundle.read(self._variant.file)
        self._session = onnxruntime.InferenceSession(data, options, providers=[("CUDAExecutionProvider", settings)])
        if "CUDAExecutionProvider" not in self._session.get_providers():
            raise UnavailableError("ONNX Runtime cannot load its CUDA provider here, and would take the CPU")
        self._inputs = inputs
        self._bind(inputs)
        return f"ONNX Runtime {onnxruntime.__version__}, {self._variant.precision}, CUDA provider"

    def call(self) -> None:
        """Either waits."""
        if self._binding is None:
            self.answers(self._inputs)
        else:
            self._queue()
            assert self._device is not None
            self._device.synchronize()

    def answers(self, inputs: Array) -> Answers:
        """On the host."""
        names = [output.name for output in self._bundle.manifest.outputs]
        if self._device is None:
            entry = self._bundle.manifest.input.name
            return dict(zip(names, self._session.run(names, {entry: inputs}), strict=True))
        self._bind(inputs)
        self._queue()
        found = {name: self._device.host(self._arrays[name]) for name in names}
        self._bind(self._inputs)
        return found

    def device_seconds(self, calls: int) -> float | None:
        """By the events of the stream that the session was given, where nothing is transferred."""
        return None if self._device is None else self._device.seconds(self._queue, calls)

    def close(self) -> None:
        """Drop the session."""
        self._binding, self._session, self._arrays = None, None, {}

    def _bind(self, inputs: Array) -> None:
        device = self._device
        if device is None:
            return
        signature = signature_from_manifest(self._bundle.manifest)
        self._arrays = {spec.name: device.empty(spec, len(inputs)) for spec in signature.outputs}
        self._arrays[signature.input.name] = device.array(inputs)
        self._binding = self._session.io_binding()
        for spec in (signature.input, *signature.outputs):
            bind = self._binding.bind_input if spec is signature.input else self._binding.bind_output
            bind(
                spec.name,
                "cuda",
                0,
                spec.dtype.type,
                (len(inputs), *spec.shape),
                device.address(self._arrays[spec.name]),
            )

    def _queue(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _torch_peer(
    subject: Subject,
    batch: int,
    host: GpuHost,
    *,
    name: str,
    made: Callable[[Any, Any, Any], Runner],
    half: bool,
    says: str,
    modes: tuple[str, ...] = (WITHOUT_TRANSFERS,),
) -> list[Case]:
    from resnet_export.options import DEFAULT_LIMITS

    limits = DEFAULT_LIMITS["fp16"]  # TF32 rounds as FP16 does
    found: list[Case] = []
    for timed in modes:
        label = Label(name=name, batch=batch, timed=timed, limits=limits)
        network = subject.network
        if network is None:
            found.append(MissingCase(label, NEEDS_MODEL))
        elif network.fixed_batch not in (None, batch):
            found.append(MissingCase(label, f"the model takes batches of {network.fixed_batch} alone"))
        else:
            found.append(TorchCase(label, network, host, made, half, says))
    return found


def _onnxruntime_peer(subject: Subject, batch: int, host: GpuHost, *, precision: str) -> list[Case]:
    from resnet_export.options import DEFAULT_LIMITS

    name, bundle = peer_name("onnxruntime", precision), subject.bundle
    variant = next((item for item in bundle.manifest.variants if item.precision == precision), None)
    limits = DEFAULT_LIMITS["fp16"]  # its convolutions in FP32 are in TF32 as well
    found: list[Case] = []
    for timed in (WITH_TRANSFERS, WITHOUT_TRANSFERS):
        label = Label(name=name, batch=batch, timed=timed, limits=limits)
        if variant is None:
            found.append(MissingCase(label, f"the bundle has no {precision} variant"))
        else:
            found.append(OnnxRuntimeCudaCase(label, bundle, variant, host))
    return found


_BOTH = (WITH_TRANSFERS, WITHOUT_TRANSFERS)

GPU_PEERS: Final[Mapping[str, Peer]] = MappingProxyType(
    {
        "eager": functools.partial(_torch_peer, name="eager", made=eager, half=False, says="eager", modes=_BOTH),
        "eager-fp16": functools.partial(_torch_peer, name="eager-fp16", made=eager, half=True, says="eager"),
        "compile-fp16": functools.partial(
            _torch_peer, name="compile-fp16", made=compiled, half=True, says="torch.compile, max-autotune"
        ),
        "graphed-fp16": functools.partial(
            _torch_peer, name="graphed-fp16", made=graphed, half=True, says="eager as a CUDA graph"
        ),
        "onnxruntime": functools.partial(_onnxruntime_peer, precision="fp32"),
        "onnxruntime-fp16": functools.partial(_onnxruntime_peer, precision="fp16"),
    }
)
"""What ``--against`` knows on a GPU, beside the bare loops."""

BARE: Final = ("tensorrt", "tensorrt-fp16", "tensorrt-int8")
"""The bare loops over an engine."""
