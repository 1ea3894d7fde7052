"""The cores of a container are its quota's, not the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import resnet_runtime
from resnet_runtime.backends import cores, onnxruntime, openvino
from resnet_runtime.backends.base import INTENTS, LATENCY, THROUGHPUT
from resnet_runtime.errors import InputError

from .graphs import write_linear


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "visible_cores", lambda: 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("800000 100000\n", None),
        ("6400000 100000\n", None),
        ("100000 0\n", None),
        ("nonsense\n", None),
        ("", None),
    ],
)
def test_version_2(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cores.quota_in_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", None), ("300000", 3), ("50000", 1), ("x", None)])
def test_version_1(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.quota_in_cores(tmp_path) == expected


def test_without_a_control_group_there_is_no_quota(tmp_path: Path) -> None:
    assert cores.quota_in_cores(tmp_path / "none") is None


@pytest.mark.parametrize("intent", INTENTS)
def test_the_libraries_are_told_of_a_quota_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch, intent: str) -> None:
    monkeypatch.setattr(openvino, "quota_in_cores", lambda: None)
    monkeypatch.setattr(onnxruntime, "quota_in_cores", lambda: None)
    assert "INFERENCE_NUM_THREADS" not in openvino._config("fp32", intent)
    assert onnxruntime._options_for(LATENCY).intra_op_num_threads == 0
    assert onnxruntime._options_for(THROUGHPUT).intra_op_num_threads == 1
    monkeypatch.setattr(openvino, "quota_in_cores", lambda: 3)
    monkeypatch.setattr(onnxruntime, "quota_in_cores", lambda: 3)
    assert openvino._config("fp32", intent)["INFERENCE_NUM_THREADS"] == 3
    assert onnxruntime._options_for(LATENCY).intra_op_num_threads == 3
    assert onnxruntime._options_for(THROUGHPUT).intra_op_num_threads == 1


@pytest.mark.parametrize("intent", INTENTS)
def test_a_number_of_threads_that_was_asked_for_is_taken_before_the_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, intent: str
) -> None:
    monkeypatch.setattr(openvino, "quota_in_cores", lambda: 3)
    monkeypatch.setattr(onnxruntime, "quota_in_cores", lambda: 3)
    bundle = write_linear(tmp_path / "bundle")
    with resnet_runtime.load(bundle, backend="openvino", precision="fp32", intent=intent, threads=1) as session:
        assert isinstance(session._backend, openvino.OpenVINOBackend)
        compiled = session._backend._compiled_for(session.signature.smallest_batch)
        assert compiled.model.get_property("INFERENCE_NUM_THREADS") == 1
    with resnet_runtime.load(bundle, backend="onnxruntime", precision="fp32", intent=intent, threads=2) as session:
        assert isinstance(session._backend, onnxruntime.OnnxRuntimeBackend)
        found = session._backend._session.get_session_options().intra_op_num_threads
        assert (found, session.calls_at_once) == ((1, 2) if intent == THROUGHPUT else (2, 1))


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_what_is_no_number_of_threads_is_refused(tmp_path: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="no number of threads: give an integer of at least 1"):
        resnet_runtime.load(write_linear(tmp_path / "bundle"), threads=threads)
