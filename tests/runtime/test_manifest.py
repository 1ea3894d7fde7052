"""manifest.json: what is written is read, and every malformed one is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_runtime.errors import BundleError, ManifestError
from resnet_runtime.manifest import (
    SCHEMA,
    ZEROS,
    Accuracy,
    Assumption,
    Batch,
    Engine,
    FileRecord,
    KeptLayer,
    Limits,
    Manifest,
    Output,
    Resize,
    Speed,
    Variant,
    bytes_from_manifest,
    own_digest,
)
from resnet_runtime.manifest_parser import manifest_from_bytes

from .bundles import replaced, sample_files, sample_gate, sample_manifest, sample_preprocessing

ACCURACY = Accuracy(samples=1000, labelled=True, eager=0.75, measured=0.745, max_drop=1.0)
FULL_FILE = FileRecord(path="engines/fp16.engine", sha256="e" * 64, size=2**53 - 1)


def full_manifest() -> Manifest:
    """Every record and every kind of value that the schema has."""
    manifest = sample_manifest(
        sample_files(),
        tools={"torch": "2.13.0", "café": '\N{GRINNING FACE} "quoted"\n'},
        outputs=(Output(name="logits", shape=(4,)), Output(name="features", shape=(8, 2, 2))),
        preprocessing=sample_preprocessing(
            resize=Resize(mode="shorter", size=(9,), interpolation="bicubic", antialias=False),
            crop=(8, 8),
            mean=(0.485, 0.456, 0.406),
            std=(0.1, 1e-30, 3.0),
        ),
        calibration=FileRecord(path="calibration.json", sha256="c" * 64, size=7),
        engines=(
            Engine(
                id="fp16-hopper",
                variant="int8-cpu",
                file=FULL_FILE,
                builder="tensorrt",
                builder_version="11.0.0",
                platform="linux-x86_64",
                gpu="NVIDIA H100",
                compute_capabilities=("9.0",),
                compatibility="none",
                profiles=(Batch(smallest=1, optimal=8, largest=32),),
                verified_on=None,
            ),
        ),
    )
    quantized = Variant(
        id="int8-cpu",
        precision="int8",
        scheme="cpu",
        file=FileRecord(path="model.int8-cpu.onnx", sha256="a" * 64, size=0),
        gate=sample_gate(emulated=True, limits=Limits(centred_cosine=0.98), accuracy=ACCURACY),
        kept_higher=(KeptLayer(node="conv1", precision="fp32", reason="the first one"),),
        speeds=(Speed(backend="openvino", against="fp32", ratio=2.5, batch=1, instructions="avx512_vnni"),),
    )
    manifest = replaced(manifest, "variants", (*manifest.variants, quantized))
    return replaced(manifest, "model.assumptions", (Assumption(subject="mean", value="0.5", option="--mean"),))


def document() -> dict[str, Any]:
    return json.loads(bytes_from_manifest(full_manifest()))


def data_from(value: Any) -> bytes:
    """The bytes of a manifest with the right digest, whatever else may be wrong with it."""
    if isinstance(value, dict) and isinstance(value.get("sha256"), str):
        value["sha256"] = ZEROS
    data = (json.dumps(value, indent=2) + "\n").encode()
    return data.replace(ZEROS.encode(), own_digest(data).encode(), 1)


def refusal(data: bytes) -> str:
    with pytest.raises(ManifestError) as caught:
        manifest_from_bytes(data)
    return str(caught.value)


def edited(*path: str | int, to: Any) -> bytes:
    """The full manifest with the member at ``path`` changed, and the digest made anew."""
    whole = document()
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return data_from(whole)


def test_what_is_written_is_read() -> None:
    manifest = full_manifest()
    data = bytes_from_manifest(manifest)
    assert manifest_from_bytes(data) == manifest
    assert bytes_from_manifest(manifest_from_bytes(data)) == data


def test_the_edits_of_these_tests_keep_a_manifest_valid() -> None:
    assert manifest_from_bytes(data_from(document())) == full_manifest()
    assert manifest_from_bytes(edited("model", "parameters", to=25557032)).model.parameters == 25557032


def test_the_bytes_are_deterministic() -> None:
    manifest = full_manifest()
    turned = replaced(manifest, "tools", dict(reversed(manifest.tools.items())))
    assert bytes_from_manifest(turned) == bytes_from_manifest(manifest)


def test_the_digest_is_of_the_bytes_with_zeros_in_its_place() -> None:
    data = bytes_from_manifest(full_manifest())
    digest = json.loads(data)["sha256"]
    assert digest == hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest()


def test_duplicate_key() -> None:
    data = bytes_from_manifest(full_manifest()).replace(b'"parameters"', b'"parameters": 1,\n    "parameters"')
    assert refusal(data) == "manifest.json is not valid: the key 'parameters' stands twice in one object"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_number_that_is_not_finite(text: str) -> None:
    data = edited("preprocessing", "scale", to=12345).replace(b"12345", text.encode())
    assert refusal(data) == f"manifest.json is not valid: {text} is not a finite number"


def test_deep_nesting() -> None:
    deep: Any = []
    for _ in range(16):
        deep = [deep]
    assert refusal(edited("tools", to=deep)) == "manifest.json is not valid: it nests deeper than 16 levels"


def test_integer_of_2_to_the_53() -> None:
    message = "manifest.json is not valid: the integer 9007199254740992 is not below 2**53"
    assert refusal(edited("model", "parameters", to=2**53)) == message


def test_lone_surrogate() -> None:
    data = edited("model", "architecture", to="\ud83d")
    assert refusal(data) == "manifest.json is not valid: a string holds a lone surrogate"


def test_byte_order_mark() -> None:
    assert "BOM" in refusal(b"\xef\xbb\xbf" + bytes_from_manifest(full_manifest()))


def test_not_utf_8() -> None:
    data = bytes_from_manifest(full_manifest())
    where = data.index("café".encode()) + 3
    broken = data[:where] + b"\xe9" + data[where + 2 :]
    assert refusal(broken) == f"manifest.json is not valid: byte {where} is not UTF-8"


def test_too_large() -> None:
    data = bytes_from_manifest(full_manifest())
    padded = data + b" " * (4 * 1024 * 1024)
    assert refusal(padded) == f"manifest.json is not valid: it has {len(padded)} bytes, and 4194304 are allowed"


@pytest.mark.parametrize("value", [[], "text", 5, None, True])
def test_not_an_object(value: Any) -> None:
    assert "manifest.json is not valid: it holds a JSON" in refusal(data_from(value))


@pytest.mark.parametrize("schema", ["resnet-bundle/2", "resnet-bundle/1 ", "", 1, None])
def test_unknown_schema(schema: Any) -> None:
    assert refusal(edited("schema", to=schema)) == (
        f"manifest.json has the schema {schema!r}, and this version reads {SCHEMA!r}: "
        "install the resnet-export version that wrote it, or export the model again"
    )


def test_missing_schema() -> None:
    whole = document()
    del whole["schema"]
    assert "has the schema None" in refusal(data_from(whole))


PATHS = {
    "absolute": "/etc/passwd",
    "parent": "../model.onnx",
    "parent inside": "engines/../../model.onnx",
    "backslash": "engines\\model.onnx",
    "drive": "C:model.onnx",
    "here": "./model.onnx",
    "empty part": "engines//model.onnx",
    "folder": "engines/",
    "hidden": ".model.onnx",
    "newline": "model.onnx\n",
    "zero byte": "model\0.onnx",
    "not ASCII": "modèle.onnx",
    "space": "a model.onnx",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_path_that_leaves_the_bundle_or_reads_otherwise_elsewhere(path: str) -> None:
    assert refusal(edited("variants", 0, "file", "path", to=path)) == (
        f"manifest.json is not valid, with one fault: variants[0].file.path is {path!r}, which is not allowed there"
    )


def test_paths_that_are_allowed() -> None:
    for path in ("model.onnx", "engines/a-b_c.9/_x.engine", "1"):
        assert manifest_from_bytes(edited("report", "path", to=path)).report.path == path


def test_unknown_keys_at_every_level() -> None:
    whole = document()
    for inner in (
        whole,
        whole["model"],
        whole["model"]["source"],
        whole["input"]["batch"],
        whole["variants"][1]["gate"],
    ):
        inner["extra"] = 1
    assert refusal(data_from(whole)) == (
        "manifest.json is not valid, with 5 faults: model.source.extra is not a key of this schema\n"
        "  model.extra is not a key of this schema\n"
        "  input.batch.extra is not a key of this schema\n"
        "  variants[1].gate.extra is not a key of this schema\n"
        "  extra is not a key of this schema"
    )


def test_all_missing_keys_are_listed_at_once() -> None:
    whole = document()
    del whole["labels"]
    del whole["check"]["size"]
    del whole["variants"][0]["scheme"]
    del whole["preprocessing"]["crop"]
    del whole["preprocessing"]["mean"]
    del whole["input"]["shape"]
    message = refusal(data_from(whole))
    for path in (
        "labels",
        "check.size",
        "variants[0].scheme",
        "preprocessing.crop",
        "preprocessing.mean",
        "input.shape",
    ):
        assert f"{path} is missing" in message
    assert "with 6 faults" in message


def every_key(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all members of all objects in ``value``."""
    if isinstance(value, dict) and path != ("tools",):
        return [found for key, item in value.items() for found in [(*path, key), *every_key(item, (*path, key))]]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in every_key(item, (*path, index))]
    return []


