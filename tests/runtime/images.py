"""Images for tests, and the shortest way to preprocess one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from resnet_runtime.manifest import Batch, Input
from resnet_runtime.preprocess import batch_from_images

from .bundles import sample_preprocessing

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def entry(height: int, width: int, *, channels: int = 3, dtype: str = "uint8", layout: str = "NHWC") -> Input:
    shape = (height, width, channels) if layout == "NHWC" else (channels, height, width)
    return Input(name="x", layout=layout, dtype=dtype, shape=shape, batch=Batch(smallest=1, optimal=1, largest=8))


def pixels(image: Any, height: int, width: int, **changes: Any) -> np.ndarray:
    """(H, W, C): the pixels that the arithmetic, left to the graph here, would be done on."""
    steps = sample_preprocessing(**{"resize": None, "in_graph": True, **changes})
    channels = 1 if steps.color_order == "L" else 3
    return batch_from_images([image], steps, entry(height, width, channels=channels))[0]


def normalized(image: Any, height: int, width: int, *, layout: str = "NCHW", **changes: Any) -> np.ndarray:
    steps = sample_preprocessing(**{"resize": None, **changes})
    return batch_from_images([image], steps, entry(height, width, dtype="float32", layout=layout))[0]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


DEEP = np.array([[0, 255, 256, 257 * 100, 40000, 65535]], np.uint16)
PNG = encoded(Image.fromarray(NOISE), "PNG")
JPEG = encoded(Image.fromarray(NOISE), "JPEG", quality=90)
