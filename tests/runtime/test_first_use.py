"""An engine that was never verified on such a device answers check.npz before its first use, and once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_runtime import BackendError, BundleError, CheckError, Session
from resnet_runtime.backends import facts_of
from resnet_runtime.backends.tensorrt.cuda import DeviceInfo, Event, Graph, Memory, Pinned, Stream
from resnet_runtime.bundle import Bundle
from resnet_runtime.engine_fit import PORTABLE, VERSIONS, verified_name
from resnet_runtime.first_use import FirstUse
from resnet_runtime.loading import session_from_bundle
from resnet_runtime.manifest import Engine, Limits
from resnet_runtime.user_cache import cache_folder, keep

from .bundles import check_npz, write_sample
from .engines import INFO, TIGHT, TensorRTHost, engine_of, variant_of, write_engines
from .graphs import answers, colors

CPU = facts_of("onnxruntime")
CHECKED = [2, 2, 2, 2]
"""The batches of one check: the bundle's 8 inputs, of which a call takes 2."""

FIGURES = r"max error \d+\.\d+% of the spread, 0\.001% allowed, mean error \d+\.\d+% of the spread, 0\.000% allowed"
WRONG = rf"the engine half does not compute on NVIDIA L4, tensorrt 10\.13\.2 what the model computed: {FIGURES}"


@pytest.fixture(autouse=True)
def verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that verdicts are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "resnet-runtime" / "verdicts"


def bundle_of(path: Path, kind: str, **changes: Any) -> Path:
    """A bundle with one engine, ``half``, of the fp16 variant."""
    return write_engines(path, (engine_of("half", "fp16", kind, **changes), kind))


def load(path: Path, here: TensorRTHost, **options: Any) -> Session:
    return session_from_bundle(Bundle.open(path), host=(here.facts, CPU), opener=here.open, **options)


def assert_all_is_freed(here: TensorRTHost) -> None:
    for device in here.devices:
        assert device.closed == 1
        assert [device.alive(kind) for kind in (Memory, Pinned, Event, Stream, Graph)] == [0] * 5


def test_a_right_engine_is_checked_once_and_loaded_once(tmp_path: Path, verdicts: Path) -> None:
    path = bundle_of(tmp_path / "b", "right")
    here = TensorRTHost()
    with load(path, here) as session:
        assert (session.choice.backend, session.choice.engine) == ("tensorrt", "half")
        assert (here.batches, here.opened) == (CHECKED, ["half"])
        batch = colors(3)
        np.testing.assert_array_equal(session.infer(batch)["logits"], answers(batch)["logits"])
    assert_all_is_freed(here)
    assert len(list(verdicts.iterdir())) == 1

    again = TensorRTHost()
    with load(path, again, backend="tensorrt") as session:
        assert session.choice.engine == "half"
    assert (again.batches, again.opened) == ([], ["half"])


def test_the_file_says_what_was_checked_and_what_was_measured(tmp_path: Path, verdicts: Path) -> None:
    path = bundle_of(tmp_path / "b", "right")
    load(path, TensorRTHost()).close()
    (file,) = verdicts.iterdir()
    manifest = Bundle.open(path).manifest
    held = json.loads(file.read_bytes())
    assert list(held) == ["schema", "sha256", "about", "parity"]
    assert held["schema"] == "resnet-verdict/1"
    assert held["about"] == {
        "engine": manifest.engines[0].file.sha256,
        "check": manifest.check.sha256,
        "library": "tensorrt",
        "version": "10.13.2",
        "gpu": "NVIDIA L4",
        "compute_capability": "8.9",
        "driver": "13.0",
        "tie": "2e-06",
    }
    assert (held["parity"]["samples"], held["parity"]["max_error"]) == (8, 0.0)


def test_one_that_was_verified_on_such_a_device_is_not_checked(tmp_path: Path, verdicts: Path) -> None:
    here = TensorRTHost()
    path = bundle_of(tmp_path / "b", "right", verified_on=verified_name(here.host))
    with load(path, here) as session:
        assert session.choice.engine == "half"
    assert here.batches == []
    assert not verdicts.exists()


