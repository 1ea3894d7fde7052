"""An engine that does not fit this host is refused before TensorRT sees it, with what it was built for."""

from __future__ import annotations

import dataclasses

import pytest

from resnet_runtime.engine_fit import (
    AMPERE_PLUS,
    DEVICE,
    PORTABLE,
    VERSIONS,
    Host,
    build_command,
    host_of,
    is_verified,
    misfit,
    verified_name,
)
from resnet_runtime.manifest import Batch, Engine, FileRecord

HOST = Host("tensorrt", "10.13.2", "linux-x86_64", "NVIDIA L4", "8.9")
ENGINE = Engine(
    id="fp16-tensorrt-10.13.2",
    variant="fp16",
    file=FileRecord(path="engines/a.engine", sha256="0" * 64, size=1),
    builder="tensorrt",
    builder_version="10.13.2",
    platform="linux-x86_64",
    gpu="NVIDIA L4",
    compute_capabilities=("8.9",),
    compatibility=DEVICE,
    profiles=(Batch(smallest=1, optimal=8, largest=32),),
    verified_on=None,
)
RTX = dataclasses.replace(
    ENGINE, builder="tensorrt-rtx", compatibility=PORTABLE, gpu=None, compute_capabilities=("8.6", "8.9")
)
RTX_HOST = dataclasses.replace(HOST, library="tensorrt-rtx")


@pytest.mark.parametrize(
    ("engine", "host", "here"),
    [
        (ENGINE, HOST, None),
        (ENGINE, dataclasses.replace(HOST, version="10.13.3"), "TensorRT 10.13.3"),
        (ENGINE, dataclasses.replace(HOST, version="11.0.0"), "TensorRT 11.0.0"),
        (
            ENGINE,
            dataclasses.replace(HOST, capability="8.6", gpu="NVIDIA A10"),
            "NVIDIA A10 with compute capability 8.6",
        ),
        (ENGINE, dataclasses.replace(HOST, gpu="NVIDIA L40S"), "NVIDIA L40S with compute capability 8.9"),
        (ENGINE, dataclasses.replace(HOST, platform="linux-aarch64"), "the platform linux-aarch64"),
        (ENGINE, dataclasses.replace(HOST, platform="windows-x86_64"), "the platform windows-x86_64"),
        (ENGINE, RTX_HOST, "TensorRT-RTX"),
        (RTX, RTX_HOST, None),
        (RTX, dataclasses.replace(RTX_HOST, gpu="NVIDIA A10", capability="8.6"), None),
        (RTX, dataclasses.replace(RTX_HOST, platform="windows-x86_64"), None),
        (RTX, dataclasses.replace(RTX_HOST, platform="linux-aarch64"), "the platform linux-aarch64"),
        (RTX, dataclasses.replace(RTX_HOST, capability="9.0"), "NVIDIA L4 with compute capability 9.0"),
        (RTX, HOST, "TensorRT"),
    ],
)
def test_fits_or_says_what_is_here(engine: Engine, host: Host, here: str | None) -> None:
    found = misfit(engine, host)
    if here is None:
        assert found is None
        return
    assert found is not None
    assert f", and here is {here}: build one here with resnet-export BUNDLE --engine {host.library}" in found
    assert found.startswith(f"the engine {engine.id} was built by TensorRT")
    assert "8.9" in found


def test_where_the_library_builds_nothing_for_the_gpu_the_other_one_is_named() -> None:
    host = dataclasses.replace(RTX_HOST, gpu="NVIDIA H200", capability="9.0", builds=False)
    said = misfit(RTX, host)
    assert said is not None
    assert said.endswith(
        "and here is NVIDIA H200 with compute capability 9.0, for which TensorRT-RTX builds nothing: "
        "build one here with resnet-export BUNDLE --engine tensorrt"
    )


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.13.2", True), ("10.14.0", True), ("10.13.1", False), ("10.9.9", False), ("11.0.0", False)],
)
def test_a_version_compatible_engine_runs_on_newer_ones_of_the_same_major(version: str, fits: bool) -> None:
    engine = dataclasses.replace(ENGINE, compatibility=DEVICE + VERSIONS)
    assert (misfit(engine, dataclasses.replace(HOST, version=version)) is None) == fits


@pytest.mark.parametrize(("capability", "fits"), [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True)])
def test_a_hardware_compatible_engine_runs_from_ampere_on(capability: str, fits: bool) -> None:
    engine = dataclasses.replace(ENGINE, compatibility=AMPERE_PLUS)
    host = dataclasses.replace(HOST, gpu="another", capability=capability)
    assert (misfit(engine, host) is None) == fits


def test_the_name_of_what_an_engine_was_verified_on() -> None:
    assert verified_name(HOST) == "NVIDIA L4, tensorrt 10.13.2"
    assert not is_verified(ENGINE, HOST)
    verified = dataclasses.replace(ENGINE, verified_on="NVIDIA L4, tensorrt 10.13.2")
    assert is_verified(verified, HOST)
    assert is_verified(verified, dataclasses.replace(HOST, driver="13.1"))
    for other in ({"gpu": "NVIDIA A10"}, {"version": "10.13.3"}, {"library": "tensorrt-rtx"}):
        assert not is_verified(verified, dataclasses.replace(HOST, **other))


def test_the_host_that_an_engine_runs_on() -> None:
    assert host_of(ENGINE, (RTX_HOST, HOST)) == HOST
    assert host_of(RTX, (RTX_HOST, HOST)) == RTX_HOST
    assert host_of(RTX, (HOST,)) is None


@pytest.mark.parametrize(
    ("library", "precision", "more"),
    [
        ("tensorrt", "fp16", ""),
        ("tensorrt", "int8", ""),
        ("tensorrt", "fp32", " --engine-precision fp32"),
        ("tensorrt-rtx", "fp16", ""),
        ("tensorrt-rtx", "int8", " --engine-precision int8"),
        ("tensorrt-rtx", "fp32", " --engine-precision fp32"),
    ],
)
def test_the_command_that_is_advised_builds_that_precision(library: str, precision: str, more: str) -> None:
    command = f"resnet-export BUNDLE --engine {library}{more}"
    assert build_command(library, precision) == command
    variant = "int8-tensorrt" if precision == "int8" else precision
    host = dataclasses.replace(HOST, library=library, version="0.1")
    said = misfit(dataclasses.replace(ENGINE, variant=variant, builder=library), host)
    assert said is not None
    assert said.endswith(f"build one here with {command}")
