"""The bundle's own inputs: figures, verdicts and words are Python's, and so is what is done with an engine."""

from __future__ import annotations

import dataclasses
import functools
import io
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_runtime.backends.base import NATIVE, BackendFacts
from resnet_runtime.bundle import Bundle
from resnet_runtime.check import check_bundle
from resnet_runtime.engine_fit import VERSIONS, verified_name
from resnet_runtime.errors import ResnetRuntimeError
from resnet_runtime.loading import session_from_bundle
from resnet_runtime.manifest import MANIFEST_NAME, Limits, bytes_from_manifest
from resnet_runtime.parity import faults, parity, tie_of
from tests.runtime.bundles import record
from tests.runtime.engines import INFO, TensorRTHost, engine_of, variant_of, write_engines
from tests.runtime.graphs import write_linear

from .conftest import BUILD, Probe

Array = NDArray[Any]
NONE = Limits(max_error=None, mean_error=None, centred_cosine=None, top1_agreement=None)
VERSION = "10.13.2.6"


def simulated(*arguments: str | Path) -> list[str]:
    done = subprocess.run([BUILD / "simulated", *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return line.split("\t")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_passes_on_this_host_as_in_python(precision: str, tiny_bundle: Path, probe: Probe) -> None:
    checks = check_bundle(tiny_bundle, backend="openvino")
    (wanted,) = (one.parity for one in checks if one.precision == precision and one.parity is not None)
    ((verdict, samples, worst, cosine),) = probe("check", tiny_bundle, "openvino", precision)
    assert (verdict, samples) == ("ok", str(wanted.samples))
    assert float(worst) == pytest.approx(wanted.max_error, rel=1e-2, abs=1e-6)  # of several threads, and six digits
    assert float(cosine) == pytest.approx(wanted.centred_cosine, abs=1e-4)


def test_a_bundle_that_fails_says_what_python_says(tiny_bundle: Path, tmp_path: Path, probe: Probe) -> None:
    path = tmp_path / "b"
    subprocess.run(["cp", "-r", tiny_bundle, path], check=True)
    manifest = Bundle.open(path).manifest
    strict = Limits(max_error=1e-12, mean_error=None, centred_cosine=None, top1_agreement=None)
    variants = tuple(
        dataclasses.replace(one, gate=dataclasses.replace(one.gate, limits=strict)) for one in manifest.variants
    )
    (path / MANIFEST_NAME).write_bytes(bytes_from_manifest(dataclasses.replace(manifest, variants=variants)))
    (wanted,) = (one for one in check_bundle(path, backend="openvino") if one.precision == "fp32")
    ((kind, message, detail),) = probe("check", path, "openvino", "fp32")
    assert (kind, message) == ("CheckError", "the bundle does not compute on this host what the model computed")
    assert detail.partition(" of the spread")[0][:24] == f"{wanted.title}: {wanted.faults[0]}"[:24]
    assert detail.endswith("of the spread, 0.000% allowed")


def noisy(scale: float) -> Callable[[Array], Array]:
    return lambda answers: answers + np.random.default_rng(1).normal(0, scale, answers.shape)


ANSWERS: dict[str, Callable[[Array], Array]] = {
    "exact": lambda answers: answers,
    "a little off": noisy(0.01),
    "far off": noisy(0.5),
    "other answers": lambda answers: answers[::-1],
    "constant": lambda answers: np.full_like(answers, 0.25),
    "not finite": lambda answers: np.where(np.arange(answers.size).reshape(answers.shape) == 5, np.nan, answers),
    "infinite": lambda answers: np.where(np.arange(answers.size).reshape(answers.shape) == 3, np.inf, answers),
    "a bias": lambda answers: answers + np.arange(answers.shape[1]),
    "equal": lambda answers: np.round(answers, 0),
}
LIMITS = {
    "no limits": NONE,
    "fp16": Limits(max_error=0.02, mean_error=0.003, centred_cosine=None, top1_agreement=0.995),
    "int8": Limits(max_error=None, mean_error=None, centred_cosine=0.98, top1_agreement=0.95),
}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("answers", ANSWERS)
def test_the_figures_are_pythons(answers: str, limits: str, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "b", variants=(variant_of("fp32", LIMITS[limits]),))
    expected = Bundle.open(path).check_data().outputs
    actual = {name: ANSWERS[answers](array).astype(np.float32) for name, array in expected.items()}
    (tmp_path / "rows").write_bytes(b"".join(actual[name].tobytes() for name in expected))
    wanted = parity(expected, actual, tie=tie_of(LIMITS[limits]))
    verdict, *found = simulated("check", path, "fp32", tmp_path / "rows")
    said = faults(wanted, LIMITS[limits])
    if said:
        assert verdict == "CheckError"
        assert found == [
            "the bundle does not compute on this host what the model computed",
            *(f"fp32 on simulated: {fault}" for fault in said),
        ]
        return
    assert verdict == "ok"
    assert [float(value) for value in found] == pytest.approx(list(dataclasses.astuple(wanted)), rel=1e-9, abs=1e-12)


def written(inputs: Array, outputs: dict[str, Array], *, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"input": inputs, **{f"output.{name}": array for name, array in outputs.items()}}
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def other_member(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """With the member ``input.npy`` changed, and its checksum right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name == "input.npy" else content)
    return made.getvalue()


def headed(old: bytes, new: bytes) -> Callable[[Array, dict[str, Array]], bytes]:
    """The header of the inputs changed, and as long as it was."""

    def change(npy: bytes) -> bytes:
        padding = b" " * (len(new) - len(old))
        return npy.replace(old, new, 1).replace(padding + b"\n", b"\n", 1)

    return lambda inputs, outputs: other_member(written(inputs, outputs), change)


def each(change: Callable[[Array], Array]) -> Callable[[Array, dict[str, Array]], bytes]:
    """The outputs changed."""
    return lambda inputs, outputs: written(inputs, {name: change(array) for name, array in outputs.items()})


FILES: dict[str, tuple[str, Callable[[Array, dict[str, Array]], bytes]]] = {
    "stored": ("ok", written),
    "deflated": ("ok", functools.partial(written, packed=True)),
    "in Fortran's order": ("ok", each(np.asfortranarray)),
    "inputs in Fortran's order": ("ok", lambda i, o: written(np.asfortranarray(i), o)),
    "in float32": ("ok", each(lambda array: array.astype(np.float32))),
    "integers": ("BundleError", each(lambda array: array.astype(np.int64))),
    "big-endian": ("BundleError", lambda i, o: written(i.astype(">f4"), o)),
    "no inputs": ("BundleError", lambda i, o: written(i[:0], {n: a[:0] for n, a in o.items()})),
    "another shape": ("BundleError", lambda i, o: written(i[:, :1], o)),
    "a number": ("BundleError", lambda i, o: written(np.array(1, np.float32), o)),
    "fewer answers": ("BundleError", each(lambda array: array[:-1])),
    "an output less": ("BundleError", lambda i, o: written(i, dict(list(o.items())[:1]))),
    "no zip": ("BundleError", lambda i, o: b"PK is how one begins"),
    "empty": ("BundleError", lambda i, o: b"\n"),
    "cut": ("BundleError", lambda i, o: written(i, o)[:-30]),
    "its end cut": ("BundleError", lambda i, o: written(i, o)[:-3]),
    "flipped": ("BundleError", lambda i, o: written(i, o).replace(i.tobytes()[:64], bytes(64), 1)),
    "flipped in the deflated": ("BundleError", lambda i, o: flip(written(i, o, packed=True), 200)),
    "too short": ("BundleError", lambda i, o: other_member(written(i, o), lambda npy: npy[:-4])),
    "something after the array": ("ok", lambda i, o: other_member(written(i, o), lambda npy: npy + b"more")),
    "a structured type": ("BundleError", headed(b"'<f4'", b"[('<f4', '<f4')]")),
    "no array": ("BundleError", lambda i, o: other_member(written(i, o), lambda npy: b"text")),
    "no header": ("BundleError", headed(b"descr", b"dascr")),
    "a huge shape": ("BundleError", headed(b"(8, ", b"(9999999999, ")),
    "a negative shape": ("BundleError", headed(b"(8, ", b"(-8, ")),
}


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_every_check_file_has_pythons_verdict(name: str, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "b", variants=(variant_of("fp32", NONE),))
    bundle = Bundle.open(path)
    data = bundle.check_data()
    wanted, make = FILES[name]
    outputs = {key: np.asarray(array, np.float64) for key, array in data.outputs.items()}
    changed = make(data.inputs, outputs)
    (path / "check.npz").write_bytes(changed)
    manifest = dataclasses.replace(bundle.manifest, check=record("check.npz", changed))
    (path / MANIFEST_NAME).write_bytes(bytes_from_manifest(manifest))
    rows = b"".join(array.astype(np.float32).tobytes() for array in outputs.values())
    (tmp_path / "rows").write_bytes(rows)
    try:
        Bundle.open(path).check_data()
        python = ["ok"]
    except ResnetRuntimeError as error:
        python = [type(error).__name__, error.message]
    kind, *said = simulated("check", path, "fp32", tmp_path / "rows")
    assert (kind, python[0]) == (wanted, wanted)
    if wanted != "ok":
        assert said[0].startswith(f"{path}: ")
        assert "check.npz" in said[0]


def verdict(path: Path, backend: str, precision: str) -> list[str]:
    """What Python does, as the program prints it."""
    here = TensorRTHost(version=VERSION)
    cpu = BackendFacts("openvino", "2026", precisions={"fp32": NATIVE})
    try:
        with session_from_bundle(
            Bundle.open(path), host=(here.facts, cpu), opener=here.open, backend=backend, precision=precision
        ) as session:
            choice = session.choice
    except ResnetRuntimeError as error:
        return [type(error).__name__, error.message, *error.details]
    return ["ok", choice.backend, choice.variant, choice.engine or "none", " ".join(here.opened), *choice.reasons]


HERE = f"{INFO.name}, tensorrt {VERSION}"
AMPERE = {"compute_capabilities": ("8.0",), "compatibility": "ampere_plus", "gpu": "NVIDIA A100"}
ENGINES: dict[str, list[tuple[str, str, str, dict[str, Any]]]] = {
    "none": [],
    "right": [("half", "fp16", "right", {})],
    "wrong": [("half", "fp16", "wrong", {})],
    "verified": [("half", "fp16", "wrong", {"verified_on": HERE})],  # so that it is not looked at again
    "verified elsewhere": [("half", "fp16", "wrong", {"verified_on": "NVIDIA A10, tensorrt 10.13.2.6"})],
    "wrong, then right": [("one", "fp16", "wrong", {}), ("two", "fp16", "right", {})],
    "the verified first": [("one", "fp16", "right", {}), ("two", "fp16", "right", {"verified_on": HERE})],
    "wrong, fp32": [("half", "fp16", "wrong", {}), ("whole", "fp32", "right", {})],
    "another version": [("half", "fp16", "right", {"builder_version": "10.13.1.6"})],
    "an older one that newer ones run": [
        ("half", "fp16", "right", {"builder_version": "10.1.0.27", "compatibility": "device" + VERSIONS})
    ],
    "another GPU": [("half", "fp16", "right", {"gpu": "NVIDIA A10"})],
    "another capability": [("half", "fp16", "right", {"compute_capabilities": ("9.0",)})],
    "from Ampere on": [("half", "fp16", "right", AMPERE)],
    "another platform": [("half", "fp16", "right", {"platform": "windows-amd64"})],
    "of TensorRT-RTX": [("half", "fp16", "right", {"builder": "tensorrt-rtx", "compatibility": "portable"})],
}  # fmt: skip


@pytest.mark.parametrize(("backend", "precision"), [("auto", "auto"), ("tensorrt", "auto"), ("auto", "fp16")])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_taken_as_python_takes_it(
    name: str, backend: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no verdict is kept there
    made = [
        (engine_of(engine, variant, kind, **{"builder_version": VERSION, **changes}), kind)
        for engine, variant, kind, changes in ENGINES[name]
    ]
    path = write_engines(tmp_path / "b", *made)
    outputs = Bundle.open(path).check_data().outputs
    (tmp_path / "rows").write_bytes(b"".join(array.astype(np.float32).tobytes() for array in outputs.values()))
    found = simulated("engines", path, backend, precision, VERSION, INFO.name, "8.9", tmp_path / "rows")
    wanted = verdict(path, backend, precision)
    assert [part.strip() for part in found] == wanted


def test_what_was_verified_here_reads_as_in_python() -> None:
    assert verified_name(TensorRTHost(version=VERSION).host) == HERE


def test_a_damaged_engine_is_passed_over(tmp_path: Path) -> None:
    path = write_engines(tmp_path / "b", (engine_of("half", "fp16", "damaged", builder_version=VERSION), "damaged"))
    outputs = Bundle.open(path).check_data().outputs
    (tmp_path / "rows").write_bytes(b"".join(array.astype(np.float32).tobytes() for array in outputs.values()))
    found = simulated("engines", path, "auto", "auto", VERSION, INFO.name, "8.9", tmp_path / "rows")
    assert found[:5] == ["ok", "openvino", "fp32", "none", "half "]
    assert "fp16 on tensorrt: the engine is damaged" in found
