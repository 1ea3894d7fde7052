"""What stands between an engine's bytes and its backend: the host, the library, and TensorRT-RTX's runtime cache."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.backends.tensorrt.loading import backend_from_engine, cache_file, host_from_device
from resnet_runtime.engine_fit import AMPERE_PLUS, DEVICE, PORTABLE, VERSIONS
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Batch, Engine, FileRecord
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine
from tests.runtime.tensorrt_calls import INPUTS, OUTPUTS, SIGNATURE, answer, batch, check

ENGINE = Engine(
    id="fp16-tensorrt-rtx-1.7",
    variant="fp16",
    file=FileRecord(path="engines/a.engine", sha256="ab" * 32, size=6),
    builder="tensorrt-rtx",
    builder_version="1.7",
    platform=f"{platform.system().lower()}-{platform.machine().lower()}",
    gpu=None,
    compute_capabilities=("8.6",),
    compatibility=PORTABLE,
    profiles=(Batch(smallest=1, optimal=4, largest=8),),
    verified_on=None,
)


class Cache:
    """An ``IRuntimeCache`` that takes only what it wrote."""

    def __init__(self) -> None:
        self.content = b"empty"

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"cache:"):
            return False
        self.content = data
        return True

    def serialize(self) -> bytes:
        return self.content


class Config:
    """An ``IRuntimeConfig``."""

    def __init__(self) -> None:
        self.cuda_graph_strategy: str = "disabled"
        self.cache: Cache | None = None

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


class RtxEngine(SimulatedEngine):
    """Compiles when a context is made without what is needed in its cache."""

    compiled = 0
    configs: ClassVar[list[Config]] = []

    def create_runtime_config(self) -> Config:
        self.configs.append(Config())
        return self.configs[-1]

    def create_execution_context(self, config: Config | None = None) -> Any:
        assert config is not None
        assert config.cache is not None
        if config.cache.content != b"cache: kernels":
            type(self).compiled += 1
            config.cache.content = b"cache: kernels"
        return super().create_execution_context()


def library(cuda: SimulatedCuda, *, version: str = "1.7", loads: bool = True) -> Library:
    def runtime(logger: list[str]) -> Any:
        def deserialize(data: bytes) -> Any:
            if not loads:
                logger.append("error: the magic tag does not match")
                return None
            assert data == b"engine"
            return RtxEngine(cuda, answer, INPUTS, OUTPUTS)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    strategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph", DISABLED="no graphs")
    known = SimpleNamespace(__members__={"SM86": 1, "CURRENT": 2})
    module = SimpleNamespace(__version__=version, Runtime=runtime, CudaGraphStrategy=strategy, ComputeCapability=known)
    made = Library("tensorrt-rtx", module)
    object.__setattr__(made, "logger", lambda messages: messages)
    return made


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    RtxEngine.compiled = 0
    RtxEngine.configs = []
    return tmp_path


def run_once() -> None:
    cuda = SimulatedCuda()
    backend = backend_from_engine(ENGINE, b"engine", SIGNATURE, "fp16", library(cuda), cuda)
    image = batch(3)
    check(backend.start({"input": image}).result(), image)
    assert backend.description == "tensorrt-rtx 1.7 on Simulated GPU, fp16"
    backend.close()
    assert cuda.launched == 0, "TensorRT-RTX captures its graphs itself"


def test_the_host_is_the_library_and_the_device() -> None:
    cuda = SimulatedCuda()
    found = host_from_device(library(cuda), cuda.info)
    assert (found.library, found.version) == ("tensorrt-rtx", "1.7")
    assert (found.gpu, found.capability, found.driver) == ("Simulated GPU", "8.6", "13.0")
    assert found.builds
    assert not host_from_device(library(cuda), dataclasses.replace(cuda.info, capability="9.0")).builds


def test_what_was_compiled_is_kept_for_the_next_process(cache_folder: Path) -> None:
    run_once()
    assert RtxEngine.compiled == 1
    cuda = SimulatedCuda()
    path = cache_file(ENGINE, host_from_device(library(cuda), cuda.info))
    assert path.read_bytes() == b"cache: kernels"
    assert list(path.parent.iterdir()) == [path]
    run_once()
    assert RtxEngine.compiled == 1
    assert {config.cuda_graph_strategy for config in RtxEngine.configs} == {"whole graph"}
    path.write_bytes(b"damaged")
    run_once()
    assert RtxEngine.compiled == 2
    assert path.read_bytes() == b"cache: kernels"


def test_a_cache_folder_that_cannot_be_written_is_no_failure(cache_folder: Path) -> None:
    (cache_folder / "resnet-runtime").write_text("a file in its place")
    run_once()
    assert RtxEngine.compiled == 1


def test_an_engine_for_something_else_is_refused_before_it_is_loaded() -> None:
    cuda = SimulatedCuda()
    with pytest.raises(UnavailableError, match=r"was built by TensorRT-RTX 1\.7 .* and here is TensorRT-RTX 1\.8"):
        backend_from_engine(ENGINE, b"", SIGNATURE, "fp16", library(cuda, version="1.8"), cuda)
    other = dataclasses.replace(ENGINE, compute_capabilities=("12.0",))
    with pytest.raises(UnavailableError, match=r"and here is Simulated GPU with compute capability 8\.6"):
        backend_from_engine(other, b"", SIGNATURE, "fp16", library(cuda), cuda)


@pytest.mark.parametrize(
    ("compatibility", "allowed"),
    [(DEVICE, False), (AMPERE_PLUS, False), (DEVICE + VERSIONS, True), (AMPERE_PLUS + VERSIONS, True)],
)
def test_only_an_engine_for_several_versions_may_bring_code(compatibility: str, allowed: bool) -> None:
    cuda = SimulatedCuda()

    class Runtime:
        """An ``IRuntime``: an engine that brings the lean runtime is not loaded where that is not allowed."""

        def __init__(self, logger: list[str]) -> None:
            self.engine_host_code_allowed = False
            runtimes.append(self)

        def deserialize_cuda_engine(self, data: bytes) -> SimulatedEngine | None:
            if compatibility.endswith(VERSIONS) and not self.engine_host_code_allowed:
                return None
            return SimulatedEngine(cuda, answer, INPUTS, OUTPUTS)

    runtimes: list[Runtime] = []
    made = Library("tensorrt", SimpleNamespace(__version__="10.13.2", Runtime=Runtime))
    object.__setattr__(made, "logger", lambda messages: messages)
    engine = dataclasses.replace(
        ENGINE, builder="tensorrt", builder_version="10.13.2", compatibility=compatibility, gpu="Simulated GPU"
    )
    backend_from_engine(engine, b"engine", SIGNATURE, "fp16", made, cuda).close()
    assert [runtime.engine_host_code_allowed for runtime in runtimes] == [allowed]


def test_the_real_runtime_has_to_be_allowed_that() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    assert isinstance(rtx.Runtime.engine_host_code_allowed, property)


def test_none_does_not_travel() -> None:
    cuda = SimulatedCuda()
    said = (
        r"cannot load the engine fp16-tensorrt-rtx-1\.7: error: the magic tag does not match; build it anew with "
        "resnet-export BUNDLE --engine tensorrt-rtx"
    )
    for precision, more in (("fp16", ""), ("int8", " --engine-precision int8")):
        with pytest.raises(BackendError, match=f"{said}{more}$"):
            backend_from_engine(ENGINE, b"engine", SIGNATURE, precision, library(cuda, loads=False), cuda)
    assert cuda.depth == 0


def test_the_largest_batch_is_the_engine_s_own() -> None:
    cuda = SimulatedCuda()
    profiles = (Batch(smallest=1, optimal=1, largest=1), Batch(smallest=2, optimal=4, largest=4))
    engine = dataclasses.replace(ENGINE, profiles=profiles)
    backend = backend_from_engine(engine, b"engine", SIGNATURE, "fp16", library(cuda), cuda)
    assert SIGNATURE.largest_batch == 8
    assert backend.signature == dataclasses.replace(SIGNATURE, largest_batch=4)


@pytest.mark.parametrize(("graphs", "strategy"), [(True, "whole graph"), (False, "no graphs")])
def test_graphs_are_left_to_the_library_or_off(graphs: bool, strategy: str) -> None:
    cuda = SimulatedCuda()
    RtxEngine.configs.clear()
    backend = backend_from_engine(ENGINE, b"engine", SIGNATURE, "fp16", library(cuda), cuda, graphs=graphs)
    assert RtxEngine.configs[-1].cuda_graph_strategy == strategy
    backend.close()


def test_a_device_whose_engine_cannot_be_loaded_is_given_back() -> None:
    cuda = SimulatedCuda()
    with pytest.raises(BackendError, match="cannot load the engine"):
        backend_from_engine(ENGINE, b"engine", SIGNATURE, "fp16", library(cuda, loads=False), cuda)
    assert cuda.closed == 1
    cuda = SimulatedCuda()
    backend = backend_from_engine(ENGINE, b"engine", SIGNATURE, "fp16", library(cuda), cuda)
    assert cuda.closed == 0
    backend.close()
    assert cuda.closed == 1
