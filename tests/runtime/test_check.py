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
from .goldens import BIAS, GOLDEN
from .graphs import linear_graph, write_linear

EXACT = Limits(max_error=0.0, mean_error=0.0, top1_agreement=1.0)
TIGHT = Limits(max_error=1e-5, mean_error=1e-6, top1_agreement=1.0)
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
