"""Bundles of every schema that was ever written stay readable.

A golden of a schema that was released is never written anew: ``--update-goldens`` is for the schema that is being made.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.bundle import Bundle
from resnet_runtime.check import check_bundle
from resnet_runtime.manifest import MANIFEST_NAME, bytes_from_manifest

from . import goldens, goldens_int8
from .bundles import write_bundle
from .goldens import GOLDEN, answers, golden_inputs
from .goldens_int8 import GOLDEN_INT8


def stored_files(golden: Path) -> dict[str, bytes]:
    paths = [path for path in golden.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]
    return {path.relative_to(golden).as_posix(): path.read_bytes() for path in paths}


def test_schema_1_is_read_as_it_was_meant() -> None:
    bundle = Bundle.open(GOLDEN)
    assert bundle.manifest == goldens.golden_manifest(stored_files(GOLDEN))
    assert bundle.labels() == ("tabby cat", "café", "blue", "none")


def test_schema_1_with_int8_is_read_as_it_was_meant(update_goldens: bool) -> None:
    if update_goldens:
        files = goldens_int8.golden_files()
        write_bundle(GOLDEN_INT8, files, goldens_int8.golden_manifest(files))
    bundle = Bundle.open(GOLDEN_INT8)
    assert bundle.manifest == goldens_int8.golden_manifest(stored_files(GOLDEN_INT8))


def test_schema_1_is_written_as_it_was() -> None:
    bundle = Bundle.open(GOLDEN_INT8)
    assert bytes_from_manifest(bundle.manifest) == (GOLDEN_INT8 / MANIFEST_NAME).read_bytes()


def test_what_was_added_to_schema_1_is_absent_in_the_first_golden() -> None:
    """Else its reading would show nothing. What is written of it today differs by those keys alone."""
    data = (GOLDEN / MANIFEST_NAME).read_bytes()
    written = json.loads(bytes_from_manifest(Bundle.open(GOLDEN).manifest))
    assert written.pop("calibration") is None
    for variant in written["variants"]:
        assert variant.pop("speeds") == []
        assert variant["gate"].pop("accuracy") is None
    stored = json.loads(data)
    assert {**written, "sha256": None} == {**stored, "sha256": None}


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_INT8], ids=lambda path: path.name)
def test_every_file_of_schema_1_matches_its_digest(golden: Path) -> None:
    bundle = Bundle.open(golden)
    manifest = bundle.manifest
    records = [item.file for item in (*manifest.variants, *manifest.engines)]
    records += [record for record in (manifest.labels, manifest.calibration) if record is not None]
    for record in [*records, manifest.check, manifest.report]:
        assert bundle.read(record) == (golden / record.path).read_bytes()


def test_check_data_of_schema_1() -> None:
    data = Bundle.open(GOLDEN).check_data()
    np.testing.assert_array_equal(data.inputs, golden_inputs())
    # The inputs are multiples of 1/64 and the weights integers: every sum is exact.
    np.testing.assert_array_equal(data.outputs["logits"], answers(golden_inputs()))


def test_schema_1_still_answers() -> None:
    with resnet_runtime.load(GOLDEN, backend="onnxruntime", precision="fp32") as session:
        found = session.infer(golden_inputs())["logits"]
    np.testing.assert_array_equal(found, answers(golden_inputs()).astype(np.float32))  # exact, as above


@pytest.mark.parametrize("backend", BACKENDS)
def test_schema_1_with_int8_still_answers(backend: str) -> None:
    if "int8" not in facts_of(backend).precisions:
        pytest.skip(f"{backend} computes no int8 on this CPU")
    data = Bundle.open(GOLDEN_INT8).check_data()
    with resnet_runtime.load(GOLDEN_INT8, backend=backend, precision="int8") as session:
        assert session.choice.variant == "int8-cpu"
        found = session.infer(data.inputs)["logits"]
    np.testing.assert_array_equal(found, data.outputs["logits"])  # every value is a multiple of its scale


@pytest.mark.parametrize("golden", [GOLDEN, GOLDEN_INT8], ids=lambda path: path.name)
def test_the_goldens_pass_their_own_gates(golden: Path) -> None:
    checks = check_bundle(golden)
    assert [check.faults for check in checks] == [()] * len(checks)
    ran = {(check.variant, check.backend) for check in checks if check.passed}
    assert {("fp32", backend) for backend in BACKENDS} <= ran
    refused = {check.variant for check in checks if check.unavailable is not None and "TensorRT" in check.unavailable}
    assert refused == ({"int8-tensorrt"} if golden == GOLDEN_INT8 else set())