@pytest.mark.parametrize("path", every_key(document()), ids=lambda path: ".".join(map(str, path)))
def test_every_key_is_needed_and_its_type_matters(path: tuple[str | int, ...]) -> None:
    whole = document()
    inner: Any = whole
    for key in path[:-1]:
        inner = inner[key]
    old = inner.pop(path[-1])
    if path[-1] in MAY_LACK:
        manifest_from_bytes(data_from(whole))
    else:
        refusal(data_from(whole))
    for other in (True, "", "?", -1, 1.5, [], [None], {"": 0}, None):
        if type(other) is type(old) or (other is None and path[-1] in NULLABLE):
            continue
        if isinstance(old, float) and isinstance(other, int) and not isinstance(other, bool):
            continue
        if (old is None and path[-1] in NULLABLE) and accepts(path[-1], other):
            continue
        inner[path[-1]] = other
        refusal(data_from(whole))


MAY_LACK = ("calibration", "speeds", "accuracy")
"""What was added to the schema: bundles that were written before lack it."""

NULLABLE = {
    "labels": dict,
    "calibration": dict,
    "accuracy": dict,
    "max_drop": float,
    "resize": dict,
    "crop": list,
    "scheme": str,
    "gpu": str,
    "verified_on": str,
    "max_error": float,
    "mean_error": float,
    "centred_cosine": float,
    "top1_agreement": float,
}


