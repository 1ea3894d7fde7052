"""The data set of accuracy: nothing held out is trained with, and all is as it was the last time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

from resnet_bench import photographs
from resnet_bench.photographs import (
    HELD_OUT,
    LABELS,
    SIDE,
    Crops,
    MissingPhotographsError,
    calibration_crops,
    crop_boxes,
    held_out_crops,
    tiles,
    training_crops,
)

Draw = Callable[[int], Crops]


def some_training_crops(count: int) -> Crops:
    return training_crops(count, seed=3)


DRAWS: tuple[Draw, ...] = (some_training_crops, held_out_crops, calibration_crops)


def same(one: Crops, other: Crops) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("label", LABELS)
def test_every_pixel_is_in_one_tile(label: str) -> None:
    height, width = photographs.photographs()[LABELS.index(label)].shape[:2]
    times = np.zeros((height, width), int)
    kinds = [tiles(height, width, held_out=held_out) for held_out in (False, True)]
    for tile in (*kinds[0], *kinds[1]):
        assert tile.shorter >= SIDE
        times[tile.pixels] += 1
    assert np.all(times == 1)
    assert abs(len(kinds[0]) - len(kinds[1])) <= 1


@pytest.mark.parametrize("label", LABELS)
def test_no_pixel_is_seen_in_training_and_held_out(label: str) -> None:
    photograph = photographs.photographs()[LABELS.index(label)]
    seen = {}
    for held_out in (False, True):
        seen[held_out] = np.zeros(photograph.shape[:2], bool)
        allowed = tiles(*photograph.shape[:2], held_out=held_out)
        for box in crop_boxes(photograph, np.random.default_rng(0), 100, held_out=held_out):
            assert any(
                tile.left <= box.left < box.right <= tile.right and tile.top <= box.top < box.bottom <= tile.bottom
                for tile in allowed
            )
            seen[held_out][box.pixels] = True
    assert seen[False].any()
    assert seen[True].any()
    assert not np.any(seen[False] & seen[True])


@pytest.mark.parametrize("draw", DRAWS)
def test_a_crop_does_not_depend_on_the_other_tiles(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw(100)
    originals = photographs.photographs()

    def inverted(held_out: bool) -> Crops:
        changed = [photograph.copy() for photograph in originals]
        for photograph in changed:
            for tile in tiles(*photograph.shape[:2], held_out=held_out):
                photograph[tile.pixels] = 255 - photograph[tile.pixels]
        with monkeypatch.context() as patch:
            patch.setattr(photographs, "photographs", lambda: tuple(changed))
            return draw(100)

    own = draw is held_out_crops
    assert same(inverted(not own), before)
    assert not np.any(np.all(inverted(own).images == before.images, axis=(1, 2, 3)))


@pytest.mark.parametrize("draw", DRAWS)
def test_fewer_crops_are_the_first_ones_of_more(draw: Draw) -> None:
    more, fewer = draw(120), draw(37)
    assert more.images.shape == (120, SIDE, SIDE, 3)
    assert more.images.dtype == np.uint8
    assert more.labels.shape == (120,)
    assert more.labels.dtype == np.int64
    assert same(fewer, Crops(more.images[:37], more.labels[:37]))


def test_another_seed_or_purpose_gives_other_crops() -> None:
    drawn = [training_crops(50, 0), training_crops(50, 1), held_out_crops(50), calibration_crops(50)]
    assert not any(same(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


@pytest.mark.parametrize("count", [37, 120])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_classes_are_equally_many(draw: Draw, count: int) -> None:
    found = np.bincount(draw(count).labels, minlength=len(LABELS))
    assert len(found) == len(LABELS)
    assert np.ptp(found) <= 1


def test_the_held_out_crops_are_many_and_balanced() -> None:
    assert HELD_OUT >= 10_000
    assert HELD_OUT % len(LABELS) == 0


def test_no_crop_is_blank() -> None:
    images = held_out_crops(200).images
    assert np.all(images.std(axis=(1, 2, 3)) > 0)


def test_missing_wheels_are_all_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    photographs.photographs.cache_clear()
    with pytest.raises(MissingPhotographsError, match=r"astronaut\.png.*china\.jpg.*pip install scikit-image"):
        photographs.photographs()
