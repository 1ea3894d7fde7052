"""The test networks are as lively as the other tests rely on."""

from __future__ import annotations

import pytest
import torch

from resnet_runtime.parity import relative_spread
from tests.export.models import live_resnet, varied_images


@pytest.mark.parametrize(
    ("name", "seed"),
    [("resnet18", 0), ("resnet18", 1), ("resnet50", 0), ("cifar_resnet20", 0), ("cifar_resnet20", 1)],
)
def test_the_answers_depend_on_the_input(name: str, seed: int) -> None:
    side = 32 if name.startswith("cifar") else 64
    images = varied_images(16, (3, side, side), seed=1234)
    with torch.no_grad():
        answers = live_resnet(name, seed=seed)(images)
    assert relative_spread(answers.numpy()) >= 0.2
    assert len(set(answers.argmax(dim=1).tolist())) >= 5


def test_the_same_seed_gives_the_same_network() -> None:
    first, second, other = (live_resnet("cifar_resnet20", seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_statistics_and_scales_are_those_of_a_trained_network() -> None:
    network = live_resnet("cifar_resnet20")
    assert not network.training
    last = network.layer3[2].bn2
    assert 0.1 <= float(last.weight.min()) <= float(last.weight.max()) <= 0.4
    assert float(last.running_var.std()) > 0
    assert not torch.equal(last.running_mean, torch.zeros_like(last.running_mean))


def test_channels_and_classes_are_those_asked_for() -> None:
    network = live_resnet("cifar_resnet20", in_channels=1, classes=7)
    assert network(varied_images(2, (1, 32, 32))).shape == (2, 7)
