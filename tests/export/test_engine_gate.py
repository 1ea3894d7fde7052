"""An engine is run before it is added, where the device that it is for is here; a simulated one stands for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_runtime
from resnet_export.engine_stages import EnginesOptions, builder_library, engines_after_export, engines_into_bundle
from resnet_export.errors import EngineError
from resnet_export.options import ExportOptions, ModelOptions
from resnet_export.pipeline import bundle_from_checkpoint
from resnet_runtime.backends.base import Backend, Signature
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Engine
from tests.export.conftest import TINY_SHAPE

Array = NDArray[np.float32]
Answers = Callable[[Array], Array]

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")


class SimulatedHost:
    """TensorRT-RTX's builder under either name, and a GPU on which engines answer by a function."""

    def __init__(
        self, answers: Answers, *, gpu: bool = True, capability: str = "8.6", libraries: tuple[str, ...] = ()
    ) -> None:
        self.opened: list[Engine] = []
        self._answers = answers
        self._gpu = gpu
        self._capability = capability
        self._libraries = libraries or ("tensorrt", "tensorrt-rtx")

    def library(self, name: str) -> Library:
        if name not in self._libraries:
            raise UnavailableError(f"{name} is not installed")
        return Library(name, rtx)

    def device(self) -> DeviceInfo | None:
        return DeviceInfo("Simulated GPU", self._capability, "13.0") if self._gpu else None

    def open(self, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
        assert data
        assert precision == "fp16"
        self.opened.append(engine)
        return SimulatedBackend(signature, lambda batch: {"logits": self._answers(batch)})


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(model=ModelOptions(input_shape=TINY_SHAPE), variants=("fp32", "fp16", "bf16"), engines=None)
    return bundle_from_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("gate") / "a.bundle", options).path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy."""
    path = tmp_path / "a.bundle"
    path.mkdir()
    for file in exported.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.fixture
def right(exported: Path) -> Answers:
    session = resnet_runtime.load(exported, backend="onnxruntime", precision="fp32")
    return lambda batch: session.infer(batch)["logits"]


def test_an_engine_that_computes_what_the_model_computed_is_verified(bundle: Path, right: Answers) -> None:
    host = SimulatedHost(right)
    result = engines_into_bundle(bundle, EnginesOptions(library="tensorrt-rtx"), host=host)
    (engine,) = Bundle.open(bundle).manifest.engines
    assert result.engines == (engine,)
    assert engine.verified_on == f"Simulated GPU, tensorrt-rtx {rtx.__version__}"
    assert len(host.opened) == 1


def test_one_that_does_not_is_refused_and_nothing_is_added(bundle: Path, right: Answers) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match="does not compute on Simulated GPU what the model computed: max error"):
        engines_into_bundle(
            bundle, EnginesOptions(library="tensorrt-rtx"), host=SimulatedHost(lambda batch: right(batch)[:, ::-1])
        )
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "engines").exists()


def test_one_that_fails_is_refused_with_the_reason(bundle: Path) -> None:
    def failing(batch: Array) -> Array:
        raise BackendError("CUDA: an illegal memory access")

    with pytest.raises(EngineError, match="does not run on Simulated GPU: CUDA: an illegal memory access"):
        engines_into_bundle(bundle, EnginesOptions(library="tensorrt-rtx"), host=SimulatedHost(failing))
    assert Bundle.open(bundle).manifest.engines == ()


def test_one_for_another_gpu_is_added_unverified(bundle: Path, right: Answers) -> None:
    host = SimulatedHost(right, capability="9.0")
    engines_into_bundle(bundle, EnginesOptions(library="tensorrt-rtx"), host=host)
    (engine,) = Bundle.open(bundle).manifest.engines
    assert engine.verified_on is None
    assert host.opened == []


def test_tensorrt_s_engine_is_for_the_gpu_that_is_here(bundle: Path, right: Answers) -> None:
    host = SimulatedHost(right)
    engines_into_bundle(bundle, EnginesOptions(), host=host)
    (engine,) = Bundle.open(bundle).manifest.engines
    assert (engine.builder, engine.gpu, engine.compute_capabilities) == ("tensorrt", "Simulated GPU", ("8.6",))
    assert engine.compatibility == "device"
    assert engine.verified_on == f"Simulated GPU, tensorrt {rtx.__version__}"


@pytest.mark.parametrize(
    ("gpu", "libraries", "expected"),
    [
        (True, ("tensorrt", "tensorrt-rtx"), "tensorrt"),
        (True, ("tensorrt-rtx",), "tensorrt-rtx"),
        (True, ("tensorrt",), "tensorrt"),
        (False, ("tensorrt", "tensorrt-rtx"), "tensorrt-rtx"),
    ],
)
def test_auto_takes_tensorrt_where_there_is_a_gpu(gpu: bool, libraries: tuple[str, ...], expected: str) -> None:
    host = SimulatedHost(lambda batch: batch, gpu=gpu, libraries=libraries)
    assert builder_library("auto", host).name == expected


def test_auto_without_any_says_what_to_install(bundle: Path) -> None:
    host = SimulatedHost(lambda batch: batch, gpu=False, libraries=("tensorrt",))
    with pytest.raises(UnavailableError, match="pip install tensorrt-rtx-cu13"):
        builder_library("auto", host)
    result = engines_after_export(bundle, EnginesOptions(), host=host)
    assert result.engines == ()
    assert "pip install tensorrt-rtx-cu13" in result.missing[""]
    assert result.warnings == (), "what auto cannot do here is nothing to be warned of"


def test_after_an_export_an_engine_that_fails_is_a_warning(bundle: Path, right: Answers) -> None:
    host = SimulatedHost(lambda batch: right(batch)[:, ::-1])
    result = engines_after_export(bundle, EnginesOptions(library="tensorrt-rtx"), host=host)
    assert result.engines == ()
    assert "does not compute on Simulated GPU" in result.missing[""]
    (warning,) = result.warnings
    assert warning.startswith("an engine was not built: the engine fp16-tensorrt-rtx")
    assert Bundle.open(bundle).manifest.engines == ()
