"""``calibration.json``: what calibration found, to be read by people, written again bit for bit, and read strictly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_export.errors import CalibrationError
from resnet_export.passes.qdq_placement import SCHEMES
from resnet_runtime import strictjson
from resnet_runtime.json_fields import Fields, kind_of, shortened
from resnet_runtime.manifest import Preprocessing

from .histograms import SMALLEST
from .thresholds import LEVELS, METHODS

SCHEMA = "resnet-calibration/2"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_FAULTS = 50


@dataclass(frozen=True, kw_only=True)
class TensorRange:
    """What calibration saw of one tensor. Every number is a float32.

    Attributes:
        low: the smallest value seen.
        high: the largest.
        thresholds: by the integer type and the method, the magnitude T > 0 beyond which values are clipped: the scale
            is T / 127 for ``int8`` and T / 255 for ``uint8``, which is there where ``low`` is not negative.
    """

    low: float
    high: float
    thresholds: Mapping[str, Mapping[str, float]]

    @property
    def dead(self) -> bool:
        """Whether no value could be told from zero, so that the thresholds mean nothing."""
        return max(-self.low, self.high) < SMALLEST


@dataclass(frozen=True, kw_only=True)
class CalibrationTable:
    """Everything that INT8 needs beside the graph. Every number but ``images`` is a float32.

    Attributes:
        model: SHA-256 of the folded FP32 graph whose tensors these are.
        images: how many were looked at.
        preprocessing: ``preprocessing_digest`` of what image files went through; None where the images came as arrays.
        equalization: by group of layers, the factor of each channel; empty where nothing was equalized.
        methods: by scheme, the method whose thresholds it takes.
        whole_shortcuts: the residual Adds whose shortcut is not quantized in the scheme ``tensorrt``.
        weights: by layer, the largest magnitude of each output channel's weights in the equalized graph.
        tensors: the ranges by tensor, in the graph's order.
    """

    model: str
    images: int
    preprocessing: str | None
    methods: Mapping[str, str]
    whole_shortcuts: tuple[str, ...]
    equalization: Mapping[str, tuple[float, ...]]
    weights: Mapping[str, tuple[float, ...]]
    tensors: Mapping[str, TensorRange]

    @property
    def dead(self) -> tuple[str, ...]:
        """The tensors that no image made different from zero."""
        return tuple(name for name, found in self.tensors.items() if found.dead)


def bytes_from_table(table: CalibrationTable) -> bytes:
    """The file: one line a tensor or group, both in the table's order; the same table gives the same bytes.

    A number is the shortest decimal that gives its float32.
    """
    tensors = {
        name: {
            "low": _short(found.low),
            "high": _short(found.high),
            "thresholds": {
                kind: {method: _short(by_method[method]) for method in METHODS}
                for kind, by_method in found.thresholds.items()
            },
        }
        for name, found in table.tensors.items()
    }
    equalization = {name: [_short(factor) for factor in factors] for name, factors in table.equalization.items()}
    weights = {name: [_short(value) for value in values] for name, values in table.weights.items()}
    lines = (
        f'  "schema": {_line(SCHEMA)}',
        f'  "model": {_line(table.model)}',
        f'  "images": {_line(table.images)}',
        f'  "preprocessing": {_line(table.preprocessing)}',
        f'  "methods": {_line({scheme: table.methods[scheme] for scheme in SCHEMES})}',
        f'  "whole_shortcuts": {_line(list(table.whole_shortcuts))}',
        f'  "equalization": {_block(equalization)}',
        f'  "weights": {_block(weights)}',
        f'  "tensors": {_block(tensors)}',
    )
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8")


def table_from_bytes(data: bytes, *, name: str = "calibration.json") -> CalibrationTable:
    """Parse and validate.

    Args:
        data: the file's bytes.
        name: what to call the file in messages.

    Raises:
        CalibrationError: the bytes are not a table of a known schema; every fault is listed.
    """
    try:
        value = strictjson.loads(data)
    except strictjson.StrictJSONError as error:
        raise CalibrationError(f"{name} is not valid: {error}") from None
    if not isinstance(value, dict):
        raise CalibrationError(f"{name} is not valid: it holds a JSON {kind_of(value)}, not an object")
    schema = value.get("schema")
    if schema != SCHEMA:
        raise CalibrationError(
            f"{name} has the schema {shortened(schema)}, and this version reads {SCHEMA!r}: calibrate again"
        )
    faults: list[str] = []
    table = _table(Fields(value, "", faults), faults)
    if faults:
        more = len(faults) - _MAX_FAULTS
        details = faults[:_MAX_FAULTS] + ([f"and {more} more"] if more > 0 else [])
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise CalibrationError(f"{name} is not valid, with {count}: {faults[0]}", details=details[1:])
    return table


def table_from_file(path: str | os.PathLike[str]) -> CalibrationTable:
    """The table in a file.

    Raises:
        CalibrationError: it cannot be read, or is no table.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(strictjson.MAX_BYTES + 1)
    except OSError as error:
        raise CalibrationError(f"the calibration table {path} cannot be read: {error.strerror or error}") from error
    return table_from_bytes(data, name=os.fspath(path))


