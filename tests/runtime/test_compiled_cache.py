"""What OpenVINO compiled is taken by the next process, made anew where it is damaged, and never another's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_runtime
from resnet_runtime.backends import openvino
from resnet_runtime.backends.base import LATENCY, THROUGHPUT, OpenOptions
from resnet_runtime.backends.compiled_cache import CompiledCache
from resnet_runtime.backends.openvino import OpenVINOBackend
from resnet_runtime.errors import BackendError, BundleError

from .graphs import answers, colors, linear_graph, write_linear
from .test_backends import LINEAR

DIGEST = "ab" * 32


class Counted:
    """OpenVINO's core, and how often it compiled, read or imported."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._core, name)
        if name not in ("compile_model", "read_model", "import_model"):
            return found

        def counted(*arguments: Any) -> Any:
            self.calls.append(name)
            return found(*arguments)

        return counted


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    openvino.facts()
    found = Counted(openvino._core())
    monkeypatch.setattr(openvino, "_core", lambda: found)
    return found


def opened(intent: str = LATENCY, kept_as: str | None = DIGEST, precision: str = "fp32") -> OpenVINOBackend:
    return OpenVINOBackend(linear_graph(), LINEAR, precision, OpenOptions(intent=intent, kept_as=kept_as))


def answered(backend: OpenVINOBackend, count: int = 1) -> None:
    images = colors(count)
    found = backend.start({"images": images}).result()
    for name, expected in answers(images).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)  # float32, some hundred additions
    backend.close()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "resnet-runtime" / "compiled" / "openvino").glob("*"))


def test_the_second_process_neither_reads_nor_compiles(core: Counted, tmp_path: Path) -> None:
    answered(opened())
    assert core.calls == ["read_model", "compile_model"]
    assert len(files(tmp_path)) == 1
    core.calls.clear()
    answered(opened())
    assert core.calls == ["import_model"]


def test_nothing_is_kept_unless_it_is_asked_for(core: Counted, tmp_path: Path) -> None:
    answered(opened(kept_as=None))
    assert files(tmp_path) == []


def test_another_batch_size_is_compiled_and_kept_too(core: Counted, tmp_path: Path) -> None:
    answered(opened())
    core.calls.clear()
    answered(opened(), count=3)
    assert core.calls == ["import_model", "read_model", "compile_model"]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"kept_as": "cd" * 32},
        {"intent": THROUGHPUT},
        {"precision": "bf16"},
    ],
)
def test_what_differs_has_a_file_of_its_own(core: Counted, tmp_path: Path, other: dict[str, Any]) -> None:
    if other.get("precision") not in (None, *openvino.facts().precisions):
        pytest.skip("OpenVINO does not compute bf16 on this CPU")
    answered(opened())
    backend = opened(**other)
    backend.start({"images": colors(1)}).result()
    assert core.calls.count("compile_model") == 2
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize("other", ["cpu", "version", "threads", "kept"])
def test_so_has_another_host_or_library(
    core: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    answered(opened())
    kept = frozenset({"fc"}) if other == "kept" else frozenset[str]()
    if other == "cpu":
        monkeypatch.setattr(openvino, "cpu_digest", lambda: "of another one")
    elif other == "version":
        found = dataclasses.replace(openvino.facts(), version="0.1")
        monkeypatch.setattr(openvino, "facts", lambda: found)
    elif other == "threads":
        monkeypatch.setattr(openvino, "quota_in_cores", lambda: 1)
    answered(OpenVINOBackend(linear_graph(), LINEAR, "fp32", OpenOptions(kept=kept, kept_as=DIGEST)))
    assert core.calls.count("compile_model") == 2
    assert len(files(tmp_path)) == 2


def test_where_the_cpu_is_not_known_nothing_is_kept(
    core: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "cpu_digest", lambda: None)
    answered(opened())
    assert files(tmp_path) == []


def test_a_call_that_nobody_waits_for_ends_before_its_memory_goes(core: Counted) -> None:
    """Of a graph that OpenVINO imported: it points into what the backend holds."""
    answered(opened())
    for _ in range(50):
        backend = opened()
        call = backend.start({"images": colors(1)})
        backend.close()
        del call, backend
    answered(opened())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "cut short", "one byte less", "one bit", "zeros"],
)
def test_a_damaged_file_is_made_anew(core: Counted, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    answered(opened())
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    core.calls.clear()
    answered(opened())
    assert core.calls == ["read_model", "compile_model"]
    core.calls.clear()
    answered(opened())
    assert core.calls == ["import_model"]


def test_an_intact_file_that_openvino_does_not_take_is_made_anew(core: Counted, tmp_path: Path) -> None:
    answered(opened())
    (file,) = files(tmp_path)
    CompiledCache("openvino").store(file, b"what another build wrote")
    core.calls.clear()
    answered(opened())
    assert core.calls == ["import_model", "read_model", "import_model", "compile_model"], "when loaded, and when used"


def test_a_graph_that_cannot_be_read_is_no_less_an_error(core: Counted) -> None:
    with pytest.raises(BackendError, match="OpenVINO cannot read the fp32 graph"):
        OpenVINOBackend(b"no graph", LINEAR, "fp32", OpenOptions(kept_as=DIGEST))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(core: Counted, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    answered(opened())
    answered(opened())


def test_a_cache_that_is_no_folder_costs_nothing_but_time(core: Counted, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    answered(opened())
    answered(opened())
    assert core.calls.count("compile_model") == 2


def test_load_keeps_what_it_compiles_and_still_looks_at_the_bundle(core: Counted, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "b")
    for _ in range(2):
        with resnet_runtime.load(path, backend="openvino", precision="fp32") as session:
            images = colors(2)
            np.testing.assert_allclose(session.infer(images)["logits"], answers(images)["logits"], atol=1e-5)
    assert core.calls.count("compile_model") == 1
    assert core.calls[-1] == "import_model"
    file = path / "model.fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError):
        resnet_runtime.load(path, backend="openvino", precision="fp32")


def content(cache: CompiledCache, path: Path) -> bytes | None:
    found = cache.load(path)
    return None if found is None else found.tobytes()


def test_the_files_that_were_used_the_longest_ago_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = CompiledCache("library", largest=300)
    paths = [cache.path({"number": number}) for number in range(4)]
    for age, path in enumerate(paths[:2]):
        cache.store(path, bytes(80))
        os.utime(path, (1000 + age, 1000 + age))
    assert content(cache, paths[0]) == bytes(80)  # used now
    cache.store(paths[2], bytes(80))
    assert [path.exists() for path in paths] == [True, False, True, False]
    cache.store(paths[3], bytes(301))
    assert not paths[3].exists(), "larger than all files may be together"
    assert content(cache, paths[2]) == bytes(80)
