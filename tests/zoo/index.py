"""``python -m tests.zoo.index``: the index of fingerprints, from what timm, torchvision and this project build.

Networks with the same names and shapes are filled with the same tensors and run: those that answer alike are one group.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

import click
import torch
from torch import nn

from resnet_bench.networks import varied_images
from resnet_export.fingerprints import INDEX, fingerprint
from resnet_export.resnet import ResNet
from resnet_export.resnet_config import ARCHITECTURES

from .networks import TORCHVISION, alive, built, timm_names

SIDES: Final = (64, 224)
SAME: Final = 1e-4
"""Of the output's range: what may lie between two ways to round."""


def architectures() -> list[str]:
    """All that the index knows, by the names that ``--arch`` takes, those that need no library first."""
    return [
        *ARCHITECTURES,
        *(f"torchvision:{name}" for name in TORCHVISION),
        *(f"timm:{name}" for name in timm_names()),
    ]


def fingerprints_of(names: Iterable[str], **changes: int) -> dict[str, list[str]]:
    """The architectures of each; those that have no classifier by themselves also with one, as a user adds it."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for name in names:
        library, _, own = name.rpartition(":")
        module = network(name, "meta") if not changes else built(library, own, "meta", **changes)
        sharing[fingerprint(module.state_dict())].append(name)
        if not changes and getattr(module, "num_classes", None) == 0:
            classified = built(library, own, "meta", num_classes=10)
            sharing[fingerprint(classified.state_dict())].append(name)
    return sharing


def network(arch: str, device: str) -> nn.Module:
    """Built, with random tensors, or on no device."""
    library, _, name = arch.rpartition(":")
    if library:
        return built(library, name, device)
    with torch.device(device):
        return ResNet(ARCHITECTURES[name])


def groups(names: Iterable[str]) -> list[list[str]]:
    """Of architectures with the same tensors, those together that compute the same."""
    found: list[tuple[torch.Tensor, list[str]]] = []
    tensors: dict[str, torch.Tensor] | None = None
    for name in names:
        torch.manual_seed(0)
        module = network(name, "cpu")
        if tensors is None:
            alive(module, (3, SIDES[0], SIDES[0]))
            tensors = module.state_dict()
        module.load_state_dict(_classes_of(module, tensors))
        answer = _answer(module.eval())
        for known, members in found:
            if (answer - known).abs().max() <= SAME * (known.max() - known.min()):
                members.append(name)
                break
        else:
            found.append((answer, [name]))
    return [members for _, members in found]


def _classes_of(module: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, for as many classes as the module has."""
    own = module.state_dict()
    return {
        name: torch.cat([tensor[: len(own[name])], own[name][len(tensor) :]]) if tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


def _answer(module: nn.Module) -> torch.Tensor:
    """To small images, where it takes them; ten numbers of each."""
    for side in SIDES:
        with contextlib.suppress(RuntimeError, AssertionError), torch.inference_mode():
            answer: torch.Tensor = module(varied_images(2, (3, side, side), seed=1))
            return answer[:, :10]
    raise AssertionError("no side fits")


def main() -> int:
    """Write the index."""
    sharing = fingerprints_of(architectures())
    index = {key: groups(names) if len(names) > 1 else [names] for key, names in sharing.items()}
    text = json.dumps(
        {"timm": version("timm"), "torchvision": version("torchvision"), "architectures": index}, indent=0
    )
    INDEX.write_text(text + "\n", encoding="utf-8")
    click.echo(f"{len(index)} fingerprints, {sum(len(found) > 1 for found in index.values())} of several computations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
