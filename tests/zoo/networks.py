"""Which networks there are, and how one is made to behave like a trained one."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch
from torch import nn

from resnet_bench.networks import varied_images
from tests.torchvision_operators import declare_torchvision_operators

MOST_PARAMETERS = 120_000_000

MODULES = {
    "resnet": "*",
    "resnetv2": "*",
    "senet": "*",
    "resnest": "*",
    "sknet": "*",
    "nfnet": "nf_*resnet*",
    "byobnet": "*resnet*",
}
"""timm's, and which of their networks are called ResNets."""

TORCHVISION = (
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

SAMPLE = (
    ("timm", "resnetblur18"),
    ("timm", "resnetv2_18"),
    ("timm", "legacy_seresnet18"),
    ("timm", "resnest14d"),
    ("timm", "skresnet18"),
    ("timm", "nf_seresnet26"),
    ("timm", "eca_resnet33ts"),
    ("torchvision", "resnet18"),
)
"""The smallest of each family."""

SMALL_SIDE = 64


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
    """(library, name) of all that are not too large; building one on no device tells how large it is."""
    declare_torchvision_operators()
    import timm

    found = [("torchvision", name) for name in TORCHVISION]
    for module, pattern in MODULES.items():
        found += [("timm", name) for name in timm.list_models(module=module) if fnmatch.fnmatch(name, pattern)]
    return [item for item in found if _parameters(_built(*item, device="meta")) < MOST_PARAMETERS]


def network(library: str, name: str) -> Network:
    """Build it with seeded random weights."""
    declare_torchvision_operators()
    torch.manual_seed(0)
    module = _built(library, name, device="cpu")
    config = getattr(module, "default_cfg", {})
    channels, *own = config.get("input_size", (3, 224, 224))
    side = SMALL_SIDE
    if config.get("fixed_input_size") or not _takes(module, (channels, side, side)):
        side = own[0]
    shape = (channels, side, side)
    return Network(_alive(module, shape), shape, _parameters(module))


def _built(library: str, name: str, device: str) -> nn.Module:
    with torch.device(device):
        if library == "timm":
            import timm

            found: nn.Module = timm.create_model(name, pretrained=False)
        else:
            import torchvision

            found = torchvision.models.get_model(name, weights=None)
    return found


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


def _alive(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
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
