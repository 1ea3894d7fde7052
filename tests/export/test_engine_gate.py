"""An engine is run before it is added, where the device that it is for is here; a simulated one stands for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_runtime
from resnet_export.engine import EngineOptions
from resnet_export.engine_stages import (
    EnginesOptions,
    builder_library,
    check_engines,
    engines_after_export,
    engines_into_bundle,
)
from resnet_export.errors import EngineError, RequestError, WriteError
from resnet_export.graph import graph_from_bytes
from resnet_export.options import ExportOptions, ModelOptions
from resnet_export.pipeline import bundle_from_checkpoint
from resnet_runtime.backends.base import Backend, Signature
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.backends.tensorrt.backend import TensorRTBackend
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import MANIFEST_NAME, Batch, Engine, bytes_from_manifest
from resnet_runtime.testing.simulated_cuda import SimulatedCuda
from resnet_runtime.testing.simulated_engine import SimulatedEngine, SimulatedTensor
from tests.export.conftest import TINY_CLASSES, TINY_SHAPE

Array = NDArray[np.float32]
Answers = Callable[[Array], Array]

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")


class SimulatedHost:
    """TensorRT-RTX's builder under either name, and a GPU on which engines answer by a function."""

    def __init__(
        self,
        answers: Answers,
        *,
        gpu: bool = True,
        name: str = "Simulated GPU",
        capability: str = "8.6",
        libraries: tuple[str, ...] = (),
    ) -> None:
        self.opened: list[Engine] = []
        self._answers = answers
        self._gpu = gpu
        self._name = name
        self._capability = capability
        self._libraries = libraries or ("tensorrt", "tensorrt-rtx")

    def library(self, name: str) -> Library:
        if name not in self._libraries:
            raise UnavailableError(f"{name} is not installed")
        return Library(name, rtx)

    def device(self) -> DeviceInfo:
        if not self._gpu:
            raise UnavailableError("pycuda is not installed here: pip install 'resnet-export[tensorrt]'")
        return DeviceInfo(self._name, self._capability, "13.0")

    def open(self, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
        assert data
        assert precision == "fp16"
        self.opened.append(engine)
        return SimulatedBackend(signature, lambda batch: {"logits": self._answers(batch)})


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(model=ModelOptions(input_shape=TINY_SHAPE), variants=("fp32", "fp16", "bf16"), engines=None)
    return bundle_from_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("gate") / "a.bundle", options).path


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_tensorrt_s_engine_is_for_the_gpu_that_is_here(bundle: Path, right: Answers) -> None:
    host = SimulatedHost(right)
    engines_into_bundle(bundle, EnginesOptions(), host=host)
    (engine,) = Bundle.open(bundle).manifest.engines
    assert (engine.builder, engine.gpu, engine.compute_capabilities) == ("tensorrt", "Simulated GPU", ("8.6",))
    assert engine.compatibility == "device"
    assert engine.verified_on == f"Simulated GPU, tensorrt {rtx.__version__}"


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_a_second_gpu_s_engine_does_not_take_the_place_of_the_first_s(bundle: Path, right: Answers) -> None:
    for name in ("NVIDIA L4", "NVIDIA A10", "NVIDIA L4"):
        engines_into_bundle(bundle, EnginesOptions(), host=SimulatedHost(right, name=name))
    version = rtx.__version__
    assert [(engine.id, engine.gpu) for engine in Bundle.open(bundle).manifest.engines] == [
        (f"fp16-tensorrt-{version}-nvidia-a10", "NVIDIA A10"),
        (f"fp16-tensorrt-{version}-nvidia-l4", "NVIDIA L4"),
    ]
    assert len(list((bundle / "engines").iterdir())) == 2


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


def test_tensorrt_without_a_gpu_that_can_be_used_is_refused_with_the_reason(bundle: Path, right: Answers) -> None:
    host, options = SimulatedHost(right, gpu=False), EnginesOptions(library="tensorrt")
    before = (bundle / "manifest.json").read_bytes()
    said = r"none can be used here \(pycuda is not installed here: pip install .*\): build on .* --engine tensorrt-rtx"
    with pytest.raises(UnavailableError, match=said):
        engines_into_bundle(bundle, options, host=host)
    with pytest.raises(UnavailableError, match=said):
        check_engines(options, host)
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "engines").exists()
    check_engines(EnginesOptions(library="tensorrt-rtx"), host)
    check_engines(options, SimulatedHost(right))


@pytest.mark.parametrize(("option", "said"), [("version", "version that built it"), ("hardware", "every GPU of their")])
def test_what_an_rtx_engine_cannot_be_is_refused_where_auto_takes_that(option: str, said: str) -> None:
    options = EnginesOptions(build=EngineOptions(**{f"{option}_compatible": True}))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=said):
        check_engines(options, SimulatedHost(lambda batch: batch, gpu=False))
    check_engines(options, SimulatedHost(lambda batch: batch))


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


