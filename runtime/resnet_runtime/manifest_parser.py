"""``Manifest`` from the bytes of a ``manifest.json``: by hand, strictly, with every fault listed at once."""

from __future__ import annotations

import re
from collections import Counter

from . import manifest as m
from . import strictjson
from .errors import ManifestError
from .json_fields import Fields, kind_of, shortened

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_FAULTS = 50
_ROUNDING = 1e-9
"""Points that 100 (eager - measured) may be off, computed from two quotients."""


def manifest_from_bytes(data: bytes, *, name: str = m.MANIFEST_NAME) -> m.Manifest:
    """Parse and validate.

    Args:
        data: the file's bytes.
        name: what to call the file in messages.

    Raises:
        ManifestError: the bytes are not a manifest of a known schema, or its digest does not match.
    """
    try:
        value = strictjson.loads(data)
    except strictjson.StrictJSONError as error:
        raise ManifestError(f"{name} is not valid: {error}") from None
    if not isinstance(value, dict):
        raise ManifestError(f"{name} is not valid: it holds a JSON {kind_of(value)}, not an object")
    schema = value.get("schema")
    if schema != m.SCHEMA:
        raise ManifestError(
            f"{name} has the schema {shortened(schema)}, and this version reads {m.SCHEMA!r}: "
            "install the resnet-export version that wrote it, or export the model again"
        )
    faults: list[str] = []
    parsed = _manifest(Fields(value, "", faults))
    if not faults:
        _check_references(parsed, faults)
    if faults:
        more = len(faults) - _MAX_FAULTS
        details = faults[:_MAX_FAULTS] + ([f"and {more} more"] if more > 0 else [])
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ManifestError(f"{name} is not valid, with {count}: {faults[0]}", details=details[1:])
    if value["sha256"] != m.own_digest(data):
        raise ManifestError(
            f"{name} does not match its own SHA-256: it was changed after it was written; copy the bundle again"
        )
    return parsed


def _manifest(f: Fields) -> m.Manifest:
    parsed = m.Manifest(
        schema=f.text("schema"),
        tools=f.mapping("tools"),
        model=f.record("model", _model),
        input=f.record("input", _input),
        outputs=f.records("outputs", _output),
        preprocessing=f.record("preprocessing", _preprocessing),
        variants=f.records("variants", _variant),
        engines=f.records("engines", _engine),
        check=f.record("check", _file),
        report=f.record("report", _file),
        labels=f.optional_record("labels", _file),
        calibration=f.optional_record("calibration", _file, may_lack=True),
    )
    f.text("sha256", pattern=_DIGEST)
    f.done()
    return parsed


def _file(f: Fields) -> m.FileRecord:
    return m.FileRecord(
        path=f.text("path", pattern=_PATH), sha256=f.text("sha256", pattern=_DIGEST), size=f.integer("size")
    )


def _source(f: Fields) -> m.Source:
    return m.Source(name=f.text("name"), sha256=f.text("sha256", pattern=_DIGEST), size=f.integer("size"))


def _assumption(f: Fields) -> m.Assumption:
    return m.Assumption(subject=f.text("subject"), value=f.text("value"), option=f.text("option"))


def _model(f: Fields) -> m.Model:
    return m.Model(
        architecture=f.text("architecture"),
        parameters=f.integer("parameters"),
        source=f.record("source", _source),
        traced_by=f.text("traced_by"),
        assumptions=f.records("assumptions", _assumption),
    )


def _batch(f: Fields) -> m.Batch:
    batch = m.Batch(smallest=f.integer("smallest", 1), optimal=f.integer("optimal", 1), largest=f.integer("largest", 1))
    if not batch.smallest <= batch.optimal <= batch.largest:
        f.fault("", "does not go up from smallest over optimal to largest")
    return batch


def _input(f: Fields) -> m.Input:
    shape = f.integers("shape", 3)
    parsed = m.Input(
        name=f.text("name"),
        layout=f.text("layout", m.LAYOUTS),
        dtype=f.text("dtype", m.INPUT_DTYPES),
        shape=(shape[0], shape[1], shape[2]),
        batch=f.record("batch", _batch),
    )
    if parsed.dtype == "uint8" and parsed.layout == "NCHW":
        f.fault("layout", "is NCHW, and a uint8 input is NHWC")
    return parsed


