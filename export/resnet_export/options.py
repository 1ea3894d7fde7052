"""The options of an export, each in the record of the stage that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from resnet_runtime.manifest import Batch, Limits, Resize

from .passes.to_fp16 import Fp16Options

VARIANTS: Final = ("fp32", "bf16", "fp16")
"""The variants that an export can make, in the order in which it makes them."""

DEFAULT_LIMITS: Final[Mapping[str, Limits]] = {
    "fp32": Limits(max_error=1e-4, mean_error=1e-5, top1_agreement=0.995),
    "bf16": Limits(max_error=0.10, mean_error=0.015, top1_agreement=0.98),
    "fp16": Limits(max_error=0.02, mean_error=0.003, top1_agreement=0.995),
}
"""Errors relative to the spread. fp32 is held to the folding's own, much smaller bound too, where it is exported."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the checkpoint cannot tell.

    Attributes:
        arch: a name of ``resnet.ARCHITECTURES``; None: read from the tensors.
        stride_in: where a bottleneck strides, ``3x3`` or ``1x1``; None: ``3x3``, as an assumption.
        weights: the key of the state_dict to take from a training checkpoint.
        input_shape: (C, H, W); None: what the architecture was trained on, as an assumption.
        trust: whether code in the checkpoint may run.
        reference: an .npz file with ``input`` and ``output`` of the user's own code.
        reference_tolerance: the largest difference from ``output``, relative to its spread.
    """

    arch: str | None = None
    stride_in: str | None = None
    weights: str | None = None
    input_shape: tuple[int, int, int] | None = None
    trust: bool = False
    reference: Path | None = None
    reference_tolerance: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """How training saw images; None: the architecture's usual way, as an assumption.

    Attributes:
        resize: how to resize; False: not at all.
        crop: (H, W) of the center crop; False: none.
        mean, std: per channel, of values that were scaled already.
        scale: what a byte is multiplied with.
        in_graph: whether the graph takes bytes (N, H, W, C).
    """

    resize: Resize | bool | None = None
    crop: tuple[int, int] | bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    color_order: str | None = None
    interpolation: str | None = None
    in_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that ``bundle_from_checkpoint`` can be told.

    Attributes:
        variants: of ``VARIANTS``.
        limits: of the gates, by variant.
        batch: sizes of the batch axis.
        labels: a text file, one class a line.
        force: whether a bundle at the destination is replaced.
        check_samples: how many varied inputs ``check.npz`` holds.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    fp16: Fp16Options = field(default_factory=Fp16Options)
    variants: tuple[str, ...] = VARIANTS
    limits: Mapping[str, Limits] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    batch: Batch = field(default_factory=lambda: Batch(smallest=1, optimal=8, largest=32))
    labels: Path | None = None
    force: bool = False
    check_samples: int = 8
