"""A library that broke after its facts were kept: the next one is taken, and what was kept is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import resnet_runtime
from resnet_runtime.backends import facts_of, openvino
from resnet_runtime.errors import UnavailableError

from .graphs import colors, write_linear


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    openvino.facts.cache_clear()
    facts_of("openvino")
    core = openvino._core
    yield write_linear(tmp_path / "b")
    monkeypatch.undo()
    openvino.facts.cache_clear()
    core.cache_clear()


@pytest.mark.parametrize("error", [ImportError("libopenvino.so: no such file"), RuntimeError("plugins.xml is broken")])
def test_auto_takes_the_other_library(bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> Any:
        raise error

    monkeypatch.setattr(openvino, "_core", broken)
    with resnet_runtime.load(bundle) as session:
        assert session.choice.backend == "onnxruntime"
        assert session.infer(colors(1))["logits"].shape == (1, 4)
    with pytest.raises(UnavailableError, match="openvino"):
        resnet_runtime.load(bundle, backend="openvino")