def _output(f: Fields) -> m.Output:
    return m.Output(name=f.text("name"), shape=f.integers("shape"))


def _resize(f: Fields) -> m.Resize:
    parsed = m.Resize(
        mode=f.text("mode", m.RESIZE_MODES),
        size=f.integers("size"),
        interpolation=f.text("interpolation", m.INTERPOLATIONS),
        antialias=f.boolean("antialias"),
    )
    if len(parsed.size) != (1 if parsed.mode == "shorter" else 2):
        f.fault("size", f"has {len(parsed.size)} items, which does not fit the mode {parsed.mode!r}")
    if not parsed.antialias and parsed.interpolation not in ("", "nearest", "bilinear", "bicubic"):
        f.fault("antialias", f"is false, and {parsed.interpolation} is not defined without")
    return parsed


def _preprocessing(f: Fields) -> m.Preprocessing:
    crop = f.raw("crop")
    parsed = m.Preprocessing(
        exif=f.text("exif", m.EXIF_RULES),
        alpha=f.text("alpha", m.ALPHA_RULES),
        color_order=f.text("color_order", m.COLOR_ORDERS),
        resize=f.optional_record("resize", _resize),
        crop=None if crop is None else f.integers("crop", 2)[:2],  # type: ignore[arg-type]
        scale=f.number("scale"),
        mean=f.numbers("mean"),
        std=f.numbers("std"),
        in_graph=f.boolean("in_graph"),
    )
    if any(value <= 0 for value in parsed.std):
        f.fault("std", "has a value that is not positive")
    return parsed


def _limits(f: Fields) -> m.Limits:
    return m.Limits(
        max_error=f.optional_number("max_error"),
        mean_error=f.optional_number("mean_error"),
        centred_cosine=f.optional_number("centred_cosine"),
        top1_agreement=f.optional_number("top1_agreement"),
    )


def parity_from_fields(f: Fields) -> m.Parity:
    """The figures of a gate, also where they stand in another file than the manifest."""
    return m.Parity(
        samples=f.integer("samples", 1),
        undecided=f.integer("undecided"),
        max_error=f.number("max_error"),
        mean_error=f.number("mean_error"),
        centred_cosine=f.number("centred_cosine"),
        snr_db=f.number("snr_db"),
        top1_agreement=f.number("top1_agreement"),
        top5_agreement=f.number("top5_agreement"),
    )


def _accuracy(f: Fields) -> m.Accuracy:
    parsed = m.Accuracy(
        samples=f.integer("samples", 1),
        labelled=f.boolean("labelled"),
        eager=f.number("eager"),
        measured=f.number("measured"),
        max_drop=f.optional_number("max_drop"),
    )
    for key, value in (("eager", parsed.eager), ("measured", parsed.measured)):
        if not 0 <= value <= 1:
            f.fault(key, f"is {value:g}, not between 0 and 1")
    if parsed.max_drop is not None and not 0 <= parsed.max_drop <= 100:
        f.fault("max_drop", f"is {parsed.max_drop:g}, not between 0 and 100 points")
    return parsed


def _gate(f: Fields) -> m.Gate:
    return m.Gate(
        passed=f.boolean("passed"),
        executor=f.text("executor"),
        emulated=f.boolean("emulated"),
        limits=f.record("limits", _limits),
        parity=f.record("parity", parity_from_fields),
        accuracy=f.optional_record("accuracy", _accuracy, may_lack=True),
    )


def _kept(f: Fields) -> m.KeptLayer:
    return m.KeptLayer(node=f.text("node"), precision=f.text("precision", m.PRECISIONS), reason=f.text("reason"))


def _speed(f: Fields) -> m.Speed:
    return m.Speed(
        backend=f.text("backend"),
        against=f.text("against"),
        ratio=f.positive("ratio"),
        batch=f.integer("batch", 1),
        instructions=f.text("instructions"),
    )


