"""Small bundles for tests: valid ones, made of the runtime's own records."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.manifest import (
    MANIFEST_NAME,
    Batch,
    FileRecord,
    Gate,
    Input,
    Limits,
    Manifest,
    Model,
    Output,
    Parity,
    Preprocessing,
    Resize,
    Source,
    Variant,
    bytes_from_manifest,
)

LABELS = ("red", "green", "blue", "none")
ONNX = b"stands for an ONNX file in tests that load none"


def record(path: str, data: bytes) -> FileRecord:
    """The record that lists ``data`` under ``path``."""
    return FileRecord(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


def check_npz(inputs: NDArray[Any], outputs: Mapping[str, NDArray[np.float64]]) -> bytes:
    """The bytes of a check.npz; the same for the same arrays."""
    file = io.BytesIO()
    np.savez(file, input=inputs, **{f"output.{name}": array for name, array in outputs.items()})
    return file.getvalue()


def color_means(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The network that the sample bundle stands for: (N, 3, 8, 8) to the mean of each channel, and 0."""
    means = batch.mean(axis=(2, 3))
    return {"logits": np.concatenate([means, np.zeros_like(means[:, :1])], axis=1)}


def sample_files() -> dict[str, bytes]:
    """The files of the sample bundle by path, without its manifest."""
    inputs = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    outputs = color_means(inputs)["logits"].astype(np.float64)
    return {
        "model.fp32.onnx": ONNX,
        "check.npz": check_npz(inputs, {"logits": outputs}),
        "report.json": b"{}\n",
        "labels.txt": ("\n".join(LABELS) + "\n").encode(),
    }


def sample_preprocessing(**changes: Any) -> Preprocessing:
    """To the nearest 8 x 8 pixels, then to 0..1."""
    given: dict[str, Any] = {
        "exif": "apply",
        "alpha": "drop",
        "color_order": "RGB",
        "resize": Resize(mode="exact", size=(8, 8), interpolation="nearest", antialias=True),
        "crop": None,
        "scale": 1 / 255,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "in_graph": False,
    }
    return Preprocessing(**{**given, **changes})


def sample_gate(**changes: Any) -> Gate:
    """A gate that was passed without an error."""
    given: dict[str, Any] = {
        "passed": True,
        "executor": "simulated",
        "emulated": False,
        "limits": Limits(max_error=1e-5, mean_error=1e-6, top1_agreement=1.0),
        "parity": Parity(
            samples=4,
            undecided=0,
            max_error=0.0,
            mean_error=0.0,
            centred_cosine=1.0,
            snr_db=400.0,
            top1_agreement=1.0,
            top5_agreement=1.0,
        ),
    }
    return Gate(**{**given, **changes})


def sample_manifest(files: Mapping[str, bytes], **changes: Any) -> Manifest:
    """The manifest of ``files``; ``changes`` replace whole members."""
    given: dict[str, Any] = {
        "tools": {"resnet-export": "0.1.0"},
        "model": Model(
            architecture="colors",
            parameters=0,
            source=Source(name="colors.pt", sha256="5" * 64, size=5),
            traced_by="hand",
        ),
        "input": Input(
            name="images",
            layout="NCHW",
            dtype="float32",
            shape=(3, 8, 8),
            batch=Batch(smallest=1, optimal=2, largest=4),
        ),
        "outputs": (Output(name="logits", shape=(4,)),),
        "preprocessing": sample_preprocessing(),
        "variants": (
            Variant(
                id="fp32",
                precision="fp32",
                scheme=None,
                file=record("model.fp32.onnx", files["model.fp32.onnx"]),
                gate=sample_gate(),
            ),
        ),
        "engines": (),
        "check": record("check.npz", files["check.npz"]),
        "report": record("report.json", files["report.json"]),
        "labels": record("labels.txt", files["labels.txt"]) if "labels.txt" in files else None,
    }
    return Manifest(**{**given, **changes})


def write_bundle(path: Path, files: Mapping[str, bytes], manifest: Manifest | bytes) -> Path:
    """A directory at ``path`` with ``files`` and the manifest."""
    data = manifest if isinstance(manifest, bytes) else bytes_from_manifest(manifest)
    for name, content in {**files, MANIFEST_NAME: data}.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path


def write_sample(path: Path, **changes: Any) -> Path:
    """The sample bundle at ``path``; ``changes`` as in ``sample_manifest``; so do ``files`` (None: leave it out)."""
    files = {**sample_files(), **changes.pop("files", {})}
    files = {name: data for name, data in files.items() if data is not None}
    return write_bundle(path, files, sample_manifest(files, **changes))


def replaced(value: Any, path: str, change: Any) -> Any:
    """The record ``value`` with its attribute at the dotted ``path`` changed."""
    name, _, rest = path.partition(".")
    inner = getattr(value, name)
    return dataclasses.replace(value, **{name: replaced(inner, rest, change) if rest else change})
