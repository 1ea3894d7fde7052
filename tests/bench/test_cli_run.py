"""``resnet-bench run`` from its command line, on the CPU of this host."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from resnet_bench.cases import RunError
from resnet_bench.cli import command
from resnet_bench.gpu_host import has_gpu
from resnet_bench.networks import live_resnet
from resnet_bench.plan import NAMES, checked_batches, checked_names
from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch
from tests.export.models import TINY
from tests.runtime.bundles import check_npz, record, write_bundle

NO_GPU = pytest.mark.skipif(has_gpu(), reason="this host has a GPU, which is what the command would measure")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny.pt`` and ``tiny.bundle``; read only."""
    folder = tmp_path_factory.mktemp("run")
    torch.save(live_resnet(TINY, size=32).state_dict(), folder / "tiny.pt")
    options = ExportOptions(model=ModelOptions(input_shape=(3, 32, 32)), variants=("fp32",), engines=None)
    bundle_from_checkpoint(folder / "tiny.pt", folder / "tiny.bundle", options)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["run", *map(str, arguments)])


@NO_GPU
def test_a_run_prints_its_rows_and_keeps_its_samples(folder: Path, tmp_path: Path) -> None:
    record_file = tmp_path / "run.json"
    result = run(
        folder / "tiny.bundle", "--model", folder / "tiny.pt", "--batch", "1,2", "--rounds", 2,
        "--against", "eager,openvino,compile-fp16", "--cold-starts", 1, "--json", record_file,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["case", "batch", "timed", "clock"]
    throughput = ["runtime-openvino-fp32-throughput"] * 2
    names = ["eager", "runtime-openvino-fp32", "runtime-onnxruntime-fp32", *throughput, "openvino"]
    assert [line.split()[:2] for line in lines[1:13]] == [[name, batch] for batch in ("1", "2") for name in names]
    assert all(("at once" in line) == ("throughput" in line) for line in lines[1:13])
    (heading,) = [index for index, line in enumerate(lines) if line.startswith("from a new process")]
    cold = ["runtime", "runtime, first time", "eager", "openvino, fp32", "onnxruntime, fp32"]
    for line, name in zip(lines[heading + 1 :], cold, strict=False):
        assert line.startswith(f"{name}  ")
        assert " MB" in line
    assert "compile-fp16, the call, batch 1, 2: cannot run here: compile-fp16 runs on a GPU" in result.stdout
    kept = json.loads(record_file.read_text())
    assert kept["kind"] == "run"
    assert kept["host"]["cores"] > 0
    assert {"torch", "openvino", "onnxruntime"} <= set(kept["tools"])
    figures = kept["figures"]
    assert figures["schema"] == "resnet-bench-run/1"
    assert figures["gpu"] is None
    assert figures["settings"]["rounds"] == 2
    assert figures["settings"]["batches"] == [1, 2]
    assert len(figures["rows"]) == 14
    assert [start["name"] for start in figures["cold_starts"]] == cold
    assert all(len(start["seconds"]) == 2 for start in figures["cold_starts"])
    for row in figures["rows"]:
        measured = row["name"] != "compile-fp16"
        assert row["state"] == ("measured" if measured else "unavailable")
        assert len(row["wall_seconds"]) == (2 if measured else 0)
        assert all(seconds > 0 for samples in row["wall_seconds"] for seconds in samples)


@NO_GPU
def test_answers_that_are_not_the_model_s_are_failed_rows(folder: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(folder / "tiny.bundle")
    check, manifest = bundle.check_data(), bundle.manifest
    data = check_npz(check.inputs, {name: array[::-1].astype(np.float64) for name, array in check.outputs.items()})
    other = dataclasses.replace(manifest, check=record(manifest.check.path, data))
    files = {item.file.path: bundle.read(item.file) for item in manifest.variants}
    files |= {manifest.report.path: bundle.read(manifest.report), manifest.check.path: data}
    changed = write_bundle(tmp_path / "changed.bundle", files, other)
    result = run(changed, "--batch", "1", "--against", "none", "--rounds", 1)
    assert result.exit_code == 1, result.output
    assert "runtime-openvino-fp32, the call, batch 1: FAILED: its answers are wrong: max error" in result.stdout
    refused = run(changed, "--model", folder / "tiny.pt")
    assert refused.exit_code == 2
    assert "tiny.pt does not compute what the bundle does" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "1,x"], "--batch is '1,x': give sizes such as 1,8,32"),
        (["--batch", "0"], "--batch is '0': give sizes such as 1,8,32"),
        (["--batch", "1,100000"], "and --batch asks for 100000: leave that out"),
        (["--against", "eager,tensorflow"], "--against has 'tensorflow', and knows eager, eager-bf16"),
        (["--model", "none.pt"], "none.pt"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(folder: Path, arguments: list[str], said: str) -> None:
    result = run(folder / "tiny.bundle", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_bundle_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    result = run(tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert "Traceback" not in result.output


def test_a_default_batch_that_the_bundle_does_not_take_is_left_out(folder: Path) -> None:
    manifest = Bundle.open(folder / "tiny.bundle").manifest
    entry = dataclasses.replace(manifest.input, batch=Batch(smallest=1, optimal=4, largest=16))
    small = dataclasses.replace(manifest, input=entry)
    assert checked_batches(small, None, (1, 8, 32, 128)) == ((1, 8), (32, 128))
    assert checked_batches(small, (16,), (1,)) == ((16,), ())
    with pytest.raises(RunError, match="takes batches of up to 16, and --batch asks for 32, 64"):
        checked_batches(small, (1, 32, 64), (1,))


def test_names_are_taken_once_and_none_is_none() -> None:
    assert checked_names("eager, onnxruntime,eager") == ("eager", "onnxruntime")
    assert checked_names("none") == ()
    assert {"eager", "eager-fp16", "compile-fp16", "graphed-fp16", "onnxruntime", "tensorrt-int8"} <= set(NAMES)
