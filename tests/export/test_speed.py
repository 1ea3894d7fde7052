"""How many times as fast: by a clock of the test's own, and on the real backends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_export import speed
from resnet_export.speed import slowdown_of_graph, speeds_from_variants, speedup
from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts
from resnet_runtime.backends.instructions import host_instructions
from resnet_runtime.backends.simulated import SimulatedBackend
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import BackendError, UnavailableError
from resnet_runtime.manifest import Batch, KeptLayer, Output, Variant
from tests.runtime.bundles import record, sample_files, sample_gate, sample_manifest, write_bundle
from tests.runtime.quantized import BLOCK, block_graph, on_grid

FP32 = block_graph(None)
INT8 = block_graph("cpu")
BATCH = on_grid(1)


class Clock:
    """Stands for the module ``time``; every sleep and every simulated call moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used = 0.0
        self.spinning_until = 0.0
        self.slept = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None:
        self.used += max(0.0, min(seconds, self.spinning_until - self.now))
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speed, "time", made)
    return made


class Timed:
    """Simulated backends whose calls take what ``seconds`` says of the call's number, and what was called when."""

    def __init__(self, clock: Clock, *, spins: float = 0.0) -> None:
        self.clock = clock
        self.spins = spins
        self.calls: list[str] = []

    def backend(self, name: str, seconds: Callable[[int], float]) -> SimulatedBackend:
        def answer(batch: np.ndarray) -> dict[str, np.ndarray]:
            took = seconds(self.calls.count(name))
            if self.calls and self.calls[-1] != name and self.clock.now < self.clock.spinning_until:
                took *= 2  # the other one's threads are in its way
            self.calls.append(name)
            self.clock.now += took
            self.clock.spinning_until = self.clock.now + self.spins
            return {"logits": np.zeros((len(batch), 4), np.float32)}

        return SimulatedBackend(BLOCK, answer)


def test_the_ratio_of_two_constant_times(clock: Clock) -> None:
    timed = Timed(clock)
    fast, slow = timed.backend("fast", lambda call: 0.02), timed.backend("slow", lambda call: 0.05)
    assert speedup(fast, slow, BATCH, 3) == pytest.approx(2.5, rel=1e-9)  # sums in float64
    assert speedup(slow, fast, BATCH, 3) == pytest.approx(0.4, rel=1e-9)


def test_each_is_timed_first_and_last_and_after_a_call_of_its_own(clock: Clock) -> None:
    timed = Timed(clock)
    speedup(timed.backend("f", lambda call: 0.02), timed.backend("s", lambda call: 0.05), BATCH, 2)
    # Both once to be compiled; f to begin with. Then in each round f; s untimed and twice timed; f untimed and timed.
    assert "".join(timed.calls) == "fs" + "f" + "fsssff" * 2


def test_a_machine_that_slows_down_meanwhile_does_not_change_the_ratio(clock: Clock) -> None:
    timed = Timed(clock)
    drift = 1 + 0.1 * np.arange(1000)
    fast = timed.backend("fast", lambda call: 0.02 * drift[len(timed.calls)])
    slow = timed.backend("slow", lambda call: 0.06 * drift[len(timed.calls)])
    assert speedup(fast, slow, BATCH, 9) == pytest.approx(3.0, rel=0.05)  # the calls of a round are not evenly spread


def test_a_disturbed_round_does_not_count(clock: Clock) -> None:
    timed = Timed(clock)
    fast = timed.backend("fast", lambda call: 5.0 if call in (4, 5, 9) else 0.02)
    slow = timed.backend("slow", lambda call: 7.0 if call in (12, 13) else 0.04)
    assert speedup(fast, slow, BATCH, 7) == pytest.approx(2.0, rel=1e-9)  # sums in float64


def test_threads_of_the_other_that_spin_are_waited_for(clock: Clock) -> None:
    timed = Timed(clock, spins=0.1)
    fast, slow = timed.backend("fast", lambda call: 0.02), timed.backend("slow", lambda call: 0.05)
    assert speedup(fast, slow, BATCH, 3) == pytest.approx(2.5, rel=1e-9)  # sums in float64
    assert clock.slept > 3 * 2 * 0.1


def test_a_process_that_never_rests_is_not_waited_for_forever(clock: Clock) -> None:
    timed = Timed(clock, spins=1e9)
    speedup(timed.backend("fast", lambda call: 0.02), timed.backend("slow", lambda call: 0.05), BATCH, 3)
    assert clock.slept < 7 * 0.25


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        (2.0, 7),  # at least seven, though they take long
        (0.02, 15),  # what is begun in 2 seconds: a round is six calls and two rests of 10 ms
        (1e-6, 51),  # no more than are of use
    ],
)
def test_rounds_are_as_many_as_the_time_holds(clock: Clock, seconds: float, rounds: int) -> None:
    timed = Timed(clock)
    speedup(timed.backend("f", lambda call: seconds), timed.backend("s", lambda call: seconds), BATCH)
    assert (len(timed.calls) - 3) / 6 == rounds


