"""What is the fastest here: measured, kept with all that it depends on, and believed only where that is the same."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import resnet_runtime
from resnet_runtime import tuning
from resnet_runtime.backends import host_facts
from resnet_runtime.backends.base import INTENTS, LATENCY, NATIVE, THROUGHPUT, BackendFacts
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.cli import main
from resnet_runtime.errors import InputError, UnavailableError
from resnet_runtime.manifest import Speed, Variant
from resnet_runtime.selection import choose
from resnet_runtime.session import Session
from resnet_runtime.tuning import Tuned, tune, tuned_file, tuned_lines, tuned_seconds

from .bundles import record, sample_files, sample_gate, sample_manifest
from .graphs import linear_graph, write_linear

FP32 = [("openvino", "fp32"), ("onnxruntime", "fp32")]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle.open(write_linear(tmp_path / "b"))


class Clock:
    """What a call takes is added by the call."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> tuple[Clock, dict[tuple[str, str], float]]:
    """Seconds a call by combination, 1.0 unless it is set, on a clock of their own."""
    clock, seconds = Clock(), dict[tuple[str, str], float]()
    opened = tuning.session_from_bundle

    def simulated(bundle: Bundle, **asked: Any) -> Session:
        made = opened(bundle, backend="onnxruntime", precision="fp32", measured={})

        def answer(batch: Any) -> Any:
            clock.now += seconds.get((asked["backend"], asked["precision"]), 1.0)
            return made.infer(batch)

        return opened(bundle, backend=SimulatedBackend(made.signature, answer))

    monkeypatch.setattr(tuning, "session_from_bundle", simulated)
    return clock, seconds


@pytest.mark.parametrize("intent", INTENTS)
def test_every_combination_is_measured_and_kept(bundle: Bundle, intent: str) -> None:
    host = host_facts()
    assert tuned_seconds(bundle.manifest, host, intent) == {}
    rounds: list[tuple[int, int]] = []
    measured = tune(bundle, host, intent, rounds=2, tell=lambda *told: rounds.append(told))
    found = measured.found
    assert measured.kept
    assert rounds == [(1, 2), (2, 2)]
    assert {(item.backend, item.precision) for item in found} == set(FP32)
    assert all(item.seconds is not None and 0 < item.seconds < 1 for item in found)
    assert [item.seconds for item in found] == sorted(item.seconds or 0 for item in found)
    kept = tuned_seconds(bundle.manifest, host, intent)
    assert kept == {(item.backend, item.precision): item.seconds for item in found}
    (other,) = {*INTENTS} - {intent}
    assert tuned_seconds(bundle.manifest, host, other) == {}
    batch = bundle.manifest.input.batch
    assert {item.batch for item in found} == {batch.optimal if intent == THROUGHPUT else batch.smallest}


@pytest.mark.parametrize(("fast", "slow"), [FP32, FP32[::-1]])
def test_load_takes_what_was_the_fastest(
    bundle: Bundle, speeds: tuple[Clock, dict[tuple[str, str], float]], fast: tuple[str, str], slow: tuple[str, str]
) -> None:
    clock, seconds = speeds
    seconds[fast], seconds[slow] = 0.002, 0.003
    tune(bundle, host_facts(), LATENCY, rounds=3, clock=clock)
    with resnet_runtime.load(bundle.path) as session:
        assert (session.choice.backend, session.choice.precision) == fast
        assert session.choice.reasons[-1] == f"fp32 on {fast[0]}: the fastest that was measured here, 2 ms a batch"
    with resnet_runtime.load(bundle.path, backend=slow[0]) as session:
        assert session.choice.backend == slow[0]
    with resnet_runtime.load(bundle.path, intent=THROUGHPUT) as session:
        assert session.choice.backend == "openvino", "nothing was measured for it"


def manifest_of(*variants: Variant) -> Any:
    return dataclasses.replace(sample_manifest(sample_files()), variants=variants)


def variant(name: str, **changes: Any) -> Variant:
    precision, _, scheme = name.partition("-")
    file = record("model.fp32.onnx", linear_graph())
    made = Variant(id=name, precision=precision, scheme=scheme or None, file=file, gate=sample_gate())
    return dataclasses.replace(made, **changes)


HOST = (
    BackendFacts("openvino", "1", precisions=dict.fromkeys(("fp32", "bf16", "int8"), NATIVE), instructions="amx_int8"),
    BackendFacts("onnxruntime", "1", precisions=dict.fromkeys(("fp32", "int8"), NATIVE), instructions="amx_int8"),
)
FASTER = Speed(backend="openvino", against="bf16", ratio=2.0, batch=1, instructions="amx_int8")


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({}, ("openvino", "int8")),
        ({("openvino", "int8"): 1.0, ("openvino", "bf16"): 1.31}, ("openvino", "int8")),
        ({("openvino", "int8"): 1.0, ("openvino", "bf16"): 1.29}, ("openvino", "bf16")),
        ({("openvino", "int8"): 1.0, ("onnxruntime", "int8"): 0.9, ("openvino", "bf16"): 1.5}, ("onnxruntime", "int8")),
        ({("openvino", "int8"): 9.0, ("onnxruntime", "fp32"): 1.0, ("openvino", "bf16"): 1.5}, ("onnxruntime", "fp32")),
        ({("onnxruntime", "int8"): 1.0}, ("onnxruntime", "int8")),
    ],
)
def test_int8_has_to_be_worth_it_here_too(measured: dict[tuple[str, str], float], expected: tuple[str, str]) -> None:
    held = manifest_of(variant("fp32"), variant("bf16"), variant("int8-cpu", speeds=(FASTER,)))
    choice = choose(held, HOST, measured=measured)
    assert (choice.backend, choice.precision) == expected


