"""A network so small that it is trained on ``photographs`` in seconds: the accuracy benchmark's own test needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from resnet_export.resnet import ResNetConfig

from .networks import live_resnet
from .photographs import LABELS, SIDE, training_crops
from .training import preprocessed

CONFIG: Final = ResNetConfig(
    block="basic", layers=(1, 1), widths=(16, 64), stem="imagenet", in_channels=3, classes=len(LABELS)
)

_CROPS: Final = 600
_WEIGHT_DECAY: Final = 1e-3


def save_tiny(seed: int, path: Path) -> Path:
    """Write the state_dict of a ResNet of ``CONFIG`` that knows about half of the photographs; return the path.

    The classifier alone is trained, by logistic regression on what ``live_resnet``'s other layers make of crops.
    """
    network = live_resnet(CONFIG, size=SIDE, seed=seed)
    classifier = network.fc
    assert isinstance(classifier, nn.Linear)
    crops = training_crops(_CROPS, seed)
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for first in range(0, _CROPS, 100):
            network(preprocessed(crops.images[first : first + 100]))
    hook.remove()
    _fit(classifier, torch.cat(seen), torch.from_numpy(crops.labels))
    torch.save(network.state_dict(), path)
    return path


def _fit(classifier: nn.Linear, features: Tensor, labels: Tensor) -> None:
    classifier.requires_grad_(True)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(classifier(features), labels)
        loss = loss + _WEIGHT_DECAY * classifier.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    classifier.requires_grad_(False)
