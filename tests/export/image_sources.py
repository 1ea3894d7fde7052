"""Images for --calibration in tests, and the shortest ways to read and to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_export.errors import RequestError
from resnet_export.quantization.images import ImageStream, images_from_source
from resnet_export.quantization.samples import fixed_order
from resnet_runtime.manifest import Input, Preprocessing
from resnet_runtime.preprocess import batch_from_images
from tests.runtime.bundles import sample_preprocessing
from tests.runtime.images import entry as input_entry

ENTRY = input_entry(8, 8, dtype="float32", layout="NCHW")
BYTES = input_entry(8, 8)
STEPS = sample_preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
AS_IS = sample_preprocessing(resize=None)
HINT = "; mend it, leave it out, or take --skip-bad-images"


def image(seed: int, mode: str = "RGB", size: tuple[int, int] = (10, 9)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def folder_of(path: Path, count: int, **options: Any) -> Path:
    """Images ``c0/0000.png``, ... in two folders."""
    for index in range(count):
        (path / f"c{index * 2 // count}").mkdir(parents=True, exist_ok=True)
        image(index, **options).save(path / f"c{index * 2 // count}" / f"{index:04}.png")
    return path


def samples(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *ENTRY.shape)).astype(np.float32)


def stream(source: Any, *, entry: Input = ENTRY, steps: Preprocessing = STEPS, skip_bad: bool = False) -> ImageStream:
    return images_from_source(source, entry, steps, skip_bad=skip_bad)


def everything(source: Any, **options: Any) -> np.ndarray:
    return np.concatenate(list(stream(source, **options).batches(4)))


def refusal(source: Any, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        everything(source, **options)
    return caught.value


def expected(path: Path, steps: Preprocessing = STEPS, entry: Input = ENTRY) -> np.ndarray:
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.png"))
    return batch_from_images([path / names[i] for i in fixed_order(len(names))], steps, entry)
