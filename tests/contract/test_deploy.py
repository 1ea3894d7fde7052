"""A host that only serves: the runtime installed alone, as README.md says, in an environment of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_runtime.bundle import Bundle

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported here, in the environment that has torch."""
    import torch

    from resnet_export import ExportOptions, bundle_from_checkpoint
    from resnet_export.resnet import ResNetConfig
    from tests.export.models import live_resnet

    folder = tmp_path_factory.mktemp("exported")
    config = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", classes=CLASSES)
    torch.save(live_resnet(config).state_dict(), folder / "tiny.pt")
    (folder / "labels.txt").write_text("".join(f"class {index}\n" for index in range(CLASSES)))
    options = ExportOptions(variants=("fp32",), labels=folder / "labels.txt")
    return bundle_from_checkpoint(folder / "tiny.pt", folder / "tiny.bundle", options).path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return path


class Host:
    """An environment with resnet-export and one extra, or none, and no way to see what is installed outside."""

    def __init__(self, folder: Path, extra: str) -> None:
        self.folder = folder
        venv.create(folder, with_pip=True)
        wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
        constraints = str(ROOT / "constraints.txt")
        done = self.run("python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wanted)
        assert done.returncode == 0, done.stderr

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, started in its own folder."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        path = self.folder / ("Scripts" if sys.platform == "win32" else "bin") / program
        return subprocess.run(
            [str(path), *arguments], capture_output=True, text=True, check=False, cwd=self.folder, env=own
        )

    def install(self, requirement: str) -> None:
        """One more package."""
        constraints = str(ROOT / "constraints.txt")
        done = self.run("python", "-m", "pip", "install", "--quiet", "--constraint", constraints, requirement)
        assert done.returncode == 0, done.stderr

    def importable(self, *names: str) -> list[str]:
        """Those of ``names`` that its Python finds."""
        code = "import importlib.util, json; print(json.dumps([n for n in {!r} if importlib.util.find_spec(n)]))"
        found = json.loads(self.run("python", "-c", code.format(names)).stdout)
        assert isinstance(found, list)
        return found


@pytest.mark.parametrize(("extra", "other"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_one_backend_serves_a_bundle(bundle: Path, image: Path, tmp_path: Path, extra: str, other: str) -> None:
    host = Host(tmp_path / "host", extra)
    assert host.importable("resnet_runtime", extra) == ["resnet_runtime", extra]
    assert host.importable("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", other) == []

    done = host.run("resnet-run", "--json", str(bundle), str(image))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    assert (answer["backend"], answer["precision"]) == (extra, "fp32")
    (result,) = answer["results"]
    assert result["image"] == str(image)
    assert sorted(entry["label"] for entry in result["top"]) == [f"class {index}" for index in range(CLASSES)]
    # The probabilities are computed in float64 and summed in another order.
    assert sum(entry["probability"] for entry in result["top"]) == pytest.approx(1, rel=1e-12)

    done = host.run("resnet-run", "--check", "--json", str(bundle))
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout)
    assert checked["passed"] is True
    assert [(item["variant"], item["backend"], item["passed"]) for item in checked["checks"]] == [("fp32", extra, True)]

    done = host.run("resnet-run", "--backend", other, str(bundle), str(image))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {other} is not installed here: pip install 'resnet-export[{other}]'\n"


def test_without_a_backend_one_sentence_says_what_to_install(bundle: Path, image: Path, tmp_path: Path) -> None:
    host = Host(tmp_path / "host", "")
    assert host.importable("openvino", "onnxruntime", "torch", "onnx") == []
    sentences = (
        "pycuda is not installed here: pip install 'resnet-export[tensorrt]'",
        "openvino is not installed here: pip install 'resnet-export[openvino]'",
        "onnxruntime is not installed here: pip install 'resnet-export[onnxruntime]'",
    )
    done = host.run("resnet-run", str(bundle), str(image))
    assert (done.returncode, done.stdout) == (2, "")
    lines = "".join(f"  {sentence}\n" for sentence in sentences)
    assert done.stderr == f"Error: no backend is installed here: install one of these\n{lines}"

    done = host.run("resnet-run", "--json", str(bundle), str(image))
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["details"] == list(sentences)

    done = host.run("resnet-run", "--check", str(bundle))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: no backend is installed here to check the bundle with\n{lines}"


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="TensorRT-RTX has wheels for x86-64 Linux alone"
)
def test_a_host_that_builds_adds_an_engine_without_torch(bundle: Path, tmp_path: Path) -> None:
    host = Host(tmp_path / "host", "build")
    assert host.importable("torch", "onnxscript", "safetensors", "openvino", "onnxruntime") == []
    own = shutil.copytree(bundle, tmp_path / "own.bundle")
    build = ("resnet-export", str(own), "--engine", "tensorrt-rtx", "--engine-precision", "fp32")
    done = host.run(*build)
    assert (done.returncode, done.stdout) == (2, "")
    assert "tensorrt-rtx is not installed: pip install 'resnet-export[tensorrt-rtx]'" in done.stderr
    host.install("tensorrt-rtx-cu13")
    done = host.run(*build, "--json")
    assert done.returncode == 0, done.stderr
    (built,) = json.loads(done.stdout)["engines"]["built"]
    assert (own / built["file"]["path"]).stat().st_size == built["file"]["size"] > 1000
    assert [engine.id for engine in Bundle.open(own).manifest.engines] == [built["id"]]
