"""The check of a bundle on this host, with real backends: what passes, what fails, and what could not run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resnet_runtime import BackendError, BundleError, CheckError, InputError, UnavailableError, check
from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts
from resnet_runtime.bundle import Bundle
from resnet_runtime.check import VariantCheck, check_bundle, check_variant, refuse_failed
from resnet_runtime.manifest import Accuracy, Batch, Limits, Speed, Variant

from .bundles import ONNX, record, sample_gate
from .engines import TIGHT, TensorRTHost, engine_of, variant_of, write_engines
from .goldens import BIAS, GOLDEN
from .graphs import linear_graph, write_linear

EXACT = Limits(max_error=0.0, mean_error=0.0, top1_agreement=1.0)
# One class of four is answered 0.25 more: the mean error is a quarter of the maximum.
OFF = BIAS + np.array([0, 0.25, 0, 0], np.float32)


def variant(name: str, graph: bytes, limits: Limits = EXACT) -> Variant:
    """``graph`` as the variant ``name``, which is its precision too."""
    scheme = "cpu" if name == "int8" else None
    file = record("model.fp32.onnx", graph)
    return Variant(id=name, precision=name, scheme=scheme, file=file, gate=sample_gate(limits=limits))


def bundle_of(path: Path, graph: bytes, *names: str, limits: Limits = EXACT, batch: Batch | None = None) -> Path:
    variants = tuple(variant(name, graph, limits) for name in names)
    return write_linear(path, graph=graph, variants=variants, batch=batch or Batch(smallest=1, optimal=2, largest=4))


def test_a_right_bundle_passes_on_every_backend(tmp_path: Path) -> None:
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(), "fp32"))
    assert [(item.variant, item.backend) for item in found] == [("fp32", name) for name in BACKENDS]
    for item in found:
        assert item.passed
        assert item.faults == ()
        assert item.unavailable is None
        assert item.limits == EXACT
        assert item.parity is not None
        # Every sum of the graph is exact.
        assert (item.parity.max_error, item.parity.samples, item.parity.top1_agreement) == (0.0, 8, 1.0)
        assert item.executor is not None
        assert item.executor.endswith(", fp32")
    refuse_failed(found)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_samples_are_split_and_padded_to_a_fixed_batch(tmp_path: Path, size: int) -> None:
    batch = Batch(smallest=size, optimal=size, largest=size)
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(batch=size), "fp32", batch=batch))
    assert [item.passed for item in found] == [True] * len(BACKENDS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_computes_something_slightly_else_fails(tmp_path: Path, backend: str) -> None:
    path = bundle_of(tmp_path / "b", linear_graph(bias=OFF), "fp32", limits=TIGHT)
    found = check_bundle(path, backend=backend)
    assert len(found) == 1
    item = found[0]
    assert not item.passed
    assert item.parity is not None
    assert item.parity.max_error == pytest.approx(4 * item.parity.mean_error, rel=1e-12)  # float64 sums
    assert item.faults[0] == f"max error {item.parity.max_error:.3%} of the spread, 0.001% allowed"
    assert item.faults[1] == f"mean error {item.parity.mean_error:.3%} of the spread, 0.000% allowed"
    with pytest.raises(CheckError) as caught:
        refuse_failed(found)
    assert caught.value.message == "the bundle does not compute on this host what the model computed"
    assert caught.value.details == tuple(f"fp32 on {backend}: {fault}" for fault in item.faults)


def test_the_limits_are_those_of_the_variant(tmp_path: Path) -> None:
    wide = Limits(max_error=0.5, mean_error=0.5)
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(bias=OFF), "fp32", limits=wide))
    assert [item.passed for item in found] == [True] * len(BACKENDS)


def without_int8(name: str) -> BackendFacts:
    return dataclasses.replace(facts_of(name), precisions={"fp32": NATIVE})


def test_a_precision_that_a_backend_does_not_compute_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "host_facts", lambda only: tuple(map(without_int8, BACKENDS)))
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(), "fp32", "int8"))
    assert [(item.variant, item.backend, item.passed) for item in found] == [
        ("fp32", "openvino", True),
        ("fp32", "onnxruntime", True),
        ("int8", "openvino", False),
        ("int8", "onnxruntime", False),
    ]
    assert [item.unavailable for item in found] == [
        None,
        None,
        "openvino computes no int8 on this CPU",
        "onnxruntime computes no int8 on this CPU",
    ]
    assert all(item.executor is None and item.parity is None for item in found[2:])
    refuse_failed(found)  # what could not run did not fail
    with pytest.raises(CheckError) as caught:
        refuse_failed(found[2:])
    assert caught.value.message == "no variant of the bundle can be run on this host"
    assert caught.value.details == (
        "int8: openvino computes no int8 on this CPU",
        "int8: onnxruntime computes no int8 on this CPU",
    )


def test_a_failure_is_not_outweighed_by_what_passed(tmp_path: Path) -> None:
    good = check_bundle(bundle_of(tmp_path / "good", linear_graph(), "fp32"), backend="openvino")
    bad = check_bundle(bundle_of(tmp_path / "bad", linear_graph(bias=OFF), "fp32"), backend="onnxruntime")
    with pytest.raises(CheckError) as caught:
        refuse_failed(good + bad)
    assert caught.value.details == tuple(f"fp32 on onnxruntime: {fault}" for fault in bad[0].faults)


def test_no_check_at_all_is_no_pass() -> None:
    with pytest.raises(CheckError, match="no variant of the bundle can be run on this host"):
        refuse_failed(())


def test_a_backend_that_fails_is_a_fault(tmp_path: Path) -> None:
    found = check_bundle(bundle_of(tmp_path / "b", ONNX, "fp32"))
    assert [item.passed for item in found] == [False] * len(BACKENDS)
    for item, start in zip(found, ("OpenVINO cannot read the fp32", "ONNX Runtime cannot load the fp32"), strict=True):
        assert item.unavailable is None
        assert len(item.faults) == 1
        assert item.faults[0].startswith(start)
    with pytest.raises(CheckError, match="does not compute on this host what the model computed"):
        refuse_failed(found)


def test_a_precision_that_turns_out_not_to_be_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dataclasses.replace(facts_of("onnxruntime"), precisions={"fp32": NATIVE, "bf16": EMULATED})
    monkeypatch.setattr(check, "host_facts", lambda only: (facts,))
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(), "bf16"))
    assert found[0].unavailable is not None
    assert found[0].unavailable.startswith("ONNX Runtime computes bf16 graphs in FP32 on a CPU")
    assert not found[0].passed
    assert found[0].faults == ()


def test_no_backend_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = (BackendFacts("openvino", None, "install openvino"), BackendFacts("onnxruntime", None, "install the other"))
    monkeypatch.setattr(check, "host_facts", lambda only: host)
    with pytest.raises(UnavailableError) as caught:
        check_bundle(bundle_of(tmp_path / "b", linear_graph(), "fp32"))
    assert caught.value.message == "no backend is installed here to check the bundle with"
    assert caught.value.details == ("install openvino", "install the other")


def test_one_missing_backend_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = (BackendFacts("openvino", None, "install openvino"), facts_of("onnxruntime"))
    monkeypatch.setattr(check, "host_facts", lambda only: host)
    found = check_bundle(bundle_of(tmp_path / "b", linear_graph(), "fp32"))
    assert [(item.backend, item.passed) for item in found] == [("onnxruntime", True)]


def test_an_unknown_backend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no backend 'cuda'"):
        check_bundle(bundle_of(tmp_path / "b", linear_graph(), "fp32"), backend="cuda")


def test_a_damaged_file_is_not_a_fault_of_the_host(tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "b", linear_graph(), "fp32")
    (path / "model.fp32.onnx").write_bytes(linear_graph(bias=OFF))
    with pytest.raises(BundleError, match="does not match the SHA-256"):
        check_bundle(path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_check_variant(backend: str) -> None:
    bundle = Bundle.open(GOLDEN)
    fp32 = bundle.manifest.variants[0]
    measured, executor = check_variant(bundle, bundle.check_data(), fp32, backend)
    assert (measured.max_error, measured.centred_cosine) == (0.0, pytest.approx(1.0, rel=1e-15))  # float64 rounding
    assert executor.endswith(", fp32")


def test_check_variant_does_not_pretend() -> None:
    bundle = Bundle.open(GOLDEN)
    bf16 = bundle.manifest.variant("bf16")
    assert bf16 is not None
    with pytest.raises(UnavailableError, match="ONNX Runtime computes bf16 graphs in FP32"):
        check_variant(bundle, bundle.check_data(), bf16, "onnxruntime")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_variant_that_is_quantized_for_tensorrt_is_not_run_on_a_cpu(tmp_path: Path, backend: str) -> None:
    for_tensorrt = dataclasses.replace(variant("int8", linear_graph()), id="int8-tensorrt", scheme="tensorrt")
    path = write_linear(tmp_path / "b", variants=(variant("fp32", linear_graph()), for_tensorrt))
    refusal = f"int8-tensorrt is quantized for TensorRT, and {backend} runs the scheme 'cpu'"
    found = check_bundle(path, backend=backend)
    assert [item.unavailable for item in found] == [None, refusal]
    refuse_failed(found)
    bundle = Bundle.open(path)
    with pytest.raises(UnavailableError) as caught:
        check_variant(bundle, bundle.check_data(), for_tensorrt, backend)
    assert str(caught.value) == refusal


def test_what_was_recorded_at_export_is_handed_on(tmp_path: Path) -> None:
    speeds = (Speed(backend="openvino", against="other", ratio=2.0, batch=1, instructions="avx512_vnni"),)
    accuracy = Accuracy(samples=10, labelled=True, eager=0.9, measured=0.8, max_drop=None)
    other = dataclasses.replace(variant("fp32", linear_graph()), id="other")
    measured = dataclasses.replace(
        variant("fp32", linear_graph()), gate=sample_gate(limits=EXACT, accuracy=accuracy), speeds=speeds
    )
    found = check_bundle(write_linear(tmp_path / "b", variants=(other, measured)), backend="onnxruntime")
    assert [(item.accuracy, item.speeds) for item in found] == [(None, ()), (accuracy, speeds)]


def test_check_variant_raises_where_the_backend_fails(tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_of(tmp_path / "b", ONNX, "fp32"))
    with pytest.raises(BackendError, match="cannot load the fp32 graph"):
        check_variant(bundle, bundle.check_data(), bundle.manifest.variants[0], "onnxruntime")


def test_every_engine_that_fits_is_run_and_held_to_its_variant_s_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wide = Limits(max_error=0.9, mean_error=0.5)
    path = write_engines(
        tmp_path / "b",
        (engine_of("elsewhere", "fp16", "right", compute_capabilities=("12.0",)), "right"),
        (engine_of("good", "fp16", "right"), "right"),
        (engine_of("bad", "fp16", "wrong"), "wrong"),
        (engine_of("loose", "fp32", "wrong"), "wrong"),
        (engine_of("lost", "fp32", "damaged", verified_on="NVIDIA A10, tensorrt 10.13.2"), "damaged"),
        variants=(variant_of("fp32", wide), variant_of("fp16")),
    )
    here = TensorRTHost()
    found = check_bundle(path, host=(here.facts,), opener=here.open)
    assert [(item.variant, item.engine, item.passed, item.unavailable) for item in found] == [
        ("fp32", "lost", False, None),
        ("fp32", "loose", True, None),
        ("fp16", "good", True, None),
        ("fp16", "bad", False, None),
    ]
    lost, loose, good, bad = found
    assert lost.parity is None
    assert lost.faults[0].startswith("tensorrt 10.13.2 cannot load the engine lost")
    assert (loose.parity, loose.limits) == (bad.parity, wide)
    assert good.parity is not None
    assert (good.parity.max_error, good.parity.samples) == (0.0, 8)
    assert good.executor == "tensorrt 10.13.2 on NVIDIA L4, fp16"
    assert bad.faults[0].startswith("max error ")
    assert here.batches == [2] * 12, "8 inputs, 2 in a call, by three engines"
    assert [device.closed for device in here.devices[1:]] == [1, 1, 1]
    assert not (tmp_path / "cache").exists(), "a check looks, and leaves nothing"
    with pytest.raises(CheckError) as caught:
        refuse_failed(found)
    assert caught.value.details == tuple(
        [f"fp32 on tensorrt (engine lost): {lost.faults[0]}"]
        + [f"fp16 on tensorrt (engine bad): {fault}" for fault in bad.faults]
    )


def test_a_variant_without_an_engine_for_this_host_says_why(tmp_path: Path) -> None:
    elsewhere = engine_of("elsewhere", "fp16", "right", compute_capabilities=("12.0",))
    variants = tuple(variant_of(name) for name in ("fp32", "fp16", "bf16", "int8-cpu"))
    path = write_engines(tmp_path / "b", (elsewhere, "right"), variants=variants)
    here = TensorRTHost()
    found = check_bundle(path, host=(here.facts, facts_of("onnxruntime")), opener=here.open)
    on_tensorrt = [item for item in found if item.backend == "tensorrt"]
    assert [(item.variant, item.engine, item.passed) for item in on_tensorrt] == [
        ("fp32", None, False),
        ("fp16", None, False),
        ("bf16", None, False),
        ("int8-cpu", None, False),
    ]
    none, other, bf16, scheme = [str(item.unavailable) for item in on_tensorrt]
    assert (
        none
        == "no engine in the bundle: resnet-export BUNDLE --engine tensorrt --engine-precision fp32 builds one here"
    )
    assert other.startswith("the engine elsewhere was built by TensorRT 10.13.2 for compute capability 12.0")
    assert bf16 == "tensorrt computes no bf16"
    assert scheme == "int8-cpu is quantized for a CPU, and tensorrt runs the scheme 'tensorrt'"
    assert here.opened == []
    assert ("fp32", "onnxruntime") in [(item.variant, item.backend) for item in found if item.passed]
    refuse_failed(found)


def test_an_engine_that_turns_out_not_to_fit_is_unavailable(tmp_path: Path) -> None:
    path = write_engines(tmp_path / "b", (engine_of("half", "fp16", "right"), "right"))
    there = TensorRTHost(version="10.14.0")
    found = check_bundle(path, host=(TensorRTHost().facts,), opener=there.open)
    (item,) = [item for item in found if item.engine is not None]
    assert item.unavailable is not None
    assert "and here is TensorRT 10.14.0" in item.unavailable
    assert (item.parity, item.faults) == (None, ())


def test_check_variant_runs_no_file_on_tensorrt() -> None:
    bundle = Bundle.open(GOLDEN)
    with pytest.raises(UnavailableError, match=r"tensorrt runs engines, and .*\.onnx is an ONNX file"):
        check_variant(bundle, bundle.check_data(), bundle.manifest.variants[0], "tensorrt")


@pytest.mark.parametrize(
    ("backend", "engine", "title"),
    [(None, None, "fp16"), ("openvino", None, "fp16 on openvino"), ("tensorrt", "a", "fp16 on tensorrt (engine a)")],
)
def test_title(backend: str | None, engine: str | None, title: str) -> None:
    item = VariantCheck(
        variant="fp16",
        precision="fp16",
        backend=backend,
        executor=None,
        parity=None,
        limits=EXACT,
        faults=(),
        unavailable=None,
        engine=engine,
    )
    assert item.title == title


@pytest.mark.parametrize(("faults", "ran", "passed"), [((), True, True), (("a",), True, False), ((), False, False)])
def test_passed(faults: tuple[str, ...], ran: bool, passed: bool) -> None:
    item = VariantCheck(
        variant="fp32",
        precision="fp32",
        backend="openvino",
        executor=None,
        parity=sample_gate().parity if ran else None,
        limits=EXACT,
        faults=faults,
        unavailable=None,
    )
    assert item.passed is passed
