"""Labelled images for tests, each of which says by its values which one it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_export.errors import RequestError
from resnet_export.quantization.evaluation import EvaluationSet, evaluation_from_source
from tests.runtime.bundles import sample_preprocessing
from tests.runtime.images import entry as input_entry

ENTRY = input_entry(8, 8, dtype="float32", layout="NCHW")
STEPS = sample_preprocessing(resize=None)
NAMES = ("ant", "bee", "cat", "dog")


def evaluation(
    source: Path,
    *,
    classes: int = 4,
    labels: tuple[str, ...] | None = None,
    labels_file: Path | None = None,
    skip_bad: bool = False,
) -> EvaluationSet:
    return evaluation_from_source(
        source, ENTRY, STEPS, classes=classes, labels=labels, labels_file=labels_file, skip_bad=skip_bad
    )


def refusal(source: Path, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        evaluation(source, **options)
    return caught.value


def put(folder: Path, *names: str) -> Path:
    """Images whose red value says which of ``names`` they are."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 100, 200)).save(folder / name)
    return folder


def answers(found: EvaluationSet, names: tuple[str, ...]) -> dict[str, int]:
    """The class of each image, which is known by its red value."""
    classes = {}
    for batch, labels in found.batches(3):
        assert labels is not None
        assert labels.dtype == np.int64
        for sample, label in zip(batch, labels, strict=True):
            classes[names[round(float(sample[0, 0, 0]) * 255)]] = int(label)
    return classes


def arrays(count: int) -> np.ndarray:
    """Samples whose values say which they are."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, *ENTRY.shape)).copy()


def array_answers(found: EvaluationSet) -> list[int]:
    """The class of each sample, in the order of the samples."""
    pairs = []
    for batch, labels in found.batches(2):
        assert labels is not None
        pairs += [(float(sample[0, 0, 0]), int(label)) for sample, label in zip(batch, labels, strict=True)]
    return [label for _, label in sorted(pairs)]


def labels_text(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return path
