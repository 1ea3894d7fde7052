"""Whether an engine runs here: what it was built for, what is here, and the command that mends a mismatch.

TensorRT itself returns None for an engine of another version or device, and says why in its log at best. So the
manifest's record is compared before the file is deserialized.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from resnet_runtime.manifest import Engine

PORTABLE: Final = "portable"
"""Of TensorRT-RTX: for the compute capabilities that are listed, on any platform of the processor."""

DEVICE: Final = "device"
"""Of TensorRT: for the kind of GPU that it was built on."""

AMPERE_PLUS: Final = "ampere_plus"
"""Of TensorRT: for every GPU from Ampere on."""

VERSIONS: Final = "+versions"
"""At the end of one of the others: newer libraries of the same major version run it too."""

_PRODUCT: Final = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Host:
    """What an engine would run on.

    Attributes:
        library: its name, as in ``library.LIBRARIES``.
        version: of the library.
        platform: as ``linux-x86_64``.
        gpu: the device's name.
        capability: its compute capability, as ``8.6``.
        driver: the newest CUDA version that its driver runs, as ``13.0``; empty where nothing asked. No engine is
            refused for it.
        builds: whether the library builds engines for such a GPU: TensorRT-RTX knows a list of compute capabilities.
    """

    library: str
    version: str
    platform: str
    gpu: str
    capability: str
    driver: str = ""
    builds: bool = True


def verified_name(host: Host) -> str:
    """What ``Engine.verified_on`` holds where an engine was run on ``host`` and passed its variant's gate."""
    return f"{host.gpu}, {host.library} {host.version}"


def is_verified(engine: Engine, host: Host) -> bool:
    """Whether the engine was run before it shipped, on such a GPU and by this version of the library."""
    return engine.verified_on == verified_name(host)


def host_of(engine: Engine, hosts: Iterable[Host]) -> Host | None:
    """The first of ``hosts`` that the engine runs on, or None."""
    return next((host for host in hosts if misfit(engine, host) is None), None)


def builder_on(host: Host) -> str:
    """Of ``library.LIBRARIES``, what builds engines for the host's GPU: the library that is here, or TensorRT."""
    return host.library if host.builds else "tensorrt"


def build_command(library: str, precision: str) -> str:
    """What adds an engine of the precision to a bundle on this host: by default fp16 is built, and int8 by TensorRT.

    Args:
        library: of ``library.LIBRARIES``.
        precision: ``fp32``, ``fp16`` or ``int8``.
    """
    by_default = ("fp16", "int8") if library == "tensorrt" else ("fp16",)
    more = "" if precision in by_default else f" --engine-precision {precision}"
    return f"resnet-export BUNDLE --engine {library}{more}"


def misfit(engine: Engine, host: Host) -> str | None:
    """Why the engine does not run on the host, in a sentence; None where it does.

    Args:
        engine: of a manifest.
        host: what is here.
    """
    kind = engine.compatibility.removesuffix(VERSIONS)
    if engine.builder != host.library:
        return _sentence(engine, _PRODUCT.get(host.library, host.library), host)
    if not _version_fits(engine, host):
        return _sentence(engine, f"{_PRODUCT[host.library]} {host.version}", host)
    machine = engine.platform.rpartition("-")[2] if kind == PORTABLE else engine.platform
    if not host.platform.endswith(machine):
        return _sentence(engine, f"the platform {host.platform}", host)
    if not _device_fits(engine, kind, host):
        unknown = "" if host.builds else f", for which {_PRODUCT[host.library]} builds nothing"
        return _sentence(engine, f"{host.gpu} with compute capability {host.capability}{unknown}", host)
    return None


def _version_fits(engine: Engine, host: Host) -> bool:
    if not engine.compatibility.endswith(VERSIONS):
        return engine.builder_version == host.version
    built, here = _numbers(engine.builder_version), _numbers(host.version)
    return built[:1] == here[:1] and built <= here


def _device_fits(engine: Engine, kind: str, host: Host) -> bool:
    if kind == AMPERE_PLUS:
        return _numbers(host.capability) >= (8, 0)
    if host.capability not in engine.compute_capabilities:
        return False
    return kind == PORTABLE or engine.gpu is None or engine.gpu == host.gpu


def _sentence(engine: Engine, here: str, host: Host) -> str:
    capabilities = ", ".join(engine.compute_capabilities)
    where = f"{engine.gpu} ({capabilities})" if engine.gpu else f"compute capability {capabilities}"
    builder = f"{_PRODUCT.get(engine.builder, engine.builder)} {engine.builder_version}"
    return (
        f"the engine {engine.id} was built by {builder} for {where} on {engine.platform}, "
        f"and here is {here}: build one here with {build_command(builder_on(host), engine.variant.partition('-')[0])}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The parts that are numbers; of more than nine digits none is a version's."""
    return tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit() and len(part) < 10)
