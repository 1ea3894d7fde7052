"""What an engine goes by: one name for what is built again, another for all that runs elsewhere."""

from __future__ import annotations

import re
from enum import Enum
from types import SimpleNamespace

import pytest

from resnet_export.engine import EngineOptions
from resnet_export.engine_record import record_from_build
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.engine_fit import AMPERE_PLUS, DEVICE, PORTABLE, VERSIONS
from resnet_runtime.manifest import Batch, Engine
from tests.runtime.engines import variant_of

CAPABILITIES = Enum("CAPABILITIES", ["NONE", "CURRENT", "SM75", "SM80", "SM86", "SM120"])
FULL = Library("tensorrt", SimpleNamespace(__version__="10.13.2"))
RTX = Library("tensorrt-rtx", SimpleNamespace(__version__="1.7.1.116", ComputeCapability=CAPABILITIES))
PROFILES = (Batch(smallest=1, optimal=8, largest=32),)
L4 = DeviceInfo("NVIDIA L4", "8.9", "13.0")


def built(library: Library, device: DeviceInfo | None, **build: object) -> Engine:
    return record_from_build(variant_of("fp16"), PROFILES, library, device, EngineOptions(**build))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "gpu", "build", "expected"),
    [
        (FULL, "NVIDIA L4", {}, "fp16-tensorrt-10.13.2-nvidia-l4"),
        (FULL, "NVIDIA A100-SXM4-80GB", {}, "fp16-tensorrt-10.13.2-nvidia-a100-sxm4-80gb"),
        (FULL, "NVIDIA L4", {"hardware_compatible": True}, "fp16-tensorrt-10.13.2-nvidia-l4-ampere-plus"),
        (FULL, "NVIDIA L4", {"version_compatible": True}, "fp16-tensorrt-10.13.2-nvidia-l4-versions"),
        (
            FULL,
            "NVIDIA L4",
            {"hardware_compatible": True, "version_compatible": True},
            "fp16-tensorrt-10.13.2-nvidia-l4-ampere-plus-versions",
        ),
        (FULL, "../Größe /", {}, "fp16-tensorrt-10.13.2-gr-e"),
        (FULL, "…", {}, "fp16-tensorrt-10.13.2-gpu"),
        (RTX, None, {}, "fp16-tensorrt-rtx-1.7.1.116"),
        (RTX, "NVIDIA L4", {}, "fp16-tensorrt-rtx-1.7.1.116"),
        (RTX, None, {"capabilities": ("12.0", "8.0", "8.6")}, "fp16-tensorrt-rtx-1.7.1.116"),
        (RTX, None, {"capabilities": ("8.6",)}, "fp16-tensorrt-rtx-1.7.1.116-sm86"),
        (RTX, None, {"capabilities": ("12.0", "8.6")}, "fp16-tensorrt-rtx-1.7.1.116-sm86-sm120"),
    ],
)
def test_the_name_says_where_an_engine_runs(
    library: Library, gpu: str | None, build: dict[str, object], expected: str
) -> None:
    found = built(library, None if gpu is None else DeviceInfo(gpu, "8.9", "13.0"), **build)
    assert found.id == expected
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", found.id)


def test_a_long_name_of_a_gpu_fits_a_file_system() -> None:
    assert len(built(FULL, DeviceInfo("NVIDIA " + "X" * 300, "8.9", "13.0")).id) < 100


def test_the_record_says_what_built_it_and_for_what() -> None:
    found = built(FULL, L4, version_compatible=True)
    assert (found.variant, found.builder, found.builder_version) == ("fp16", "tensorrt", "10.13.2")
    assert (found.gpu, found.compute_capabilities, found.compatibility) == ("NVIDIA L4", ("8.9",), DEVICE + VERSIONS)
    assert (found.profiles, found.verified_on) == (PROFILES, None)
    assert built(FULL, L4, hardware_compatible=True).compatibility == AMPERE_PLUS
    found = built(RTX, L4)
    assert (found.gpu, found.compute_capabilities, found.compatibility) == (None, ("8.0", "8.6", "12.0"), PORTABLE)
