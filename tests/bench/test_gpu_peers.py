"""The peers on a GPU: what they do with tensors, and what they say without one."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor
from numpy.typing import NDArray

from resnet_bench.cases import WITH_TRANSFERS, WITHOUT_TRANSFERS, Label
from resnet_bench.eager_network import Network
from resnet_bench.gpu_cases import engine_cases
from resnet_bench.gpu_host import ThisGpu, TorchDevice
from resnet_bench.gpu_peers import GPU_PEERS, TorchCase, eager, graphed
from resnet_bench.speed import MEASURED, UNAVAILABLE, measure
from resnet_runtime.errors import UnavailableError
from tests.bench.simulated_gpu import (
    NO_GPU,
    QUICK,
    SimulatedGpu,
    only,
    subject_of,
)
from tests.runtime.bundles import color_means


def test_peers_that_need_the_checkpoint_or_a_variant_say_so(tmp_path: Path) -> None:
    subject, host = subject_of(tmp_path), SimulatedGpu()
    for name in ("eager", "eager-fp16", "compile-fp16", "graphed-fp16"):
        for case in GPU_PEERS[name](subject, 1, host):
            assert only([case]) == (name, "it needs the checkpoint: give --model model.pt")
    for case in GPU_PEERS["onnxruntime-fp16"](subject, 1, host):
        assert only([case]) == ("onnxruntime-fp16", "the bundle has no fp16 variant")
    fixed = dataclasses.replace(subject, network=Network(module=torch.nn.Identity(), fixed_batch=4))
    assert only(GPU_PEERS["eager-fp16"](fixed, 1, host))[1] == "the model takes batches of 4 alone"
    timed = [case.label.timed for case in GPU_PEERS["eager"](subject, 1, host)]
    assert timed == [WITH_TRANSFERS, WITHOUT_TRANSFERS], "so that both of the runtime's rows have their like"


@NO_GPU
def test_without_a_gpu_every_peer_says_so(tmp_path: Path) -> None:
    subject = dataclasses.replace(subject_of(tmp_path), network=Network(module=torch.nn.Identity(), fixed_batch=None))
    host = ThisGpu()
    cases = [*engine_cases(subject, 1, host)]
    for peer in GPU_PEERS.values():
        cases += peer(subject, 1, host)
    rows = measure(cases, subject.check, QUICK, rest=lambda: None)
    assert {row.state for row in rows} == {UNAVAILABLE}
    said = {row.label.name: row.reason or "" for row in rows}
    assert said["runtime-tensorrt"] == "pycuda is not installed here: pip install 'resnet-export[tensorrt]'"
    assert "finds no GPU that it can use" in said["graphed-fp16"]
    assert said["onnxruntime"].endswith("has no CUDA provider: pip install onnxruntime-gpu")
    assert "gpu" not in host.describe()


@NO_GPU
def test_pytorch_without_a_gpu_is_no_device() -> None:
    with pytest.raises(UnavailableError, match="install a build for CUDA"):
        TorchDevice()


class TorchOnCpu(TorchDevice):
    """PyTorch's device without its CUDA: what a case does with tensors is the same."""

    place = "cpu"
    fp32 = "fp32"

    def __init__(self) -> None:
        self.torch = torch

    def pinned(self, values: NDArray[Any]) -> Any:
        return torch.from_numpy(values).clone()

    def synchronize(self) -> None:
        return

    def seconds(self, queue: Callable[[], None], calls: int) -> float:
        for _ in range(calls):
            queue()
        return 0.25


class TorchHost(SimulatedGpu):
    def device(self) -> Any:
        return TorchOnCpu()


