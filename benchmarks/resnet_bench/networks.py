"""Networks that behave like trained ones, for measurements and tests that need no training.

A network with PyTorch's random weights answers nearly the same for every image, so that any conversion passes. Here
BatchNorm's statistics come from varied images, each residual block adds little (as in trained networks, where the scale
of its last BatchNorm is small), and the classifier's bias takes the mean answer away.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from resnet_export.resnet import ARCHITECTURES, ResNet, ResNetConfig, default_input_shape
from resnet_export.resnet_config import blocks_from_config


def live_resnet(
    architecture: str | ResNetConfig,
    *,
    in_channels: int | None = None,
    classes: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> ResNet:
    """A ResNet in eval mode whose answers depend on its input; the same arguments give the same network.

    Args:
        architecture: a name in ``ARCHITECTURES``, or a configuration.
        in_channels: instead of the configuration's.
        classes: instead of the configuration's.
        size: height and width in pixels of the images that the network will be given; its statistics are taken from
            such. 64 if not given, 32 with CIFAR's stem. At 224 a network made for 64 loses a third of its spread:
            zero padding is less of what its last stages see.
        seed: of everything random.
    """
    config = ARCHITECTURES[architecture] if isinstance(architecture, str) else architecture
    config = dataclasses.replace(
        config, in_channels=in_channels or config.in_channels, classes=classes or config.classes
    )
    with torch.device("meta"):
        network = ResNet(config)
    network = network.to_empty(device="cpu")
    _initialize(network, torch.Generator().manual_seed(seed))
    side = size or min(64, default_input_shape(config)[1])
    count = 24 if side <= 96 else 12  # large images have more pixels to take statistics from, and take longer
    images = varied_images(count, (config.in_channels, side, side), seed=seed + 1)
    _settle(network, images)
    return network.eval().requires_grad_(False)


def save_live_resnet(architecture: str, path: Path) -> None:
    """Write the state_dict of ``live_resnet(architecture)`` at its usual image size, as a training loop would."""
    size = default_input_shape(ARCHITECTURES[architecture])[1]
    torch.save(live_resnet(architecture, size=size).state_dict(), path)


@torch.no_grad()
def _initialize(network: ResNet, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.6, 1.4, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5, generator=generator)
    last = "bn2" if network.config.block == "basic" else "bn3"
    for stage in blocks_from_config(network.config):
        for plan in stage:
            norm = network.get_submodule(f"{plan.prefix}.{last}")
            assert isinstance(norm, nn.BatchNorm2d)
            norm.weight.uniform_(0.1, 0.4, generator=generator)
            norm.bias.mul_(0.25)


@torch.no_grad()
def _settle(network: ResNet, images: Tensor) -> None:
    """Take BatchNorm's statistics from the images, then scale and centre the classifier on the features."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    network.train()
    features: list[Tensor] = []
    classifier = network.fc
    assert isinstance(classifier, nn.Linear)
    hook = classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    network(images)
    network.eval()
    for norm in norms:
        norm.momentum = 0.1
    features.clear()
    for batch in images.split(8):  # type: ignore[no-untyped-call]
        network(batch)
    hook.remove()
    # Each class moves by about as much as the others, as a trained classifier's do: no single one sets the range.
    answers = torch.cat(features) @ classifier.weight.T
    deviation = answers.std(dim=0)
    scale = 2.0 / (0.5 * deviation + 0.5 * deviation.mean()).clamp_min(1e-12)
    classifier.weight.mul_(scale[:, None])
    classifier.bias.copy_(-scale * answers.mean(dim=0))


def varied_images(count: int, shape: tuple[int, int, int], *, seed: int = 0) -> Tensor:
    """(count, C, H, W) float32, each image with a mean near 0 and its own contrast, mixed of four kinds of content.

    Gradients, blobs, noise of spectrum 1/f and checkers, in random proportions and colors, at contrasts from 0.3 to 2.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_image(shape, generator) for _ in range(count)])


def _image(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    # All but the gradient is sized in pixels, so that the statistics taken at one size still fit images of another.
    channels, height, width = shape

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angle = torch.tensor(draw(0, 2 * torch.pi))
    gradient = x / width * angle.cos() + y / height * angle.sin()
    blobs = torch.zeros(height, width)
    for _ in range(max(3, height * width // 700)):
        distance = (x - draw(0, width)) ** 2 + (y - draw(0, height)) ** 2
        blobs += torch.exp(-distance / draw(2, 16) ** 2) * draw(-1, 1)
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    spectrum = torch.fft.rfft2(torch.randn(height, width, generator=generator))
    noise = torch.fft.irfft2(spectrum / (frequency + 1 / 64), s=(height, width))
    cell = draw(3, 16)
    checker = torch.sign(torch.sin(x * (torch.pi / cell)) * torch.sin(y * (torch.pi / cell)) + 1e-6)
    image = torch.zeros(channels, height, width)
    for content in (gradient, blobs, noise, checker):
        flat = (content - content.mean()) / content.std().clamp_min(1e-6)
        color = torch.randn(channels, generator=generator) * 0.5 + 1
        image += draw(0, 1) ** 3 * color[:, None, None] * flat
    tint = torch.randn(channels, generator=generator) * 0.5
    return (image / image.std() * draw(0.3, 2) + tint[:, None, None]).contiguous()
