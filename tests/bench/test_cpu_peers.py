"""What else one would pick on a CPU computes what the model computes, and says so where it cannot run."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from resnet_bench.cases import Subject
from resnet_bench.cpu_cases import cpu_peer
from resnet_bench.cpu_peers import OTHERS
from resnet_bench.speed import FAILED, MEASURED, UNAVAILABLE, LoopOptions, Row, measure
from resnet_runtime.bundle import CheckData

QUICK = LoopOptions(rounds=1, visit_seconds=0.0, warmup_seconds=0.0)
COMPILED = ("compile", "compile-bf16", "compile-int8")


def measured(subject: Subject, name: str, check: CheckData | None = None, batch: int = 3) -> Row:
    (row,) = measure([cpu_peer(subject, batch, name)], check or subject.check, QUICK, rest=lambda: None)
    return row


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    yield
    torch.compiler.reset()


# A compiler takes a minute for the three; one of them shows in every run that they still fit this PyTorch.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in COMPILED and name != "compile-int8" else name
        for name in OTHERS
    ],
)
def test_a_peer_computes_what_the_model_computes(subject: Subject, name: str) -> None:
    if name in COMPILED and shutil.which("g++") is None:
        pytest.skip("there is no g++, which torch.compile needs")
    row = measured(subject, name)
    assert (row.state, row.reason) == (MEASURED, None)
    assert row.parity is not None
    assert row.parity.centred_cosine > (0.9 if "int8" in name else 0.999)
    if "int8" in name or name.endswith("bf16"):
        assert row.parity.max_error > 1e-4, "it is not FP32"
    else:
        assert row.parity.max_error < 1e-4
    assert "3 at once" in (row.description or "") or "static shape" in (row.description or "")


def test_answers_of_another_model_are_no_result(subject: Subject) -> None:
    other = {name: -array for name, array in subject.check.outputs.items()}
    row = measured(subject, "eager-bf16", dataclasses.replace(subject.check, outputs=other))
    assert row.state == FAILED
    assert "its answers are wrong" in (row.reason or "")


@pytest.mark.parametrize("name", OTHERS)
def test_without_the_checkpoint_each_says_so(subject: Subject, name: str) -> None:
    row = measured(dataclasses.replace(subject, network=None), name)
    assert (row.state, row.reason) == (UNAVAILABLE, "it needs the checkpoint: give --model model.pt")


def test_without_torchao_it_says_so(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    row = measured(subject, "compile-int8")
    assert row.state == UNAVAILABLE
    assert "torchao is not installed here" in (row.reason or "")
    assert (row.reason or "").endswith("pip install 'resnet-export[bench]'")


def test_the_network_is_left_as_it_was(subject: Subject) -> None:
    assert subject.network is not None
    before = {name: tensor.clone() for name, tensor in subject.network.module.state_dict().items()}
    measured(subject, "eager-bf16")
    measured(subject, "nncf-int8")
    for name, tensor in subject.network.module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), before[name].numpy())
