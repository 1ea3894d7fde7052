"""``resnet-run --check``: the table, the JSON and the exit status."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from resnet_runtime import check
from resnet_runtime.backends import facts_of
from resnet_runtime.check import VariantCheck
from resnet_runtime.cli import main
from resnet_runtime.manifest import Accuracy, Limits, Parity, Speed

from .goldens import GOLDEN

GOOD = Parity(
    samples=8,
    undecided=1,
    max_error=0.0123456,
    mean_error=0.001,
    centred_cosine=0.999,
    snr_db=40.0,
    top1_agreement=1.0,
    top5_agreement=1.0,
)
UNUSABLE = Parity(
    samples=8,
    undecided=0,
    max_error=1e30,
    mean_error=1e30,
    centred_cosine=-1.0,
    snr_db=-400.0,
    top1_agreement=0.0,
    top5_agreement=0.0,
)


def verdict(**changes: Any) -> VariantCheck:
    given: dict[str, Any] = {
        "variant": "fp16",
        "precision": "fp16",
        "backend": "openvino",
        "executor": "OpenVINO 2026.4, f16",
        "parity": GOOD,
        "limits": Limits(max_error=0.02, mean_error=0.003, top1_agreement=0.995),
        "faults": (),
        "unavailable": None,
    }
    return VariantCheck(**{**given, **changes})


PASSED = verdict()
FAILED = verdict(
    variant="int8",
    precision="int8",
    parity=UNUSABLE,
    limits=Limits(centred_cosine=0.98),
    faults=("an answer is not finite", "it is wrong"),
)
BROKEN = verdict(variant="fp32", parity=None, executor=None, faults=("the graph cannot be loaded",))
NOT_RUN = verdict(variant="bf16", backend=None, executor=None, parity=None, limits=Limits(), unavailable="no bf16 here")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[VariantCheck]:
    """What the check will find; the bundle is not looked at."""
    found: list[VariantCheck] = []

    def check_bundle(path: str, *, backend: str) -> tuple[VariantCheck, ...]:
        assert (path, backend) == ("b", "openvino")
        return tuple(found)

    monkeypatch.setattr(check, "check_bundle", check_bundle)
    return found


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    status = main(["b", "--check", "--backend", "openvino", *options])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


NONE_RAN = "Error: no variant of the bundle can be run on this host: install a backend that can.\n"


@pytest.mark.parametrize(
    ("checks", "status", "error"),
    [
        ([PASSED], 0, ""),
        ([PASSED, PASSED], 0, ""),
        ([PASSED, NOT_RUN], 0, ""),
        ([NOT_RUN], 1, NONE_RAN),
        ([NOT_RUN, NOT_RUN], 1, NONE_RAN),
        ([FAILED], 1, "Error: the bundle does not compute here what the model computed: int8 on openvino.\n"),
        (
            [PASSED, FAILED, BROKEN, NOT_RUN],
            1,
            "Error: the bundle does not compute here what the model computed: int8 on openvino, fp32 on openvino.\n",
        ),
    ],
)
def test_status(
    found: list[VariantCheck],
    capsys: pytest.CaptureFixture[str],
    checks: list[VariantCheck],
    status: int,
    error: str,
) -> None:
    found.extend(checks)
    code, _, err = run(capsys)
    assert (code, err) == (status, error)
    code, out, err = run(capsys, "--json")
    assert (code, err) == (status, error)
    assert json.loads(out)["passed"] is (status == 0)


def test_table(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    found.extend([PASSED, FAILED, BROKEN, NOT_RUN])
    _, out, _ = run(capsys)
    heading, *lines = out.splitlines()
    columns = [heading.index(name) for name in ("variant", "backend", "executor", "max error", "mean error", "top-1")]
    columns += [heading.index("allowed"), heading.index("verdict"), 1000]
    cells = [[line[a:b].strip() for a, b in itertools.pairwise(columns)] for line in lines[:4]]
    allowed = "max <= 2%, mean <= 0.3%, top-1 >= 99.5%"
    assert cells == [
        ["fp16", "openvino", "OpenVINO 2026.4, f16", "1.235%", "0.100%", "100.00%", allowed, "passed"],
        ["int8", "openvino", "OpenVINO 2026.4, f16", "infinite", "infinite", "0.00%", "cosine >= 0.98", "FAILED"],
        ["fp32", "openvino", "-", "-", "-", "-", allowed, "FAILED"],
        ["bf16", "-", "-", "-", "-", "-", "-", "not run"],
    ]
    assert lines[4:] == [
        "int8 on openvino: an answer is not finite",
        "int8 on openvino: it is wrong",
        "fp32 on openvino: the graph cannot be loaded",
        "bf16: no bf16 here",
    ]


ACCURATE = verdict(
    variant="int8-cpu",
    precision="int8",
    accuracy=Accuracy(samples=50000, labelled=True, eager=0.7613, measured=0.758, max_drop=1.0),
    speeds=(
        Speed(backend="openvino", against="fp32", ratio=2.961, batch=1, instructions="avx512_vnni"),
        Speed(backend="onnxruntime", against="fp32", ratio=2.4, batch=16, instructions="avx512_vnni"),
    ),
)
AGREEING = verdict(
    variant="int8-tensorrt",
    backend=None,
    accuracy=Accuracy(samples=512, labelled=False, eager=1.0, measured=0.982, max_drop=None),
)


def test_table_of_what_was_recorded_at_export(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    on_another = dataclasses.replace(ACCURATE, backend="onnxruntime")
    found.extend([PASSED, ACCURATE, on_another, AGREEING])
    _, out, _ = run(capsys)
    lines = out.splitlines()[5:]
    assert lines == [
        "When it was exported:",
        "  int8-cpu: top-1 75.80%, eager 76.13%, on 50000 labelled images",
        "  int8-cpu: 2.96 times as fast as fp32 on openvino (batch 1, avx512_vnni)",
        "  int8-cpu: 2.40 times as fast as fp32 on onnxruntime (batch 16, avx512_vnni)",
        "  int8-tensorrt: eager's top-1 answer on 98.20% of 512 images",
    ]
    assert max(map(len, lines)) <= 80


def test_json_of_what_was_recorded_at_export(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    found.append(ACCURATE)
    _, out, _ = run(capsys, "--json")
    (item,) = json.loads(out)["checks"]
    assert item["accuracy"] == vars(ACCURATE.accuracy)
    assert item["speeds"] == [vars(speed) for speed in ACCURATE.speeds]


def test_json(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    found.extend([PASSED, NOT_RUN])
    _, out, _ = run(capsys, "--json")
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "bundle": "b",
        "passed": True,
        "checks": [
            {
                "variant": "fp16",
                "precision": "fp16",
                "backend": "openvino",
                "executor": "OpenVINO 2026.4, f16",
                "parity": vars(GOOD),
                "limits": vars(PASSED.limits),
                "faults": [],
                "unavailable": None,
                "accuracy": None,
                "speeds": [],
                "engine": None,
                "passed": True,
            },
            {
                "variant": "bf16",
                "precision": "fp16",
                "backend": None,
                "executor": None,
                "parity": None,
                "limits": dict.fromkeys(("max_error", "mean_error", "centred_cosine", "top1_agreement")),
                "faults": [],
                "unavailable": "no bf16 here",
                "accuracy": None,
                "speeds": [],
                "engine": None,
                "passed": False,
            },
        ],
    }


ENGINE = verdict(backend="tensorrt", executor="tensorrt 10.13 on NVIDIA L4, fp16", engine="fp16-tensorrt-10.13")
WRONG_ENGINE = dataclasses.replace(ENGINE, engine="fp16\x1b[2J", parity=UNUSABLE, faults=("it is wrong",))
NO_ENGINE = verdict(backend="tensorrt", executor=None, parity=None, unavailable="no engine in the bundle")


def test_table_of_engines(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    found.extend([PASSED, ENGINE, WRONG_ENGINE, NO_ENGINE])
    status, out, err = run(capsys)
    heading, *lines = out.splitlines()
    columns = [heading.index(name) for name in ("backend", "engine", "executor", "max error")]
    cells = [[line[a:b].strip() for a, b in itertools.pairwise(columns)] for line in lines[:4]]
    executor = "tensorrt 10.13 on NVIDIA L4, fp16"
    assert cells == [
        ["openvino", "-", "OpenVINO 2026.4, f16"],
        ["tensorrt", "fp16-tensorrt-10.13", executor],
        ["tensorrt", r"fp16\x1b[2J", executor],
        ["tensorrt", "-", "-"],
    ]
    assert lines[4:] == [
        r"fp16 on tensorrt (engine fp16\x1b[2J): it is wrong",
        "fp16 on tensorrt: no engine in the bundle",
    ]
    failed = r"fp16 on tensorrt (engine fp16\x1b[2J)"
    assert (status, err) == (1, f"Error: the bundle does not compute here what the model computed: {failed}.\n")


def test_json_of_engines(found: list[VariantCheck], capsys: pytest.CaptureFixture[str]) -> None:
    found.extend([ENGINE, NO_ENGINE])
    status, out, _ = run(capsys, "--json")
    assert status == 0
    assert [item["engine"] for item in json.loads(out)["checks"]] == ["fp16-tensorrt-10.13", None]


def test_tensorrt_on_a_host_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    missing = facts_of("tensorrt").missing
    if missing is None:
        pytest.skip("TensorRT is installed here, and a GPU")
    assert main([str(GOLDEN), "--check", "--backend", "tensorrt"]) == 2
    expected = f"Error: no backend is installed here to check the bundle with\n  {missing}\n"
    assert capsys.readouterr().err == expected


def test_the_golden_bundle_passes_on_a_real_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN), "--check", "--backend", "onnxruntime", "--json"]) == 0
    checks = {item["variant"]: item for item in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["fp32"]["passed"] is True
    assert checks["fp32"]["parity"]["max_error"] == 0.0  # every sum of the golden graph is exact
    assert checks["bf16"]["unavailable"] is not None
    assert checks["int8-cpu"]["passed"] is ("int8" in facts_of("onnxruntime").precisions)


def test_a_damaged_bundle_is_not_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--check"]) == 2
    assert capsys.readouterr().err == f"Error: {tmp_path} is not a bundle: it has no manifest.json\n"
