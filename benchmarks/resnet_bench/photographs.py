"""Which photograph is a crop from: a data set for accuracy that needs no network and no downloads.

The twenty photographs come inside the wheels of scikit-image and scikit-learn. Each is cut into tiles, which are dealt
like a chessboard's squares: crops to train with lie wholly within the one color, held-out crops within the other, so
that no pixel is in both. Each crop loses some of its color and contrast and gains noise, so that its mean color does
not tell the photograph, and a good part of the crops is hard to tell.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 64
"""Height and width of a crop, in pixels."""

_FILES: Final = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "camera": "skimage/data/camera.png",
    "cat": "skimage/data/chelsea.png",
    "cell": "skimage/data/cell.png",
    "china": "sklearn/datasets/images/china.jpg",
    "clock": "skimage/data/clock_motion.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "moon": "skimage/data/moon.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "page": "skimage/data/page.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "text": "skimage/data/text.png",
    "tissue": "skimage/data/ihc.png",
}
LABELS: Final[tuple[str, ...]] = tuple(_FILES)
"""The classes in the order of the logits: one for each photograph."""

HELD_OUT: Final = 12_000
"""How many held-out crops there are unless one asks for another number."""

_TRAINING, _HELD_OUT, _CALIBRATION = 0, 1, 2
_BLOCK: Final = 100  # crops drawn at once; each block has random numbers of its own
_SMALLEST_TILE: Final = 64
_TILES: Final = 8  # along the shorter side of a large photograph

_CANDIDATES: Final = 3  # squares of which one becomes a crop
_SIDES: Final = (0.5, 1.0)  # of the tile's shorter side
_CONTRASTS: Final = (0.4, 1.0)
_BRIGHTNESSES: Final = (-15.0, 15.0)  # of 255
_GAINS: Final = (0.95, 1.05)  # of each of red, green and blue
_SATURATIONS: Final = (0.0, 1.0)
_NOISES: Final = (1.0, 12.0)  # standard deviation, of 255


class MissingPhotographsError(RuntimeError):
    """Files that come with scikit-image or scikit-learn are not there."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Pixels ``left <= x < right`` and ``top <= y < bottom`` of a photograph."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def shorter(self) -> int:
        """The shorter side, in pixels."""
        return min(self.right - self.left, self.bottom - self.top)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The index of these pixels in an array (height, width, ...)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Crops:
    """Crops and what they are from.

    Attributes:
        images: (N, 64, 64, 3) uint8, RGB.
        labels: (N,) int64, indices of ``LABELS``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def training_crops(count: int, seed: int) -> Crops:
    """``count`` crops from the tiles to train with; the same seed gives the same ones.

    Args:
        count: N; fewer crops are the first ones of more, and the classes' numbers differ by one at most.
        seed: not negative.

    Raises:
        MissingPhotographsError: scikit-image or scikit-learn is not installed.
    """
    return _crops(_TRAINING, count, seed)


def held_out_crops(count: int = HELD_OUT) -> Crops:
    """The first ``count`` held-out crops: always the same ones, distributed as the training's are.

    Raises:
        MissingPhotographsError: scikit-image or scikit-learn is not installed.
    """
    return _crops(_HELD_OUT, count, 0)


def calibration_crops(count: int) -> Crops:
    """The first ``count`` crops to calibrate with: from the tiles to train with, and in no training.

    Raises:
        MissingPhotographsError: scikit-image or scikit-learn is not installed.
    """
    return _crops(_CALIBRATION, count, 0)


@functools.cache
def photographs() -> tuple[NDArray[np.uint8], ...]:
    """The photographs in the order of ``LABELS``, each (height, width, 3) uint8; a gray one has three equal channels.

    Source: ``skimage/data`` and ``sklearn/datasets/images`` in the installed wheels.

    Raises:
        MissingPhotographsError: some are not there; the message lists them all.
    """
    folders = {}
    for package in ("skimage", "sklearn"):
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            folders[package] = Path(found.origin).parents[1]
    paths = [folders.get(file.split("/")[0], Path()) / file for file in _FILES.values()]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise MissingPhotographsError(
            f"not found: {', '.join(missing)}; they come in wheels: pip install scikit-image scikit-learn"
        )
    arrays = []
    for path in paths:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB"))
        array.setflags(write=False)
        arrays.append(array)
    return tuple(arrays)


def tiles(height: int, width: int, *, held_out: bool) -> tuple[Box, ...]:
    """The tiles of a photograph that held-out crops, or else the others, may come from.

    Both together cover the photograph, and no two overlap. A tile has an eighth of the photograph's shorter side, and
    64 pixels at least.
    """
    side = max(_SMALLEST_TILE, min(height, width) // _TILES)
    rows, columns = (_edges(length, side) for length in (height, width))
    return tuple(
        Box(left=columns[j], top=rows[i], right=columns[j + 1], bottom=rows[i + 1])
        for i in range(len(rows) - 1)
        for j in range(len(columns) - 1)
        if (i + j) % 2 == held_out
    )


def _edges(length: int, side: int) -> list[int]:
    count = max(1, length // side)
    return [length * index // count for index in range(count + 1)]


def crop_boxes(photograph: NDArray[np.uint8], random: np.random.Generator, count: int, *, held_out: bool) -> list[Box]:
    """``count`` random squares, each wholly within one of the tiles, and not the blankest of their surroundings.

    Each is the one of three random squares whose pixels deviate most: bare sky has nothing to be known by.
    """
    allowed = tiles(*photograph.shape[:2], held_out=held_out)
    chosen = random.integers(len(allowed), size=(count, _CANDIDATES))
    fractions = random.uniform(*_SIDES, size=(count, _CANDIDATES))
    places = random.random((count, _CANDIDATES, 2))
    boxes = []
    for crop in range(count):
        candidates = [
            _square(allowed[chosen[crop, index]], fractions[crop, index], places[crop, index])
            for index in range(_CANDIDATES)
        ]
        boxes.append(max(candidates, key=lambda box: float(photograph[box.pixels][..., 1].std())))
    return boxes


def _square(tile: Box, fraction: float, place: NDArray[np.float64]) -> Box:
    side = round(fraction * tile.shorter)
    left = tile.left + int(place[0] * (tile.right - tile.left - side + 1))
    top = tile.top + int(place[1] * (tile.bottom - tile.top - side + 1))
    return Box(left=left, top=top, right=left + side, bottom=top + side)


def _crops(purpose: int, count: int, seed: int) -> Crops:
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty(count, np.int64)
    for start, block in zip(range(0, count, _BLOCK), _blocks(purpose, seed), strict=False):
        images[start : start + _BLOCK] = block.images[: count - start]
        labels[start : start + _BLOCK] = block.labels[: count - start]
    return Crops(images, labels)


def _blocks(purpose: int, seed: int) -> Iterator[Crops]:
    number = 0
    while True:
        random = np.random.default_rng([purpose, seed, number])
        rounds = -(-_BLOCK // len(LABELS))
        labels = np.concatenate([random.permutation(len(LABELS)) for _ in range(rounds)])[:_BLOCK]
        plain = _plain(labels, random, held_out=purpose == _HELD_OUT)
        yield Crops(_altered(plain, random), labels.astype(np.int64))
        number += 1


def _plain(labels: NDArray[np.int64], random: np.random.Generator, *, held_out: bool) -> NDArray[np.float32]:
    """(N, 64, 64, 3): a random square of each label's photograph, resized, every other one mirrored."""
    images = np.empty((len(labels), SIDE, SIDE, 3), np.float32)
    for label in range(len(LABELS)):
        photograph = photographs()[label]
        places = np.flatnonzero(labels == label)
        boxes = crop_boxes(photograph, random, len(places), held_out=held_out)
        for place, box in zip(places, boxes, strict=True):
            # Cut first, resized after: resizing with a box would read the pixels around it too.
            cut = Image.fromarray(photograph[box.pixels])
            images[place] = np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    mirrored = random.random(len(labels)) < 0.5
    images[mirrored] = images[mirrored, :, ::-1]
    return images


def _altered(images: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.uint8]:
    """saturation, then contrast about the crop's mean, then brightness, gains of the channels and noise."""
    count = len(images)

    def draw(bounds: tuple[float, float], channels: int = 1) -> NDArray[np.float32]:
        return random.uniform(*bounds, size=(count, 1, 1, channels)).astype(np.float32)

    gray = images.mean(axis=3, keepdims=True)
    images = gray + draw(_SATURATIONS) * (images - gray)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    images = draw(_CONTRASTS) * (images - mean) + mean + draw(_BRIGHTNESSES)
    images *= draw(_GAINS, 3)
    images += draw(_NOISES) * random.standard_normal(images.shape, dtype=np.float32)
    return np.rint(images).clip(0, 255).astype(np.uint8)
