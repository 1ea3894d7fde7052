"""What a backend was shown to be on this host, kept for the next process: showing it takes longer than loading a graph.

It is kept under the library's version and all that /proc/cpuinfo says of the processors' model and flags. A library of
another version, another CPU, or a file that is not whole: it is shown anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from resnet_runtime import strictjson
from resnet_runtime.manifest import PRECISIONS
from resnet_runtime.user_cache import cache_folder, keep

from .base import EMULATED, NATIVE, BackendFacts
from .instructions import host_instructions

SCHEMA: Final = "resnet-facts/1"

_CPUINFO: Final = Path("/proc/cpuinfo")
_MAX_BYTES: Final = 16 * 1024
_LINES: Final = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags"),
    *("Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"),
)
_LIMITS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that make a library pass over what the CPU has."""


def kept_or_shown(
    module: str, distributions: Sequence[str], show: Callable[[], tuple[BackendFacts, bool]], cpuinfo: Path = _CPUINFO
) -> BackendFacts:
    """The facts that an earlier process kept, without importing the library; else those that ``show`` finds now.

    Args:
        module: of the library.
        distributions: the names that it is installed by, of which one tells its version.
        show: imports the library and tries it; False where it could not try all. Then, or where it finds the library
            missing, nothing is kept.
        cpuinfo: of Linux; where it cannot be read nothing is kept.
    """
    about = _about(module, distributions, cpuinfo)
    if about is None:
        return show()[0]
    path = _file(about)
    found = _read(path, about)
    if found is None:
        found, tried = show()
        if tried and found.missing is None:
            keep(path, _bytes(about, found))
    return found


def forget(module: str) -> None:
    """Remove what was kept of a library, because it is not what it was."""
    with suppress(OSError):
        for path in cache_folder("facts").glob(f"{module}-*.json"):
            path.unlink(missing_ok=True)


def _about(module: str, distributions: Sequence[str], cpuinfo: Path) -> dict[str, str] | None:
    """All that the facts depend on; None where that is not known."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # the module is there without a spec
        return None
    cpu = cpu_digest(cpuinfo)
    if spec is None or cpu is None:
        return None
    for name in distributions:
        version = _version(name, spec.origin)
        if version is not None:
            return {"module": module, "distribution": name, "version": version, "cpu": cpu}
    return None


def _version(name: str, origin: str | None) -> str | None:
    """The version of a distribution, read in the name of the folder that pip makes beside its package.

    Where there is not just one such folder, as of an editable install, ``importlib.metadata`` knows: importing that
    takes longer than all else here.
    """
    if origin is not None:
        prefix, suffix = f"{name.replace('-', '_')}-", ".dist-info"
        beside = [path.name for path in Path(origin).parent.parent.glob(f"{prefix}*{suffix}")]
        if len(beside) == 1:
            return beside[0].removeprefix(prefix).removesuffix(suffix)
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_digest(cpuinfo: Path = _CPUINFO) -> str | None:
    """SHA-256 of the processors' model and flags, and of what limits them; None where /proc/cpuinfo cannot be read."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return None
    lines = {line for line in text.splitlines() if line.split(":")[0].strip() in _LINES}
    limits = [f"{name}={os.environ.get(name, '')}" for name in _LIMITS]
    return hashlib.sha256("\n".join([*sorted(lines), *limits]).encode()).hexdigest()


def _file(about: dict[str, str]) -> Path:
    digest = hashlib.sha256(strictjson.dumps(about)).hexdigest()
    return cache_folder("facts") / f"{about['module']}-{digest[:32]}.json"


def _bytes(about: dict[str, str], facts: BackendFacts) -> bytes:
    value = {"schema": SCHEMA, "about": about, "version": facts.version, "precisions": dict(facts.precisions)}
    return strictjson.dumps(value)


def _read(path: Path, about: dict[str, str]) -> BackendFacts | None:
    try:
        with path.open("rb") as file:
            value: Any = strictjson.loads(file.read(_MAX_BYTES))
        if value["schema"] != SCHEMA or value["about"] != about:
            return None
        version, precisions = value["version"], value["precisions"]
        if not isinstance(version, str) or not set(precisions) <= set(PRECISIONS):
            return None
        if not precisions or not set(precisions.values()) <= {NATIVE, EMULATED}:
            return None
    except (OSError, strictjson.StrictJSONError, KeyError, TypeError, AttributeError):
        return None
    return BackendFacts(about["module"], version, precisions=precisions, instructions=host_instructions())
