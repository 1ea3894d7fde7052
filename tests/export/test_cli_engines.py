"""resnet-export on a bundle: engines are added, and what makes no sense is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from resnet_export.cli import command
from resnet_export.cli_engines import options_from_arguments
from resnet_export.engine import EngineOptions
from resnet_export.engine_stages import EnginesOptions
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch
from tests.export.commands import invoked, names

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone"
)
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def bundle(here: Path, tiny_checkpoint: Path) -> Path:
    found = invoked(tiny_checkpoint, "--input-shape", "3,32,32", "--precision", "fp32", "--precision", "fp16")
    assert found.exit_code == 0
    return here / "tiny.bundle"


OPTIONS = {
    "--engine tensorrt": {"library": "tensorrt"},
    "--precision int8 --precision fp32": {"variants": ("int8-tensorrt", "fp32")},
    "--batch 1,2,4": {"profiles": (Batch(smallest=1, optimal=2, largest=4),)},
    "--engine-capability 8.6 --engine-capability 8.9": {"build": EngineOptions(capabilities=("8.6", "8.9"))},
    "--engine-level 5": {"build": EngineOptions(level=5)},
    "--engine-workspace 64": {"build": EngineOptions(workspace=64 * 2**20)},
    "--version-compatible": {"build": EngineOptions(version_compatible=True)},
    "--hardware-compatible": {"build": EngineOptions(hardware_compatible=True)},
}


@pytest.mark.parametrize("arguments", OPTIONS)
def test_an_option_sets_what_it_names_and_nothing_else(arguments: str) -> None:
    given = ["model.bundle", "--engine", "auto", *arguments.split()]
    context = command.make_context("resnet-export", given)
    assert options_from_arguments(context.params) == dataclasses.replace(EnginesOptions(), **OPTIONS[arguments])


@needs_rtx
def test_engines_are_added_to_a_bundle(bundle: Path) -> None:
    result = invoked(bundle, "--engine", "tensorrt-rtx", "--engine-capability", "8.6", "--engine-capability", "8.9")
    assert result.exit_code == 0, result.stderr
    assert "for compute capability 8.6, 8.9; not verified on a GPU yet" in result.stdout
    opened = Bundle.open(bundle)
    (engine,) = opened.manifest.engines
    assert (engine.variant, engine.builder, engine.compute_capabilities) == ("fp16", "tensorrt-rtx", ("8.6", "8.9"))
    assert (engine.compatibility, engine.verified_on) == ("portable", None)
    assert len(opened.read(engine.file)) == engine.file.size > 1000

    result = invoked(bundle, "--engine", "auto", "--precision", "fp32", "--batch", "1,2,4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["status"], found["engines"][0]["variant"]) == (0, "fp32")
    engines = {engine.variant: engine for engine in Bundle.open(bundle).manifest.engines}
    assert set(engines) == {"fp16", "fp32"}
    assert engines["fp32"].profiles[0].largest == 4
    assert names(bundle / "engines") == sorted(Path(item.file.path).name for item in engines.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "is a bundle already, to which engines can be added"),
        (["--engine", "auto", "--calibration", "images"], "--calibration belongs to the export of a checkpoint"),
        (["--engine", "auto", "--force"], "--force belongs to the export of a checkpoint"),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--precision", "int8"], "has no variant int8-tensorrt", marks=needs_rtx
        ),
        (["--engine", "tensorrt-rtx", "--precision", "bf16"], "--precision bf16 has no engine"),
        (["--engine", "tensorrt-rtx", "--batch", "4,2,1"], "--batch is 4,2,1"),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--engine-capability", "3.5"],
            "builds no engines for compute capability 3.5",
            marks=needs_rtx,
        ),
    ],
)
def test_what_makes_no_sense_is_refused(bundle: Path, arguments: list[str], said: str) -> None:
    before = (bundle / "manifest.json").read_bytes()
    result = invoked(bundle, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert (bundle / "manifest.json").read_bytes() == before


def test_tensorrt_that_is_not_installed_is_a_sentence(bundle: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    result = invoked(bundle, "--engine", "tensorrt")
    assert result.exit_code == 2
    assert "tensorrt is not installed: pip install 'resnet-export[tensorrt]'" in result.stderr


def test_a_checkpoint_becomes_a_bundle_first(here: Path, tiny_checkpoint: Path) -> None:
    result = invoked(tiny_checkpoint, "--engine", "tensorrt-rtx")
    assert result.exit_code == 2
    assert "--engine adds engines to a bundle: export the checkpoint first" in result.stderr
    assert names(here) == []
