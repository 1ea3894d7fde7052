"""The TensorRT backend is compiled, warnings being errors, where the headers of TensorRT and CUDA are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HEADERS = [Path(os.environ.get(name, "/usr"), "include", file) for name, file in
           (("TENSORRT_ROOT", "NvInfer.h"), ("CUDA_PATH", "cuda_runtime_api.h"))]  # fmt: skip


@pytest.mark.skipif(
    not all(path.exists() for path in HEADERS),
    reason="no headers of TensorRT and CUDA: TENSORRT_ROOT and CUDA_PATH name their folders",
)
def test_the_backend_compiles(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "runtime" / "cpp"
    options = ("-DWITH_OPENVINO=OFF", "-DRESNET_RUNTIME_STRICT=ON")
    done = subprocess.run(["cmake", "-S", source, "-B", tmp_path, *options], capture_output=True, text=True, check=True)
    assert "TensorRT" in done.stdout or "backends tensorrt" in done.stdout
    subprocess.run(["cmake", "--build", tmp_path, "--target", "resnet_runtime_tensorrt"], check=True)
