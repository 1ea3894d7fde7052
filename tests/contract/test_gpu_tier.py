"""A test marked ``gpu`` is skipped with the reason where there is no GPU, and fails where one is required."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MARKED = """
import pytest

@pytest.fixture
def gpu():
    raise AssertionError("a fixture looked for the GPU")

@pytest.mark.gpu
def test_on_a_gpu(gpu):
    pass

def test_anywhere():
    pass
"""


def run(folder: Path, *options: str) -> tuple[int, str]:
    """The exit status and the output of pytest, on the file above, with this project's settings and no GPU in sight."""
    file = folder / "test_marked.py"
    file.write_text(MARKED)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), *options, str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "400"},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_without_a_gpu_it_is_skipped_with_the_reason(tmp_path: Path) -> None:
    status, said = run(tmp_path)
    assert status == 0, said
    assert "1 passed, 1 skipped" in said
    assert re.search(r"SKIPPED \[1\] .*: no GPU: (pycuda|CUDA|there is no CUDA device)", said)


def test_without_a_gpu_it_fails_where_one_is_required(tmp_path: Path) -> None:
    status, said = run(tmp_path, "--require-gpu")
    assert status == pytest.ExitCode.TESTS_FAILED, said
    assert "1 passed, 1 error" in said
    assert re.search(r"a GPU is required: (pycuda|CUDA|there is no CUDA device)", said)
    assert "a fixture looked for the GPU" not in said


def test_what_is_asked_for_by_the_marker_is_only_that(tmp_path: Path) -> None:
    status, said = run(tmp_path, "-m", "gpu", "--require-gpu")
    assert status == pytest.ExitCode.TESTS_FAILED, said
    assert "1 deselected, 1 error" in said
