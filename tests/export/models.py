"""Configurations for tests; the networks that behave like trained ones are ``resnet_bench.networks``'s.

``test_models.py`` holds those to their word.
"""

from __future__ import annotations

import torch

from resnet_bench.networks import live_resnet, varied_images
from resnet_export.resnet import ResNet, ResNetConfig

__all__ = ["SMALL_BOTTLENECK", "TINY", "live_resnet", "meta_network", "varied_images"]

TINY = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", classes=10)
"""A network of two blocks, where nothing depends on size."""

SMALL_BOTTLENECK = ResNetConfig(
    block="bottleneck", layers=(1, 2), widths=(16, 32), stem="imagenet", classes=7, groups=4, width_per_group=32
)
"""The same with bottlenecks of grouped convolutions and ImageNet's stem."""


def meta_network(config: ResNetConfig) -> ResNet:
    """A network without data, in eval mode: its state_dict has names and shapes, and takes no memory."""
    with torch.device("meta"):
        return ResNet(config).eval()
