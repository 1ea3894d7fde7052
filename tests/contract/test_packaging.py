"""What is shipped: the extras, the wheel's contents, and pins that fit what is promised."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[Requirement]] = {
    name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()
}
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
PINS = {canonicalize_name(pin.name): pin for pin in CONSTRAINTS}

CPP = ROOT / "runtime" / "cpp"
PACKAGES = {
    "resnet_export": ROOT / "export",
    "resnet_runtime": ROOT / "runtime",
    "resnet_bench": ROOT / "benchmarks",
}
BACKENDS = {
    "openvino", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13", "pycuda",
    "cuda-bindings",
}  # fmt: skip


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def test_the_runtime_needs_three_libraries() -> None:
    assert names([Requirement(line) for line in PROJECT["dependencies"]]) == {"numpy", "click", "pillow"}


def test_the_extras_are_those_of_the_design() -> None:
    assert set(EXTRAS) == {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx", "build", "cpu", "gpu", "bench", "dev"}


def test_an_extra_for_serving_is_a_backend_and_nothing_else() -> None:
    assert names(EXTRAS["openvino"]) == {"openvino"}
    assert names(EXTRAS["onnxruntime"]) == {"onnxruntime"}
    assert names(EXTRAS["tensorrt"]) == {"tensorrt", "pycuda", "cuda-bindings"}
    assert names(EXTRAS["tensorrt-rtx"]) == {"tensorrt-rtx", "pycuda", "cuda-bindings"}


def test_the_extra_that_adds_engines_has_no_torch() -> None:
    assert names(EXTRAS["build"]) & {"torch", "onnxscript", "safetensors"} == set()
    assert "onnx" in names(EXTRAS["build"])


def test_the_two_extras_for_exporting_differ_in_their_backends_alone() -> None:
    assert names(EXTRAS["cpu"]) - BACKENDS == names(EXTRAS["gpu"]) - BACKENDS
    assert "torch" in names(EXTRAS["cpu"])
    assert names(EXTRAS["cpu"]) & BACKENDS == {"openvino", "onnxruntime", "tensorrt-rtx-cu13"}
    assert names(EXTRAS["gpu"]) & BACKENDS == {"openvino", "onnxruntime-gpu", "tensorrt", "pycuda", "cuda-bindings"}


def test_a_library_has_the_same_range_in_every_extra() -> None:
    ranges: dict[str, set[str]] = {}
    for requirements in EXTRAS.values():
        for requirement in requirements:
            ranges.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    ranges.pop("resnet-export")
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}
    assert ranges["torch"] == {">=2.8"}


def test_every_constraint_is_a_pin() -> None:
    assert len(PINS) == len(CONSTRAINTS)
    for pin in CONSTRAINTS:
        operators = [specifier.operator for specifier in pin.specifier]
        assert operators == ["=="], f"{pin} is not a pin"
        assert not str(pin.specifier).endswith("*")


def test_the_pins_lie_in_the_ranges() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    asked = [Requirement(line) for line in (*PROJECT["dependencies"], *build)]
    asked += [requirement for extra in EXTRAS.values() for requirement in extra]
    checked = set()
    for requirement in asked:
        pin = PINS.get(canonicalize_name(requirement.name))
        if pin is not None:
            version = next(iter(pin.specifier)).version
            assert requirement.specifier.contains(version), f"{pin} does not satisfy {requirement}"
            checked.add(canonicalize_name(requirement.name))
    # What a host that works on this project installs is pinned, to the last one.
    installed = names(EXTRAS["cpu"]) | names(EXTRAS["bench"]) | names(EXTRAS["dev"]) | {"numpy", "click", "pillow"}
    assert checked >= installed - {"resnet-export"}


def test_torch_is_pinned_in_the_constraints_alone() -> None:
    assert "torch" in PINS
    for requirement in (requirement for extra in EXTRAS.values() for requirement in extra):
        if requirement.name == "torch":
            assert [specifier.operator for specifier in requirement.specifier] == [">="]
    for file in (ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "README.md"):
        assert "torch==" not in file.read_text(), f"{file.name} pins torch"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the working tree, built without the network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.iterdir()
    assert file.name == f"resnet_export-{PROJECT['version']}-py3-none-any.whl"
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    info = f"resnet_export-{PROJECT['version']}.dist-info"
    assert {name.partition("/")[0] for name in held} == {*PACKAGES, info}
    for package, folder in PACKAGES.items():
        sources = {file.relative_to(folder).as_posix() for file in (folder / package).rglob("*.py")}
        assert f"{package}/__init__.py" in sources
        assert sources <= held
        assert f"{package}/py.typed" in held
    cpp = {f"resnet_runtime/cpp/{file.relative_to(CPP).as_posix()}" for file in CPP.rglob("*") if file.is_file()}
    assert {"resnet_runtime/cpp/CMakeLists.txt", "resnet_runtime/cpp/include/resnet_runtime/session.hpp"} <= cpp <= held
    assert f"{info}/licenses/LICENSE" in held
    files = {name: name.rpartition("/")[2] for name in held}
    unwanted = [name for name, file in files.items() if file.startswith(("test_", "conftest")) or file.endswith(".pyc")]
    assert unwanted == []


def test_the_wheel_has_the_three_scripts(wheel: zipfile.ZipFile) -> None:
    text = wheel.read(f"resnet_export-{PROJECT['version']}.dist-info/entry_points.txt").decode()
    parsed = configparser.ConfigParser()
    parsed.read_string(text)
    assert parsed.sections() == ["console_scripts"]
    assert dict(parsed["console_scripts"]) == {
        "resnet-export": "resnet_export.cli:main",
        "resnet-run": "resnet_runtime.cli:main",
        "resnet-bench": "resnet_bench.cli:main",
    }


def test_the_metadata_of_the_wheel(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(f"resnet_export-{PROJECT['version']}.dist-info/METADATA").decode())
    assert metadata["Name"] == "resnet-export"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) == set(EXTRAS)
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert names([item for item in requirements if item.marker is None]) == {"numpy", "click", "pillow"}


def test_the_version_is_one() -> None:
    import resnet_export

    assert resnet_export.__version__ == PROJECT["version"]