def test_after_an_export_a_bundle_that_stands_is_not_said_to_be_missing(bundle: Path, right: Answers) -> None:
    def replaced(batch: Array) -> Array:
        """As another export does while this one builds: the variant's file is another one."""
        held = Bundle.open(bundle).manifest
        other = tuple(
            dataclasses.replace(item, file=dataclasses.replace(item.file, sha256="1" * 64)) for item in held.variants
        )
        (bundle / MANIFEST_NAME).write_bytes(bytes_from_manifest(dataclasses.replace(held, variants=other)))
        return right(batch)

    with pytest.raises(WriteError, match=r"is written, and an engine that .* is not: .* was replaced while") as caught:
        engines_after_export(bundle, EnginesOptions(library="tensorrt-rtx"), host=SimulatedHost(replaced))
    assert caught.value.exit_status == 1


def test_after_an_export_a_disk_that_fails_leaves_a_bundle_that_is_said_to_stand(bundle: Path, right: Answers) -> None:
    (bundle / "engines").write_text("a file in its place")
    with pytest.raises(WriteError, match=r"a\.bundle is written, and an engine that .* is not: the engine cannot be"):
        engines_after_export(bundle, EnginesOptions(library="tensorrt-rtx"), host=SimulatedHost(right))
    assert Bundle.open(bundle).manifest.engines == ()


def test_a_model_of_one_batch_size_has_engines_for_that_alone(bundle: Path, right: Answers) -> None:
    held, fixed = Bundle.open(bundle).manifest, Batch(smallest=8, optimal=8, largest=8)
    changed = dataclasses.replace(held, input=dataclasses.replace(held.input, batch=fixed))
    (bundle / MANIFEST_NAME).write_bytes(bytes_from_manifest(changed))
    asked = EnginesOptions(library="tensorrt-rtx", profiles=(Batch(smallest=1, optimal=8, largest=32),))
    host = SimulatedHost(right, capability="9.0")
    with pytest.raises(RequestError, match=r"takes batches of 8 alone, and --batch is 1,8,32: leave --batch out"):
        engines_into_bundle(bundle, asked, host=host)
    assert Bundle.open(bundle).manifest.engines == ()
    result = engines_after_export(bundle, asked, host=host)
    assert [engine.profiles for engine in result.engines] == [(fixed,)]
    same = dataclasses.replace(asked, profiles=(fixed,))
    assert engines_into_bundle(bundle, same, host=host).engines[0].profiles == (fixed,)


class InspectedEngine(SimulatedEngine):
    """An engine whose inspector says what every convolution computes in."""

    def __init__(self, cuda: SimulatedCuda, answers: Answers, kind: str | None, names: list[str]) -> None:
        inputs = (SimulatedTensor("input", "float32", TINY_SHAPE),)
        outputs = (SimulatedTensor("logits", "float32", (TINY_CLASSES,)),)
        super().__init__(cuda, lambda found: {"logits": answers(found["input"])}, inputs, outputs, ((1, 8, 32),))
        self._kind, self._names = kind, names

    def create_engine_inspector(self) -> SimpleNamespace:
        layers = [
            {
                "Name": name,
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": f"{name}_in", "Format/Datatype": f"{self._kind} NHWC"}],
                "Outputs": [{"Name": f"{name}_out", "Format/Datatype": f"{self._kind} NHWC"}],
                "ParameterType": "Convolution",
            }
            for name in self._names
        ]
        text = json.dumps({"Layers": layers if self._kind else self._names, "Bindings": []})
        return SimpleNamespace(get_engine_information=lambda form: text)


@pytest.mark.parametrize("kind", ["Half", "Float", None])
def test_what_the_inspector_shows_is_held_to_what_was_promised(bundle: Path, right: Answers, kind: str | None) -> None:
    opened = Bundle.open(bundle)
    fp16 = opened.manifest.variant("fp16")
    assert fp16 is not None
    names = [str(node.name) for node in graph_from_bytes(opened.read(fp16.file)).nodes("Conv")]

    class Host(SimulatedHost):
        def open(self, engine: Engine, data: bytes, signature: Signature, precision: str) -> Backend:
            cuda = SimulatedCuda()
            return TensorRTBackend(InspectedEngine(cuda, right, kind, names), cuda, signature, "simulated")

    options = EnginesOptions(library="tensorrt-rtx")
    if kind == "Float":
        with pytest.raises(EngineError, match=f"{len(names)} of {len(names)} convolutions"):
            engines_into_bundle(bundle, options, host=Host(right))
        assert Bundle.open(bundle).manifest.engines == ()
        return
    result = engines_into_bundle(bundle, options, host=Host(right))
    assert result.engines[0].verified_on is not None
    assert bool(result.warnings) == (kind is None), "what could not be seen is said"