@pytest.mark.parametrize(
    "verified_on",
    ["NVIDIA L4", "NVIDIA A10, tensorrt 10.13.2", "NVIDIA L4, tensorrt 10.13.1", "NVIDIA L4, tensorrt-rtx 10.13.2"],
)
def test_one_that_was_verified_on_another_device_or_library_is(tmp_path: Path, verified_on: str) -> None:
    here = TensorRTHost()
    load(bundle_of(tmp_path / "b", "right", verified_on=verified_on), here).close()
    assert here.batches == CHECKED


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_wrong_engine_is_refused_where_tensorrt_was_asked_for(tmp_path: Path, precision: str) -> None:
    path = bundle_of(tmp_path / "b", "wrong")
    here = TensorRTHost()
    fix = "build one here with resnet-export BUNDLE --engine tensorrt"
    with pytest.raises(CheckError, match=rf"^{WRONG}; {fix}$"):
        load(path, here, backend="tensorrt", precision=precision)
    assert_all_is_freed(here)

    again = TensorRTHost()
    with pytest.raises(CheckError, match=rf"^{WRONG} \(found at its first use; remove .*\.json to have it"):
        load(path, again, backend="tensorrt", precision=precision)
    assert again.opened == []


def test_a_wrong_engine_is_passed_over_by_auto(tmp_path: Path, verdicts: Path) -> None:
    path = bundle_of(tmp_path / "b", "wrong")
    here = TensorRTHost()
    with load(path, here) as session:
        choice = session.choice
        assert (choice.backend, choice.precision, choice.engine) == ("onnxruntime", "fp32", None)
        batch = colors(2)
        np.testing.assert_array_equal(session.infer(batch)["logits"], answers(batch)["logits"])
    (reason,) = [text for text in choice.reasons if text.startswith("fp16 on tensorrt: ")]
    assert WRONG.split(":")[0].replace("\\", "") in reason
    assert_all_is_freed(here)

    again = TensorRTHost()
    with load(path, again) as session:
        assert session.choice.backend == "onnxruntime"
    (reason,) = [text for text in session.choice.reasons if text.startswith("fp16 on tensorrt: ")]
    (file,) = verdicts.iterdir()
    assert f"remove {file} to have it checked again" in reason
    assert again.opened == []

    file.unlink()
    load(path, again).close()
    assert (again.opened, again.batches) == (["half"], CHECKED)


def test_where_nothing_else_is_here_auto_says_what_is_wrong_with_the_engine(tmp_path: Path) -> None:
    here = TensorRTHost()
    bundle = Bundle.open(bundle_of(tmp_path / "b", "wrong"))
    with pytest.raises(CheckError, match=WRONG):
        session_from_bundle(bundle, host=(here.facts,), opener=here.open)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_another_engine_of_the_variant_goes_before_another_variant(tmp_path: Path, backend: str) -> None:
    path = write_engines(
        tmp_path / "b",
        (engine_of("whole", "fp32", "right"), "right"),
        (engine_of("half", "fp16", "wrong"), "wrong"),
        (engine_of("other", "fp16", "right"), "right"),
    )
    here = TensorRTHost()
    with load(path, here, backend=backend) as session:
        assert session.choice.engine == "other"
    assert here.opened == ["half", "other"]


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_the_next_variant_s_engine_is_taken_where_all_of_one_are_wrong(tmp_path: Path, backend: str) -> None:
    path = write_engines(
        tmp_path / "b",
        (engine_of("half", "fp16", "wrong"), "wrong"),
        (engine_of("other", "fp16", "damaged"), "damaged"),
        (engine_of("whole", "fp32", "right"), "right"),
    )
    here = TensorRTHost()
    with load(path, here, backend=backend) as session:
        assert (session.choice.engine, session.choice.precision) == ("whole", "fp32")
    (reason,) = [text for text in session.choice.reasons if text.startswith("fp16 on tensorrt: ")]
    assert "the engine half does not compute on NVIDIA L4" in reason
    assert "; tensorrt 10.13.2 cannot load the engine other" in reason
    with pytest.raises(CheckError, match=WRONG):
        load(path, TensorRTHost(), backend="tensorrt", precision="fp16")


@pytest.mark.parametrize(
    ("kind", "said"), [("damaged", "cannot load the engine half"), ("single", "takes batches of 1 to 1, not of 2")]
)
def test_one_that_fails_is_passed_over_too_and_nothing_is_kept(
    tmp_path: Path, verdicts: Path, kind: str, said: str
) -> None:
    path = bundle_of(tmp_path / "b", kind)
    for _ in range(2):
        here = TensorRTHost()
        with load(path, here) as session:
            assert session.choice.backend == "onnxruntime"
        assert here.opened == ["half"]
        assert any(said in reason for reason in session.choice.reasons)
        with pytest.raises(BackendError, match=said):
            load(path, here, backend="tensorrt")
    assert not verdicts.exists()