def preprocessing_digest(preprocessing: Preprocessing) -> str:
    """SHA-256 of everything that turns an image file into the graph's input, 64 hexadecimal digits."""
    return hashlib.sha256(_line(dataclasses.asdict(preprocessing)).encode()).hexdigest()


def check_table(
    table: CalibrationTable,
    graph_digest: str,
    tensor_names: Collection[str],
    adds: Collection[str],
    groups: Mapping[str, int],
    preprocessing: Preprocessing,
) -> None:
    """Refuse a table of another graph, or of images that were preprocessed otherwise.

    Args:
        table: as it was read.
        graph_digest: of the folded FP32 graph.
        tensor_names: whose ranges are needed.
        adds: the names of the graph's residual Adds.
        groups: of the graph's equalization groups, the number of channels.
        preprocessing: of the bundle.

    Raises:
        CalibrationError: it belongs to another graph or preprocessing, lacks tensors, or names a shortcut or a group of
            channels that the graph has not got.
    """
    if table.model != graph_digest:
        raise CalibrationError(
            f"the calibration table belongs to the graph with SHA-256 {table.model[:12]}..., and this model's has "
            f"{graph_digest[:12]}...: calibrate this model with its images"
        )
    if table.preprocessing not in (None, preprocessing_digest(preprocessing)):
        raise CalibrationError(
            "the images of the calibration table were preprocessed otherwise than this bundle says, so that its ranges "
            "are not those of the input to come: give the same --mean, --std, --scale, --resize, --crop, "
            "--interpolation and --color-order as for the table, or calibrate again"
        )
    missing = [name for name in tensor_names if name not in table.tensors]
    if missing:
        count = "one tensor" if len(missing) == 1 else f"{len(missing)} tensors"
        raise CalibrationError(
            f"the calibration table lacks {count} of this model, {shortened(missing[0])} first: "
            "calibrate again with this version",
            details=missing[1:],
        )
    for name, factors in table.equalization.items():
        if len(factors) != groups.get(name):
            what = f"{groups[name]} channels" if name in groups else "no such group"
            raise CalibrationError(
                f"the calibration table equalizes {len(factors)} channels of {shortened(name)}, and this model has "
                f"{what}: calibrate again"
            )
    unknown = [name for name in table.whole_shortcuts if name not in adds]
    if unknown:
        raise CalibrationError(
            f"the calibration table leaves the shortcut of {shortened(unknown[0])} unquantized, and this model has no "
            "residual Add of that name: calibrate again"
        )


