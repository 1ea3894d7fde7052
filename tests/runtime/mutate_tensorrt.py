"""Delete one call after the other from the TensorRT backend, and see whether a test notices: ``make mutate``.

A mutant is the package with one statement gone that is nothing but a call: a wait, an event's record, a copy, a free, a
notification. It is killed when the tests of the backend fail, or hang for a minute. Survivors are compared with
``EXPLAINED``: one that is not there, and an explanation that no mutant needs any more, make the run fail.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("resnet_runtime/backends/tensorrt")
FILES = ("backend.py", "slot.py", "pool.py", "device_arrays.py", "loading.py", "pycuda_device.py")
TESTS = (
    "test_tensorrt_pool.py",
    "test_tensorrt_backend.py",
    "test_tensorrt_failures.py",
    "test_tensorrt_device_arrays.py",
    "test_tensorrt_loading.py",
    "test_session_device_arrays.py",
    "test_cuda_pycuda.py",
)
SECONDS = 60

EXPLAINED: dict[tuple[str, str], str] = {
    ("pool.py", "self._changed.wait(_PATIENCE)"): "who would wait looks again and again instead: slower, and not wrong",
    ("backend.py", "self._pool.wake()"): "who waits looks again by itself every second: later, and not wrong",
}
"""By file and statement, why its absence shows in no test without a GPU."""


@dataclass(frozen=True)
class Mutant:
    """A statement to be deleted: the ``index``-th of its file."""

    file: str
    index: int
    line: int
    statement: str


class _Deletion(ast.NodeTransformer):
    """Number the statements that are calls, and delete one."""

    def __init__(self, index: int | None) -> None:
        self.found: list[ast.Expr] = []
        self._index = index

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if not isinstance(node.value, ast.Call):
            return node
        self.found.append(node)
        return ast.copy_location(ast.Pass(), node) if len(self.found) - 1 == self._index else node


def mutants(only: str = "") -> Iterator[Mutant]:
    """Of all files, or of those whose statement or name contains ``only``."""
    for file in FILES:
        deletion = _Deletion(None)
        deletion.visit(ast.parse((ROOT / "runtime" / PACKAGE / file).read_text()))
        for index, node in enumerate(deletion.found):
            made = Mutant(file, index, node.lineno, ast.unparse(node))
            if only in f"{file} {made.statement}":
                yield made


def survives(mutant: Mutant, folder: Path) -> bool:
    """Run the tests against a copy of the runtime in ``folder``."""
    source = ROOT / "runtime" / PACKAGE / mutant.file
    tree = _Deletion(mutant.index).visit(ast.parse(source.read_text()))
    (folder / PACKAGE / mutant.file).write_text(ast.unparse(ast.fix_missing_locations(tree)))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not gpu"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(f"tests/runtime/{name}" for name in TESTS)],
            cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.copy(source, folder / PACKAGE / mutant.file)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return done.returncode == 0


def main() -> int:
    """The exit status: 0 where every survivor is explained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose file or statement contains this")
    only = parser.parse_args().only
    alive: list[Mutant] = []
    count = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(
            ROOT / "runtime/resnet_runtime", folder / "resnet_runtime", ignore=shutil.ignore_patterns("__pycache__")
        )
        for mutant in mutants(only):
            count += 1
            if survives(mutant, folder):
                alive.append(mutant)
                why = EXPLAINED.get((mutant.file, mutant.statement), "NOT EXPLAINED")
                print(f"{mutant.file}:{mutant.line}: {mutant.statement}: {why}", flush=True)
    unexplained = [mutant for mutant in alive if (mutant.file, mutant.statement) not in EXPLAINED]
    found = {(mutant.file, mutant.statement) for mutant in alive}
    needless = [] if only else [key for key in EXPLAINED if key not in found]
    for file, statement in needless:
        print(f"{file}: {statement}: explained, and killed or gone")
    print(f"{count} mutants, {count - len(alive)} killed, {len(alive)} alive, {len(unexplained)} of them unexplained")
    return 1 if unexplained or needless else 0


if __name__ == "__main__":
    sys.exit(main())
