"""What is exported, whatever it was read from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from resnet_runtime.manifest import Assumption, Source

from .options import ModelOptions
from .trace import Traceable

_LARGEST_OF_CIFAR = 64


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """What is exported.

    Attributes:
        module: in evaluation mode, float32, on the CPU.
        architecture: its name.
        parameters: how many numbers training could change.
        source: the file.
        input_shape: (C, H, W).
        stem: ``imagenet`` or ``cifar``: how its images are usually preprocessed.
        fixed_batch: the only batch size that it takes; None: any.
        assumptions: what the file could not tell.
        notes: what reading it ignored or changed.
    """

    module: Traceable
    architecture: str
    parameters: int
    source: Source
    input_shape: tuple[int, int, int]
    stem: str
    fixed_batch: int | None
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...]

    def without_module(self) -> SourceModel:
        """The same, so that the memory of the module can be freed."""
        return dataclasses.replace(self, module=torch.nn.Identity())


def stem_from_shape(shape: tuple[int, int, int]) -> str:
    """How images of that size are usually preprocessed: as ImageNet's, or as CIFAR's."""
    return "imagenet" if max(shape[1:]) > _LARGEST_OF_CIFAR else "cifar"


def parameters_of(module: torch.nn.Module) -> int:
    """How many numbers training could change."""
    return sum(parameter.numel() for parameter in module.parameters())


def first_channels(module: torch.nn.Module) -> int:
    """The channels that the first convolution takes; 3 where the module has none."""
    return next((int(parameter.shape[1]) for parameter in module.parameters() if parameter.ndim == 4), 3)


def shape_assumption(options: ModelOptions, shape: tuple[int, int, int]) -> tuple[Assumption, ...]:
    """That the images are of this shape, where no option says so."""
    if options.input_shape is not None:
        return ()
    return (Assumption(subject="input shape", value=",".join(map(str, shape)), option="--input-shape"),)
