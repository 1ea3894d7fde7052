"""ResNets trained on ``photographs``, for measurements that need weights as a training leaves them.

Minutes on a CPU, once: the checkpoints are kept in the user's cache, in a folder named for all that they depend on.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnet_export.resnet import ARCHITECTURES, ResNet, config_from_state_dict, module_from_state_dict

from .photographs import LABELS, SIDE, Crops, calibration_crops, held_out_crops, training_crops

INPUT_SHAPE: Final = (3, SIDE, SIDE)
"""(C, H, W) of what the networks take."""
SCALE: Final = 1 / 255
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""The networks take ``(image * SCALE - MEAN) / STD``; mean and deviation are ImageNet's, as everybody's."""

_VERSION: Final = 1  # of what this file computes from a recipe: counting on trains anew
_DRAWN: Final = 2048  # crops drawn at once, at least


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: stochastic gradient descent with Nesterov's momentum on crops never seen twice.

    Attributes:
        steps: number of batches.
        batch: crops in each.
        learning_rate: the highest; it rises linearly to it and falls to 0 along a cosine.
        warmup: the share of the steps during which it rises.
        momentum: of the descent.
        weight_decay: of all parameters.
        label_smoothing: the share of the target that is spread over all classes (arXiv:1512.00567, section 7).
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0

    def digest(self) -> str:
        """16 hexadecimal digits that change with the recipe, the crops or what the training computes."""
        text = json.dumps([_VERSION, dataclasses.asdict(self), _digest_of_crops()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0: never 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * (1 + math.cos(math.pi * (step - rising) / (self.steps - rising))) / 2


STANDARD: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "resnet18": Recipe(steps=600, batch=32, learning_rate=0.05),
        "resnet34": Recipe(steps=550, batch=32, learning_rate=0.05),
        "resnet50": Recipe(steps=800, batch=32, learning_rate=0.02, label_smoothing=0.1),
    }
)
"""The architectures that accuracy is measured with, and how each is trained."""

TINY: Final = Recipe(steps=8, batch=16, learning_rate=0.01)
"""For tests: seconds, and a network that has learnt little."""


def trained_resnet(
    architecture: str,
    seed: int = 0,
    recipe: Recipe | None = None,
    *,
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """The path of a checkpoint that ``resnet-export`` reads, trained now unless an earlier call has done so.

    The file holds the plain state_dict: float32, torchvision's names, a class for each of ``photographs.LABELS``. It
    is in ``$XDG_CACHE_HOME`` or else ``~/.cache``, in ``resnet-export/accuracy/<recipe.digest()>``.

    Args:
        architecture: a name in ``ARCHITECTURES`` with three channels.
        seed: of the weights at the start and of the crops.
        recipe: ``STANDARD[architecture]`` if not given.
        progress: called after each step with the step's number, counted from 1, and its loss.

    Raises:
        ValueError: no such architecture, or one without a standard recipe and none given.
        MissingPhotographsError: scikit-image or scikit-learn is not installed.
    """
    recipe = recipe or _standard(architecture)
    path = cache_folder() / recipe.digest() / f"{architecture}-seed{seed}.pt"
    if path.exists():
        return path
    network = train(architecture, seed, recipe, progress=progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that a file with this name is a whole one, however many processes train it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """Where the checkpoints are kept: outside any repository."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "resnet-export" / "accuracy"


def train(
    architecture: str, seed: int, recipe: Recipe, *, progress: Callable[[int, float], None] | None = None
) -> ResNet:
    """Train from scratch; the network comes in eval mode. The arguments are those of ``trained_resnet``.

    The loss is the cross entropy; the crops come from ``training_crops``. The global random state is left as it was.
    """
    network = _initialized(architecture, seed).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    for step, (images, labels) in enumerate(_batches(recipe, seed)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        logits = network(preprocessed(images))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(step + 1, loss.item())
    network.eval().requires_grad_(False)
    return network


def preprocessed(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32, channels last in memory: ``(image * SCALE - MEAN) / STD``."""
    return ((torch.from_numpy(images).float() * SCALE - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


@torch.inference_mode()
def logits_from_checkpoint(path: Path, images: NDArray[np.uint8], batch: int = 250) -> NDArray[np.float32]:
    """Eager PyTorch's answers to (N, 64, 64, 3) uint8: (N, classes) float32."""
    state_dict = torch.load(path, weights_only=True)
    network = module_from_state_dict(state_dict, config_from_state_dict(state_dict).config)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    answers = [network(preprocessed(images[start : start + batch])) for start in range(0, len(images), batch)]
    return torch.cat(answers).numpy()


def top1(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The share of ``labels`` (N,) that are the largest of their row of ``logits`` (N, classes)."""
    return float(np.mean(logits.argmax(axis=1) == labels))


def _standard(architecture: str) -> Recipe:
    if architecture not in STANDARD:
        raise ValueError(f"{architecture!r} has no standard recipe, only {', '.join(STANDARD)} have: give a recipe")
    return STANDARD[architecture]


@functools.cache
def _digest_of_crops() -> str:
    """Of the first crops of each kind: no version of the data set has to be counted on by hand."""
    digest = hashlib.sha256()
    for crops in (training_crops(100, 0), held_out_crops(100), calibration_crops(100)):
        digest.update(crops.images.tobytes() + crops.labels.tobytes())
    return digest.hexdigest()


def _batches(recipe: Recipe, seed: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """``recipe.steps`` batches of crops, drawn some at a time so that memory does not grow with the steps."""
    at_once = -(-_DRAWN // recipe.batch)
    for first in range(0, recipe.steps, at_once):
        count = min(at_once, recipe.steps - first)
        # No two seeds below a million share a draw.
        crops: Crops = training_crops(count * recipe.batch, seed + 1_000_000 * first)
        for start in range(0, count * recipe.batch, recipe.batch):
            yield crops.images[start : start + recipe.batch], crops.labels[start : start + recipe.batch]


def _initialized(architecture: str, seed: int) -> ResNet:
    """He's initialization (arXiv:1502.01852), and every BatchNorm the identity, as torchvision's networks start.

    A block's last BatchNorm does not start at 0: trainings this short would leave such blocks with next to nothing.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no architecture is called {architecture!r}, only {', '.join(ARCHITECTURES)}")
    config = dataclasses.replace(ARCHITECTURES[architecture], classes=len(LABELS))
    with torch.device("meta"):
        network = ResNet(config)
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
    return network
