"""The same bundle, backend, threads and input: the same bits as Python's, and the same refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resnet_runtime
from resnet_runtime.backends import facts_of
from resnet_runtime.backends.openvino import LEFT_BEHIND
from resnet_runtime.errors import ResnetRuntimeError

from .conftest import BUILD, Probe, images

NAMES = ("fp32", "bf16", "fp16", "int8")


PYTHON = """
import sys, numpy, resnet_runtime
bundle, precision, threads, given, made = sys.argv[1:]
with resnet_runtime.load(bundle, backend="openvino", precision=precision, threads=int(threads)) as session:
    batch = numpy.fromfile(given, "float32").reshape(-1, *session.signature.input.shape)
    session.infer(batch)["logits"].tofile(made)
"""


# With several threads OpenVINO itself gives other last bits of int8 each time, on some CPUs.
@pytest.mark.parametrize("count", [1, 3, 8, 70])
@pytest.mark.parametrize(
    ("precision", "threads"),
    [("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2), ("fp16", 1), ("fp16", 2), ("int8", 1)],
)
def test_answers_are_pythons_bit_by_bit(
    precision: str, threads: int, count: int, tiny_bundle: Path, tmp_path: Path, probe: Probe
) -> None:
    if precision not in facts_of("openvino").precisions:
        pytest.skip(f"OpenVINO computes no {precision} on this CPU")
    images(count).tofile(tmp_path / "input")
    names = (tmp_path / "input", tmp_path / "python")
    command = [sys.executable, "-c", PYTHON, tiny_bundle, precision, str(threads), *names]
    subprocess.run(command, check=True)
    expected = np.fromfile(tmp_path / "python", np.float32)
    arguments = (tiny_bundle, "openvino", precision, str(threads), tmp_path / "input", str(count), tmp_path / "output")
    for _ in range(2):  # compiled, and then what was kept of it
        ((verdict, description),) = probe("infer", *arguments)
        assert verdict == "ok"
        assert precision in description
        assert np.array_equal(np.fromfile(tmp_path / "output.logits", np.float32), expected)


def test_many_threads_are_answered_rightly(tiny_bundle: Path, tmp_path: Path, probe: Probe) -> None:
    images(7).tofile(tmp_path / "input")
    for intent in ("latency", "throughput"):
        arguments = ("threads", tiny_bundle, tmp_path / "input", "7", "8", "200")
        assert probe(*arguments, PROBE_INTENT=intent) == [["ok", "0"]]


@pytest.mark.parametrize("precision", NAMES)
def test_the_choice_is_pythons(precision: str, tiny_bundle: Path, probe: Probe) -> None:
    if precision not in facts_of("openvino").precisions:
        pytest.skip(f"OpenVINO computes no {precision} on this CPU")
    with resnet_runtime.load(tiny_bundle, backend="openvino", precision=precision) as session:
        choice = session.choice
    ((verdict, backend, variant, chosen, _, calls, *reasons),) = probe("load", tiny_bundle, "openvino", precision, "0")
    assert (verdict, backend, variant, chosen, calls) == ("ok", choice.backend, choice.variant, choice.precision, "1")
    assert reasons == list(choice.reasons)


def test_auto_is_pythons(tiny_bundle: Path, probe: Probe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing was tuned there
    with resnet_runtime.load(tiny_bundle, backend="openvino") as session:
        choice = session.choice
    ((verdict, backend, variant, _, _, _, *reasons),) = probe("load", tiny_bundle, "openvino", "auto", "0")
    assert (verdict, backend, variant) == ("ok", choice.backend, choice.variant)
    assert reasons == list(choice.reasons)


@pytest.mark.parametrize(("backend", "precision"), [("openvino", "fp8"), ("nothing", "fp32")])
def test_what_there_is_not(backend: str, precision: str, tiny_bundle: Path, probe: Probe) -> None:
    ((kind, message),) = probe("load", tiny_bundle, backend, precision, "0")
    assert kind == "InputError"
    with pytest.raises(ResnetRuntimeError) as caught:
        resnet_runtime.load(tiny_bundle, backend=backend, precision=precision)
    assert type(caught.value).__name__ == kind
    # C++ has the backends that were compiled in
    assert message == caught.value.message.replace("auto, tensorrt, openvino, onnxruntime", "auto, openvino")


def test_a_precision_that_is_not_in_the_bundle(probe: Probe) -> None:
    golden = Path(__file__).parents[1] / "runtime" / "golden" / "resnet-bundle-1-int8"
    ((kind, message, *_),) = probe("load", golden, "openvino", "bf16", "0")
    with pytest.raises(ResnetRuntimeError) as caught:
        resnet_runtime.load(golden, backend="openvino", precision="bf16")
    assert (kind, message) == (type(caught.value).__name__, caught.value.message)


def test_a_batch_that_is_none(tiny_bundle: Path, probe: Probe) -> None:
    answers = probe("misuse", tiny_bundle)
    assert [kind for kind, _ in answers] == ["InputError"] * 6
    assert [message for _, message in answers] == [
        "the batch has the shape (), and the model takes (N, 3, 16, 16)",
        "the batch has the shape (1,), and the model takes (N, 3, 16, 16)",
        "the batch has the shape (3, 16, 16), and the model takes (N, 3, 16, 16)",
        "the batch is empty: give at least one sample",
        "the batch is empty: give at least one sample",
        "there are 0 output pointers, and the model has 1 outputs",
    ]


def test_a_session_is_loaded_after_the_fork_and_that_of_the_parent_says_so(tiny_bundle: Path, probe: Probe) -> None:
    first, child, again, parent = probe("fork", tiny_bundle)
    assert first[:3] == ["ok", "openvino", "fp32"]
    assert child == [
        "ClosedError",
        "the session was loaded before this process was forked: fork first, and load the bundle in each process",
    ]
    assert again == ["UnavailableError", LEFT_BEHIND]
    assert parent == ["ok"]


def test_the_c_interface(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(picture)
    done = subprocess.run([BUILD / "c_program", tiny_bundle, picture], capture_output=True, text=True, check=True)
    first, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert first[1:] == ["1", "logits"]
    with resnet_runtime.load(tiny_bundle, backend="openvino", precision="fp32") as session:
        expected = session.infer(session.preprocess([picture]))["logits"][0]
        assert [name for name, _ in lines] == list(session.labels or ())
    assert np.allclose([float(value) for _, value in lines], expected, atol=1e-5 * np.ptp(expected))
    failed = subprocess.run([BUILD / "c_program", tmp_path], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == f"BundleError\t{tmp_path} is not a bundle: it has no manifest.json\n"


def test_a_negative_number_of_threads_is_refused(tiny_bundle: Path, probe: Probe) -> None:
    ((kind, message),) = probe("load", tiny_bundle, "openvino", "fp32", "-1")
    assert (kind, message) == ("InputError", "threads is below 0: 0 leaves it to the library")
