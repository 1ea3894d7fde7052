"""calibration.json: what is written is read, bit for bit, and every malformed one is refused with a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_export.errors import CalibrationError
from resnet_export.passes.qdq_placement import SCHEMES
from resnet_export.quantization.table import (
    SCHEMA,
    CalibrationTable,
    TensorRange,
    bytes_from_table,
    check_table,
    check_weights,
    preprocessing_digest,
    table_from_bytes,
    table_from_file,
)
from resnet_export.quantization.thresholds import METHODS
from tests.runtime.bundles import sample_preprocessing as preprocessing

DIGEST = "0123456789abcdef" * 4


def float32(value: float) -> float:
    return float(np.float32(value))


def thresholds(largest: float) -> dict[str, float]:
    return {method: float32(largest * (1 - index / 10)) for index, method in enumerate(METHODS)}


SIGNED = TensorRange(low=float32(-2.1), high=float32(1.7), thresholds={"int8": thresholds(2.1)})
RELU = TensorRange(low=0.0, high=0.5, thresholds={"int8": thresholds(0.5), "uint8": thresholds(0.5)})
TABLE = CalibrationTable(
    model=DIGEST,
    images=64,
    preprocessing=None,
    methods={"tensorrt": "entropy", "cpu": "minmax"},
    whole_shortcuts=("layer1.0/Add",),
    equalization={"layer1.0.conv1": (1.0, float32(0.1), 2.0)},
    weights={"layer1.0.conv1/Conv": (0.5, 0.0, float32(0.3))},
    tensors={"input": SIGNED, "layer1.0.relu/Relu": RELU},
)
PREPROCESSING = preprocessing()
GROUPS = {"layer1.0.conv1": 3, "layer1.0.conv2": 8}
TEXT = """{
  "schema": "resnet-calibration/2",
  "model": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
  "images": 64,
  "preprocessing": null,
  "methods": {"tensorrt": "entropy", "cpu": "minmax"},
  "whole_shortcuts": ["layer1.0/Add"],
  "equalization": {
    "layer1.0.conv1": [1.0, 0.1, 2.0]
  },
  "weights": {
    "layer1.0.conv1/Conv": [0.5, 0.0, 0.3]
  },
  "tensors": {
    "input": {"low": -2.1, "high": 1.7, "thresholds": {"int8": \
{"minmax": 2.1, "percentile": 1.89, "entropy": 1.68, "mse": 1.47}}},
    "layer1.0.relu/Relu": {"low": 0.0, "high": 0.5, "thresholds": {"int8": \
{"minmax": 0.5, "percentile": 0.45, "entropy": 0.4, "mse": 0.35}, "uint8": \
{"minmax": 0.5, "percentile": 0.45, "entropy": 0.4, "mse": 0.35}}}
  }
}
"""


def document() -> Any:
    return json.loads(bytes_from_table(TABLE))


def edited(*path: str | int, to: Any) -> bytes:
    whole = document()
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(whole).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(CalibrationError) as caught:
        table_from_bytes(data)
    assert caught.value.exit_status == 2
    return "\n".join([str(caught.value).split("\n")[0], *caught.value.details])


def fault(data: bytes) -> str:
    message = refusal(data)
    prefix = "calibration.json is not valid, with one fault: "
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
POSITIVE = st.floats(0, width=32, exclude_min=True, allow_infinity=False)
MAGNITUDES = st.floats(0, width=32, allow_infinity=False)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
BY_METHOD = st.fixed_dictionaries(dict.fromkeys(METHODS, POSITIVE))


@st.composite
def ranges(draw: st.DrawFn) -> TensorRange:
    low, high = sorted((draw(FLOATS), draw(FLOATS)))
    kinds = ("int8", "uint8") if low >= 0 else ("int8",)
    return TensorRange(low=low, high=high, thresholds={kind: draw(BY_METHOD) for kind in kinds})


TABLES = st.builds(
    CalibrationTable,
    model=st.text("0123456789abcdef", min_size=64, max_size=64),
    images=st.integers(1, 2**53 - 1),
    preprocessing=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    methods=st.fixed_dictionaries(dict.fromkeys(SCHEMES, st.sampled_from(METHODS))),
    whole_shortcuts=st.lists(NAMES, max_size=3).map(tuple),
    equalization=st.dictionaries(NAMES, st.lists(POSITIVE, min_size=1, max_size=5).map(tuple), max_size=3),
    weights=st.dictionaries(NAMES, st.lists(MAGNITUDES, min_size=1, max_size=5).map(tuple), max_size=3),
    tensors=st.dictionaries(NAMES, ranges(), max_size=4),
)


@given(table=TABLES)
def test_what_is_written_is_read(table: CalibrationTable) -> None:
    data = bytes_from_table(table)
    read = table_from_bytes(data)
    assert read == table
    assert list(read.tensors) == list(table.tensors)
    assert bytes_from_table(read) == data


def test_a_line_a_tensor_and_the_shortest_decimals() -> None:
    assert bytes_from_table(TABLE).decode() == TEXT
    empty = dataclasses.replace(TABLE, equalization={}, weights={}, tensors={})
    assert b'"equalization": {},\n  "weights": {},\n  "tensors": {}\n' in bytes_from_table(empty)
    assert table_from_bytes(bytes_from_table(empty)) == empty


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(bytes_from_table(TABLE))
    assert table_from_file(path) == TABLE
    path.write_bytes(b"[]")
    with pytest.raises(CalibrationError, match="it holds a JSON array, not an object") as caught:
        table_from_file(path)
    assert str(caught.value).startswith(f"{path} is not valid")
    with pytest.raises(CalibrationError, match=r"none\.json cannot be read: No such file or directory"):
        table_from_file(tmp_path / "none.json")
    with pytest.raises(CalibrationError, match="cannot be read: Is a directory"):
        table_from_file(tmp_path)


def test_dead_tensors() -> None:
    dead = dataclasses.replace(RELU, high=0.0)
    table = dataclasses.replace(TABLE, tensors={"a": SIGNED, "b": dead, "c": RELU, "d": dead})
    assert table.dead == ("b", "d")


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(b" " * (4 * 1024 * 1024 + 1))
    with pytest.raises(CalibrationError, match="it has 4194305 bytes, and 4194304 are allowed"):
        table_from_file(path)


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "not UTF-8": (lambda data: b"\xff" + data, "byte 0 is not UTF-8"),
        "cut": (lambda data: data[:-3], "Expecting ',' delimiter at line"),
        "duplicate tensor": (
            lambda data: data.replace(b'"layer1.0.relu/Relu"', b'"input"'),
            "the key 'input' stands twice in one object",
        ),
        "duplicate method": (
            lambda data: data.replace(b'"entropy"', b'"mse"'),
            "the key 'mse' stands twice in one object",
        ),
        "NaN": (lambda data: data.replace(b"-2.1", b"NaN"), "NaN is not a finite number"),
        "infinity": (lambda data: data.replace(b"1.7", b"1e999"), "1e999 is not a finite number"),
        "deep": (lambda data: data.replace(b"64,", b"[" * 20 + b"]" * 20 + b",", 1), "it nests deeper than 16 levels"),
        "array": (lambda data: b"[1]", "it holds a JSON array, not an object"),
    }.values(),
)
def test_what_is_no_strict_json(change: Callable[[bytes], bytes], message: str) -> None:
    found = refusal(change(bytes_from_table(TABLE)))
    assert found.startswith(f"calibration.json is not valid: {message}")


@pytest.mark.parametrize("schema", ["resnet-calibration/1", "resnet-calibration/3", "", 1, None])
def test_unknown_schema(schema: Any) -> None:
    message = f"calibration.json has the schema {schema!r}, and this version reads {SCHEMA!r}: calibrate again"
    assert refusal(edited("schema", to=schema)) == message


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model",), "0" * 40, f"model is {'0' * 40!r}, which is not allowed there"),
        (("model",), None, "model is None, not a non-empty string"),
        (("images",), 0, "images is 0, not an integer of at least 1"),
        (("images",), 1.5, "images is 1.5, not an integer of at least 1"),
        (("images",), True, "images is True, not an integer of at least 1"),
        (("equalization",), None, "equalization is a JSON null, not an object"),
        (("equalization",), [], "equalization is a JSON array, not an object"),
        (("equalization", "group"), [], "equalization.group is [], not a list of numbers"),
        (("equalization", "group"), 1.0, "equalization.group is 1.0, not a list of numbers"),
        (("equalization", "group"), [1.0, "2"], "equalization.group.1 is '2', not a number"),
        (("equalization", "group"), [0.0], "equalization.group.0 is 0.0, not above 0"),
        (("equalization", "group"), [-1], "equalization.group.0 is -1, not above 0"),
        (("equalization", ""), [1.0], "equalization has an empty key"),
        (("tensors",), "text", "tensors is a JSON string, not an object"),
        (("tensors", ""), document()["tensors"]["input"], "tensors has an empty key"),
        (("tensors", "input", "low"), "x", "tensors.input.low is 'x', not a number"),
        (("tensors", "input", "low"), 2.0, "tensors.input.low is 2, above high, which is 1.7"),
        (("tensors", "input", "low"), -1e39, "tensors.input.low is -1e+39, which float32 does not reach"),
        (("tensors", "input", "high"), True, "tensors.input.high is True, not a number"),
        (("tensors", "input", "high"), 1e-60, "tensors.input.high is 1e-60, which float32 does not reach"),
        (("tensors", "input", "thresholds"), [], "tensors.input.thresholds is a JSON array, not an object"),
        (("tensors", "input", "thresholds", "int8"), 1, "tensors.input.thresholds.int8 is a JSON number"),
        (("tensors", "input", "thresholds", "int4"), {}, "tensors.input.thresholds.int4 is not a key of this schema"),
        (("tensors", "input", "thresholds", "int8", "mse"), 0, "tensors.input.thresholds.int8.mse is 0, not above 0"),
        (("tensors", "input", "thresholds", "int8", "mse"), -1.0, "thresholds.int8.mse is -1.0, not above 0"),
        (("tensors", "input", "thresholds", "int8", "mse"), None, "thresholds.int8.mse is None, not a number"),
        (("tensors", "input", "thresholds", "int8", "mse"), 1e-60, "mse is 1e-60, which float32 does not reach"),
        (("tensors", "input", "thresholds", "int8", "kl"), 1.0, "thresholds.int8.kl is not a key of this schema"),
    ],
)
def test_a_fault(path: tuple[str, ...], value: Any, message: str) -> None:
    assert message in refusal(edited(*path, to=value))


def test_a_signed_tensor_has_no_uint8() -> None:
    data = edited("tensors", "input", "thresholds", "uint8", to=thresholds(1.0))
    assert fault(data) == "tensors.input.thresholds.uint8 is not a key of this schema"


def test_all_that_is_missing_is_listed_at_once() -> None:
    whole = document()
    del whole["model"]
    del whole["equalization"]
    del whole["tensors"]["input"]["high"]
    del whole["tensors"]["input"]["thresholds"]["int8"]["entropy"]
    del whole["tensors"]["layer1.0.relu/Relu"]["thresholds"]["uint8"]
    whole["extra"] = 1
    assert refusal(json.dumps(whole).encode()) == (
        "calibration.json is not valid, with 6 faults: model is missing\n"
        "equalization is missing\n"
        "tensors.input.high is missing\n"
        "tensors.input.thresholds.int8.entropy is missing\n"
        "tensors.layer1.0.relu/Relu.thresholds.uint8 is missing\n"
        "extra is not a key of this schema"
    )


def test_a_table_of_this_model_passes() -> None:
    check_table(TABLE, DIGEST, ["input"], ["layer1.0/Add", "other"], GROUPS, PREPROCESSING)
    check_table(TABLE, DIGEST, list(TABLE.tensors), ["layer1.0/Add"], GROUPS, PREPROCESSING)


def test_a_table_of_another_model() -> None:
    with pytest.raises(CalibrationError) as caught:
        check_table(TABLE, "f" * 64, ["input"], ["layer1.0/Add"], GROUPS, PREPROCESSING)
    assert str(caught.value) == (
        "the calibration table belongs to the graph with SHA-256 0123456789ab..., and this model's has "
        "ffffffffffff...: calibrate this model with its images"
    )


def test_a_table_that_lacks_tensors() -> None:
    with pytest.raises(CalibrationError) as caught:
        check_table(TABLE, DIGEST, ["a", "input", "b"], ["layer1.0/Add"], GROUPS, PREPROCESSING)
    assert "the calibration table lacks 2 tensors of this model, 'a' first: calibrate again" in str(caught.value)
    assert list(caught.value.details) == ["b"]


def test_a_table_that_names_a_shortcut_of_another_model() -> None:
    with pytest.raises(
        CalibrationError, match=r"leaves the shortcut of 'layer1\.0/Add' unquantized, and this model has"
    ):
        check_table(TABLE, DIGEST, ["input"], ["layer1.1/Add"], GROUPS, PREPROCESSING)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"layer1.0.conv1": (1.0, 1.0)}, r"equalizes 2 channels of 'layer1\.0\.conv1', and this model has 3 channels"),
        ({"layer1.0.conv2": (1.0,)}, r"equalizes 1 channels of 'layer1\.0\.conv2', and this model has 8 channels"),
        ({"other": (1.0, 1.0)}, "equalizes 2 channels of 'other', and this model has no such group: calibrate again"),
    ],
)
def test_a_table_that_equalizes_other_channels(factors: dict[str, tuple[float, ...]], said: str) -> None:
    table = dataclasses.replace(TABLE, equalization=factors)
    with pytest.raises(CalibrationError, match=said):
        check_table(table, DIGEST, ["input"], ["layer1.0/Add"], GROUPS, PREPROCESSING)


def test_a_table_of_images_that_were_preprocessed_otherwise() -> None:
    table = dataclasses.replace(TABLE, preprocessing=preprocessing_digest(PREPROCESSING))
    check_table(table, DIGEST, ["input"], ["layer1.0/Add"], GROUPS, PREPROCESSING)
    for other in (preprocessing(scale=0.5), preprocessing(mean=(0.1, 0.2, 0.3)), preprocessing(color_order="BGR")):
        with pytest.raises(CalibrationError, match=r"preprocessed otherwise .* or calibrate again"):
            check_table(table, DIGEST, ["input"], ["layer1.0/Add"], GROUPS, other)


@pytest.mark.parametrize(
    ("weights", "layer"),
    [
        ({}, "layer1.0.conv1/Conv"),
        ({"layer1.0.conv1/Conv": (0.5, 0.0)}, "layer1.0.conv1/Conv"),
        ({"layer1.0.conv1/Conv": (0.5, 0.0, 0.25)}, "layer1.0.conv1/Conv"),
        ({**TABLE.weights, "other": (1.0,)}, "other"),
    ],
)
def test_a_table_of_other_weights(weights: dict[str, tuple[float, ...]], layer: str) -> None:
    check_weights(TABLE, dict(TABLE.weights))
    with pytest.raises(CalibrationError, match=f"weight ranges of '{layer}' are not this model's: calibrate again"):
        check_weights(TABLE, weights)


@pytest.mark.parametrize("value", ["3", "[]", "[-1.0]", '["1"]', "[1e60]"])
def test_weights_that_are_no_magnitudes(value: str) -> None:
    text = TEXT.replace("[0.5, 0.0, 0.3]", value)
    with pytest.raises(CalibrationError, match=r"weights\.layer1\.0\.conv1/Conv"):
        table_from_bytes(text.encode())
