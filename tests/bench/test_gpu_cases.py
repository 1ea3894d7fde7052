"""The GPU's cases: the runtime's and the bare loop on the simulated device, and what the others say without a GPU."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor
from numpy.typing import NDArray

from resnet_bench.cases import WITH_TRANSFERS, WITHOUT_TRANSFERS, Case, Label, Subject
from resnet_bench.eager_network import Network
from resnet_bench.gpu_cases import EngineSource, engine_cases, gpu_cases, profile_of
from resnet_bench.gpu_host import ThisGpu, TorchDevice, has_gpu
from resnet_bench.gpu_peers import BARE, GPU_PEERS, OnnxRuntimeCudaCase, TorchCase, eager
from resnet_bench.speed import FAILED, MEASURED, UNAVAILABLE, LoopOptions, Row, measure
from resnet_bench.speed_figures import DEVICE, compared_with_yardstick
from resnet_runtime.backends.base import NATIVE, BackendFacts, TensorSpec
from resnet_runtime.backends.tensorrt.cuda import Cuda, Event, Graph, Memory, Pinned, Stream
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
        module = SimpleNamespace(__version__=self.version, Runtime=self._runtime, CudaGraphStrategy=strategies)
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


@pytest.mark.parametrize("batch", [1, 3])
def test_the_runtime_and_the_bare_loop_on_an_engine(tmp_path: Path, batch: int) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    rows = measured(subject, engine_cases(subject, batch, host), host)
    assert [(row.label.name, row.label.timed, row.state, row.reason) for row in rows] == [
        ("runtime-tensorrt-fp32", WITH_TRANSFERS, MEASURED, None),
        ("runtime-tensorrt-fp32-without-graphs", WITH_TRANSFERS, MEASURED, None),
        ("runtime-tensorrt-fp32", WITHOUT_TRANSFERS, MEASURED, None),
        ("tensorrt", WITHOUT_TRANSFERS, MEASURED, None),
    ]
    assert all(row.parity is not None and row.parity.max_error < 1e-6 for row in rows)
    assert [row.device for row in rows[:2]] == [[], []], "each call waits"
    assert rows[3].device == [1.0] * 3, "a computation a call, and nothing else"
    assert rows[2].device == [1.0] * 3
    compared = compared_with_yardstick(rows[2], rows, DEVICE)
    assert compared is not None
    assert (compared.name, compared.ratio.median) == ("tensorrt", 1.0)
    assert rows[1].description == "tensorrt 10.9 on Simulated GPU, fp32, no CUDA graphs"


def test_graphs_are_on_in_one_row_and_off_in_the_other(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    with_graphs, without = engine_cases(subject, 2, host)[:2]
    measured(subject, [without], host)
    assert host.simulated.launched == 0
    measured(subject, [with_graphs], host)
    assert host.simulated.launched > 0


def test_everything_is_given_back(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    measured(subject, engine_cases(subject, 2, host), host)
    assert host.simulated.closed == 4
    with host.simulated.current():
        host.made.free()
    assert [host.simulated.alive(kind) for kind in (Memory, Pinned, Event, Stream, Graph)] == [0] * 5


def test_tensorrt_rtx_captures_its_graphs_itself_but_in_the_row_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host = SimulatedGpu("tensorrt-rtx", "1.7")
    subject = subject_of(tmp_path, engine_of("tensorrt-rtx", "1.7"))
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert {row.state for row in rows} == {MEASURED}
    assert host.strategies == ["whole graph", "disabled", "whole graph", "whole graph"]


def test_wrong_answers_of_an_engine_are_failed_rows(tmp_path: Path) -> None:
    host = SimulatedGpu(function=lambda images: {"logits": color_means(images)["logits"] * np.float32(1.01)})
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert [row.state for row in rows] == [FAILED] * 4
    assert all(row.reason and row.reason.startswith("its answers are wrong") for row in rows)


def test_an_engine_that_cannot_be_loaded_is_a_failed_row_and_the_context_is_released(tmp_path: Path) -> None:
    host = SimulatedGpu()
    damaged = dataclasses.replace(engine_of("tensorrt", "10.9"), file=record("engines/a.engine", b"damage"))
    files = {"engines/a.engine": b"damage"}
    bundle = Bundle.open(write_sample(tmp_path / "a.bundle", engines=(damaged,), files=files))
    subject = Subject(bundle=bundle, check=bundle.check_data())
    rows = measured(subject, engine_cases(subject, 2, host), host)
    assert [row.state for row in rows] == [FAILED] * 4
    assert all(row.reason and "it is damaged" in row.reason for row in rows)
    assert host.simulated.closed == 4


def only(cases: list[Case]) -> tuple[str, str]:
    """The name of the one case, and what it says."""
    (case,) = cases
    with pytest.raises(UnavailableError) as caught:
        case.prepare(np.zeros(1))
    return case.label.name, caught.value.message


def test_what_has_no_engine_that_runs_here_says_why(tmp_path: Path) -> None:
    host = SimulatedGpu()
    name, said = only(engine_cases(subject_of(tmp_path / "none"), 1, host))
    assert name == "runtime-tensorrt-fp32"
    assert (
        said
        == "no engine in the bundle: resnet-export BUNDLE --engine tensorrt --engine-precision fp32 builds one here"
    )
    other = subject_of(tmp_path / "other", engine_of("tensorrt", "10.8"))
    assert "was built by TensorRT 10.8" in only(engine_cases(other, 1, host))[1]
    small = subject_of(tmp_path / "small", engine_of("tensorrt", "10.9"))
    assert only(engine_cases(small, 128, host))[1] == (
        "the engine fp32-tensorrt takes batches of 1 to 1, 1 to 4: build one with --batch MIN,OPT,MAX"
    )


def test_the_profile_is_the_one_that_the_runtime_takes() -> None:
    engine = engine_of("tensorrt", "10.9")
    assert [profile_of(engine, batch) for batch in (1, 2, 4, 5)] == [0, 1, 1, None]


def test_against_chooses_the_peers_and_the_bare_loops(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.9"))

    def names(against: tuple[str, ...] | None) -> list[str]:
        return list(dict.fromkeys(case.label.name for case in gpu_cases(subject, 1, against, host, GPU_PEERS)))

    runtime = ["runtime-tensorrt-fp32", "runtime-tensorrt-fp32-without-graphs"]
    assert names(()) == runtime
    assert names(("tensorrt",)) == [*runtime, "tensorrt"]
    assert names(("graphed-fp16", "eager")) == ["eager", *runtime, "graphed-fp16"]
    assert names(None) == ["eager", *runtime, "tensorrt", *(name for name in GPU_PEERS if name != "eager")]
    assert {"tensorrt"} <= set(BARE)
    missing = gpu_cases(subject, 1, ("tensorrt-int8", "openvino"), host, GPU_PEERS)[-2:]
    assert [only([case]) for case in missing] == [
        ("tensorrt-int8", "no engine of the bundle for it runs here"),
        ("openvino", "it runs on a host without a GPU alone"),
    ]


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


def test_a_case_that_never_opened_can_be_closed(tmp_path: Path) -> None:
    subject, host = subject_of(tmp_path, engine_of("tensorrt", "10.9")), SimulatedGpu()
    variant = subject.bundle.manifest.variants[0]
    label = Label(name="a", batch=1, timed=WITHOUT_TRANSFERS, limits=variant.gate.limits)
    for case in (*engine_cases(subject, 1, host), OnnxRuntimeCudaCase(label, subject.bundle, variant, host)):
        case.close()
    assert host.simulated.closed == 0


def test_a_source_is_closed_where_its_library_refuses_the_engine(tmp_path: Path) -> None:
    host = SimulatedGpu()
    subject = subject_of(tmp_path, engine_of("tensorrt", "10.8"))
    source = EngineSource(
        bundle=subject.bundle, variant=subject.bundle.manifest.variants[0],
        engine=subject.bundle.manifest.engines[0], host=host,
    )  # fmt: skip
    with pytest.raises(UnavailableError, match=r"was built by TensorRT 10\.8"):
        source.backend(graphs=True)
    assert host.simulated.closed == 1


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
