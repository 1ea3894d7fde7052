"""Which architectures have just these tensors: a small index of names and shapes, and nothing built by trial.

Several architectures may have every name and shape in common and yet compute different things: an anti-aliased ResNet's
blur has no parameters. The index holds them in groups, each of names for one and the same computation, as
``tests/zoo/index.py`` finds them by computing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from resnet_runtime.manifest import Source

from .resnet_config import COUNTER

INDEX: Final = Path(__file__).with_name("fingerprints.json")

_FIRST: Final = ("conv1", "conv1.0", "stem.conv", "stem.conv1", "stem.conv1.conv", "layer0.conv1")
"""What the convolution that takes the image is called; its input channels are the user's."""
_LAST: Final = ("fc", "head.fc", "head.proj", "last_linear", "classifier", "linear")
"""What the classifier is called; its number of classes is the user's."""
_PUBLISHED: Final = re.compile(r"(?P<arch>.+)-(?P<digest>[0-9a-f]{8,64})\.\w+")


@dataclass(frozen=True)
class Candidate:
    """One computation.

    Attributes:
        names: what ``--arch`` takes for it; the first is to be preferred.
    """

    names: tuple[str, ...]


def fingerprint(state_dict: Mapping[str, Tensor]) -> str:
    """Of the names and shapes, but for BatchNorm's counters, the image's channels and the number of classes.

    Args:
        state_dict: of any tensors; no value is read.

    Returns:
        16 hexadecimal digits, the beginning of a SHA-256.
    """
    lines = [
        f"{name} {_shape(name, tensor)}"
        for name, tensor in state_dict.items()
        if not f".{name}".endswith(f".{COUNTER}")
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _shape(name: str, tensor: Tensor) -> str:
    sizes: list[int | str] = list(tensor.shape)
    layer, _, kind = name.rpartition(".")
    if layer in _FIRST and kind == "weight" and len(sizes) == 4:
        sizes[1] = "channels"
    if layer in _LAST and kind in ("weight", "bias") and sizes:
        sizes[0] = "classes"
    return ",".join(map(str, sizes))


@functools.cache
def _index() -> Mapping[str, tuple[Candidate, ...]]:
    stored = json.loads(INDEX.read_text(encoding="utf-8"))
    return {key: tuple(Candidate(tuple(names)) for names in groups) for key, groups in stored["architectures"].items()}


def candidates_from_state_dict(state_dict: Mapping[str, Tensor]) -> tuple[Candidate, ...]:
    """The known architectures that have these tensors; none where the tensors are of no known one.

    Args:
        state_dict: by the family's own names; only names and shapes are looked at.
    """
    return _index().get(fingerprint(state_dict), ())


def ambiguous_candidates() -> list[tuple[Candidate, ...]]:
    """Every group of known architectures that no tensor tells apart."""
    return [candidates for candidates in _index().values() if len(candidates) > 1]


def told_candidate(candidates: tuple[Candidate, ...], arch: str | None, source: Source) -> tuple[Candidate, str] | None:
    """The one that the file itself names, and how it does so.

    A training script may write the architecture beside the tensors. A file that was published has the beginning of its
    own SHA-256 in its name, as torchvision's and timm's have, and before it the architecture.

    Args:
        candidates: that have the tensors, several.
        arch: what the file says of itself; None where it says nothing.
        source: the file.

    Returns:
        The candidate and a sentence's end that says how it was told; None where nothing tells.
    """
    published = _PUBLISHED.fullmatch(source.name)
    told = [] if arch is None else [(arch, f"the file's own 'arch' is {arch!r}")]
    if published is not None and source.sha256.startswith(published["digest"]):
        told.append((published["arch"], f"the file's name is {published['arch']} and its own digest, as published"))
    for name, how in told:
        named = [
            item for item in candidates if name.partition(".")[0] in {own.rpartition(":")[2] for own in item.names}
        ]
        if len(named) == 1:
            return named[0], how
    return None
