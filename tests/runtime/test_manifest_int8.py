"""What the manifest says of int8: its scheme, its accuracy, its speed and its calibration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resnet_runtime.manifest import Accuracy, bytes_from_manifest
from resnet_runtime.manifest_parser import manifest_from_bytes

from .test_manifest import ACCURACY, data_from, document, edited, full_manifest, refusal

INT8 = ("variants", 1)
ONE_FAULT = "manifest.json is not valid, with one fault: "

FAULTS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "int8 without a scheme": (
        (*INT8, "scheme"),
        None,
        "variants: 'int8-cpu' is int8 and has no scheme: it is one of tensorrt, cpu",
    ),
    "an unknown scheme": (
        (*INT8, "scheme"),
        "openvino",
        "variants[1].scheme is 'openvino', not one of tensorrt, cpu",
    ),
    "a scheme of fp32": (
        ("variants", 0, "scheme"),
        "cpu",
        "variants: 'fp32' is fp32 and has the scheme 'cpu', which int8 alone has",
    ),
    "no samples": (
        (*INT8, "gate", "accuracy", "samples"),
        0,
        "variants[1].gate.accuracy.samples is 0, not an integer of at least 1",
    ),
    "percents": (
        (*INT8, "gate", "accuracy", "eager"),
        75.0,
        "variants[1].gate.accuracy.eager is 75, not between 0 and 1",
    ),
    "a negative accuracy": (
        (*INT8, "gate", "accuracy", "measured"),
        -0.5,
        "variants[1].gate.accuracy.measured is -0.5, not between 0 and 1",
    ),
    "a negative drop": (
        (*INT8, "gate", "accuracy", "max_drop"),
        -1.0,
        "variants[1].gate.accuracy.max_drop is -1, not between 0 and 100 points",
    ),
    "a drop over all": (
        (*INT8, "gate", "accuracy", "max_drop"),
        101,
        "variants[1].gate.accuracy.max_drop is 101, not between 0 and 100 points",
    ),
    "a larger drop than allowed": (
        (*INT8, "gate", "accuracy", "measured"),
        0.739,
        "variants: 'int8-cpu' loses 1.1 points of accuracy, and 1 are allowed",
    ),
    "no labels": (
        (*INT8, "gate", "accuracy", "labelled"),
        False,
        "variants: 'int8-cpu' was evaluated without labels, where eager's accuracy is 1, not 0.75",
    ),
    "no speed": ((*INT8, "speeds", 0, "ratio"), 0, "variants[1].speeds[0].ratio is 0, not above 0"),
    "a negative speed": ((*INT8, "speeds", 0, "ratio"), -2.5, "variants[1].speeds[0].ratio is -2.5, not above 0"),
    "no batch": ((*INT8, "speeds", 0, "batch"), 0, "variants[1].speeds[0].batch is 0, not an integer of at least 1"),
    "no instructions": (
        (*INT8, "speeds", 0, "instructions"),
        "",
        "variants[1].speeds[0].instructions is '', not a non-empty string",
    ),
    "against nothing": (
        (*INT8, "speeds", 0, "against"),
        "fp16",
        "variants: 'int8-cpu' has a speed against 'fp16', which is not another one of variants",
    ),
    "against itself": (
        (*INT8, "speeds", 0, "against"),
        "int8-cpu",
        "variants: 'int8-cpu' has a speed against 'int8-cpu', which is not another one of variants",
    ),
    "calibration twice": (
        ("calibration", "path"),
        "check.npz",
        "'check.npz' stands with two digests or sizes",
    ),
    "calibration elsewhere": (
        ("calibration", "path"),
        "../calibration.json",
        "calibration.path is '../calibration.json', which is not allowed there",
    ),
}


@pytest.mark.parametrize(("path", "value", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_what_does_not_fit(path: tuple[str | int, ...], value: Any, message: str) -> None:
    assert refusal(edited(*path, to=value)) == ONE_FAULT + message


def test_a_drop_as_large_as_allowed() -> None:
    # 100 * (0.75 - 0.74) is a little more than 1 in float64.
    assert 100 * (0.75 - 0.74) > 1
    parsed = manifest_from_bytes(edited(*INT8, "gate", "accuracy", "measured", to=0.74))
    assert parsed.variants[1].gate.accuracy is not None


def test_a_drop_that_no_limit_was_set_to() -> None:
    whole = document()
    whole["variants"][1]["gate"]["accuracy"].update(measured=0.0, max_drop=None)
    parsed = manifest_from_bytes(data_from(whole)).variants[1].gate.accuracy
    assert parsed == Accuracy(samples=1000, labelled=True, eager=0.75, measured=0.0, max_drop=None)


def test_agreement_without_labels() -> None:
    whole = document()
    whole["variants"][1]["gate"]["accuracy"].update(labelled=False, eager=1, measured=0.995)
    parsed = manifest_from_bytes(data_from(whole)).variants[1].gate.accuracy
    assert parsed is not None
    assert parsed.drop == pytest.approx(0.5, rel=1e-12)


def test_drop_is_in_points() -> None:
    assert ACCURACY.drop == pytest.approx(0.5, rel=1e-12)  # rounding in float64
    assert Accuracy(samples=1, labelled=True, eager=0.5, measured=0.75, max_drop=0.0).drop == -25.0


def test_the_drop_is_not_written() -> None:
    written = json.loads(bytes_from_manifest(full_manifest()))["variants"][1]["gate"]["accuracy"]
    assert written == {"samples": 1000, "labelled": True, "eager": 0.75, "measured": 0.745, "max_drop": 1.0}


def test_a_manifest_from_before_these_were_recorded() -> None:
    whole = document()
    del whole["calibration"]
    for variant in whole["variants"]:
        del variant["speeds"]
        del variant["gate"]["accuracy"]
    parsed = manifest_from_bytes(data_from(whole))
    assert parsed.calibration is None
    assert [(variant.speeds, variant.gate.accuracy) for variant in parsed.variants] == [((), None)] * 2
    # What is written now has them all.
    assert manifest_from_bytes(bytes_from_manifest(parsed)) == parsed
    assert b'"calibration": null' in bytes_from_manifest(parsed)


@pytest.mark.parametrize("path", [("calibration",), (*INT8, "gate", "accuracy")])
def test_what_was_not_recorded_is_null(path: tuple[str | int, ...]) -> None:
    manifest_from_bytes(edited(*path, to=None))


def test_a_missing_ratio_is_one_fault() -> None:
    whole = document()
    del whole["variants"][1]["speeds"][0]["ratio"]
    assert refusal(data_from(whole)) == ONE_FAULT + "variants[1].speeds[0].ratio is missing"
