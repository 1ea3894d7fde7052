"""``resnet-export`` on what it can export: what it writes, and what it prints where."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from resnet_export import ExportOptions, ModelOptions, PreprocessingOptions, __version__, pipeline
from resnet_export.cli import command
from resnet_export.engine_stages import EnginesOptions
from resnet_export.errors import RequestError
from resnet_export.options import DEFAULT_LIMITS, CalibrationOptions, EvaluationOptions
from resnet_export.resnet import ResNet
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch, Limits, Resize
from tests.export.commands import SHAPE, invoked, names, refused, snapshot
from tests.export.test_cli_engines import OPTIONS as ENGINE_OPTIONS

FILES = ["check.npz", "manifest.json", "model.fp16.onnx", "model.fp32.onnx", "report.html", "report.json"]
FP32_FILES = ["check.npz", "manifest.json", "model.fp32.onnx", "report.html", "report.json"]
STAGES = [
    "read", "eager", "trace", "fold", "check fold", "write", "verify fp32", "verify bf16", "verify fp16", "publish",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("here")


def test_the_bundle_is_named_after_the_model_and_stands_in_the_working_directory(
    here: Path, tiny_checkpoint: Path
) -> None:
    result = invoked(tiny_checkpoint, *SHAPE, "--engine", "none")
    assert result.exit_code == 0
    assert names(here) == ["tiny.bundle"]
    assert names(here / "tiny.bundle") == FILES
    table = [line.split() for line in result.stdout.splitlines()]
    assert ["variant", "MB", "max", "error", "mean", "error", "SNR", "top-1", "gate"] in table
    rows = {row[0]: row for row in table if row and row[0] in ("fp32", "bf16", "fp16")}
    # bf16 and fp16 pass in emulation on most CPUs, which the table marks.
    assert {name: row[-1].rstrip("*") for name, row in rows.items()} == dict.fromkeys(rows, "passed")
    assert list(rows) == ["fp32", "bf16", "fp16"]
    assert "…" not in result.stdout, "a figure is cut off"
    assert result.stdout.endswith("The bundle is tiny.bundle. Next:\n  resnet-run tiny.bundle IMAGE.jpg\n")
    assert "  color order          RGB                                --color-order\n" in result.stdout
    progress = result.stderr.splitlines()
    assert all(line.startswith("  ✓ ") for line in progress), "nothing but stages on standard error"
    assert [line[4:16].rstrip() for line in progress] == STAGES


def test_json_is_one_object_and_all_else_is_on_standard_error(here: Path, tiny_checkpoint: Path) -> None:
    result = invoked(tiny_checkpoint, *SHAPE, "--json", "--precision", "fp32", "-o", "named")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert list(found) == ["bundle", "status", "report", "engines"]
    assert (found["bundle"], found["status"]) == ("named", 0)
    missing = "the bundle has no fp16 variant to build one of"
    assert found["engines"] == {"built": [], "missing": [missing], "warnings": []}
    written = json.loads((here / "named" / "report.json").read_bytes())
    assert sorted(set(found["report"].pop("seconds")) - set(written.pop("seconds"))) == ["publish"]
    assert found["report"] == written
    assert [variant["id"] for variant in found["report"]["variants"]] == ["fp32"]
    assert names(here / "named") == FP32_FILES
    assert "  resnet-run named IMAGE.jpg\n" in result.stderr


def test_quiet_says_nothing_and_force_replaces(here: Path, tiny_checkpoint: Path) -> None:
    old = here / "tiny.bundle"
    old.mkdir()
    (old / "manifest.json").write_text("old")
    (old / "model.old.onnx").write_text("old")
    result = invoked(tiny_checkpoint, *SHAPE, "--quiet", "--force", "--precision", "fp32")
    assert (result.exit_code, result.output) == (0, "")
    assert names(here) == ["tiny.bundle"]
    assert names(old) == FP32_FILES


def test_everything_that_is_told_stands_in_the_manifest(
    here: Path, tiny_checkpoint: Path, tiny_reference: dict[str, np.ndarray]
) -> None:
    (here / "classes.txt").write_text("a\nb\nc\nd\ne")
    np.savez(here / "reference.npz", **tiny_reference)
    result = invoked(
        tiny_checkpoint, *SHAPE, "-o", "out", "--input", "uint8", "--labels", "classes.txt",
        "--reference", "reference.npz", "--mean", "0.5,0.25,0.125", "--std", "0.5", "--scale", "0.0078125",
        "--resize", "20,24", "--crop", "16", "--interpolation", "bicubic", "--color-order", "BGR", "--batch", "2,4,6",
        "--precision", "fp32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [line[4:16].rstrip() for line in result.stderr.splitlines()][:2] == ["read", "reference"]
    bundle = Bundle.open(here / "out")
    manifest = bundle.manifest
    assert bundle.labels() == ("a", "b", "c", "d", "e")
    assert (manifest.input.layout, manifest.input.dtype, manifest.input.shape) == ("NHWC", "uint8", (16, 16, 3))
    assert manifest.input.batch == Batch(smallest=2, optimal=4, largest=6)
    preprocessing = manifest.preprocessing
    assert preprocessing.resize == Resize(mode="exact", size=(20, 24), interpolation="bicubic", antialias=True)
    assert (preprocessing.crop, preprocessing.color_order, preprocessing.in_graph) == ((16, 16), "BGR", True)
    assert preprocessing.mean == (0.5, 0.25, 0.125)
    assert (preprocessing.std, preprocessing.scale) == ((0.5, 0.5, 0.5), 0.0078125)
    assert bundle.check_data().inputs.dtype == np.uint8
    told = {"--input-shape", "--mean", "--std", "--resize", "--crop", "--color-order"}
    assert not told & {item.option for item in manifest.model.assumptions}


def test_a_variant_that_fails_its_gate_is_not_in_the_bundle_and_the_status_is_3(
    here: Path, tiny_checkpoint: Path
) -> None:
    result = invoked(
        tiny_checkpoint, *SHAPE, "--precision", "fp16", "--precision", "fp32", "--gate", "fp16.max_error=0"
    )
    assert result.exit_code == 3
    assert names(here) == ["tiny.bundle"]
    assert names(here / "tiny.bundle") == FP32_FILES
    assert [variant.id for variant in Bundle.open(here / "tiny.bundle").manifest.variants] == ["fp32"]
    said = [line for line in result.stdout.splitlines() if line.startswith("fp16 is not in the bundle: max error ")]
    assert len(said) == 1
    assert said[0].endswith("% of the spread, 0.000% allowed")
    assert "! warning: fp16 did not pass its gate: max error" in result.stderr
    report = json.loads((here / "tiny.bundle" / "report.json").read_bytes())
    assert {item["id"]: item["shipped"] for item in report["variants"]} == {"fp32": True, "fp16": False}


def test_where_every_variant_fails_nothing_is_written_and_the_status_is_1(here: Path, tiny_checkpoint: Path) -> None:
    result = invoked(tiny_checkpoint, *SHAPE, "--precision", "fp32", "--gate", "fp32.max_error=0", "--json", "--force")
    assert result.exit_code == 1
    assert snapshot(here) == {}
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "VerificationError"
    assert error["message"] == "no variant passed its gate, and nothing was written"
    assert len(error["details"]) == 1
    assert error["details"][0].startswith("fp32: max error ")


def test_a_pickled_module_is_exported_with_trust(here: Path, tiny_network: ResNet) -> None:
    torch.save(tiny_network, here / "module.pt")
    result = invoked("module.pt", *SHAPE, "--trust", "--precision", "fp32", "--quiet")
    assert result.exit_code == 0, result.output
    assert Bundle.open(here / "module.bundle").manifest.model.architecture == "ResNet"


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Path, Path, ExportOptions]:
    """What the command line makes of its arguments, without an export."""
    seen: list[tuple[Path, Path, ExportOptions]] = []

    def stop(checkpoint: Path, destination: Path, options: ExportOptions, progress: object) -> None:
        seen.append((checkpoint, destination, options))
        raise RequestError("stop")

    monkeypatch.setattr(pipeline, "bundle_from_checkpoint", stop)
    assert refused(*arguments)["message"] == "stop"
    return seen[0]


def test_without_options_the_defaults_are_those_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, "some/model.v2.pt") == (Path("some/model.v2.pt"), Path("model.v2.bundle"), ExportOptions())


Bilinear = {"interpolation": "bilinear", "antialias": True}

OPTIONS = {
    "--arch resnet50": {"model": ModelOptions(arch="resnet50")},
    "--stride-in 1x1": {"model": ModelOptions(stride_in="1x1")},
    "--weights ema": {"model": ModelOptions(weights="ema")},
    "--input-shape 1,28,32": {"model": ModelOptions(input_shape=(1, 28, 32))},
    "--trust": {"model": ModelOptions(trust=True)},
    "--reference r.npz": {"model": ModelOptions(reference=Path("r.npz"))},
    "--batch 2,3,4": {
        "batch": Batch(smallest=2, optimal=3, largest=4),
        "engines": EnginesOptions(profiles=(Batch(smallest=2, optimal=3, largest=4),)),
    },
    "--precision bf16": {"variants": ("bf16",)},
    "--precision fp16 --precision fp32": {"variants": ("fp32", "fp16")},
    "--input uint8": {"preprocessing": PreprocessingOptions(in_graph=True)},
    "--input float32": {},
    "--mean 0.5,0.25": {"preprocessing": PreprocessingOptions(mean=(0.5, 0.25))},
    "--std 0.5": {"preprocessing": PreprocessingOptions(std=(0.5,))},
    "--scale 0.5": {"preprocessing": PreprocessingOptions(scale=0.5)},
    "--resize 9": {"preprocessing": PreprocessingOptions(resize=Resize(mode="shorter", size=(9,), **Bilinear))},
    "--resize 9,8": {"preprocessing": PreprocessingOptions(resize=Resize(mode="exact", size=(9, 8), **Bilinear))},
    "--resize none": {"preprocessing": PreprocessingOptions(resize=False)},
    "--crop 9": {"preprocessing": PreprocessingOptions(crop=(9, 9))},
    "--crop 9,8": {"preprocessing": PreprocessingOptions(crop=(9, 8))},
    "--crop none": {"preprocessing": PreprocessingOptions(crop=False)},
    "--interpolation box": {"preprocessing": PreprocessingOptions(interpolation="box")},
    "--color-order BGR": {"preprocessing": PreprocessingOptions(color_order="BGR")},
    "--labels l.txt": {"labels": Path("l.txt")},
    "--gate fp16.max_error=0.5 --gate fp16.centred_cosine=0.9 --gate fp32.mean_error=0 --gate bf16.top1_agreement=1": {
        "limits": {
            "fp32": dataclasses.replace(DEFAULT_LIMITS["fp32"], mean_error=0.0),
            "bf16": dataclasses.replace(DEFAULT_LIMITS["bf16"], top1_agreement=1.0),
            "fp16": Limits(max_error=0.5, mean_error=0.003, centred_cosine=0.9, top1_agreement=0.995),
            "int8": DEFAULT_LIMITS["int8"],
        }
    },
    "--precision int8 --calibration images": {
        "variants": ("int8",),
        "calibration": CalibrationOptions(images=Path("images")),
    },
    "--calibration-table t.json": {"calibration": CalibrationOptions(table=Path("t.json"))},
    "--calibration-method mse": {"calibration": CalibrationOptions(method="mse")},
    "--skip-bad-images": {"calibration": CalibrationOptions(skip_bad_images=True)},
    "--evaluation e --evaluation-labels l.txt --max-drop 0.5": {
        "evaluation": EvaluationOptions(images=Path("e"), labels=Path("l.txt"), max_drop=0.5)
    },
    "--engine none": {"engines": None},
    "--force": {"force": True},
    "--json": {},
    "--quiet": {},
}


@pytest.mark.parametrize("arguments", OPTIONS)
def test_an_option_sets_what_it_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    expected = dataclasses.replace(ExportOptions(), **OPTIONS[arguments])
    assert told(monkeypatch, "model.pt", *arguments.split())[2] == expected


@pytest.mark.parametrize("option", ["-o", "--output"])
def test_output_names_the_destination(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    assert told(monkeypatch, "model.pt", option, "some/where")[1] == Path("some/where")


def test_interpolation_is_that_of_the_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    options = told(monkeypatch, "model.pt", "--resize", "9", "--interpolation", "lanczos")[2]
    assert options.preprocessing.resize == Resize(mode="shorter", size=(9,), interpolation="lanczos", antialias=True)


def test_every_option_of_the_help_stands_above() -> None:
    shown = invoked("--help").stdout
    options = {name for item in command.params if isinstance(item, click.Option) for name in item.opts}
    assert all(name in shown for name in options)
    elsewhere = set(" ".join(ENGINE_OPTIONS).split())
    assert options - set(" ".join(OPTIONS).split()) - elsewhere == {"-o", "--output", "--version"}


def test_help_and_version_are_on_standard_output() -> None:
    for option in ("-h", "--help"):
        shown = invoked(option)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert "Exit status: 0 done; 1 failed, nothing written;" in shown.stdout
    assert invoked("--version").output == f"resnet-export, version {__version__}\n"
