"""What is measured where no bundle is given: a ResNet-50 at 224x224 with all its variants, calibrated on images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from resnet_export import ExportOptions, ModelOptions, bundle_from_checkpoint
from resnet_export.options import CalibrationOptions
from resnet_runtime.manifest import Batch

from .networks import save_live_resnet, varied_images

ARCHITECTURE: Final = "resnet50"
SHAPE: Final = (3, 224, 224)
IMAGES: Final = 32
"""That it is calibrated with."""


@contextmanager
def standard_bundle() -> Iterator[tuple[Path, Path]]:
    """The bundle and the checkpoint, in a folder that is gone afterwards; about a minute on two cores.

    Raises:
        ResnetExportError: the export failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, f"{ARCHITECTURE}.pt")
        save_live_resnet(ARCHITECTURE, checkpoint)
        images = np.ascontiguousarray(varied_images(IMAGES, SHAPE, seed=7).numpy())
        options = ExportOptions(
            model=ModelOptions(arch=ARCHITECTURE),
            calibration=CalibrationOptions(images=images),
            engines=None,
            batch=Batch(smallest=1, optimal=8, largest=32),
        )
        yield bundle_from_checkpoint(checkpoint, Path(folder, f"{ARCHITECTURE}.bundle"), options).path, checkpoint