def test_one_that_turns_out_to_be_for_another_library_is_passed_over_too(tmp_path: Path) -> None:
    there = TensorRTHost(version="10.14.0")
    bundle = Bundle.open(bundle_of(tmp_path / "b", "right"))
    with session_from_bundle(bundle, host=(TensorRTHost().facts, CPU), opener=there.open) as session:
        assert session.choice.backend == "onnxruntime"
    assert any("and here is TensorRT 10.14.0" in reason for reason in session.choice.reasons)


def test_one_that_is_known_to_run_here_and_fails_is_the_user_s_to_know(tmp_path: Path) -> None:
    here = TensorRTHost()
    path = bundle_of(tmp_path / "b", "damaged", verified_on=verified_name(here.host))
    with pytest.raises(BackendError, match="cannot load the engine half"):
        load(path, here)


def test_a_damaged_bundle_is_not_the_engine_s_fault(tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "b", "right")
    data = (path / "check.npz").read_bytes()
    (path / "check.npz").write_bytes(b"?" + data[1:])
    here = TensorRTHost()
    with pytest.raises(BundleError, match="does not match the SHA-256"):
        load(path, here)
    assert_all_is_freed(here)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:-2], id="cut"),
        pytest.param(lambda data: data + b"\n", id="longer"),
        pytest.param(lambda data: data.replace(b'"max_error": 0.0', b'"max_error": 0.1'), id="a digit"),
        pytest.param(lambda data: data.replace(b"NVIDIA L4", b"NVIDIA L5"), id="another GPU"),
        pytest.param(lambda data: data.replace(b'"samples": 8', b'"samples": "8"'), id="a string"),
        pytest.param(lambda data: data.replace(b'"max_error": 0.0', b'"max_error": NaN'), id="not a number"),
        pytest.param(lambda data: data.replace(b'"undecided": 0,', b""), id="a missing key"),
        pytest.param(lambda data: data.replace(b"verdict/1", b"verdict/2"), id="another schema"),
        pytest.param(lambda data: b"[1]\n", id="a list"),
        pytest.param(lambda data: b'{"parity": []}\n', id="a list inside"),
        pytest.param(lambda data: b"\xff" + data, id="not UTF-8"),
        pytest.param(lambda data: data + b" " * 100_000, id="large"),
    ],
)
def test_a_damaged_verdict_is_made_anew(tmp_path: Path, verdicts: Path, damage: Callable[[bytes], bytes]) -> None:
    path = bundle_of(tmp_path / "b", "right")
    load(path, TensorRTHost()).close()
    (file,) = verdicts.iterdir()
    kept = file.read_bytes()
    assert damage(kept) != kept
    file.write_bytes(damage(kept))
    here = TensorRTHost()
    load(path, here).close()
    assert here.batches == CHECKED
    assert file.read_bytes() == kept
    assert list(verdicts.iterdir()) == [file]


def test_the_verdict_on_another_engine_says_nothing(tmp_path: Path, verdicts: Path) -> None:
    load(bundle_of(tmp_path / "right", "right"), TensorRTHost()).close()
    (right,) = verdicts.iterdir()
    kept = right.read_bytes()
    right.unlink()
    path = bundle_of(tmp_path / "wrong", "wrong")
    load(path, TensorRTHost()).close()
    (wrong,) = verdicts.iterdir()
    assert wrong.name != right.name
    wrong.write_bytes(kept)
    here = TensorRTHost()
    with load(path, here) as session:
        assert session.choice.backend == "onnxruntime"
    assert here.opened == ["half"]


@pytest.mark.parametrize(
    ("info", "version"),
    [
        pytest.param(DeviceInfo("NVIDIA L40S", "8.9", "13.0"), "10.13.2", id="GPU"),
        pytest.param(DeviceInfo("NVIDIA L4", "8.6", "13.0"), "10.13.2", id="compute capability"),
        pytest.param(DeviceInfo("NVIDIA L4", "8.9", "13.1"), "10.13.2", id="driver"),
        pytest.param(INFO, "10.14.0", id="library version"),
    ],
)
def test_another_host_is_another_verdict(tmp_path: Path, verdicts: Path, info: DeviceInfo, version: str) -> None:
    path = bundle_of(tmp_path / "b", "right", compatibility=PORTABLE + VERSIONS)
    load(path, TensorRTHost()).close()
    there = TensorRTHost(info, version=version)
    load(path, there).close()
    assert there.batches == CHECKED
    assert len(list(verdicts.iterdir())) == 2
    load(path, there).close()
    assert there.batches == CHECKED


