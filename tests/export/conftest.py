"""One tiny trained network, its checkpoint and its answers, shared by every test that needs no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_export import speed
from resnet_export.resnet import ResNet, ResNetConfig
from tests.export.models import live_resnet, varied_images

TINY_SHAPE = (3, 16, 16)
TINY_CLASSES = 5
_CONFIG = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", classes=TINY_CLASSES)


@pytest.fixture(scope="session")
def tiny_network() -> ResNet:
    return live_resnet(_CONFIG, size=TINY_SHAPE[1])


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_network: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state_dict; read only."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    torch.save(tiny_network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_reference(tiny_network: ResNet) -> dict[str, np.ndarray]:
    """``input`` (4, 3, 16, 16) and ``output`` (4, 5), float32, as a user's own code gives them."""
    images = varied_images(4, TINY_SHAPE, seed=7)
    with torch.inference_mode():
        return {"input": images.numpy(), "output": tiny_network(images).numpy()}


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """Speeds are measured in three rounds instead of for two seconds each, where no test asks how fast it is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_FEWEST_ROUNDS", "_MOST_ROUNDS"):
            patch.setattr(speed, name, 3)
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
