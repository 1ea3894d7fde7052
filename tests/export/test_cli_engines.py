"""resnet-export on a bundle: engines are added, and what makes no sense is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

import resnet_export
from resnet_export.cli import command
from resnet_export.cli_engines import batch_from_arguments, engines_from_arguments
from resnet_export.engine import EngineOptions
from resnet_export.engine_stages import EnginesOptions
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch
from tests.export.commands import PROGRAM, SHAPE, invoked, names, refused

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone"
)
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def bundle(here: Path, tiny_checkpoint: Path) -> Path:
    precisions = ("--precision", "fp32", "--precision", "fp16")
    found = invoked(tiny_checkpoint, "--input-shape", "3,32,32", *precisions, "--engine", "none")
    assert found.exit_code == 0
    return here / "tiny.bundle"


OPTIONS = {
    "--engine tensorrt": {"library": "tensorrt"},
    "--engine-precision int8 --engine-precision fp32": {"variants": ("int8-tensorrt", "fp32")},
    "--batch 1,2,4": {"profiles": (Batch(smallest=1, optimal=2, largest=4),)},
    "--batch 1,1,1 --batch 2,8,16": {
        "profiles": (Batch(smallest=1, optimal=1, largest=1), Batch(smallest=2, optimal=8, largest=16))
    },
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
    assert engines_from_arguments(context.params) == dataclasses.replace(EnginesOptions(), **OPTIONS[arguments])


@needs_rtx
def test_a_build_that_is_killed_leaves_the_old_bundle_or_the_new_one(bundle: Path) -> None:
    build = [*PROGRAM, str(bundle), "--engine", "tensorrt-rtx", "--engine-capability", "8.6", "--quiet"]
    start = time.monotonic()
    assert subprocess.run(build, check=False).returncode == 0
    whole = time.monotonic() - start
    seen = []
    for step in range(1, 11):
        child = subprocess.Popen([*build, "--engine-precision", "fp32" if step % 2 else "fp16"])
        with suppress(subprocess.TimeoutExpired):
            child.wait(whole * step / 9)
        child.kill()
        seen.append(child.wait())
        opened = Bundle.open(bundle)
        assert {engine.variant for engine in opened.manifest.engines} <= {"fp16", "fp32"}
        for file in (*opened.manifest.variants, *opened.manifest.engines):
            assert len(opened.read(file.file)) == file.file.size
    assert -signal.SIGKILL in seen
    assert subprocess.run(build, check=False).returncode == 0
    engines = Bundle.open(bundle).manifest.engines
    assert names(bundle / "engines") == sorted(Path(engine.file.path).name for engine in engines)
    assert not [name for name in names(bundle) if name.startswith(".")], "what killed builds left is cleared"


@needs_rtx
def test_engines_are_added_to_a_bundle(bundle: Path) -> None:
    result = invoked(bundle, "--engine", "tensorrt-rtx", "--engine-capability", "8.6", "--engine-capability", "8.9")
    assert result.exit_code == 0, result.stderr
    assert "for compute capability 8.6, 8.9, by tensorrt-rtx" in result.stderr
    assert "not verified on a GPU yet" in result.stderr
    assert "8.6 (RTX 30, A10, A40)" in result.stdout
    assert "8.9 (RTX 40, L4, L40S)" in result.stdout
    assert "8.0" not in result.stdout
    opened = Bundle.open(bundle)
    (engine,) = opened.manifest.engines
    assert (engine.variant, engine.builder, engine.compute_capabilities) == ("fp16", "tensorrt-rtx", ("8.6", "8.9"))
    assert (engine.compatibility, engine.verified_on) == ("portable", None)
    assert len(opened.read(engine.file)) == engine.file.size > 1000

    result = invoked(bundle, "--engine", "auto", "--engine-precision", "fp32", "--batch", "1,2,4", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["status"], found["engines"]["built"][0]["variant"]) == (0, "fp32")
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
            ["--engine", "tensorrt-rtx", "--engine-precision", "int8"], "has no variant int8-tensorrt", marks=needs_rtx
        ),
        (["--engine", "tensorrt-rtx", "--precision", "fp16"], "--precision belongs to the export of a checkpoint"),
        (["--engine", "none"], "is a bundle already"),
        (["--engine", "tensorrt-rtx", "--batch", "4,2,1"], "--batch is 4,2,1"),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--engine-capability", "3.5"],
            "builds no engines for compute capability 3.5",
            marks=needs_rtx,
        ),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--version-compatible"],
            "runs on the version that built it alone, so that --version-compatible cannot be had",
            marks=needs_rtx,
        ),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--hardware-compatible"],
            "--hardware-compatible is for engines of tensorrt, and those of tensorrt-rtx run on every GPU",
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


def test_the_bundle_takes_what_all_profiles_take() -> None:
    for given, expected in (
        ([], (1, 8, 32)),
        (["--batch", "2,4,6"], (2, 4, 6)),
        (["--batch", "4,8,16", "--batch", "1,1,1", "--batch", "8,32,64"], (1, 8, 64)),
    ):
        params = command.make_context("resnet-export", ["model.pt", *given]).params
        found = batch_from_arguments(params)
        assert (found.smallest, found.optimal, found.largest) == expected


@needs_rtx
def test_an_export_ends_with_an_engine_and_says_where_it_runs(here: Path, tiny_checkpoint: Path) -> None:
    result = invoked(tiny_checkpoint, *SHAPE, "--batch", "1,1,1", "--batch", "2,4,8")
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(here / "tiny.bundle")
    (engine,) = bundle.manifest.engines
    assert (engine.variant, engine.builder, engine.verified_on) == ("fp16", "tensorrt-rtx", None)
    assert [profile.largest for profile in engine.profiles] == [1, 8]
    assert (bundle.manifest.input.batch.smallest, bundle.manifest.input.batch.largest) == (1, 8)
    assert len(bundle.read(engine.file)) == engine.file.size
    hidden = [str(here), str(Path(resnet_export.__file__).parent), "site-packages"]
    assert [word for word in hidden if word.encode() in bundle.read(engine.file)] == [], "a path of this machine"
    assert f"{engine.id}  " in result.stdout
    assert "8.6 (RTX 30, A10, A40)" in result.stdout
    assert "no GPU yet" in result.stdout

    result = invoked(tiny_checkpoint, *SHAPE, "--json", "-o", "second.bundle")
    found = json.loads(result.stdout)
    assert [item["variant"] for item in found["engines"]["built"]] == ["fp16"]
    assert found["engines"]["missing"] == []


def test_an_export_without_engines(here: Path, tiny_checkpoint: Path) -> None:
    result = invoked(tiny_checkpoint, *SHAPE, "--engine", "none")
    assert result.exit_code == 0
    assert Bundle.open(here / "tiny.bundle").manifest.engines == ()
    assert "No engine" not in result.stdout

    result = invoked(tiny_checkpoint, *SHAPE, "--precision", "fp32", "-o", "fp32.bundle")
    assert result.exit_code == 0
    assert "No engine: the bundle has no fp16 variant to build one of" in result.stdout


def test_a_name_that_is_too_long_for_the_system_is_a_checkpoint_s_fault(here: Path) -> None:
    found = refused(here / ("x" * 300), "-o", "a.bundle")
    assert found["type"] == "CheckpointError"
    assert "File name too long" in found["message"]


@needs_rtx
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux alone has it")
def test_a_table_of_engines_that_cannot_be_written_is_a_sentence(bundle: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*PROGRAM, bundle, "--engine", "tensorrt-rtx"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 1
    said = done.stderr.decode()
    assert f"{bundle.name} is written, and standard output is not: No space left on device" in said.replace("\n", "")
    assert "Traceback" not in said
    assert len(Bundle.open(bundle).manifest.engines) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "none", "--engine-precision", "fp16"], "--engine-precision asks for engines"),
        (["--engine", "none", "--engine-capability", "8.6"], "--engine-capability asks for engines"),
        (["--engine", "none", "--engine-level", "0"], "--engine-level asks for engines"),
        (["--engine", "none", "--engine-workspace", "64"], "--engine-workspace asks for engines"),
        (
            ["--engine", "none", "--version-compatible", "--hardware-compatible"],
            "--version-compatible, --hardware-compatible ask for engines, and --engine none for none",
        ),
        (["--engine-workspace", "1048577"], "1048577 is not in the range 1<=x<=1048576"),
        (["--engine-precision", "int8"], "an engine of int8-tensorrt needs that variant"),
        (["--batch", "4,2,1"], "--batch is 4,2,1, and goes up"),
        (["--batch", "1,8,32", "--batch", "4,2,1"], "--batch is 4,2,1, and goes up"),
        pytest.param(["--engine-capability", "3.5"], "builds no engines for compute capability 3.5", marks=needs_rtx),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--version-compatible"], "runs on the version that built it", marks=needs_rtx
        ),
        pytest.param(
            ["--engine", "tensorrt-rtx", "--hardware-compatible"], "is for engines of tensorrt", marks=needs_rtx
        ),
        pytest.param(
            ["--engine", "tensorrt"],
            "tensorrt is not installed: pip install 'resnet-export[tensorrt]'",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_built_is_said_before_anything_is_done(
    tiny_checkpoint: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(tiny_checkpoint, *SHAPE, *arguments)["message"]