def test_the_limits_are_applied_to_what_was_measured(tmp_path: Path) -> None:
    def written(name: str, limits: Limits) -> Path:
        variants = (variant_of("fp32"), variant_of("fp16", limits))
        return write_engines(tmp_path / name, (engine_of("half", "fp16", "wrong"), "wrong"), variants=variants)

    wide = Limits(max_error=0.9, mean_error=0.5)
    load(written("wide", wide), TensorRTHost(), backend="tensorrt").close()
    here = TensorRTHost()
    tight = dataclasses.replace(wide, max_error=TIGHT.max_error)
    with pytest.raises(CheckError, match=r"max error .* of the spread, 0\.001% allowed"):
        load(written("tight", tight), here, backend="tensorrt")
    assert here.opened == [], "the same engine on the same inputs: the figures are known"


def test_a_folder_that_cannot_be_written_to_is_checked_each_time(tmp_path: Path, verdicts: Path) -> None:
    verdicts.parent.parent.mkdir()
    verdicts.parent.write_text("a file in its place")
    path = bundle_of(tmp_path / "b", "right")
    here = TensorRTHost()
    for _ in range(2):
        load(path, here).close()
    assert here.batches == CHECKED * 2


def test_a_folder_in_the_file_s_place_is_left_alone(tmp_path: Path, verdicts: Path) -> None:
    path = bundle_of(tmp_path / "b", "right")
    load(path, TensorRTHost()).close()
    (file,) = verdicts.iterdir()
    file.unlink()
    file.mkdir()
    here = TensorRTHost()
    load(path, here).close()
    assert here.batches == CHECKED
    assert list(verdicts.iterdir()) == [file], "nothing half written is left"


def test_without_a_home_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    folder = cache_folder("verdicts")
    keep(folder / "a.json", b"content")
    assert not folder.exists()
    here = TensorRTHost()
    load(bundle_of(tmp_path / "b", "right"), here).close()
    assert here.batches == CHECKED


def test_the_folder_is_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("verdicts") == Path("/home/someone/.cache/resnet-runtime/verdicts")


def test_what_the_model_itself_hardly_tells_apart_may_be_exchanged(tmp_path: Path) -> None:
    expected = np.array([[0.005, 0, -1, -1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1.5]])
    inputs = np.zeros((4, 3, 8, 8), np.float32)
    limits = Limits(max_error=0.02, mean_error=0.01, top1_agreement=1.0)
    files = {"check.npz": check_npz(inputs, {"logits": expected})}
    bundle = Bundle.open(write_sample(tmp_path / "b", files=files, engines=(engine_of("half", "fp32", "right"),)))
    engine, variant = bundle.manifest.engines[0], variant_of("fp32", limits)
    first = FirstUse(bundle=bundle, engine=engine, variant=variant, host=TensorRTHost().host)
    exchanged = expected.copy()
    exchanged[0, :2] = expected[0, 1::-1]
    first.check(lambda batch: {"logits": exchanged})
    assert first.passed()


def test_a_second_check_replaces_the_verdict(tmp_path: Path, verdicts: Path) -> None:
    """A verdict can be made anew, whatever it was."""
    bundle = Bundle.open(bundle_of(tmp_path / "b", "right"))
    engine: Engine = bundle.manifest.engines[0]
    first = FirstUse(bundle=bundle, engine=engine, variant=bundle.manifest.variants[1], host=TensorRTHost().host)
    assert not first.passed()
    with pytest.raises(CheckError, match=r"an answer is not finite"):
        first.check(lambda batch: {name: array * np.nan for name, array in answers(batch).items()})
    with pytest.raises(CheckError, match=r"an answer is not finite, .* \(found at its first use"):
        first.passed()
    first.check(answers)
    assert first.passed()
    assert list(verdicts.iterdir()) == [first.file]
    assert INFO.name in first.file.read_text()
