"""Bundles of every schema that was ever written stay readable.

A golden of a schema that was released is never written anew: ``--update-goldens`` is for the schema that is being made.
"""

from __future__ import annotations

import numpy as np

import resnet_runtime
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import MANIFEST_NAME, bytes_from_manifest

from .bundles import write_bundle
from .goldens import GOLDEN, answers, golden_files, golden_inputs, golden_manifest


def stored_files() -> dict[str, bytes]:
    paths = [path for path in GOLDEN.rglob("*") if path.is_file() and path.name != MANIFEST_NAME]
    return {path.relative_to(GOLDEN).as_posix(): path.read_bytes() for path in paths}


def test_schema_1_is_read_as_it_was_meant(update_goldens: bool) -> None:
    if update_goldens:
        files = golden_files()
        write_bundle(GOLDEN, files, golden_manifest(files))
    bundle = Bundle.open(GOLDEN)
    assert bundle.manifest == golden_manifest(stored_files())
    assert bundle.labels() == ("tabby cat", "café", "blue", "none")


def test_schema_1_is_written_as_it_was() -> None:
    bundle = Bundle.open(GOLDEN)
    assert bytes_from_manifest(bundle.manifest) == (GOLDEN / MANIFEST_NAME).read_bytes()


def test_every_file_of_schema_1_matches_its_digest() -> None:
    bundle = Bundle.open(GOLDEN)
    manifest = bundle.manifest
    records = [item.file for item in (*manifest.variants, *manifest.engines)]
    for record in [*records, manifest.check, manifest.report, manifest.labels]:
        assert record is not None
        assert bundle.read(record) == (GOLDEN / record.path).read_bytes()


def test_check_data_of_schema_1() -> None:
    data = Bundle.open(GOLDEN).check_data()
    np.testing.assert_array_equal(data.inputs, golden_inputs())
    # The inputs are multiples of 1/64 and the weights integers: every sum is exact.
    np.testing.assert_array_equal(data.outputs["logits"], answers(golden_inputs()))


def test_schema_1_still_answers() -> None:
    with resnet_runtime.load(GOLDEN, backend="onnxruntime", precision="fp32") as session:
        found = session.infer(golden_inputs())["logits"]
    np.testing.assert_array_equal(found, answers(golden_inputs()).astype(np.float32))  # exact, as above
