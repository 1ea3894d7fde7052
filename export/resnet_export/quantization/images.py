"""The images that a user gives, as batches in the graph's own dtype and layout, by the bundle's own preprocessing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnet_export.errors import RequestError
from resnet_runtime.errors import InputError
from resnet_runtime.manifest import Input, Preprocessing
from resnet_runtime.preprocess import batch_from_images

from .image_arrays import ArrayFile, ArrayFileError, ArraySamples, array_file_from_path
from .image_files import FileSamples, Listing, listing_from_path
from .samples import (
    Samples,
    Unusable,
    array_fault,
    refusal,
    sample_from_array,
    sample_from_image,
    shortened,
)

OR_SKIP: Final = "mend it, leave it out, or take --skip-bad-images"

ImageSource: TypeAlias = str | os.PathLike[str] | Iterable[Any]


class ImageStream:
    """The images of one source, each read once, unless ``batches`` is called again.

    Memory does not grow with the number of images: ``head`` keeps what it was asked for, and ``batches`` one batch.

    Attributes:
        skipped: a sentence for everything that was left out, as far as the source has been read; empty unless
            ``skip_bad``.
    """

    def __init__(self, samples: Samples, *, what: str, title: str, skip_bad: bool, skipped: Iterable[str] = ()) -> None:
        self.skipped: list[str] = list(skipped)
        self._samples = samples
        self._what = what
        self._title = title
        self._skip_bad = skip_bad
        self._count = samples.count
        self._begun = False
        self._kept: list[tuple[int, NDArray[Any]]] = []
        self._rest: Iterator[tuple[int, NDArray[Any]]] | None = None  # goes on where _kept ends; None: handed away
        self._complete = False  # _kept is all that there is

    @property
    def decoded(self) -> bool:
        """Whether the images are what the bundle's preprocessing made of them, and not arrays that somebody else did.

        Of an iterable it is known when one of them was read.
        """
        return self._samples.decoded

    @property
    def count(self) -> int | None:
        """How many images there are; None for an iterator, until all of it was read.

        Images that turn out to be bad are counted until all have been read once.
        """
        return self._count

    def head(self, count: int) -> NDArray[Any]:
        """The first ``count`` images, or all if there are fewer; what follows does not lose them.

        Args:
            count: 1 or more.

        Returns:
            (n, *shape), 1 <= n <= ``count``: the first n of what ``batches`` gives.

        Raises:
            RequestError: one of them cannot be used and is not to be skipped, there is none, or a source that can be
                read only once was read before.
        """
        assert count >= 1
        if len(self._kept) < count and not self._complete:
            if self._rest is None:
                self._kept, self._rest = [], self._begin()
            try:
                self._kept.extend(itertools.islice(self._rest, count - len(self._kept)))
            except BaseException:
                self._kept, self._rest = [], None
                raise
            self._complete = len(self._kept) < count
        return np.stack([sample for _, sample in self._kept[:count]])

    def batches(self, size: int) -> Iterator[NDArray[Any]]:
        """All images, (n, *shape) a batch; n is ``size`` for every batch but the last.

        Raises:
            RequestError: as ``head``; at the call where a source was read before, else when the image's turn comes.
        """
        return (batch for _, batch in self.numbered_batches(size))

    def numbered_batches(self, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """As ``batches``, each with the positions of its images in the source's own order, (n,)."""
        assert size >= 1
        kept, rest, self._rest = self._kept, self._rest, None
        return _batches(self._begin() if rest is None else itertools.chain(kept, rest), size)

    def _begin(self) -> Iterator[tuple[int, NDArray[Any]]]:
        if self._begun and not self._samples.repeatable:
            raise RequestError(
                f"{self._title} is an iterator that was read already, and it is needed once more: give a list, a "
                "folder, or another iterable that can begin again"
            )
        self._begun = True
        return self._usable()

    def _usable(self) -> Iterator[tuple[int, NDArray[Any]]]:
        found = 0
        for position, sample in self._samples.read():
            if isinstance(sample, Unusable):
                self._skip(sample.reason)
            else:
                found += 1
                yield position, sample
        if not found:
            raise nothing_usable(self._title, self.skipped)
        self._count = found

    def _skip(self, reason: str) -> None:
        if not self._skip_bad:
            raise RequestError(f"{self._what}: {reason}; {OR_SKIP}")
        if reason not in self.skipped:
            self.skipped.append(reason)


def images_from_source(
    source: ImageSource,
    entry: Input,
    preprocessing: Preprocessing,
    *,
    skip_bad: bool = False,
    what: str = "--calibration",
) -> ImageStream:
    """Open what a user gave.

    Args:
        source: a folder of images, with whatever subfolders, or one image file; an .npy or .npz file or a folder of
            them; or an iterable of file names, bytes, Pillow images or binary files, or else of arrays. Arrays are
            preprocessed already: (N, *shape) or one sample, in the input's own dtype. An .npz has one array, or one
            that is called ``input`` or ``images``. Files, and the samples of arrays that are not compressed, come in
            a pseudo-random order that is always the same, so that the first of them are a fair sample of a folder
            that is sorted by class; an iterable keeps its own order.
        entry, preprocessing: of the bundle.
        skip_bad: whether what cannot be used is left out and recorded; else it is an error.
        what: the option that gave the source, for errors.

    Raises:
        RequestError: there is nothing, nothing of use, or two kinds at once. The header of every array file is read
            here; image files are read, and values are looked at, when their turn comes.
    """
    if isinstance(source, str | os.PathLike):
        listing = listing_from_path(Path(source), what)
        samples, skipped = samples_from_listing(listing, entry, preprocessing, skip_bad=skip_bad)
        return ImageStream(samples, what=what, title=listing.title, skip_bad=skip_bad, skipped=skipped)
    if isinstance(source, bytes | bytearray | memoryview) or not isinstance(source, Iterable):
        raise RequestError(
            f"{what} is a {type(source).__name__}: give a folder, an array file, or a list of images or of arrays"
        )
    items: Iterable[Any] = [source] if _is_array(source) else source
    if isinstance(items, list | tuple) and not items:
        raise nothing_usable(what, [])
    return ImageStream(_Items(items, entry, preprocessing, what), what=what, title=what, skip_bad=skip_bad)