def _variant(f: Fields) -> m.Variant:
    return m.Variant(
        id=f.text("id"),
        precision=f.text("precision", m.PRECISIONS),
        scheme=f.optional_text("scheme", m.SCHEMES),
        file=f.record("file", _file),
        gate=f.record("gate", _gate),
        kept_higher=f.records("kept_higher", _kept),
        speeds=f.records("speeds", _speed, may_lack=True),
    )


def _engine(f: Fields) -> m.Engine:
    return m.Engine(
        id=f.text("id"),
        variant=f.text("variant"),
        file=f.record("file", _file),
        builder=f.text("builder"),
        builder_version=f.text("builder_version"),
        platform=f.text("platform"),
        gpu=f.optional_text("gpu"),
        compute_capabilities=f.texts("compute_capabilities"),
        compatibility=f.text("compatibility"),
        profiles=f.records("profiles", _batch),
        verified_on=f.optional_text("verified_on"),
    )


def _check_references(parsed: m.Manifest, faults: list[str]) -> None:
    """What one record says of another."""
    for what, names in (
        ("variants", [variant.id for variant in parsed.variants]),
        ("engines", [engine.id for engine in parsed.engines]),
        ("outputs", [output.name for output in parsed.outputs]),
    ):
        faults.extend(
            f"{what} holds {name!r} twice" for name in sorted(n for n, count in Counter(names).items() if count > 1)
        )
    if not parsed.outputs:
        faults.append("outputs is empty")
    if not parsed.variants:
        faults.append("variants is empty")
    faults.extend(
        f"engines: {engine.id!r} is of the variant {engine.variant!r}, which is not in variants"
        for engine in parsed.engines
        if parsed.variant(engine.variant) is None
    )
    for variant in parsed.variants:
        _check_variant(variant, parsed, faults)
    channels = parsed.input.channels
    if channels != (1 if parsed.preprocessing.color_order == "L" else 3):
        faults.append(f"preprocessing.color_order {parsed.preprocessing.color_order} does not give {channels} channels")
    for name, values in (("mean", parsed.preprocessing.mean), ("std", parsed.preprocessing.std)):
        if len(values) != channels:
            faults.append(f"preprocessing.{name} has {len(values)} items, and the input has {channels} channels")
    if parsed.preprocessing.in_graph != (parsed.input.dtype == "uint8"):
        faults.append(f"preprocessing.in_graph does not fit an input of dtype {parsed.input.dtype}")
    records = [variant.file for variant in parsed.variants] + [engine.file for engine in parsed.engines]
    records += [parsed.check, parsed.report]
    records += [record for record in (parsed.labels, parsed.calibration) if record is not None]
    seen: dict[str, m.FileRecord] = {}
    for record in records:
        if seen.setdefault(record.path, record) != record:
            faults.append(f"{record.path!r} stands with two digests or sizes")


def _check_variant(variant: m.Variant, parsed: m.Manifest, faults: list[str]) -> None:
    """What a variant says of itself and of the others."""
    name = f"variants: {variant.id!r}"
    if variant.precision == "int8" and variant.scheme is None:
        faults.append(f"{name} is int8 and has no scheme: it is one of {', '.join(m.SCHEMES)}")
    if variant.precision != "int8" and variant.scheme is not None:
        faults.append(f"{name} is {variant.precision} and has the scheme {variant.scheme!r}, which int8 alone has")
    if not variant.gate.passed:
        faults.append(f"{name} did not pass its gate")
    faults.extend(
        f"{name} has a speed against {speed.against!r}, which is not another one of variants"
        for speed in variant.speeds
        if speed.against == variant.id or parsed.variant(speed.against) is None
    )
    accuracy = variant.gate.accuracy
    if accuracy is None:
        return
    if not accuracy.labelled and accuracy.eager != 1:
        faults.append(f"{name} was evaluated without labels, where eager's accuracy is 1, not {accuracy.eager:g}")
    if accuracy.max_drop is not None and accuracy.drop > accuracy.max_drop + _ROUNDING:
        faults.append(f"{name} loses {accuracy.drop:g} points of accuracy, and {accuracy.max_drop:g} are allowed")
