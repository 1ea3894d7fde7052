"""The CPU's cases on a tiny bundle: they compute what the model computes, each by its own library."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_bench.cases import MissingCase, RunError, Subject, peer_name
from resnet_bench.cli_run import _planned
from resnet_bench.cpu_cases import ALL_ON_A_CPU, CPU_PEERS, cpu_cases, cpu_peer, native_variant
from resnet_bench.eager_network import network_from_file
from resnet_bench.networks import live_resnet
from resnet_bench.plan import ALL, checked_names
from resnet_bench.speed import MEASURED, LoopOptions, measure
from resnet_export.errors import RequestError
from resnet_runtime.backends.base import BackendFacts
from resnet_runtime.errors import UnavailableError
from tests.bench.tiny_subject import exported
from tests.export.models import TINY

QUICK = LoopOptions(rounds=1, visit_seconds=0.0, warmup_seconds=0.0)


def test_every_case_computes_what_the_model_computes(subject: Subject) -> None:
    cases = cpu_cases(subject, 3, None)
    names = [case.label.name for case in cases]
    assert names[0] == "eager"
    assert {"runtime-openvino-fp32", "runtime-onnxruntime-fp32", "openvino", "onnxruntime"} <= set(names)
    rows = measure(cases, subject.check, QUICK, rest=lambda: None)
    assert [(row.label.name, row.state, row.reason) for row in rows] == [(name, MEASURED, None) for name in names]
    for row in rows:
        assert row.parity is not None
        assert row.parity.max_error < 1e-4, "of float32"
        assert row.device == []
        assert row.description


def test_a_runtime_s_case_has_its_library_as_the_yardstick(subject: Subject) -> None:
    cases = {case.label.name: case.label.yardstick for case in cpu_cases(subject, 1, None)}
    assert cases["runtime-openvino-fp32"] == "openvino"
    assert cases["runtime-onnxruntime-fp32"] == "onnxruntime"
    assert cases["eager"] is None


def test_against_chooses_the_peers(subject: Subject) -> None:
    runtime = ["runtime-openvino-fp32", "runtime-onnxruntime-fp32", *["runtime-openvino-fp32-throughput"] * 2]
    assert [case.label.name for case in cpu_cases(subject, 1, ())] == runtime
    chosen = [case.label.name for case in cpu_cases(subject, 1, ("onnxruntime", "eager", "onnxruntime"))]
    assert chosen == ["eager", *runtime, "onnxruntime"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("compile-fp16", "compile-fp16 runs on a GPU, and there is none here that can be used"),
        ("onnxruntime-int8", "the bundle has no int8 variant for onnxruntime"),
        ("eager", "it needs the checkpoint: give --model model.pt"),
    ],
)
def test_a_peer_that_cannot_run_says_why(subject: Subject, name: str, said: str) -> None:
    case = cpu_peer(dataclasses.replace(subject, network=None), 1, name)
    assert case.label.name == name
    with pytest.raises(UnavailableError) as caught:
        case.prepare(np.zeros(1))
    assert caught.value.message == said
    case.close()


def test_a_backend_that_is_missing_or_lacks_a_precision_says_so(subject: Subject) -> None:
    variants = subject.bundle.manifest.variants
    facts = BackendFacts("some", "1", precisions={"fp32": "native", "bf16": "emulated"})
    assert native_variant(variants, facts, "fp32") is variants[0]
    assert native_variant(variants, facts, "bf16") == "some does not compute bf16 natively on this CPU"
    missing = BackendFacts("some", None, "some is not installed here: pip install some")
    assert native_variant(variants, missing, "fp32") == missing.missing


def test_a_model_of_one_batch_size_is_no_peer_at_others(subject: Subject) -> None:
    assert subject.network is not None
    fixed = dataclasses.replace(subject, network=dataclasses.replace(subject.network, fixed_batch=4))
    assert isinstance(cpu_peer(fixed, 1, "eager"), MissingCase)
    assert not isinstance(cpu_peer(fixed, 4, "eager"), MissingCase)


def test_names_of_peers_are_their_library_s(subject: Subject) -> None:
    assert peer_name("openvino", "fp32") == "openvino"
    assert peer_name("openvino", "int8") == "openvino-int8"
    assert len(set(CPU_PEERS)) == len(CPU_PEERS)


def test_eager_takes_what_the_graph_takes(checkpoint: Path, tmp_path: Path) -> None:
    bundle = exported(checkpoint, tmp_path, in_graph=True)
    check = bundle.check_data()
    assert check.inputs.dtype == np.uint8
    network = network_from_file(checkpoint, bundle)
    found = network.answers(np.ascontiguousarray(check.inputs[:4]))
    assert set(found) == set(check.outputs)
    for name, array in found.items():
        # The tolerance is float32's own error on answers of a magnitude of some units.
        np.testing.assert_allclose(array, check.outputs[name][:4], rtol=0, atol=1e-4)


def test_another_model_is_refused(subject: Subject, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save(live_resnet(TINY, size=32, seed=9).state_dict(), other)
    with pytest.raises(
        RequestError, match=r"other\.pt does not compute what the bundle does \(max error .*\): give the"
    ):
        network_from_file(other, subject.bundle)
    classes = tmp_path / "classes.pt"
    torch.save(live_resnet(TINY, size=32, classes=7).state_dict(), classes)
    with pytest.raises(RequestError, match=r"classes\.pt has other outputs than the bundle"):
        network_from_file(classes, subject.bundle)


def test_all_is_every_peer_of_a_cpu(subject: Subject) -> None:
    assert checked_names("all") == (ALL,)
    with pytest.raises(RunError, match="--against has 'all', and knows"):
        checked_names("all,eager")
    names = {case.label.name for case in _planned(subject, checked_names("all"), None)(1)}
    assert set(ALL_ON_A_CPU) <= names