def samples_from_listing(
    listing: Listing, entry: Input, preprocessing: Preprocessing, *, skip_bad: bool
) -> tuple[FileSamples | ArraySamples, list[str]]:
    """The samples of a listing, and a sentence for everything in it that was skipped.

    Raises:
        RequestError: there is something in it that cannot be used, and ``skip_bad`` is false or nothing else is there.
    """
    faults = list(listing.faults)
    samples: FileSamples | ArraySamples
    if listing.images:
        check_preprocessing(entry, preprocessing, listing.what)
        samples = FileSamples(listing.root, listing.images, entry, preprocessing)
    else:
        files: list[ArrayFile] = []
        for name in listing.arrays:
            try:
                files.append(array_file_from_path(listing.root / name, entry))
            except ArrayFileError as error:
                faults.append(str(error))
        samples = ArraySamples(tuple(files), entry)
    if faults and not skip_bad:
        many = f"{listing.title} holds {len(faults)} files that cannot be used; {OR_SKIP}"
        one = f"{listing.what}: {faults[0]}; {OR_SKIP}"
        raise RequestError(one) if len(faults) == 1 else refusal(faults, many)
    if not samples.count:
        raise nothing_usable(listing.title, faults)
    return samples, faults


def check_preprocessing(entry: Input, preprocessing: Preprocessing, what: str) -> None:
    """Raise RequestError where no image at all can become an input of the model."""
    try:
        batch_from_images([], preprocessing, entry)
    except InputError as error:
        raise RequestError(f"{what}: {error.message}") from None


def check_varied(head: NDArray[Any], what: str = "--calibration") -> None:
    """Raise RequestError where several images, (N, *shape), are all one and the same; one alone is let through."""
    if len(head) > 1 and (head[1:] == head[0]).all():
        raise RequestError(
            f"the first {len(head)} images of {what} are all the same: how far a model's values reach is seen from "
            "varied images alone, so give such as the model will meet"
        )


def nothing_usable(title: str, skipped: list[str]) -> RequestError:
    """What to raise where every image was skipped, or there was none."""
    if not skipped:
        return RequestError(f"{title} holds no image at all: give at least one")
    return RequestError(f"{title} holds no image that can be used", details=shortened(skipped))


def _batches(
    samples: Iterator[tuple[int, NDArray[Any]]], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    while taken := list(itertools.islice(samples, size)):
        yield np.array([position for position, _ in taken], np.int64), np.stack([sample for _, sample in taken])


@dataclass
class _Items:
    """The samples of an iterable, in its own order."""

    items: Iterable[Any]
    entry: Input
    preprocessing: Preprocessing
    what: str
    decoded: bool = False

    @property
    def count(self) -> int | None:
        """Known of a list alone: elsewhere an item may be a batch, and looking at it might use it up."""
        if not isinstance(self.items, list | tuple):
            return None
        batched = len(self.entry.shape) + 1
        return sum(len(item) if _is_array(item) and np.ndim(item) == batched else 1 for item in self.items)

    @property
    def repeatable(self) -> bool:
        """Whether it begins again when it is asked for an iterator."""
        return not isinstance(self.items, Iterator)

    def read(self) -> Iterator[tuple[int, NDArray[Any] | Unusable]]:
        """Read on as items are asked for, never ahead."""
        of_arrays: bool | None = None
        position = 0
        for index, item in enumerate(self.items):
            name = f"images[{index}]"
            if isinstance(item, list | tuple | dict):
                raise RequestError(
                    f"{self.what}: {name} is a {type(item).__name__}, and an item is an image or an array: give the "
                    "images alone, as (images for images, _ in loader)"
                )
            is_array = _is_array(item)
            if of_arrays is None and not is_array:
                check_preprocessing(self.entry, self.preprocessing, self.what)
            if of_arrays not in (None, is_array):
                raise RequestError(f"{self.what} mixes images and arrays, first at {name}: give one kind")
            of_arrays = is_array
            self.decoded = not is_array
            for sample in self._samples(name, item) if is_array else [self._image(name, item)]:
                yield position, sample
                position += 1

    def _image(self, name: str, item: Any) -> NDArray[Any] | Unusable:
        named = None if isinstance(item, str | os.PathLike) else name
        return sample_from_image(item, self.entry, self.preprocessing, named)

    def _samples(self, name: str, item: Any) -> Iterator[NDArray[Any] | Unusable]:
        try:
            array = np.asarray(item)
        except Exception as error:  # whatever a tensor on a device, or one with a gradient, raises
            yield Unusable(f"{name} does not become an array: {str(error).partition('. ')[0]}")
            return
        fault = array_fault(name, array.shape, array.dtype, self.entry)
        if fault is not None:
            yield Unusable(fault)
        elif array.shape == self.entry.shape:
            yield sample_from_array(name, array, self.entry)
        else:
            for index, sample in enumerate(array):
                yield sample_from_array(f"sample {index} of {name}", sample, self.entry)


def _is_array(item: Any) -> bool:
    """Whether it is an array or a tensor; Pillow's images have ``__array_interface__`` alone."""
    return hasattr(item, "__array__")