def accepts(key: str | int, value: Any) -> bool:
    """Whether a nullable key may have ``value`` where it was null."""
    if NULLABLE[str(key)] is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, NULLABLE[str(key)]) and bool(value)


BROKEN: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "no outputs": (("outputs",), [], "outputs is empty"),
    "no variants": (("variants",), [], "variants is empty"),
    "output twice": (("outputs", 1, "name"), "logits", "outputs holds 'logits' twice"),
    "variant twice": (("variants", 1, "id"), "fp32", "variants holds 'fp32' twice"),
    "engine of nothing": (("engines", 0, "variant"), "fp8", "which is not in variants"),
    "two digests": (("report", "path"), "check.npz", "'check.npz' stands with two digests or sizes"),
    "batch goes down": (("input", "batch", "smallest"), 3, "does not go up from smallest over optimal to largest"),
    "batch of zero": (("input", "batch", "smallest"), 0, "input.batch.smallest is 0, not an integer of at least 1"),
    "negative size": (("check", "size"), -1, "check.size is -1, not an integer of at least 0"),
    "bool for integer": (("check", "size"), True, "check.size is True, not an integer of at least 0"),
    "upper-case digest": (("check", "sha256"), "A" * 64, "which is not allowed there"),
    "short digest": (("check", "sha256"), "a" * 63, "which is not allowed there"),
    "unknown precision": (("variants", 0, "precision"), "fp8", "not one of fp32, bf16, fp16, int8"),
    "unknown layout": (("input", "layout"), "CHWN", "not one of NCHW, NHWC"),
    "unknown dtype": (("input", "dtype"), "float64", "not one of float32, uint8"),
    "shape of two": (("input", "shape"), [3, 8], "input.shape has 2 items, not 3"),
    "shape of zero": (("input", "shape"), [3, 8, 0], "input.shape is not a list of 3 positive integers"),
    "channels and order": (("preprocessing", "color_order"), "L", "color_order L does not give 3 channels"),
    "means": (("preprocessing", "mean"), [0.5], "preprocessing.mean has 1 items, and the input has 3 channels"),
    "std of zero": (("preprocessing", "std"), [1, 0, 1], "preprocessing.std has a value that is not positive"),
    "in graph": (("preprocessing", "in_graph"), True, "in_graph does not fit an input of dtype float32"),
    "resize size": (("preprocessing", "resize", "size"), [9, 9], "has 2 items, which does not fit the mode 'shorter'"),
    "no kernel": (("preprocessing", "resize", "interpolation"), "lanczos", "lanczos is not defined without"),
    "crop of one": (("preprocessing", "crop"), [8], "preprocessing.crop has 1 items, not 2"),
    "tools": (("tools",), {"torch": 2}, "tools is not an object of strings"),
}


