"""The configuration of a ResNet, the ones that have a name, and the tensors that each one has.

A configuration says everything that the network computes except the numbers in its tensors. ``shapes_from_config``
is the one place that knows which tensors a configuration has; ``resnet.ResNet`` is tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .errors import ArchitectureError

BLOCKS: Final = ("basic", "bottleneck")
STEMS: Final = ("imagenet", "cifar", "cifar-pooled")
STRIDES_IN: Final = ("3x3", "1x1")
SHORTCUTS: Final = ("projection", "padded")
POOLS: Final = ("adaptive", "window")

EXPANSION: Final[Mapping[str, int]] = MappingProxyType({"basic": 1, "bottleneck": 4})
"""How many times wider than its stage's width a block's output is."""

_IMAGENET_WIDTHS: Final = (64, 128, 256, 512)
_CIFAR_WIDTHS: Final = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """What a ResNet computes, without its tensors.

    Attributes:
        block: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1 (He et al. 2015, arXiv:1512.03385).
        layers: the number of blocks of each stage; the first stage keeps the resolution, the others halve it.
        widths: each stage's width: the channels of a basic block; a bottleneck gives four times as many.
        stem: "imagenet": 7x7 convolution of stride 2, then 3x3 max pooling of stride 2;
            "cifar": 3x3 convolution of stride 1 and no pooling; "cifar-pooled": the same, and the pooling.
        in_channels: channels of the image.
        classes: number of logits.
        groups: groups of the bottleneck's 3x3 convolution (Xie et al. 2016, arXiv:1611.05431).
        width_per_group: channels of each group in a stage of width 64, in proportion in the others; 64 with one group
            is the plain ResNet, 128 with one group the wide one (Zagoruyko & Komodakis 2016, arXiv:1605.07146).
        stride_in: which convolution of a bottleneck halves the resolution: "3x3" as torchvision has it ("v1.5"),
            "1x1" as the paper has it. A basic block has it in its first convolution either way.
        bn_eps: epsilon of every BatchNorm.
        shortcut: of a block that changes the resolution or the channels. "projection": a 1x1 convolution and BatchNorm,
            the paper's option B. "padded": every second pixel, with zeros for half of the new channels before the old
            ones and for half after them, as pytorch_resnet_cifar10 has the paper's option A.
        pool: how the mean over all positions is computed, which rounds differently: "adaptive", as torchvision does,
            or "window", an average pooling of the map's size, as code for CIFAR does.

    Raises:
        ArchitectureError: the values do not make a network.
    """

    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str = "imagenet"
    in_channels: int = 3
    classes: int = 1000
    groups: int = 1
    width_per_group: int = 64
    stride_in: str = "3x3"
    bn_eps: float = 1e-5
    shortcut: str = "projection"
    pool: str = "adaptive"

    def __post_init__(self) -> None:
        for name, known in (
            ("block", BLOCKS),
            ("stem", STEMS),
            ("stride_in", STRIDES_IN),
            ("shortcut", SHORTCUTS),
            ("pool", POOLS),
        ):
            if getattr(self, name) not in known:
                raise ArchitectureError(f"{name} is {getattr(self, name)!r}, and it must be one of {', '.join(known)}")
        counts = (*self.layers, *self.widths, self.in_channels, self.classes, self.groups, self.width_per_group)
        if not self.layers or len(self.layers) != len(self.widths) or min(counts) < 1:
            raise ArchitectureError(
                f"layers {self.layers} and widths {self.widths} must have one positive number for each stage, and all"
                " other counts must be positive"
            )
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ArchitectureError("a basic block has neither groups nor a width per group: leave them at 1 and 64")
        if self.shortcut == "padded" and any(
            plan.reshapes and plan.out_width != 2 * plan.in_width
            for stage in blocks_from_config(self)
            for plan in stage
        ):
            raise ArchitectureError("a zero-padded shortcut doubles the channels: each stage has twice the last one's")
        if min(self.inner_width(stage) for stage in range(len(self.layers))) < 1:
            raise ArchitectureError(f"width_per_group {self.width_per_group} leaves a stage without channels")

    @property
    def stem_width(self) -> int:
        """Channels after the stem."""
        return self.widths[0]

    def inner_width(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of ``stage``, counted from 0."""
        if self.block == "basic":
            return self.widths[stage]
        return self.widths[stage] * self.width_per_group // 64 * self.groups

    def out_width(self, stage: int) -> int:
        """Channels that ``stage`` gives, counted from 0."""
        return self.widths[stage] * EXPANSION[self.block]

    @property
    def features(self) -> int:
        """Channels that the classifier takes."""
        return self.out_width(len(self.layers) - 1)


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """One residual block: its ``prefix`` in a state_dict, channels in, within and out, stride, and kind of shortcut."""

    prefix: str
    in_width: int
    inner_width: int
    out_width: int
    stride: int
    shortcut: str

    @property
    def reshapes(self) -> bool:
        """Whether the shortcut cannot be the identity."""
        return self.stride != 1 or self.in_width != self.out_width

    @property
    def has_downsample(self) -> bool:
        """Whether the shortcut is a 1x1 convolution."""
        return self.reshapes and self.shortcut == "projection"


