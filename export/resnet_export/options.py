"""The options of an export, each in the record of the stage that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from resnet_runtime.manifest import Batch, Limits, Resize

from .engine_stages import EnginesOptions
from .passes.to_fp16 import Fp16Options
from .quantization.calibrate import CalibrateOptions
from .quantization.images import ImageSource
from .quantization.quantize import QuantizeOptions

VARIANTS: Final = ("fp32", "bf16", "fp16", "int8")
"""What an export can be asked for, in the order in which it makes them; int8 becomes a variant for each scheme."""

WITHOUT_IMAGES: Final = ("fp32", "bf16", "fp16")
"""What needs no calibration."""

DEFAULT_LIMITS: Final[Mapping[str, Limits]] = {
    "fp32": Limits(max_error=1e-4, mean_error=1e-5, top1_agreement=0.995),
    "bf16": Limits(max_error=0.10, mean_error=0.015, top1_agreement=0.98),
    "fp16": Limits(max_error=0.02, mean_error=0.003, top1_agreement=0.995),
    "int8": Limits(centred_cosine=0.98, top1_agreement=0.95),
}
"""Errors relative to the spread. fp32 is held to the folding's own, much smaller bound too, where it is exported."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the checkpoint cannot tell.

    Attributes:
        arch: a name of ``resnet.ARCHITECTURES``, ``timm:NAME`` or ``torchvision:NAME``; None: read from the
            tensors, and refused where several networks have them.
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
class CalibrationOptions:
    """What INT8 is calibrated with.

    Attributes:
        images: a folder of images, .npy or .npz files of preprocessed batches, or a Python iterable of either.
        table: a calibration.json of an earlier export of the same model, instead of a pass over images.
        skip_bad_images: whether images that cannot be read are left out rather than refused.
        equalize: whether channels are brought to a like range first.
        method: of ``thresholds.METHODS``, how ranges are clipped; None: as suits each scheme best on the images, or as
            the table says.
        calibrate: how ranges are taken.
        quantize: how graphs are made of them.
    """

    images: ImageSource | None = None
    table: Path | None = None
    skip_bad_images: bool = False
    equalize: bool = True
    method: str | None = None
    calibrate: CalibrateOptions = field(default_factory=CalibrateOptions)
    quantize: QuantizeOptions = field(default_factory=QuantizeOptions)

    @property
    def given(self) -> bool:
        """Whether there is anything to calibrate with."""
        return self.images is not None or self.table is not None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What an INT8 variant's accuracy is measured with, and its clipping chosen by, beside the calibration images.

    Attributes:
        images: a folder with a subfolder for each class, or images or batches with ``labels``, or images alone: then
            the agreement with the model takes the accuracy's place.
        labels: a text file.
        max_drop: how many points of top-1 accuracy a variant may lose.
    """

    images: Path | None = None
    labels: Path | None = None
    max_drop: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that ``bundle_from_checkpoint`` can be told.

    Attributes:
        variants: of ``VARIANTS``; None: all that the options allow, int8 among them where there is something to
            calibrate with.
        limits: of the gates, by variant.
        batch: sizes of the batch axis.
        labels: a text file, one class a line.
        force: whether a bundle at the destination is replaced.
        engines: which engines are built into the bundle; None: none.
        check_samples: how many inputs ``check.npz`` holds; None: 8 made ones, or 32 of the calibration images.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    fp16: Fp16Options = field(default_factory=Fp16Options)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    variants: tuple[str, ...] | None = None
    limits: Mapping[str, Limits] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    batch: Batch = field(default_factory=lambda: Batch(smallest=1, optimal=8, largest=32))
    labels: Path | None = None
    force: bool = False
    engines: EnginesOptions | None = field(default_factory=EnginesOptions)
    check_samples: int | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """Of ``VARIANTS``, what is to be made."""
        if self.variants is not None:
            return self.variants
        return VARIANTS if self.calibration.given else WITHOUT_IMAGES