class Colors(torch.nn.Module):
    """``color_means``, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean(dim=(2, 3)) * self.weight
        return torch.cat([means, torch.zeros_like(means[:, :1])], dim=1)


@pytest.mark.parametrize("timed", [WITH_TRANSFERS, WITHOUT_TRANSFERS])
@pytest.mark.parametrize("half", [True, False])
def test_pytorch_s_cases_do_with_tensors_what_they_should(tmp_path: Path, timed: str, half: bool) -> None:
    subject = subject_of(tmp_path)
    network = Network(module=Colors(), fixed_batch=None)
    limits = dataclasses.replace(subject.bundle.manifest.variants[0].gate.limits, max_error=1e-2, mean_error=1e-2)
    seen = []

    def made(module: Any, given: Any, tensor: Any) -> Callable[[], Any]:
        seen.append((given.weight.dtype, tensor.dtype, tensor.is_contiguous(memory_format=torch.channels_last)))
        return eager(module, given, tensor)

    label = Label(name="eager", batch=3, timed=timed, limits=limits)
    case = TorchCase(label, network, TorchHost(), made, half, "eager")
    rows = measure([case], subject.check, QUICK, rest=lambda: None)
    assert [(row.state, row.reason) for row in rows] == [(MEASURED, None)]
    assert rows[0].device == ([] if timed == WITH_TRANSFERS else [0.25] * 3)
    assert seen == [(torch.float16, torch.float16, True) if half else (torch.float32, torch.float32, False)]
    assert network.module.weight.dtype == torch.float32, "a copy was changed"
    assert rows[0].description == f"PyTorch {torch.__version__}, {'fp16, channels last' if half else 'fp32'}, eager"


def test_answers_do_not_change_what_is_timed(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    label = Label(
        name="eager", batch=2, timed=WITHOUT_TRANSFERS, limits=subject.bundle.manifest.variants[0].gate.limits
    )
    kept: list[Any] = []

    def made(module: Any, network: Any, tensor: Any) -> Callable[[], Any]:
        kept.append(tensor)
        return eager(module, network, tensor)

    case = TorchCase(label, Network(module=Colors(), fixed_batch=None), TorchHost(), made, False, "eager")
    mine, others = subject.check.inputs[:2].copy(), subject.check.inputs[2:].copy()
    case.prepare(mine)
    found = case.answers(others)["logits"]
    np.testing.assert_allclose(found, color_means(others)["logits"], rtol=1e-5)  # float32 sums of 64 values
    np.testing.assert_array_equal(kept[0].numpy(), subject.check.inputs[:2])


def test_every_name_of_pytorch_s_is_there() -> None:
    """What cannot be called without a GPU has at least the names that are used."""
    for name in ("Stream", "set_stream", "current_stream", "stream", "Event", "CUDAGraph", "graph", "empty_cache"):
        assert hasattr(torch.cuda, name)
    assert {"record", "elapsed_time", "synchronize"} <= set(dir(torch.cuda.Event))
    assert {"wait_stream", "synchronize"} <= set(dir(torch.cuda.Stream))
    assert callable(torch.compiler.reset)
    assert "max-autotune" in torch._inductor.list_mode_options()
    assert torch._inductor.list_mode_options()["max-autotune"]["triton.cudagraphs"]


class CudaOnCpu:
    """What ``graphed`` asks of ``torch.cuda``: a graph holds nothing of what was run while it was captured."""

    def __init__(self) -> None:
        self.launched = 0

    def Stream(self) -> Any:  # noqa: N802
        return SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self) -> Any:
        return self.Stream()

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    def graph(self, graph: Any) -> Any:
        return nullcontext()

    def CUDAGraph(self) -> Any:  # noqa: N802
        def replay() -> None:
            self.launched += 1

        return SimpleNamespace(replay=replay)


def test_a_graph_keeps_the_network_that_it_reads() -> None:
    """A CUDA graph knows addresses alone: with the network gone it computes what was written there since."""
    cuda = CudaOnCpu()
    module = SimpleNamespace(cuda=cuda, inference_mode=torch.inference_mode)
    network = Colors()
    held = weakref.ref(network)
    run = graphed(module, network, torch.ones(2, 3, 4, 4))
    del network
    gc.collect()
    assert held() is not None
    np.testing.assert_array_equal(run().numpy(), [[1, 1, 1, 0]] * 2)
    assert cuda.launched == 1
    del run
    gc.collect()
    assert held() is None
