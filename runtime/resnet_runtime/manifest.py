"""The manifest of a bundle: the one definition that the writer and every reader share.

A record here is a JSON object in ``manifest.json`` with the same keys. ``manifest_from_bytes`` (in ``manifest_parser``)
makes records from a file, strictly: parsed means valid. ``bytes_from_manifest`` makes the file.

The file carries its own digest, so that a flipped byte is noticed in the manifest as it is in every file that the
manifest lists: ``sha256`` is the SHA-256 of the file's bytes with those 64 digits replaced by zeros.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import strictjson

SCHEMA: Final = "resnet-bundle/1"
MANIFEST_NAME: Final = "manifest.json"

PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8")
SCHEMES: Final = ("tensorrt", "cpu")
LAYOUTS: Final = ("NCHW", "NHWC")
INPUT_DTYPES: Final = ("float32", "uint8")
COLOR_ORDERS: Final = ("RGB", "BGR", "L")
INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
RESIZE_MODES: Final = ("shorter", "exact")
ALPHA_RULES: Final = ("drop", "white", "black")
EXIF_RULES: Final = ("apply", "ignore")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file of the bundle: relative POSIX ``path``, SHA-256 in lower-case hexadecimal, ``size`` in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that the bundle was made from: its file's name without a folder, SHA-256, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """What the checkpoint could not tell: ``subject``, the ``value`` taken, the ``option`` that changes it."""

    subject: str
    value: str
    option: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the network is: its architecture's name, its number of ``parameters``, and how it was traced."""

    architecture: str
    parameters: int
    source: Source
    traced_by: str
    assumptions: tuple[Assumption, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sizes of the batch axis: 1 <= smallest <= optimal <= largest."""

    smallest: int
    optimal: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """The graph's input. ``shape`` leaves the batch axis out: (C, H, W) for NCHW, (H, W, C) for NHWC."""

    name: str
    layout: str
    dtype: str
    shape: tuple[int, int, int]
    batch: Batch

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[0] if self.layout == "NCHW" else self.shape[2]

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.shape[1:] if self.layout == "NCHW" else self.shape[:2]


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output of the graph, always float32. ``shape`` leaves the batch axis out."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Resize:
    """``shorter``: the shorter side becomes ``size[0]`` pixels, the other keeps the aspect ratio; ``exact``: (H, W)."""

    mode: str
    size: tuple[int, ...]
    interpolation: str
    antialias: bool


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image file to the graph's input: EXIF, alpha, color order, resize, center crop, then arithmetic.

    A pixel ``p`` in 0..255 becomes ``(p * scale - mean[c]) / std[c]``. Where ``in_graph`` is true the graph does that
    arithmetic and the transpose to NCHW itself, and the input is bytes.
    """

    exif: str
    alpha: str
    color_order: str
    resize: Resize | None
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_graph: bool


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a gate allows. Errors are relative to the spread; a limit that is None is not applied."""

    max_error: float | None = None
    mean_error: float | None = None
    centred_cosine: float | None = None
    top1_agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was measured between a variant's outputs and eager's; the worst over the outputs. See ``parity.py``."""

    samples: int
    undecided: int
    max_error: float
    mean_error: float
    centred_cosine: float
    snr_db: float
    top1_agreement: float
    top5_agreement: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 in 0..1 of eager and of the variant, on the same ``samples`` evaluation images.

    Where they are not ``labelled``, eager's own answers stand for the labels: ``eager`` is 1, and ``measured`` is the
    agreement with it. ``max_drop``: how many points may be lost; None: it was measured, and nothing was asked of it.
    """

    samples: int
    labelled: bool
    eager: float
    measured: float
    max_drop: float | None

    @property
    def drop(self) -> float:
        """What the variant loses, in points: 100 (eager - measured); negative where it gains."""
        return 100 * (self.eager - self.measured)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The verdict on a variant: what was allowed, what was measured, and what computed it.

    ``emulated`` is true where the host that exported lacks the precision's arithmetic, and another executor rounded
    every result to it. ``accuracy`` is None where no evaluation images were given.
    """

    passed: bool
    executor: str
    emulated: bool
    limits: Limits
    parity: Parity
    accuracy: Accuracy | None = None


@dataclass(frozen=True, kw_only=True)
class KeptLayer:
    """A node that computes in ``precision``, higher than its variant's, because of ``reason``."""

    node: str
    precision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a variant was where it was exported, on ``backend`` and at ``batch``.

    ``ratio``: how many times as fast as the variant ``against``, the fastest other one that the backend computes
    natively there. ``instructions``: the CPU's integer dot products, as in ``BackendFacts``; on another kind of CPU
    the figure says nothing.
    """

    backend: str
    against: str
    ratio: float
    batch: int
    instructions: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute the model. ``scheme`` is the Q/DQ placement of int8, else None."""

    id: str
    precision: str
    scheme: str | None
    file: FileRecord
    gate: Gate
    kept_higher: tuple[KeptLayer, ...] = ()
    speeds: tuple[Speed, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A TensorRT engine of a variant: what built it and where it runs. ``verified_on`` names a device or is None."""

    id: str
    variant: str
    file: FileRecord
    builder: str
    builder_version: str
    platform: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]
    compatibility: str
    profiles: tuple[Batch, ...]
    verified_on: str | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a bundle says of itself. ``calibration``: the ranges that int8 was made from, for people."""

    tools: Mapping[str, str]
    model: Model
    input: Input
    outputs: tuple[Output, ...]
    preprocessing: Preprocessing
    variants: tuple[Variant, ...]
    engines: tuple[Engine, ...]
    check: FileRecord
    report: FileRecord
    labels: FileRecord | None = None
    calibration: FileRecord | None = None
    schema: str = field(default=SCHEMA)

    def variant(self, name: str) -> Variant | None:
        """The variant whose id is ``name``."""
        return next((variant for variant in self.variants if variant.id == name), None)


_DIGEST_LINE = re.compile(rb'^  "sha256": "([0-9a-f]{64})",?$', re.MULTILINE)
ZEROS: Final = "0" * 64


def bytes_from_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``, its own digest included."""
    body = _json_value(manifest)
    schema = body.pop("schema")
    data = strictjson.dumps({"schema": schema, "sha256": ZEROS, **body})
    return data.replace(ZEROS.encode(), own_digest(data).encode(), 1)


def own_digest(data: bytes) -> str:
    """SHA-256 of a manifest's bytes with the digits of its own ``sha256`` line replaced by zeros."""
    match = _DIGEST_LINE.search(data)
    if match is None:
        return hashlib.sha256(data).hexdigest()
    start, end = match.span(1)
    return hashlib.sha256(data[:start] + ZEROS.encode() + data[end:]).hexdigest()


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {entry.name: _json_value(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in sorted(value.items())}
    if isinstance(value, tuple | list):
        return [_json_value(item) for item in value]
    return value
