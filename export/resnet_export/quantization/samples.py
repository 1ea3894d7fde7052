"""What every source of images gives: samples with their positions, or the reason why one of them cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_export.errors import RequestError
from resnet_runtime.errors import InputError
from resnet_runtime.manifest import Input, Preprocessing
from resnet_runtime.preprocess import Image, batch_from_images

MAX_DETAILS: Final = 100
"""How many findings an error lists; it says how many more there are."""


@dataclass(frozen=True)
class Unusable:
    """A sentence that names what cannot be used, and why."""

    reason: str


class Samples(Protocol):
    """A source of samples in the graph's own dtype and layout."""

    @property
    def count(self) -> int | None:
        """How many there are, those that will be found unusable included; None where that is not known yet."""

    @property
    def repeatable(self) -> bool:
        """Whether ``read`` can be called again."""

    @property
    def decoded(self) -> bool:
        """Whether the samples are images that are preprocessed here; arrays are not."""

    def read(self) -> Iterator[tuple[int, NDArray[Any] | Unusable]]:
        """Every sample once: its position in the source's own order, and the sample or why it cannot be used."""


def fixed_order(count: int) -> NDArray[np.int64]:
    """A pseudo-random permutation of 0..count-1: the same on every machine and with every version of NumPy.

    ``RandomState`` is the one generator whose numbers NumPy promises never to change (NEP 19).
    """
    return np.random.RandomState(0).permutation(count).astype(np.int64)


def sample_from_image(
    image: Image, entry: Input, preprocessing: Preprocessing, name: str | None = None
) -> NDArray[Any] | Unusable:
    """One image as ``batch_from_images`` makes it, without the batch axis; ``name`` replaces its ``images[0]``."""
    try:
        sample: NDArray[Any] = batch_from_images([image], preprocessing, entry)[0]
    except InputError as error:
        return Unusable(error.message if name is None else error.message.replace("images[0]", name, 1))
    return sample


def array_fault(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], entry: Input) -> str | None:
    """Why an array is neither (N, *shape) nor one sample of the graph's input; None where it is. Byte order is free."""
    fits = shape == entry.shape or (len(shape) == len(entry.shape) + 1 and shape[1:] == entry.shape)
    if fits and dtype.newbyteorder("=") == np.dtype(entry.dtype):
        return None
    wanted = ", ".join(map(str, entry.shape))
    return (
        f"{name} is an array of the shape {shape} and the dtype {dtype}, and the model takes (N, {wanted}) "
        f"{entry.dtype}: preprocess it to that, or give image files"
    )


def sample_from_array(name: str, array: NDArray[Any], entry: Input) -> NDArray[Any] | Unusable:
    """A copy of one sample that ``array_fault`` has nothing against; every value of it has to be finite."""
    sample = np.array(array, np.dtype(entry.dtype), order="C")
    if np.isfinite(sample).all():
        return sample
    return Unusable(f"{name} has values that are not finite")


def refusal(faults: Sequence[str], many: str) -> RequestError:
    """An error whose sentence is the one fault, or ``many`` with the faults as details."""
    if len(faults) == 1:
        return RequestError(faults[0])
    return RequestError(many, details=shortened(faults))


def shortened(findings: Sequence[str]) -> list[str]:
    """The first ``MAX_DETAILS`` of them, and how many more there are."""
    more = [f"and {len(findings) - MAX_DETAILS} more"] if len(findings) > MAX_DETAILS else []
    return [*findings[:MAX_DETAILS], *more]