def check_weights(table: CalibrationTable, weights: Mapping[str, tuple[float, ...]]) -> None:
    """Refuse a table whose weights are not those of the graph.

    Args:
        table: that ``check_table`` accepted.
        weights: of the equalized graph, as the table has them.

    Raises:
        CalibrationError: they differ, or other layers are named.
    """
    wrong = [name for name in (*weights, *table.weights) if table.weights.get(name) != weights.get(name)]
    if wrong:
        raise CalibrationError(
            f"the calibration table's weight ranges of {shortened(wrong[0])} are not this model's: calibrate again"
        )


def _table(f: Fields, faults: list[str]) -> CalibrationTable:
    f.text("schema")
    table = CalibrationTable(
        model=f.text("model", pattern=_DIGEST),
        images=f.integer("images", 1),
        preprocessing=f.optional_text("preprocessing", pattern=_DIGEST),
        methods=f.record("methods", _methods),
        whole_shortcuts=f.texts("whole_shortcuts"),
        equalization={
            name: _factors(value, f"equalization.{name}", faults) for name, value in _members(f, "equalization", faults)
        },
        weights={name: _magnitudes(value, f"weights.{name}", faults) for name, value in _members(f, "weights", faults)},
        tensors={name: _range(value, f"tensors.{name}", faults) for name, value in _members(f, "tensors", faults)},
    )
    f.done()
    return table


def _members(f: Fields, key: str, faults: list[str]) -> list[tuple[str, Any]]:
    """Those of an object whose keys are names of the model's; none may be empty."""
    before = len(faults)
    value = f.raw(key)
    if isinstance(value, dict):
        if "" in value:
            f.fault(key, "has an empty key")
        return list(value.items())
    if len(faults) == before:
        f.fault(key, f"is a JSON {kind_of(value)}, not an object")
    return []


def _factors(value: Any, where: str, faults: list[str]) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        faults.append(f"{where} is {shortened(value)}, not a list of numbers")
        return ()
    fields = Fields({str(index): item for index, item in enumerate(value)}, where, faults)
    return tuple(_positive(fields, str(index)) for index in range(len(value)))


def _magnitudes(value: Any, where: str, faults: list[str]) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        faults.append(f"{where} is {shortened(value)}, not a list of numbers")
        return ()
    fields = Fields({str(index): item for index, item in enumerate(value)}, where, faults)
    found = tuple(_float32(fields, str(index), fields.number(str(index))) for index in range(len(value)))
    if min(found) < 0:
        faults.append(f"{where} holds {min(found):g}, and a magnitude is not negative")
    return found


def _range(value: Any, where: str, faults: list[str]) -> TensorRange:
    fields = Fields(value, where, faults)
    low, high = (_float32(fields, key, fields.number(key)) for key in ("low", "high"))
    if low > high:
        fields.fault("low", f"is {low:g}, above high, which is {high:g}")
    kinds = tuple(LEVELS) if low >= 0 else ("int8",)
    thresholds = fields.record("thresholds", lambda f: {kind: f.record(kind, _by_method) for kind in kinds})
    fields.done()
    return TensorRange(low=low, high=high, thresholds=thresholds)


def _methods(f: Fields) -> dict[str, str]:
    return {scheme: f.text(scheme, METHODS) for scheme in SCHEMES}


def _by_method(f: Fields) -> dict[str, float]:
    return {method: _positive(f, method) for method in METHODS}


def _positive(f: Fields, key: str) -> float:
    return _float32(f, key, f.positive(key))


def _float32(f: Fields, key: str, value: float) -> float:
    """The number rounded to float32, which has to reach it."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = float(np.float32(value))
    if not math.isfinite(rounded) or (value != 0 and rounded == 0):
        f.fault(key, f"is {value:g}, which float32 does not reach")
        return 0.0
    return rounded


def _short(value: float) -> float:
    """The float64 whose shortest decimal is that of the float32."""
    return float(str(np.float32(value)))


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _block(members: Mapping[str, object]) -> str:
    if not members:
        return "{}"
    return "{\n" + ",\n".join(f"    {_line(name)}: {_line(value)}" for name, value in members.items()) + "\n  }"
