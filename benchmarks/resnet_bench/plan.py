"""What a run is asked for, checked, and its batches one after the other."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from typing import Final

from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import Manifest

from .cases import Case, RunError
from .cpu_cases import CPU_PEERS
from .gpu_peers import BARE, GPU_PEERS
from .speed import Clock, LoopOptions, Row, measure

NAMES: Final = tuple(dict.fromkeys((*CPU_PEERS, *GPU_PEERS, *BARE)))
"""What ``--against`` knows, on any host."""


ALL: Final = "all"
"""In ``--against``: every peer of this kind of host."""


def checked_names(text: str) -> tuple[str, ...]:
    """The peers of a list with commas, each once; none where it says none, ``ALL`` alone where it says all.

    Raises:
        RunError: one of them is not known.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip() not in ("", "none")))
    if names == (ALL,):
        return names
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise RunError(f"--against has {', '.join(map(repr, unknown))}, and knows {', '.join(NAMES)}, all, or none")
    return names


def checked_batches(
    manifest: Manifest, asked: Sequence[int] | None, default: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batch sizes to measure, and those of the default that are over what the bundle takes.

    Args:
        manifest: of the bundle.
        asked: None: the default.
        default: of such a host.

    Raises:
        RunError: a batch that was asked for is over the bundle's largest.
    """
    largest = manifest.input.batch.largest
    over = tuple(size for size in asked or default if size > largest)
    if asked is not None and over:
        raise RunError(
            f"the bundle takes batches of up to {largest}, and --batch asks for {', '.join(map(str, over))}: "
            "leave that out, or export the model with a larger --batch"
        )
    return tuple(size for size in asked or default if size <= largest), over


def run(
    planned: Callable[[int], Sequence[Case]],
    batches: Sequence[int],
    check: CheckData,
    options: LoopOptions,
    *,
    clock: Clock = time.perf_counter,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """One batch size after the other, so that the cases of one alone are open at once.

    Args:
        planned: the cases of a batch size.
        batches: sizes.
        check: inputs, and eager's answers.
        options: of the loop.
        clock: the wall clock.
        tell: told what happens.
    """
    return [row for batch in batches for row in measure(planned(batch), check, options, clock=clock, tell=tell)]


def gpu_versions() -> dict[str, str]:
    """The versions of what runs on a GPU; what is not installed is left out."""
    versions = {}
    for name in (
        "torch",
        "tensorrt",
        "tensorrt-rtx",
        "tensorrt-rtx-cu13",
        "pycuda",
        "cuda-bindings",
        "onnxruntime-gpu",
    ):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
