"""Training for accuracy: it learns, it repeats itself, and it is done once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_bench import training
from resnet_bench.photographs import LABELS, held_out_crops
from resnet_bench.training import (
    MEAN,
    STANDARD,
    STD,
    TINY,
    Recipe,
    logits_from_checkpoint,
    preprocessed,
    top1,
    train,
    trained_resnet,
)
from resnet_export.resnet import config_from_state_dict


@dataclasses.dataclass(frozen=True)
class Trained:
    path: Path
    cache: Path
    losses: list[float]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Of the tiny recipe; the cache stays in place for the module's tests."""
    cache = tmp_path_factory.mktemp("cache")
    losses: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        path = trained_resnet("resnet18", 0, TINY, progress=lambda step, loss: losses.append(loss))
        yield Trained(path, cache, losses)


def test_a_tiny_training_lowers_the_loss(trained: Trained) -> None:
    assert len(trained.losses) == TINY.steps
    assert np.mean(trained.losses[-3:]) < np.mean(trained.losses[:3]) - 0.1


def test_the_checkpoint_is_a_whole_plain_state_dict(trained: Trained) -> None:
    folder = trained.cache / "resnet-export" / "accuracy" / TINY.digest()
    assert list(folder.iterdir()) == [trained.path] == [folder / "resnet18-seed0.pt"]
    state_dict = torch.load(trained.path, weights_only=True)
    assert all(tensor.is_contiguous() for tensor in state_dict.values())
    config = config_from_state_dict(state_dict).config
    assert (config.layers, config.stem, config.classes) == ((2, 2, 2, 2), "imagenet", len(LABELS))


def test_a_checkpoint_is_used_again(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    assert trained_resnet("resnet18", 0, TINY) == trained.path


def test_a_failed_training_leaves_no_checkpoint(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        trained_resnet("resnet18", 1, Recipe(steps=1, batch=2, learning_rate=0.1))
    assert [path.name for path in trained.cache.rglob("*seed1*")] == []


def test_the_digest_tells_recipes_and_crops_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = dataclasses.replace
    recipes = [TINY, replace(TINY, steps=9), replace(TINY, learning_rate=0.5), replace(TINY, label_smoothing=0.1)]
    digests = {recipe.digest() for recipe in (*recipes, *STANDARD.values())}
    assert len(digests) == len(recipes) + len(STANDARD)
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests)
    assert replace(TINY).digest() == TINY.digest()
    monkeypatch.setattr(training, "_digest_of_crops", lambda: "others")
    assert TINY.digest() not in digests


def test_a_training_repeats_itself_and_leaves_the_random_state() -> None:
    recipe = Recipe(steps=2, batch=4, learning_rate=0.1)
    state = torch.get_rng_state()
    one, again, other = (train("resnet18", seed, recipe).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(steps=10, batch=1, learning_rate=0.5, warmup=0.2)
    rates = [recipe.learning_rate_at(step) for step in range(10)]
    assert rates[:3] == [0.25, 0.5, 0.5]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.05


def test_preprocessing_is_the_usual_one() -> None:
    images = held_out_crops(2).images
    expected = (images / 255 - np.array(MEAN)) / np.array(STD)
    # float32 against float64: a few roundings of numbers up to 3
    np.testing.assert_allclose(preprocessed(images).numpy(), expected.transpose(0, 3, 1, 2), rtol=0, atol=2e-6)


def test_logits_are_the_same_in_any_batch_size(trained: Trained) -> None:
    crops = held_out_crops(7)
    logits = logits_from_checkpoint(trained.path, crops.images)
    assert logits.shape == (7, len(LABELS))
    # float32: the order of summation depends on the batch's size
    np.testing.assert_allclose(logits_from_checkpoint(trained.path, crops.images, batch=3), logits, rtol=0, atol=1e-4)
    assert top1(logits, logits.argmax(axis=1)) == 1.0
    assert top1(logits, (logits.argmax(axis=1) + 1) % len(LABELS)) == 0.0


def test_an_architecture_without_a_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="'resnet101' has no standard recipe, only resnet18, resnet34, resnet50"):
        trained_resnet("resnet101")
    with pytest.raises(ValueError, match="no architecture is called 'resnet19'"):
        trained_resnet("resnet19", 0, TINY)
