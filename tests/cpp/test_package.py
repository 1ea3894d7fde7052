"""The library as others find it: installed, and from Python's package."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from .conftest import BUILD, openvino_cmake

CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(user LANGUAGES CXX)
find_package(resnet_runtime 0.1 REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE resnet::runtime)
"""

USER = """
#include <iostream>
#include <resnet_runtime/c_api.h>
#include <resnet_runtime/session.hpp>

int main(int, char** arguments) {
  try {
    std::cout << resnet::Session::load(arguments[1]).signature().input.name << ' ' << resnet_version();
  } catch (const resnet::Error& error) {
    std::cout << error.what();
    return 1;
  }
}
"""


def built_user(folder: Path, *options: str) -> Path:
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "user.cpp").write_text(textwrap.dedent(USER))
    subprocess.run(["cmake", "-S", folder, "-B", folder / "build", *options], check=True)
    subprocess.run(["cmake", "--build", folder / "build", "--parallel", "2"], check=True)
    return folder / "build" / "user"


def sanitizers() -> str:
    """What the library was compiled with has to be linked with its users."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    (found,) = re.findall(r"^RESNET_RUNTIME_SANITIZE:STRING=(.*)$", cache, re.MULTILINE)
    return f"-fsanitize={found}" if found else ""


def test_a_program_finds_the_installed_library(tmp_path: Path, tiny_bundle: Path) -> None:
    subprocess.run(["cmake", "--install", BUILD, "--prefix", tmp_path / "prefix"], check=True)
    user = built_user(tmp_path, f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", f"-DCMAKE_CXX_FLAGS={sanitizers()}")
    done = subprocess.run([user, tiny_bundle], capture_output=True, text=True, check=True)
    assert done.stdout == "input 0.1.0"


def cmake_dir() -> str:
    """What the command says."""
    command = [sys.executable, "-m", "resnet_runtime", "--cmake-dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_python_says_where_the_sources_are() -> None:
    folder = Path(cmake_dir())
    assert (folder / "CMakeLists.txt").is_file()
    assert (folder / "include" / "resnet_runtime" / "session.hpp").is_file()


def test_a_program_builds_it_from_where_python_says_the_sources_are(tmp_path: Path, tiny_bundle: Path) -> None:
    """OpenVINO is that of the Python which is active."""
    user = built_user(tmp_path, f"-Dresnet_runtime_DIR={cmake_dir()}", f"-DPython3_EXECUTABLE={sys.executable}")
    done = subprocess.run([user, tiny_bundle], capture_output=True, text=True, check=True)
    assert done.stdout == "input 0.1.0"


def test_a_program_may_be_linked_with_the_installed_shared_library(tiny_bundle: Path, tmp_path: Path) -> None:
    options = ("-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'prefix'}")
    where = f"-DOpenVINO_DIR={openvino_cmake()}"
    subprocess.run(["cmake", "-S", cmake_dir(), "-B", tmp_path / "shared", where, *options], check=True)
    subprocess.run(["cmake", "--build", tmp_path / "shared", "--parallel", "2", "--target", "install"], check=True)
    user = built_user(tmp_path, f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    done = subprocess.run([user, tiny_bundle], capture_output=True, text=True, check=True)
    assert done.stdout == "input 0.1.0"


def test_without_backends_it_is_small_and_reads_bundles(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "runtime" / "cpp"
    options = ("-DWITH_OPENVINO=OFF", "-DWITH_TENSORRT=OFF", "-DBUILD_SHARED_LIBS=ON", "-DCMAKE_BUILD_TYPE=Release")
    subprocess.run(["cmake", "-S", source, "-B", tmp_path, *options, "-DRESNET_RUNTIME_TESTS=ON"], check=True)
    subprocess.run(["cmake", "--build", tmp_path, "--target", "probe"], check=True)
    (library,) = (path for path in tmp_path.glob("libresnet_runtime.so*") if not path.is_symlink())
    assert library.stat().st_size < 1_000_000
    golden = Path(__file__).parents[1] / "runtime" / "golden" / "resnet-bundle-1"
    done = subprocess.run([tmp_path / "probe", "bundle", golden], capture_output=True, text=True, check=True)
    assert done.stdout == "ok\n"
    done = subprocess.run([tmp_path / "probe", "load", golden, "auto", "auto", "0"], capture_output=True, text=True)
    assert done.stdout.startswith("UnavailableError\tno backend was compiled in that runs here")