def variant(name: str, file: bytes, **changes: Any) -> Variant:
    precision, _, scheme = name.partition("-")
    path = "model.fp32.onnx" if scheme == "" else f"model.{name}.onnx"
    given: dict[str, Any] = {"scheme": scheme or None, "file": record(path, file), "gate": sample_gate(), **changes}
    return Variant(id=name, precision=precision, **given)


VARIANTS = {
    "fp32": variant("fp32", FP32),
    "bf16": variant("bf16", FP32),
    "fp16": variant("fp16", FP32),
    "int8-cpu": variant("int8-cpu", INT8),
    "int8-tensorrt": variant("int8-tensorrt", INT8),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """With every variant; the 16-bit ones are the FP32 file, as bf16 always is."""
    files = {
        **sample_files(),
        "model.fp32.onnx": FP32,
        "model.int8-cpu.onnx": INT8,
        "model.int8-tensorrt.onnx": INT8,
    }
    manifest = sample_manifest(files, variants=tuple(VARIANTS.values()), outputs=(Output(name="logits", shape=(4,)),))
    return Bundle.open(write_bundle(tmp_path / "b", files, manifest))


def others(*names: str) -> list[Variant]:
    return [VARIANTS[name] for name in names]


def test_speeds_on_the_backends_of_this_host(bundle: Bundle) -> None:
    found = speeds_from_variants(bundle, VARIANTS["int8-cpu"], others("fp32"), on_grid(4), rounds=3)
    assert [item.backend for item in found] == [name for name in BACKENDS if "int8" in facts_of(name).precisions]
    for item in found:
        assert (item.against, item.batch, item.instructions) == ("fp32", 1, host_instructions())
        assert 0.01 < item.ratio < 100  # a network of microseconds: only that it was measured


def host(monkeypatch: pytest.MonkeyPatch, **precisions: str) -> None:
    """Every backend computes these, says its facts."""
    monkeypatch.setattr(
        speed, "facts_of", lambda name: BackendFacts(name, "1", precisions=precisions, instructions="avx512_vnni")
    )


class Opened:
    """Takes the place of ``backend_from_variant``: simulated backends of the times that are given by variant."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float | Exception]) -> None:
        self.timed = Timed(clock)
        self.seconds = seconds
        self.opened: list[tuple[str, str]] = []
        self.backends: list[SimulatedBackend] = []
        monkeypatch.setattr(speed, "backend_from_variant", self)

    def __call__(self, bundle: Bundle, item: Variant, backend: str) -> SimulatedBackend:
        del bundle
        self.opened.append((backend, item.id))
        seconds = self.seconds[item.id]
        if isinstance(seconds, Exception):
            raise seconds
        # What is closed later is refused: one backend's sessions are closed before the next one's are opened.
        closed = {name for name, _ in self.opened if name != backend}
        assert all(made._closed for made, (name, _) in zip(self.backends, self.opened, strict=False) if name in closed)
        self.backends.append(self.timed.backend(item.id, lambda call: seconds))
        return self.backends[-1]


def test_the_fastest_other_variant_is_compared_with(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, fp32=NATIVE, bf16=NATIVE, fp16=NATIVE, int8=NATIVE)
    opened = Opened(clock, monkeypatch, {"fp32": 0.06, "bf16": 0.03, "fp16": 0.04, "int8-cpu": 0.02})
    found = speeds_from_variants(bundle, VARIANTS["int8-cpu"], others("fp32", "bf16", "fp16"), on_grid(2))
    assert [(item.backend, item.against, item.instructions) for item in found] == [
        (name, "bf16", "avx512_vnni") for name in BACKENDS
    ]
    assert [item.ratio for item in found] == pytest.approx([1.5, 1.5], rel=1e-9)  # sums in float64
    assert all(backend._closed for backend in opened.backends)


def test_what_is_emulated_or_not_computed_is_not_compared_with(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, fp32=NATIVE, bf16=EMULATED, int8=NATIVE)
    opened = Opened(clock, monkeypatch, {"fp32": 0.06, "int8-cpu": 0.02})
    every = list(VARIANTS.values())
    found = speeds_from_variants(bundle, VARIANTS["int8-cpu"], every, on_grid(1), rounds=1)
    assert [item.against for item in found] == ["fp32", "fp32"]
    assert {name for _, name in opened.opened} == {"fp32", "int8-cpu"}


@pytest.mark.parametrize(
    ("precisions", "name"),
    [
        ({"fp32": NATIVE}, "int8-cpu"),
        ({"fp32": NATIVE, "int8": EMULATED}, "int8-cpu"),
        ({"int8": NATIVE}, "int8-cpu"),
        ({"fp32": NATIVE, "int8": NATIVE}, "int8-tensorrt"),
    ],
)
def test_nothing_to_compare(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, precisions: dict[str, str], name: str
) -> None:
    host(monkeypatch, **precisions)
    assert speeds_from_variants(bundle, VARIANTS[name], others("fp32"), on_grid(1)) == ()


def test_a_backend_that_is_not_installed_is_left_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "facts_of", lambda name: BackendFacts(name, None, f"{name} is not installed here"))
    assert speeds_from_variants(bundle, VARIANTS["int8-cpu"], others("fp32"), on_grid(1)) == ()


@pytest.mark.parametrize("error", [UnavailableError("no"), BackendError("no")])
@pytest.mark.parametrize("broken", ["int8-cpu", "fp32"])
def test_a_variant_that_cannot_be_loaded_is_not_compared(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch, error: Exception, broken: str
) -> None:
    host(monkeypatch, fp32=NATIVE, int8=NATIVE)
    opened = Opened(clock, monkeypatch, {"fp32": 0.06, "int8-cpu": 0.02, broken: error})
    assert speeds_from_variants(bundle, VARIANTS["int8-cpu"], others("fp32"), on_grid(1)) == ()
    assert all(backend._closed for backend in opened.backends)


def test_of_several_others_one_that_cannot_be_loaded_is_passed_over(
    bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(monkeypatch, fp32=NATIVE, bf16=NATIVE, int8=NATIVE)
    Opened(clock, monkeypatch, {"fp32": 0.06, "bf16": BackendError("no"), "int8-cpu": 0.02})
    found = speeds_from_variants(bundle, VARIANTS["int8-cpu"], others("bf16", "fp32"), on_grid(1), rounds=1)
    assert [item.against for item in found] == ["fp32", "fp32"]


@pytest.mark.parametrize(("asked", "sizes", "taken"), [(1, (1, 4), 1), (3, (1, 4), 3), (9, (1, 4), 4), (1, (2, 4), 2)])
def test_the_batch_fits_the_bundle(
    bundle: Bundle,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
    sizes: tuple[int, int],
    taken: int,
) -> None:
    host(monkeypatch, fp32=NATIVE, int8=NATIVE)
    Opened(clock, monkeypatch, {"fp32": 0.06, "int8-cpu": 0.02})
    entry = dataclasses.replace(
        bundle.manifest.input, batch=Batch(smallest=sizes[0], optimal=sizes[0], largest=sizes[1])
    )
    seen: list[int] = []
    call = speed._call
    monkeypatch.setattr(speed, "_call", lambda backend, inputs: seen.append(len(inputs)) or call(backend, inputs))
    sized = Bundle(bundle.path, dataclasses.replace(bundle.manifest, input=entry))
    # Two samples: where more are taken, they come round again.
    found = speeds_from_variants(sized, VARIANTS["int8-cpu"], others("fp32"), on_grid(2), rounds=1, batch=asked)
    assert [item.batch for item in found] == [taken, taken]
    assert set(seen) == {taken}


@pytest.mark.skipif(
    all("int8" not in facts_of(name).precisions for name in BACKENDS), reason="no backend computes int8 here"
)
def test_slowdown_of_a_graph_with_a_kept_layer(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_FEWEST_ROUNDS", 1)
    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    slow = block_graph("cpu", kept={"conv2"})
    found = slowdown_of_graph(slow, INT8, bundle.manifest, {"conv2"}, on_grid(2))
    assert found is not None
    assert 0.01 < found < 100  # a network of microseconds: only that it was measured


def test_slowdown_where_nothing_computes_int8(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, fp32=NATIVE)
    assert slowdown_of_graph(INT8, INT8, bundle.manifest, (), on_grid(1)) is None


@pytest.mark.skipif("int8" not in facts_of("openvino").precisions, reason="OpenVINO has no int8 here")
def test_an_int8_variant_with_a_float_layer_that_is_not_listed_gets_no_speed_on_openvino(tmp_path: Path) -> None:
    graph = block_graph("cpu", kept={"conv2"})
    kept = (KeptLayer(node="conv2", precision="fp32", reason="for the test"),)
    files = {**sample_files(), "model.fp32.onnx": FP32, "model.int8-cpu.onnx": graph}
    outputs = (Output(name="logits", shape=(4,)),)
    for listed in ((), kept):
        int8 = variant("int8-cpu", graph, kept_higher=listed)
        manifest = sample_manifest(files, variants=(VARIANTS["fp32"], int8), outputs=outputs)
        opened = Bundle.open(write_bundle(tmp_path / f"b{len(listed)}", files, manifest))
        found = speeds_from_variants(opened, int8, others("fp32"), on_grid(1), rounds=1)
        assert ("openvino" in {item.backend for item in found}) == bool(listed)
