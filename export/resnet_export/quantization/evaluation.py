"""Images whose classes are known, or not, in the same order however often they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resnet_export.errors import RequestError
from resnet_runtime.manifest import Input, Preprocessing

from .evaluation_labels import classes_of_folders, labels_in_order, labels_of_files, lines_from_file
from .image_arrays import ArrayFile, ArrayFileError, labels_from_array_file
from .image_files import ARRAY_SUFFIXES, FileSamples, Listing, listing_from_path
from .images import ImageStream, samples_from_listing

_WHAT: Final = "--evaluation"
_LABELS: Final = "--evaluation-labels"


class EvaluationSet:
    """Images of one source, with or without their classes.

    Attributes:
        notes: what the user should know of how the labels were read.
    """

    def __init__(self, stream: ImageStream, labels: NDArray[np.int64] | None, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self._stream = stream
        self._labels = labels

    @property
    def count(self) -> int:
        """How many images there are; bad ones, which ``skip_bad`` leaves out, are counted until they were read once."""
        count = self._stream.count
        assert count is not None  # a source here is a path
        return count

    @property
    def labelled(self) -> bool:
        """Whether the classes are known; if not, answers can only be compared with eager's."""
        return self._labels is not None

    @property
    def skipped(self) -> list[str]:
        """A sentence for everything that was left out, as far as the source has been read."""
        return self._stream.skipped

    def batches(self, size: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64] | None]]:
        """All images, the same at every call: (n, *shape), and their classes (n,), None where they are not known.

        Raises:
            RequestError: an image cannot be used, and is not to be skipped.
        """
        for positions, batch in self._stream.numbered_batches(size):
            yield batch, None if self._labels is None else self._labels[positions]


def evaluation_from_source(
    source: str | os.PathLike[str],
    entry: Input,
    preprocessing: Preprocessing,
    *,
    classes: int,
    labels: tuple[str, ...] | None,
    labels_file: Path | None,
    skip_bad: bool = False,
) -> EvaluationSet:
    """Open what a user gave, and settle the class of every image, before any of them is decoded.

    Args:
        source: as ``images_from_source`` takes it, but a path. Without a labels file, a folder of folders is one
            folder a class, a flat folder is not labelled, and arrays are where their .npz files have ``labels`` too.
        entry, preprocessing: of the bundle.
        classes: how many classes the model has.
        labels: their names; None where they are not known.
        labels_file: text, ``relative/path<comma, tab or space>label`` a line; for arrays one label a line, the files
            taken in the order of their names, or an .npy file or an .npz file with ``labels``. A label is an integer
            or a name of ``labels``.
        skip_bad: whether images that cannot be used are left out. What is wrong in labels is never skipped.

    Raises:
        RequestError: as ``images_from_source``; or labels are missing, doubled, out of range, or unknown, with all of
            them as details.
    """
    listing = listing_from_path(Path(source), _WHAT, labels_file)
    samples, skipped = samples_from_listing(listing, entry, preprocessing, skip_bad=skip_bad)
    stream = ImageStream(samples, what=_WHAT, title=listing.title, skip_bad=skip_bad, skipped=skipped)
    found: Sequence[int] | None
    if isinstance(samples, FileSamples):
        found, note = _of_images(listing, classes, labels, labels_file)
    else:
        found, note = _of_arrays(samples.files, listing.title, classes, labels, labels_file)
    indices = None if found is None else np.array(found, np.int64)
    return EvaluationSet(stream, indices, () if note is None else (note,))


def _of_images(
    listing: Listing, classes: int, labels: tuple[str, ...] | None, labels_file: Path | None
) -> tuple[Sequence[int] | None, str | None]:
    if labels_file is not None:
        if labels_file.suffix.lower() in ARRAY_SUFFIXES:
            raise RequestError(f"{_LABELS} {labels_file} is an array: images take text, a path and a label a line")
        return labels_of_files(labels_file, listing.images, classes, labels)
    flat = [name for name in listing.images if "/" not in name]
    if len(flat) == len(listing.images):
        return None, None
    if flat:
        raise RequestError(
            f"{listing.title} holds {len(flat)} of its images outside its folders, as {flat[0]}: put each into the "
            f"folder of its class, or give {_LABELS}"
        )
    indices, note = classes_of_folders(listing.folders, classes, labels, listing.title)
    return [indices[name.partition("/")[0]] for name in listing.images], note


def _of_arrays(
    files: Sequence[ArrayFile], title: str, classes: int, labels: tuple[str, ...] | None, labels_file: Path | None
) -> tuple[Sequence[int] | None, str | None]:
    labelled = [file for file in files if file.labelled]
    if labels_file is not None:
        if labelled:
            raise RequestError(
                f"{labelled[0].path} holds labels, and so does {_LABELS} {labels_file}: give one of them"
            )
        return _from_labels_file(labels_file, sum(file.count for file in files), classes, labels)
    if not labelled:
        return None, None
    if len(labelled) < len(files):
        without = next(file for file in files if not file.labelled)
        raise RequestError(f"{title} has labels in {len(labelled)} of its files, and none in {without.path}: label all")
    indices: list[int] = []
    notes: list[str] = []
    for file in files:
        try:
            values = labels_from_array_file(file.path, file.count)
        except ArrayFileError as error:
            raise RequestError(f"{_WHAT}: {error}") from None
        found, note = _from_values(file.path, values, file.count, classes, labels)
        indices += found
        notes += [note] if note is not None else []
    return indices, notes[0] if notes else None


def _from_labels_file(
    path: Path, count: int, classes: int, labels: tuple[str, ...] | None
) -> tuple[Sequence[int], str | None]:
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        return labels_in_order(path, lines_from_file(path), count, classes, labels)
    try:
        values = labels_from_array_file(path, count)
    except ArrayFileError as error:
        raise RequestError(f"{_LABELS}: {error}") from None
    return _from_values(path, values, count, classes, labels)


def _from_values(
    path: Path, values: NDArray[Any], count: int, classes: int, labels: tuple[str, ...] | None
) -> tuple[Sequence[int], str | None]:
    """Integers in an array are indices, whatever the classes are called."""
    names = labels if values.dtype.kind == "U" else None
    return labels_in_order(path, [str(value) for value in values.tolist()], count, classes, names)