def blocks_from_config(config: ResNetConfig) -> tuple[tuple[BlockPlan, ...], ...]:
    """The blocks of each stage, in the order of computation."""
    stages = []
    width = config.stem_width
    for stage, depth in enumerate(config.layers):
        blocks = []
        for index in range(depth):
            plan = BlockPlan(
                prefix=f"layer{stage + 1}.{index}",
                in_width=width,
                inner_width=config.inner_width(stage),
                out_width=config.out_width(stage),
                stride=2 if stage > 0 and index == 0 else 1,
                shortcut=config.shortcut,
            )
            blocks.append(plan)
            width = plan.out_width
        stages.append(tuple(blocks))
    return tuple(stages)


@dataclass(frozen=True, kw_only=True)
class ConvolutionPlan:
    """A convolution without bias, padded so that only ``stride`` changes the resolution."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The weight's shape."""
        return (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)


def convolutions_from_block(config: ResNetConfig, plan: BlockPlan) -> tuple[ConvolutionPlan, ...]:
    """The convolutions on a block's main path, in order: two for a basic block, three for a bottleneck."""
    inner, out = plan.inner_width, plan.out_width
    if config.block == "basic":
        return (
            ConvolutionPlan(inputs=plan.in_width, outputs=inner, kernel=3, stride=plan.stride),
            ConvolutionPlan(inputs=inner, outputs=out, kernel=3),
        )
    first, second = (plan.stride, 1) if config.stride_in == "1x1" else (1, plan.stride)
    return (
        ConvolutionPlan(inputs=plan.in_width, outputs=inner, kernel=1, stride=first),
        ConvolutionPlan(inputs=inner, outputs=inner, kernel=3, stride=second, groups=config.groups),
        ConvolutionPlan(inputs=inner, outputs=out, kernel=1),
    )


COUNTER: Final = "num_batches_tracked"
"""BatchNorm's counter of training steps: not used for inference, and absent from older checkpoints."""


def shapes_from_config(config: ResNetConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the state_dict, without the counters, in the order of computation."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, weight: tuple[int, ...]) -> None:
        shapes[f"{conv}.weight"] = weight
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (weight[0],)

    kernel = 7 if config.stem == "imagenet" else 3
    add("conv1", "bn1", (config.stem_width, config.in_channels, kernel, kernel))
    for plan in (plan for stage in blocks_from_config(config) for plan in stage):
        for number, conv in enumerate(convolutions_from_block(config, plan), start=1):
            add(f"{plan.prefix}.conv{number}", f"{plan.prefix}.bn{number}", conv.shape)
        if plan.has_downsample:
            weight = (plan.out_width, plan.in_width, 1, 1)
            add(f"{plan.prefix}.downsample.0", f"{plan.prefix}.downsample.1", weight)
    shapes["fc.weight"] = (config.classes, config.features)
    shapes["fc.bias"] = (config.classes,)
    return shapes


def default_input_shape(config: ResNetConfig) -> tuple[int, int, int]:
    """(C, H, W) of the images that such networks are trained on: 224 pixels for ImageNet's stem, 32 for CIFAR's."""
    side = 224 if config.stem == "imagenet" else 32
    return (config.in_channels, side, side)


_DEPTHS: Final[Mapping[int, tuple[str, tuple[int, ...]]]] = {
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
_CIFAR_DEPTHS: Final = (18, 34, 50, 101, 152)


def _imagenet(depth: int, *, groups: int = 1, width_per_group: int = 64) -> ResNetConfig:
    block, layers = _DEPTHS[depth]
    return ResNetConfig(
        block=block, layers=layers, widths=_IMAGENET_WIDTHS, groups=groups, width_per_group=width_per_group
    )


def _cifar(depth: int, stem: str = "cifar") -> ResNetConfig:
    if depth in _CIFAR_DEPTHS:
        block, layers = _DEPTHS[depth]
        return ResNetConfig(block=block, layers=layers, widths=_IMAGENET_WIDTHS, stem=stem, classes=10)
    # The paper's own: 6n + 2 layers in three stages of n basic blocks (arXiv:1512.03385, section 4.2).
    stage = (depth - 2) // 6
    return ResNetConfig(block="basic", layers=(stage,) * 3, widths=_CIFAR_WIDTHS, stem="cifar", classes=10)


ARCHITECTURES: Final[Mapping[str, ResNetConfig]] = MappingProxyType(
    {
        **{f"resnet{depth}": _imagenet(depth) for depth in _DEPTHS},
        "resnext50_32x4d": _imagenet(50, groups=32, width_per_group=4),
        "resnext101_32x4d": _imagenet(101, groups=32, width_per_group=4),
        "resnext101_32x8d": _imagenet(101, groups=32, width_per_group=8),
        "resnext101_32x16d": _imagenet(101, groups=32, width_per_group=16),
        "resnext101_32x32d": _imagenet(101, groups=32, width_per_group=32),
        "resnext101_64x4d": _imagenet(101, groups=64, width_per_group=4),
        "wide_resnet50_2": _imagenet(50, width_per_group=128),
        "wide_resnet101_2": _imagenet(101, width_per_group=128),
        **{f"cifar_resnet{depth}": _cifar(depth) for depth in (*_CIFAR_DEPTHS, 20, 32, 44, 56, 110)},
        **{f"cifar_resnet{depth}_pooled": _cifar(depth, "cifar-pooled") for depth in (18, 34, 50)},
    }
)
"""The architectures that have a name, with the channels and classes of the data set that they were made for.

Those of CIFAR with the pooling are what PyTorch_CIFAR10 (huyvnphan) left of torchvision's.
"""
