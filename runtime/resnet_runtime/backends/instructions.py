"""Which integer dot products this CPU has: they decide how fast INT8 is, and whether it is faster than FP32 at all."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
NONE: Final = "none"

_BEST_FIRST: Final = {
    "amx_int8": "amx_int8",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "i8mm": "i8mm",
    "asimddp": "dotprod",
}
"""From a flag of the Linux kernel to the name of the instructions, on x86 and Arm; the fastest first."""

_FLAGS = re.compile(r"^(?:flags|Features)[ \t]*:(.*)$", re.MULTILINE)
"""One line for each processor, ``flags`` on x86 and ``Features`` on Arm; other architectures write other words."""


@functools.cache
def host_instructions() -> str:
    """What ``instructions_from_cpuinfo`` finds here; ``unknown`` where the system has no /proc/cpuinfo."""
    try:
        return instructions_from_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return UNKNOWN


def instructions_from_cpuinfo(text: str) -> str:
    """The fastest integer dot product that every processor has.

    Args:
        text: of Linux' /proc/cpuinfo.

    Returns:
        ``amx_int8``, ``avx512_vnni``, ``avx_vnni``, ``i8mm``, ``dotprod``; ``none``; ``unknown`` where the text lists
        no flags.
    """
    processors = [frozenset(flags.split()) for flags in set(_FLAGS.findall(text))]
    if not processors:
        return UNKNOWN
    shared = frozenset.intersection(*processors)
    return next((name for flag, name in _BEST_FIRST.items() if flag in shared), NONE)
