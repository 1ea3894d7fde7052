"""``python -m tests.examples.page``: docs/embedding.md, whose outputs are of the examples, run.

Those of C++ are taken from where ``make test-cpp`` builds them.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import MANIFEST_NAME, bytes_from_manifest

from .pictures import pictures_in

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "embedding.md"
BUNDLE: Final = ROOT / "tests" / "runtime" / "golden" / "resnet-bundle-1-int8"

TEMPLATE: Final = Path(__file__).with_name("embedding.md.in")


def cpp_outputs(build: Path) -> dict[str, str]:
    """What the examples in C++ say, by their names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bundle(folder / "model.bundle")
        names = "\n".join(path.name for path in pictures_in(folder, 4))
        classified = _said(folder, build / "classify", "model.bundle", "00.png")
        served = _said(folder, build / "service", "model.bundle", given=names)
    return {"classify": _shown(classified), "service": _shown("\n".join(sorted(served.splitlines())))}


def page(cpp: Mapping[str, str]) -> str:
    """The text.

    Args:
        cpp: as ``cpp_outputs`` gives them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bundle(folder / "model.bundle")
        pictures = pictures_in(folder, 12)
        (folder / "pictures").mkdir()
        for path in pictures[:8]:
            shutil.copy(path, folder / "pictures")
        frames = np.stack([np.asarray(Image.open(path)) for path in pictures[:6] for _ in range(10)])
        np.save(folder / "frames.npy", frames)
        first = _run(folder, "score_directory.py", "model.bundle", "pictures", "scores.csv", error=True)
        for path in pictures[8:]:
            shutil.copy(path, folder / "pictures")
        return TEMPLATE.read_text().format(
            **cpp,
            embed=_run(folder, "embed.py", "model.bundle", *(path.name for path in pictures[:4])),
            curl=_shown(_answered(folder / "model.bundle", pictures[0])),
            first=first,
            second=_run(folder, "score_directory.py", "model.bundle", "pictures", "scores.csv", error=True),
            scores=_shown("\n".join((folder / "scores.csv").read_text().splitlines()[:4])),
            stream=_run(folder, "stream.py", "model.bundle", "frames.npy", "--fps", "25", "--smooth", "0"),
        )


def _write_bundle(path: Path) -> None:
    """The golden one with fp32 alone: which of the others is taken depends on the CPU."""
    shutil.copytree(BUNDLE, path)
    manifest = Bundle.open(path).manifest
    variants = tuple(variant for variant in manifest.variants if variant.precision == "fp32")
    (path / MANIFEST_NAME).write_bytes(bytes_from_manifest(dataclasses.replace(manifest, variants=variants)))


def _run(folder: Path, example: str, *arguments: str, error: bool = False) -> str:
    command = [sys.executable, ROOT / "examples" / example, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return _shown(done.stderr if error else done.stdout)


def _said(folder: Path, program: Path, *arguments: str, given: str = "") -> str:
    command = [program.resolve(), *arguments]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=True).stdout


def _shown(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


def _answered(bundle: Path, picture: Path) -> str:
    from fastapi.testclient import TestClient

    from .test_embedding import module_of

    with TestClient(module_of("serve_fastapi").app_of(str(bundle))) as client:
        return client.post("/classify", content=picture.read_bytes()).text


if __name__ == "__main__":
    PAGE.write_text(page(cpp_outputs(ROOT / "build" / "cpp")))