def test_why_int8_was_passed_over_is_said() -> None:
    held = manifest_of(variant("fp32"), variant("int8-cpu", speeds=(FASTER,)))
    choice = choose(held, HOST, measured={("openvino", "int8"): 1.0, ("onnxruntime", "fp32"): 1.2999})
    assert "int8 on openvino: measured here 1.29 times as fast as fp32 on onnxruntime, below 1.3" in choice.reasons


def test_what_was_measured_and_is_no_more_is_no_error() -> None:
    choice = choose(manifest_of(variant("fp32")), HOST, measured={("openvino", "int8"): 1.0, ("tensorrt", "fp16"): 0.1})
    assert (choice.backend, choice.precision) == ("openvino", "fp32")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: dataclasses.replace(facts, version="0.1"),
        lambda facts: dataclasses.replace(facts, instructions="another"),
        lambda facts: dataclasses.replace(facts, precisions={**facts.precisions, "fp16": NATIVE, "bf16": "emulated"}),
    ],
    ids=["version", "instructions", "precisions"],
)
def test_another_library_or_cpu_was_not_measured(
    bundle: Bundle, change: Callable[[BackendFacts], BackendFacts]
) -> None:
    host = host_facts()
    tune(bundle, host, LATENCY, rounds=1)
    other = [change(facts) if facts.name == "openvino" else facts for facts in host]
    assert tuned_seconds(bundle.manifest, other, LATENCY) == {}, "it may be faster now than all that was measured"
    alone = [facts for facts in other if facts.name == "onnxruntime"]
    assert set(tuned_seconds(bundle.manifest, alone, LATENCY)) == {("onnxruntime", "fp32")}


def test_another_bundle_or_number_of_cores_was_not_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_facts()
    tune(bundle, host, LATENCY, rounds=1)
    other = dataclasses.replace(bundle.manifest, variants=(variant("fp32", file=record("model.fp32.onnx", b"other")),))
    assert tuned_seconds(other, host, LATENCY) == {}
    monkeypatch.setattr(tuning, "usable_cores", lambda: 64)
    assert tuned_seconds(bundle.manifest, host, LATENCY) == {}


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:50],
        lambda data: b"[]",
        lambda data: b"null",
        damaged(lambda value: value.update(schema="resnet-tuned/2")),
        damaged(lambda value: value.pop("about")),
        damaged(lambda value: value.pop("backends")),
        damaged(lambda value: value.update(measured=3)),
        damaged(lambda value: value["measured"][0].update(seconds="fast")),
        damaged(lambda value: value["measured"][0].update(seconds=0.0)),
        damaged(lambda value: value["measured"][0].update(seconds=-math.pi)),
        damaged(lambda value: value["measured"][0].update(backend="abacus")),
    ],
)
def test_a_damaged_file_was_not_measured(bundle: Bundle, damage: Callable[[bytes], bytes]) -> None:
    host = host_facts()
    tune(bundle, host, LATENCY, rounds=1)
    file = tuned_file(bundle.manifest, LATENCY)
    file.write_bytes(damage(file.read_bytes()))
    assert tuned_seconds(bundle.manifest, host, LATENCY) == {}
    with resnet_runtime.load(bundle.path) as session:
        assert session.choice.backend == "openvino"


def test_what_cannot_be_loaded_is_a_line_and_no_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tuning.session_from_bundle

    def failing(bundle: Bundle, **asked: Any) -> Session:
        if asked["backend"] == "openvino":
            raise UnavailableError("it is broken")
        return opened(bundle, **asked)

    monkeypatch.setattr(tuning, "session_from_bundle", failing)
    found = tune(bundle, host_facts(), LATENCY, rounds=1).found
    assert found[-1] == Tuned("openvino", "fp32", None, 1, "it is broken")
    assert tuned_lines(found, LATENCY)[-1] == f"{'fp32 on openvino':<24}  not measured: it is broken"
    assert set(tuned_seconds(bundle.manifest, host_facts(), LATENCY)) == {("onnxruntime", "fp32")}, "it was tried"


def test_nothing_to_measure_and_no_such_intent_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UnavailableError, match="nothing in the bundle can be measured on this host"):
        tune(bundle, [], LATENCY)
    with pytest.raises(InputError, match="there is no intent 'speed'"):
        tune(bundle, host_facts(), "speed")


def test_from_the_command_line(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle.path), "--tune", "--intent", "throughput"]) == 0
    found = capsys.readouterr()
    assert {line.split("  ")[0] for line in found.out.splitlines()} == {"fp32 on openvino", "fp32 on onnxruntime"}
    assert found.err.startswith("kept in ")
    assert main([str(bundle.path), "--tune", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["intent"] == "latency"
    assert len(value["tuned"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tune", "cat.jpg"], "leave an image out"),
        (["--tune", "--precision", "fp32"], "leave --precision out"),
        (["--tune", "--check"], "give one of them"),
    ],
)
def test_what_tune_does_not_take(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([str(bundle.path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_disk_that_cannot_keep_it_says_so(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cache").write_text("a file")
    assert main([str(bundle.path), "--tune"]) == 0
    assert "cannot be written, so that nothing was kept" in capsys.readouterr().err
