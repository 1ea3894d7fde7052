"""What a manifest says of an engine that was built, and the name that it goes by."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable

from resnet_runtime.backends.tensorrt.cuda import DeviceInfo
from resnet_runtime.backends.tensorrt.library import Library
from resnet_runtime.engine_fit import AMPERE_PLUS, DEVICE, PORTABLE, VERSIONS
from resnet_runtime.manifest import Batch, Engine, FileRecord, Variant

from .engine import EngineOptions

_MAX_GPU = 64
"""Characters of a GPU's name that go into a file's."""


def record_from_build(
    variant: Variant, profiles: tuple[Batch, ...], library: Library, device: DeviceInfo | None, build: EngineOptions
) -> Engine:
    """The record of an engine; it lacks its file, which is filled in when that is written, and its verification.

    Args:
        variant: that it was built of.
        profiles: batch sizes that it was tuned for.
        library: that built it.
        device: that TensorRT built it on; a portable engine is for no device.
        build: how it was built.
    """
    capabilities = build.capabilities or library.default_capabilities
    gpu = None
    if not library.portable and device is not None:
        capabilities, gpu = (device.capability,), device.name
    kind = PORTABLE if library.portable else AMPERE_PLUS if build.hardware_compatible else DEVICE
    compatibility = kind + (VERSIONS if build.version_compatible else "")
    where = _capabilities(capabilities, library.default_capabilities) if gpu is None else (slug(gpu),)
    how = [kind.replace("_", "-")] if kind == AMPERE_PLUS else []
    how += [VERSIONS.strip("+")] if build.version_compatible else []
    return Engine(
        id="-".join((variant.id, library.name, library.version, *where, *how)),
        variant=variant.id,
        file=FileRecord(path="unwritten", sha256="0" * 64, size=0),
        builder=library.name,
        builder_version=library.version,
        platform=f"{platform.system().lower()}-{platform.machine().lower()}",
        gpu=gpu,
        compute_capabilities=capabilities,
        compatibility=compatibility,
        profiles=profiles,
        verified_on=None,
    )


def slug(gpu: str) -> str:
    """A GPU's name as a file's may have it: ``nvidia-l4``."""
    return re.sub("[^a-z0-9]+", "-", gpu.lower())[:_MAX_GPU].strip("-") or "gpu"


def _capabilities(capabilities: Iterable[str], default: Iterable[str]) -> tuple[str, ...]:
    """Such as ``sm86``, in ascending order; nothing for what is built by default."""
    found = set(capabilities)
    if found == set(default):
        return ()
    return tuple(f"sm{name.replace('.', '')}" for name in sorted(found, key=float))
