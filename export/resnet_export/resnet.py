"""One configurable ResNet with torchvision's names of parameters, and the way to it from a state_dict.

``config_from_state_dict`` says which network the tensors belong to, ``module_from_state_dict`` puts them in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .errors import ArchitectureError
from .resnet_config import (
    ARCHITECTURES,
    COUNTER,
    BlockPlan,
    ConvolutionPlan,
    ResNetConfig,
    blocks_from_config,
    convolutions_from_block,
    default_input_shape,
)
from .resnet_inference import Inferred, config_from_state_dict, differences

__all__ = [
    "ARCHITECTURES",
    "Inferred",
    "ResNet",
    "ResNetConfig",
    "config_from_state_dict",
    "default_input_shape",
    "module_from_state_dict",
]


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), the shortcut being ``downsample`` or the identity."""

    def __init__(self, config: ResNetConfig, plan: BlockPlan) -> None:
        super().__init__()
        first, second = convolutions_from_block(config, plan)
        self.conv1, self.bn1 = _conv(first), nn.BatchNorm2d(first.outputs, eps=config.bn_eps)
        self.conv2, self.bn2 = _conv(second), nn.BatchNorm2d(second.outputs, eps=config.bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(config, plan)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride), float32."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        answer: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return answer


class Bottleneck(nn.Module):
    """As ``BasicBlock`` with three convolutions: 1x1 to fewer channels, 3x3, 1x1 to four times the stage's width."""

    def __init__(self, config: ResNetConfig, plan: BlockPlan) -> None:
        super().__init__()
        first, second, third = convolutions_from_block(config, plan)
        self.conv1, self.bn1 = _conv(first), nn.BatchNorm2d(first.outputs, eps=config.bn_eps)
        self.conv2, self.bn2 = _conv(second), nn.BatchNorm2d(second.outputs, eps=config.bn_eps)
        self.conv3, self.bn3 = _conv(third), nn.BatchNorm2d(third.outputs, eps=config.bn_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(config, plan)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride), float32."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        answer: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return answer


class ResNet(nn.Sequential):
    """The network that ``config`` describes, with PyTorch's default random weights.

    ``forward`` takes (N, C, H, W) float32, preprocessed, to logits (N, classes) float32. The state_dict has the keys
    ``conv1``, ``bn1``, ``layer1.0.conv1`` ... ``layer4.2.bn3``, ``fc``.
    """

    def __init__(self, config: ResNetConfig) -> None:
        imagenet = config.stem == "imagenet"
        block = BasicBlock if config.block == "basic" else Bottleneck
        kernel, stride = (7, 2) if imagenet else (3, 1)
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(config.in_channels, config.stem_width, kernel, stride, kernel // 2, bias=False),
            "bn1": nn.BatchNorm2d(config.stem_width, eps=config.bn_eps),
            "relu": nn.ReLU(inplace=True),
        }
        if config.stem != "cifar":
            layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
        for number, plans in enumerate(blocks_from_config(config), start=1):
            layers[f"layer{number}"] = nn.Sequential(*(block(config, plan) for plan in plans))
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1) if config.pool == "adaptive" else WindowPool()
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(config.features, config.classes)
        super().__init__(OrderedDict(layers))
        self.config = config


def _conv(plan: ConvolutionPlan) -> nn.Conv2d:
    return nn.Conv2d(
        plan.inputs, plan.outputs, plan.kernel, plan.stride, plan.kernel // 2, groups=plan.groups, bias=False
    )


class ZeroPadded(nn.Module):
    """A shortcut without parameters: see ``ResNetConfig.shortcut``."""

    def __init__(self, plan: BlockPlan) -> None:
        super().__init__()
        self.stride = plan.stride
        self.before = (plan.out_width - plan.in_width) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 2 C, H / stride, W / stride), float32."""
        pixels = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(pixels, (0, 0, 0, 0, self.before, self.before))


class WindowPool(nn.Module):
    """The mean over all positions by an average pooling of the map's size."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1), float32."""
        return nn.functional.avg_pool2d(x, (x.shape[2], x.shape[3]))


def _downsample(config: ResNetConfig, plan: BlockPlan) -> nn.Module | None:
    if not plan.reshapes:
        return None
    if not plan.has_downsample:
        return ZeroPadded(plan)
    return nn.Sequential(
        nn.Conv2d(plan.in_width, plan.out_width, 1, plan.stride, bias=False),
        nn.BatchNorm2d(plan.out_width, eps=config.bn_eps),
    )


def module_from_state_dict(state_dict: Mapping[str, Tensor], config: ResNetConfig) -> ResNet:
    """The network of ``config`` in eval mode, computing with the tensors of ``state_dict``.

    Nothing is copied and nothing is initialized at random: the module holds the given tensors themselves. None of
    them requires a gradient.

    Args:
        state_dict: float32 tensors with torchvision's names; BatchNorm's counters may be absent.
        config: as ``config_from_state_dict`` found it.

    Raises:
        ArchitectureError: a tensor is missing, left over, or of another shape or type; ``details`` lists them all.
    """
    found = differences(state_dict, config)
    if found:
        raise ArchitectureError(
            "the tensors do not fit the configuration that they were to fill", details=found.lines()
        )
    with torch.device("meta"):
        module = ResNet(config)
    counters = {
        name: state_dict.get(name, torch.zeros((), dtype=torch.int64))
        for name in module.state_dict()
        if name.endswith(f".{COUNTER}")
    }
    module.load_state_dict({**state_dict, **counters}, strict=True, assign=True)
    return module.eval().requires_grad_(False)