@pytest.mark.parametrize(("path", "value", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_does_not_fit_together(path: tuple[str | int, ...], value: Any, message: str) -> None:
    assert message in refusal(edited(*path, to=value))


def test_a_failed_gate() -> None:
    assert refusal(edited("variants", 1, "gate", "passed", to=False)) == (
        "manifest.json is not valid, with one fault: variants: 'int8-cpu' did not pass its gate"
    )


def test_a_thousand_faults_are_counted_and_fifty_listed() -> None:
    message = refusal(edited("engines", to=[{}] * 100))
    assert "with 1100 faults" in message
    assert message.endswith("and 1050 more")
    assert message.count("\n") == 50


def test_flipped_byte() -> None:
    data = bytearray(bytes_from_manifest(full_manifest()))
    data[data.index(b"colors.pt")] ^= 1
    assert refusal(bytes(data)) == (
        "manifest.json does not match its own SHA-256: it was changed after it was written; copy the bundle again"
    )


def test_flipped_digit_of_the_digest() -> None:
    data = bytes_from_manifest(full_manifest())
    digest = json.loads(data)["sha256"].encode()
    other = digest[:-1] + (b"0" if digest[-1:] != b"0" else b"1")
    assert "does not match its own SHA-256" in refusal(data.replace(digest, other))


def test_every_missing_last_byte_is_noticed() -> None:
    data = bytes_from_manifest(full_manifest())
    for length in (len(data) - 1, len(data) - 2, len(data) // 2, 1, 0):
        refusal(data[:length])


ORIGINAL = bytes_from_manifest(full_manifest())
offsets = st.integers(0, len(ORIGINAL) - 1)
flips = st.tuples(st.just("flip"), offsets, st.integers(1, 255))
inserts = st.tuples(st.just("insert"), offsets, st.binary(min_size=1, max_size=8))
deletes = st.tuples(st.just("delete"), offsets, st.integers(1, 64))
truncates = st.tuples(st.just("truncate"), offsets, st.none())


def mutated(data: bytes, mutation: tuple[str, int, Any]) -> bytes:
    kind, at, how = mutation
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ how]) + data[at + 1 :] if at < len(data) else data
    if kind == "insert":
        return data[:at] + how + data[at:]
    return data[:at] if kind == "truncate" else data[:at] + data[at + how :]


@settings(max_examples=1000)
@given(st.lists(flips | inserts | deletes | truncates, min_size=1, max_size=3))
def test_no_other_bytes_are_accepted(mutations: list[tuple[str, int, Any]]) -> None:
    data = ORIGINAL
    for mutation in mutations:
        data = mutated(data, mutation)
    try:
        manifest_from_bytes(data)
    except BundleError:
        return
    assert data == ORIGINAL


@settings(max_examples=300)
@given(st.lists(flips | inserts | deletes | truncates, min_size=1, max_size=3))
def test_other_bytes_with_a_right_digest_are_parsed_or_refused(mutations: list[tuple[str, int, Any]]) -> None:
    """Past the digest, which a program that writes bundles can make, the parser itself has to hold."""
    data = ORIGINAL.replace(json.loads(ORIGINAL)["sha256"].encode(), ZEROS.encode(), 1)
    for mutation in mutations:
        data = mutated(data, mutation)
    data = data.replace(ZEROS.encode(), own_digest(data).encode(), 1)
    try:
        manifest = manifest_from_bytes(data)
    except BundleError:
        return
    assert manifest_from_bytes(bytes_from_manifest(manifest)) == manifest
