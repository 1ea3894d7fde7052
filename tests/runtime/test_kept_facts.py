"""What a backend is on this host is shown once, and kept for processes of the same library on the same CPU."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_runtime.backends import BACKENDS, facts_of, onnxruntime, open_backend, openvino
from resnet_runtime.backends.base import EMULATED, NATIVE, BackendFacts
from resnet_runtime.backends.instructions import host_instructions
from resnet_runtime.backends.kept_facts import kept_or_shown
from resnet_runtime.errors import UnavailableError

from .graphs import linear_graph, write_linear
from .test_backends import LINEAR

CPUINFO = "processor\t: 0\nmodel name\t: A CPU\ncpu MHz\t: 2000\nflags\t: avx2 avx512f\n"
SHOWN = BackendFacts("onnx", "1.0", precisions={"fp32": NATIVE, "bf16": EMULATED}, instructions=host_instructions())


class Show:
    """Counts how often a library is tried."""

    def __init__(self, found: BackendFacts = SHOWN, tried: bool = True) -> None:
        self.found = found
        self.tried = tried
        self.calls = 0

    def __call__(self) -> tuple[BackendFacts, bool]:
        self.calls += 1
        return self.found, self.tried


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    return path


def asked(show: Show, cpuinfo: Path) -> BackendFacts:
    return kept_or_shown("onnx", ("no-such-distribution", "onnx"), show, cpuinfo)


def files(cpuinfo: Path) -> list[Path]:
    return list((cpuinfo.parent / "cache" / "resnet-runtime" / "facts").glob("*"))


def test_it_is_shown_once(cpuinfo: Path) -> None:
    show = Show()
    assert asked(show, cpuinfo) == SHOWN
    assert asked(show, cpuinfo) == SHOWN
    assert show.calls == 1
    cpuinfo.write_text(CPUINFO.replace("2000", "1234"))
    asked(show, cpuinfo)
    assert show.calls == 1, "a clock is no other CPU"


@pytest.mark.parametrize("change", [("A CPU", "Another"), ("avx512f", "avx512f amx_int8")])
def test_another_cpu_is_tried_anew(cpuinfo: Path, change: tuple[str, str]) -> None:
    show = Show()
    asked(show, cpuinfo)
    cpuinfo.write_text(CPUINFO.replace(*change))
    asked(show, cpuinfo)
    assert show.calls == 2


def test_another_version_is_tried_anew(cpuinfo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show = Show()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "__init__.py").touch()
    distribution = tmp_path / "made_up-1.0.dist-info"
    distribution.mkdir()
    for count, version in ((1, "1.0"), (1, "1.0"), (2, "1.1"), (2, "1.0")):
        distribution = distribution.rename(tmp_path / f"made_up-{version}.dist-info")
        kept_or_shown("made_up", ("made-up",), show, cpuinfo)
        assert show.calls == count
    assert len(files(cpuinfo)) == 2


def test_where_no_one_folder_tells_the_version_the_metadata_does(
    cpuinfo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Show()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "__init__.py").touch()
    for count, version in ((1, "1.0"), (1, "1.0"), (2, "1.1")):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        kept_or_shown("made_up", ("made-up",), show, cpuinfo)
        assert show.calls == count


def test_what_could_not_be_tried_is_not_kept(cpuinfo: Path) -> None:
    show = Show(tried=False)
    assert asked(show, cpuinfo) == SHOWN
    assert files(cpuinfo) == []


def test_what_is_missing_is_not_kept(cpuinfo: Path) -> None:
    show = Show(BackendFacts("onnx", None, "it has no device"))
    assert asked(show, cpuinfo).missing == "it has no device"
    assert asked(show, cpuinfo).missing == "it has no device"
    assert show.calls == 2
    assert files(cpuinfo) == []


@pytest.mark.parametrize("module", ["no_such_module", "onnx"])
def test_where_nothing_is_known_nothing_is_kept(cpuinfo: Path, module: str) -> None:
    show = Show()
    distributions = ("onnx",) if module != "onnx" else ("no-such-distribution",)
    for _ in range(2):
        assert kept_or_shown(module, distributions, show, cpuinfo) == SHOWN
    assert show.calls == 2
    assert kept_or_shown("onnx", ("onnx",), show, cpuinfo / "none") == SHOWN
    assert files(cpuinfo) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace("resnet-facts/1", "resnet-facts/2"),
        lambda text: text.replace('"bf16"', '"fp8"'),
        lambda text: text.replace('"emulated"', '"fast"'),
        lambda text: json.dumps(json.loads(text) | {"precisions": {}}),
        lambda text: json.dumps(json.loads(text) | {"precisions": 3}),
        lambda text: json.dumps(json.loads(text) | {"version": None}),
        lambda text: json.dumps(json.loads(text) | {"about": {}}),
    ],
)
def test_a_damaged_file_is_made_anew(cpuinfo: Path, damage: Callable[[str], str]) -> None:
    show = Show()
    asked(show, cpuinfo)
    (file,) = files(cpuinfo)
    text = file.read_text()
    file.write_text(damage(text))
    assert asked(show, cpuinfo) == SHOWN
    assert show.calls == 2
    assert file.read_text() == text


@pytest.mark.parametrize("name", BACKENDS)
def test_what_is_kept_is_what_is_shown(name: str) -> None:
    module = {"openvino": openvino, "onnxruntime": onnxruntime}[name]
    assert facts_of(name) == module.shown_facts()


def test_auto_imports_no_library_that_it_does_not_take(tmp_path: Path) -> None:
    code = (
        "import sys; from resnet_runtime.backends import host_facts; host_facts(); "
        "print([name for name in ('openvino', 'onnxruntime') if name in sys.modules])"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    said = [subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip() for _ in range(2)]
    assert said == ["['openvino', 'onnxruntime']", "[]"]


def test_the_way_to_the_first_answer_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "linear.bundle")
    code = (
        "import sys, numpy, resnet_runtime; session = resnet_runtime.load(sys.argv[1], backend=sys.argv[2]); "
        "session.infer(numpy.zeros((1, 3, 8, 8), 'float32')); "
        "print([name for name in sys.argv[3:] if name in sys.modules])"
    )
    slow = (
        "importlib.metadata",
        "resnet_runtime.backends.tensorrt.backend",
        "click",
        "PIL",
        "openvino.tools.ovc.convert",
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        command = [sys.executable, "-c", code, str(path), "openvino", *slow]
        said = subprocess.check_output(command, text=True, env=environment).strip()
    assert said == "[]"


@pytest.mark.parametrize("name", BACKENDS)
def test_a_library_that_broke_since_is_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts_of(name)
    openvino._core.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=f"{name} cannot be imported: .*; install it anew with pip install"):
        open_backend(name, linear_graph(), LINEAR, "fp32")
    openvino._core.cache_clear()
