"""Dependencies point one way: resnet_bench -> resnet_export -> resnet_runtime -> numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "resnet_runtime": ROOT / "runtime",
    "resnet_export": ROOT / "export",
    "resnet_bench": ROOT / "benchmarks",
}
NOT_IN_THE_RUNTIME = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "rich", "resnet_export", "resnet_bench"}
ONLY_WHEN_NEEDED = {"click", "PIL", "openvino", "onnxruntime"}


def modules(package: str) -> list[str]:
    """Every module of ``package`` by its full name, from the files; ``__main__`` is a program and not for importing."""
    folder = SOURCES[package] / package
    names = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def output_of(code: str) -> str:
    """What ``code`` prints in a fresh interpreter, which reads no PYTHON* variable and no folder of the caller's."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(*statements: str) -> set[str]:
    """The names in ``sys.modules`` after ``statements`` in a fresh interpreter."""
    return set(json.loads(output_of("\n".join([*statements, "import json, sys", "print(json.dumps([*sys.modules]))"]))))


def top_levels(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_the_modules_are_found() -> None:
    assert set(modules("resnet_runtime")) >= {
        "resnet_runtime",
        "resnet_runtime.cli",
        "resnet_runtime.backends.openvino",
    }
    assert all(len(modules(package)) > 3 for package in SOURCES)


def test_import_resnet_runtime_costs_nearly_nothing() -> None:
    """That is what keeps it in its few milliseconds: numpy, the session and the rest come when they are asked for."""
    own = {name for name in loaded_by("import resnet_runtime") if top_levels({name}) == {"resnet_runtime"}}
    assert own == {"resnet_runtime", "resnet_runtime.errors"}
    assert "numpy" not in loaded_by("import resnet_runtime")


def test_import_resnet_runtime_loads_no_library_of_a_backend_or_of_the_command_line() -> None:
    found = top_levels(loaded_by("import resnet_runtime", "resnet_runtime.load", "resnet_runtime.Session"))
    assert "numpy" in found
    assert found & (ONLY_WHEN_NEEDED | NOT_IN_THE_RUNTIME) == set()


def test_no_module_of_the_runtime_loads_the_exporter() -> None:
    # One interpreter for all of them: the first module named is the one that brought the others in.
    code = "import importlib, sys, json\nfound = {}\n"
    for name in modules("resnet_runtime"):
        code += f"importlib.import_module({name!r})\nfound[{name!r}] = sorted(sys.modules)\n"
    found = json.loads(output_of(code + "print(json.dumps(found))"))
    assert list(found) == modules("resnet_runtime")
    guilty = {name: sorted(top_levels(set(loaded)) & NOT_IN_THE_RUNTIME) for name, loaded in found.items()}
    assert {name: names for name, names in guilty.items() if names} == {}


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_asking_a_backend_for_its_facts_loads_its_own_library_alone(name: str) -> None:
    found = top_levels(loaded_by("from resnet_runtime.backends import facts_of", f"facts_of({name!r})"))
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[name]
    assert found & (NOT_IN_THE_RUNTIME | {other, "click", "PIL"}) == set()


@pytest.mark.parametrize("package", SOURCES)
def test_every_module_imports(package: str) -> None:
    loaded = loaded_by(*(f"import {name}" for name in modules(package)))
    assert loaded >= set(modules(package))
    if package != "resnet_bench":
        assert "resnet_bench" not in top_levels(loaded)


def test_every_public_name_resolves() -> None:
    for package in ("resnet_runtime", "resnet_export"):
        names = json.loads(
            output_of(
                f"import {package} as p, json; print(json.dumps([[n, getattr(p, n) is None] for n in p.__all__]))"
            )
        )
        assert names
        assert [name for name, is_none in names if is_none] == []
        assert len({name for name, _ in names}) == len(names)


def test_dir_shows_every_public_name_before_it_is_used() -> None:
    code = "import resnet_runtime as r; print(sorted(set(r.__all__) - set(dir(r))), len(dir(r)) == len(set(dir(r))))"
    assert output_of(code) == "[] True\n"


def test_what_the_runtime_has_not_is_an_attribute_error() -> None:
    import resnet_runtime

    with pytest.raises(AttributeError, match="module 'resnet_runtime' has no attribute 'laod'"):
        resnet_runtime.laod  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from resnet_runtime import laod  # type: ignore[attr-defined]  # noqa: F401


FOLDERS = ("export", "runtime", "benchmarks")
BANNED = {
    "runtime/resnet_runtime/x.py": ("torch", "onnx", "onnx_ir", "resnet_export", "resnet_bench", *FOLDERS),
    "runtime/resnet_runtime/backends/x.py": ("torch", "onnx", "onnx_ir", "resnet_export", "resnet_bench", *FOLDERS),
    "export/resnet_export/x.py": ("resnet_bench", *FOLDERS),
    "export/resnet_export/passes/x.py": ("resnet_bench", *FOLDERS),
    "benchmarks/resnet_bench/x.py": FOLDERS,
    "tests/x.py": FOLDERS,
}
ALLOWED = {
    "runtime/resnet_runtime/x.py": ("numpy", "click", "PIL", "openvino", "onnxruntime", "resnet_runtime"),
    "export/resnet_export/x.py": ("numpy", "torch", "onnx", "onnx_ir", "resnet_runtime"),
    "benchmarks/resnet_bench/x.py": ("resnet_runtime", "resnet_export", "torch"),
}


def refused_lines(file: str, lines: list[str]) -> set[str]:
    """Those of ``lines`` that ruff finds a banned import in, as if they stood in ``file``."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=json", "--stdin-filename", file, "-"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    return {lines[finding["location"]["row"] - 1] for finding in findings if finding["code"] == "TID251"}


@pytest.mark.parametrize(("file", "names"), BANNED.items())
def test_ruff_refuses_the_import(file: str, names: tuple[str, ...]) -> None:
    forms = ("import {}", "import {}.inner", "from {} import thing", "from {}.inner import thing")
    lines = [form.format(name) for name in names for form in forms]
    assert refused_lines(file, lines) == set(lines)


@pytest.mark.parametrize(("file", "names"), ALLOWED.items())
def test_ruff_lets_the_allowed_import_pass(file: str, names: tuple[str, ...]) -> None:
    assert refused_lines(file, [f"import {name}" for name in names]) == set()
