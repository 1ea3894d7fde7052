"""Which networks there are, and how one is made to behave like a trained one."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import nn

from resnet_bench.networks import varied_images
from tests.export.foreign_resnets import PytorchCifar, PytorchCifar100
from tests.torchvision_operators import declare_torchvision_operators

MOST_PARAMETERS: Final = 120_000_000

MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "resnet": ("*",),
        "resnetv2": ("*",),
        "senet": ("*",),
        "resnest": ("*",),
        "sknet": ("*",),
        "nfnet": ("nf_*resnet*",),
        "byobnet": ("*resnet*", "*resnext*"),
        "byoanet": ("*resnet*",),
    }
)
"""timm's, and which of their networks are called ResNets."""

TORCHVISION: Final = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)

DEPTHS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        "18": (2, 2, 2, 2),
        "26": (2, 2, 2, 2),
        "34": (3, 4, 6, 3),
        "50": (3, 4, 6, 3),
        "101": (3, 4, 23, 3),
        "152": (3, 8, 36, 3),
    }
)
"""The numbers of blocks behind a name; 18 and 34 have basic blocks, the others bottlenecks."""

OPTIONS: Final[Mapping[str, str]] = MappingProxyType({"": "", "-v1": "downsample_in_bottleneck"})
"""Of Hugging Face's configurations: what a name ends with, and what is then true."""

SAMPLE: Final = (
    ("timm", "resnetblur18"),
    ("timm", "resnetv2_18"),
    ("timm", "legacy_seresnet18"),
    ("timm", "resnest14d"),
    ("timm", "skresnet18"),
    ("timm", "nf_seresnet26"),
    ("timm", "eca_resnet33ts"),
    ("torchvision", "resnet18"),
    ("transformers", "resnet-18"),
    ("pytorch_resnet_cifar10", "resnet20-A"),
    ("pytorch-cifar100", "resnet18"),
)
"""The smallest of each family."""

SMALL_SIDE: Final = 64


@dataclass(frozen=True)
class Network:
    """One of them.

    Attributes:
        module: alive, in evaluation mode.
        shape: (C, H, W) of the images that it is tried on: small ones, where it takes any size.
        parameters: how many numbers training changes.
    """

    module: nn.Module
    shape: tuple[int, int, int]
    parameters: int


def names() -> list[tuple[str, str]]:
    """(library, name) of all that ``make zoo`` exports: timm's where they are not too large.

    Building one on no device tells how large it is.
    """
    return [
        (library, name)
        for library, name in every_name()
        if library != "timm" or _parameters(built(library, name, device="meta")) < MOST_PARAMETERS
    ]


def every_name() -> list[tuple[str, str]]:
    """(library, name) of all, whatever their size."""
    found = [("torchvision", name) for name in TORCHVISION]
    found += [("timm", name) for name in timm_names()]
    found += [("transformers", f"resnet-{depth}{end}") for depth in DEPTHS for end in OPTIONS]
    found += [("pytorch-cifar", f"resnet{depth}") for depth in DEPTHS if depth != "26"]
    found += [("pytorch_resnet_cifar10", f"resnet{depth}-{form}") for depth in (20, 32, 44, 56, 110) for form in "AB"]
    found += [("pytorch-cifar100", f"resnet{depth}") for depth in DEPTHS if depth != "26"]
    return found


def timm_names() -> list[str]:
    """What timm calls a ResNet."""
    declare_torchvision_operators()
    import timm

    return [
        name
        for module, patterns in MODULES.items()
        for name in timm.list_models(module=module)
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def network(library: str, name: str) -> Network:
    """Build it with seeded random weights."""
    torch.manual_seed(0)
    module = built(library, name, device="cpu")
    shape = image_shape(module, library)
    return Network(alive(module, shape), shape, _parameters(module))


def image_shape(module: nn.Module, library: str) -> tuple[int, int, int]:
    """(C, H, W) of small images, where it takes any size."""
    config = getattr(module, "default_cfg", {})
    channels, *own = config.get("input_size", (3, 224, 224))
    side = 32 if "cifar" in library else SMALL_SIDE
    if config.get("fixed_input_size") or not _takes(module, (channels, side, side)):
        side = own[0]
    return (channels, side, side)


def built(library: str, name: str, device: str, **changes: int) -> nn.Module:
    """Its module, as the library leaves it; ``changes`` of timm's alone: ``num_classes``, ``in_chans``."""
    declare_torchvision_operators()
    with torch.device(device):
        return _timm(name, **changes) if library == "timm" else _BUILDERS[library](name)


def _timm(name: str, **changes: int) -> nn.Module:
    import timm

    found: nn.Module = timm.create_model(name, pretrained=False, **changes)
    return found


def _torchvision(name: str) -> nn.Module:
    import torchvision

    found: nn.Module = torchvision.models.get_model(name, weights=None)
    return found


def _transformers(name: str) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    _, depth, *end = name.split("-")
    basic = _is_basic(depth)
    config = ResNetConfig(
        depths=list(DEPTHS[depth]),
        hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        layer_type="basic" if basic else "bottleneck",
        num_labels=1000,
        **{OPTIONS[f"-{word}"]: True for word in end},
    )
    found: nn.Module = ResNetForImageClassification(config)
    return found


def _pytorch_cifar(name: str) -> nn.Module:
    depth = name.removeprefix("resnet")
    return PytorchCifar(DEPTHS[depth], (64, 128, 256, 512), bottleneck=not _is_basic(depth))


def _pytorch_resnet_cifar10(name: str) -> nn.Module:
    depth, form = name.removeprefix("resnet").split("-")
    return PytorchCifar(((int(depth) - 2) // 6,) * 3, (16, 32, 64), padded=form == "A")


def _pytorch_cifar100(name: str) -> nn.Module:
    depth = name.removeprefix("resnet")
    return PytorchCifar100(DEPTHS[depth], bottleneck=not _is_basic(depth))


def _is_basic(depth: str) -> bool:
    return depth in ("18", "34")


_BUILDERS: Final[Mapping[str, Callable[[str], nn.Module]]] = MappingProxyType(
    {
        "timm": _timm,
        "torchvision": _torchvision,
        "transformers": _transformers,
        "pytorch-cifar": _pytorch_cifar,
        "pytorch_resnet_cifar10": _pytorch_resnet_cifar10,
        "pytorch-cifar100": _pytorch_cifar100,
    }
)
"""Libraries, and repositories whose code the tests write anew."""


def _takes(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    """Whether images of that size are large enough for it."""
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(2, *shape))
    except (RuntimeError, AssertionError):
        return False
    return True


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def alive(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Nothing that an initialization left at zero or one, and BatchNorm's statistics from varied images."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.momentum = None  # the mean of all that it sees
        if (
            isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm | nn.LayerNorm)
            and layer.weight is not None
        ):
            nn.init.uniform_(layer.weight, 0.2, 0.6)
            nn.init.normal_(layer.bias, 0, 0.1)
    for parameter in module.parameters():
        if parameter.ndim <= 1 and not parameter.any():  # a gain or a bias
            nn.init.normal_(parameter, 0, 0.1)
    with torch.no_grad():
        module.train()(varied_images(8, shape, seed=0))
    return module.eval()
