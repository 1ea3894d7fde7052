"""Pictures for the examples: of random colors, so that not all are of one class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pictures_in(folder: Path, count: int) -> list[Path]:
    """Write ``count`` small PNG files."""
    rng = np.random.default_rng(1)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for path in paths:
        low = rng.integers(0, 256, (2, 2, 3), np.uint8)
        Image.fromarray(low).resize((30, 40), Image.Resampling.BICUBIC).save(path)
    return paths
