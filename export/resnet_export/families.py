"""The names that other families give the same network's tensors, and what their code does otherwise than torchvision's.

A family is told by names that no other has. Its names are exchanged for torchvision's, one by one; what has no
place keeps its name, so that whoever compares them with a configuration finds it left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from resnet_runtime.manifest import Assumption

Rename = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where checkpoints of one kind come from.

    Attributes:
        name: with an article or a genitive, for a sentence.
        marks: patterns; each has to match the whole of some tensor's name.
        renames: patterns of whole names, and what they become; the first that matches counts.
        pool: ``ResNetConfig.pool``.
        may_pad: whether a network without any projection has zero-padded shortcuts.
        assumptions: what its tensors cannot tell, beside what none can.
    """

    name: str
    marks: tuple[str, ...] = ()
    renames: tuple[Rename, ...] = ()
    pool: str = "adaptive"
    may_pad: bool = False
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True)
class Renamed:
    """A state_dict by torchvision's names, and the family whose names they were."""

    tensors: dict[str, Tensor]
    family: Family


def _from_zero(shape: str) -> Callable[[re.Match[str]], str]:
    """A replacement in which ``{1+}`` is group 1, counted from 1 instead of 0, and ``{2}`` is group 2."""

    def replaced(match: re.Match[str]) -> str:
        return re.sub(
            r"\{(\d)([+-]?)\}",
            lambda part: str(int(match[int(part[1])]) + {"+": 1, "-": -1}[part[2]]) if part[2] else match[int(part[1])],
            shape,
        )

    return replaced


TORCHVISION: Final = Family(name="torchvision's")

_HF: Final = r"(?:resnet\.)?"
_BLOCK: Final = rf"{_HF}encoder\.stages\.(\d+)\.layers\.(\d+)\."

FIRST_STAGE: Final = Assumption(subject="stride of the first stage", value="1", option="--reference")
"""A Hugging Face configuration may say otherwise; no published one does."""

HUGGING_FACE: Final = Family(
    name="Hugging Face's",
    marks=(rf"{_HF}embedder\.embedder\.convolution\.weight",),
    renames=(
        (rf"{_HF}embedder\.embedder\.convolution\.(\w+)", r"conv1.\1"),
        (rf"{_HF}embedder\.embedder\.normalization\.(\w+)", r"bn1.\1"),
        (rf"{_BLOCK}shortcut\.convolution\.(\w+)", _from_zero("layer{1+}.{2}.downsample.0.{3}")),
        (rf"{_BLOCK}shortcut\.normalization\.(\w+)", _from_zero("layer{1+}.{2}.downsample.1.{3}")),
        (rf"{_BLOCK}layer\.(\d+)\.convolution\.(\w+)", _from_zero("layer{1+}.{2}.conv{3+}.{4}")),
        (rf"{_BLOCK}layer\.(\d+)\.normalization\.(\w+)", _from_zero("layer{1+}.{2}.bn{3+}.{4}")),
        (r"classifier\.1\.(\w+)", r"fc.\1"),
    ),
    assumptions=(FIRST_STAGE,),
)

PYTORCH_CIFAR: Final = Family(
    name="pytorch-cifar's and pytorch_resnet_cifar10's",
    marks=(r"linear\.weight", r"layer1\.0\.conv1\.weight"),
    renames=(
        (r"(layer\d+\.\d+)\.shortcut\.([01]\.\w+)", r"\1.downsample.\2"),
        (r"linear\.(weight|bias)", r"fc.\1"),
    ),
    pool="window",
    may_pad=True,
)

_FUNCTION: Final = r"conv(\d+)_x\.(\d+)\.residual_function\."
_CONVOLUTIONS: Final = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}

PYTORCH_CIFAR100: Final = Family(
    name="pytorch-cifar100's",
    marks=(r"conv1\.0\.weight", r"conv2_x\.0\.residual_function\.0\.weight"),
    renames=(
        (r"conv1\.0\.(\w+)", r"conv1.\1"),
        (r"conv1\.1\.(\w+)", r"bn1.\1"),
        *(
            (rf"{_FUNCTION}{place}\.(\w+)", _from_zero("layer{1-}.{2}." + own + ".{3}"))
            for place, own in _CONVOLUTIONS.items()
        ),
        (r"conv(\d+)_x\.(\d+)\.shortcut\.([01])\.(\w+)", _from_zero("layer{1-}.{2}.downsample.{3}.{4}")),
    ),
)

FAMILIES: Final = (HUGGING_FACE, PYTORCH_CIFAR, PYTORCH_CIFAR100)
"""Those with names of their own."""


def in_torchvisions_names(state_dict: Mapping[str, Tensor]) -> Renamed:
    """The same tensors by torchvision's names, where they have a known family's; else as they are."""
    for family in FAMILIES:
        if not all(any(re.fullmatch(mark, name) for name in state_dict) for mark in family.marks):
            continue
        renamed = {_renamed(name, family): tensor for name, tensor in state_dict.items()}
        if len(renamed) == len(state_dict):
            return Renamed(renamed, family)
    return Renamed(dict(state_dict), TORCHVISION)


def _renamed(name: str, family: Family) -> str:
    for pattern, becomes in family.renames:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return becomes(match) if callable(becomes) else match.expand(becomes)
    return name
