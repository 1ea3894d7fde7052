"""What the golden bundle with int8 was made from: the records that the first one lacks, and real quantized graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_runtime.manifest import (
    Accuracy,
    Batch,
    Gate,
    Input,
    KeptLayer,
    Limits,
    Manifest,
    Model,
    Output,
    Parity,
    Preprocessing,
    Source,
    Speed,
    Variant,
)

from .bundles import check_npz, record

GOLDEN_INT8 = Path(__file__).with_name("golden") / "resnet-bundle-1-int8"
_GRAPHS = {
    "model.fp32.onnx": None,
    "model.int8-tensorrt.onnx": "tensorrt",
    "model.int8-cpu.onnx": "cpu",
}


def golden_files() -> dict[str, bytes]:
    """The files by path, without the manifest; needs the onnx package."""
    from .quantized import block_graph, on_grid, reference

    graphs = {path: block_graph(scheme, kept={"conv2"} if scheme else set()) for path, scheme in _GRAPHS.items()}
    inputs = on_grid(8)
    answers = reference(graphs["model.fp32.onnx"], inputs).astype(np.float64)
    return {
        **graphs,
        "check.npz": check_npz(inputs, {"logits": answers}),
        "calibration.json": b'{"for people": true}\n',
        "report.json": b"{}\n",
    }


def golden_manifest(files: dict[str, bytes]) -> Manifest:
    """The records of ``files``."""
    speeds = (
        Speed(backend="openvino", against="fp32", ratio=2.75, batch=1, instructions="avx512_vnni"),
        Speed(backend="onnxruntime", against="fp32", ratio=1.25, batch=1, instructions="avx512_vnni"),
    )
    kept = (KeptLayer(node="conv2", precision="fp32", reason="its error is the largest"),)
    labelled = Accuracy(samples=1000, labelled=True, eager=0.75, measured=0.745, max_drop=1.0)
    unlabelled = Accuracy(samples=64, labelled=False, eager=1.0, measured=0.984375, max_drop=None)
    return Manifest(
        tools={"resnet-export": "0.1.0"},
        model=Model(
            architecture="block",
            parameters=300,
            source=Source(name="block.pt", sha256="0123456789abcdef" * 4, size=64),
            traced_by="hand",
        ),
        input=Input(
            name="images",
            layout="NCHW",
            dtype="float32",
            shape=(3, 8, 8),
            batch=Batch(smallest=1, optimal=4, largest=8),
        ),
        outputs=(Output(name="logits", shape=(4,)),),
        preprocessing=Preprocessing(
            exif="apply",
            alpha="drop",
            color_order="RGB",
            resize=None,
            crop=(8, 8),
            scale=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(1.0, 1.0, 1.0),
            in_graph=False,
        ),
        variants=(
            Variant(
                id="fp32",
                precision="fp32",
                scheme=None,
                file=record("model.fp32.onnx", files["model.fp32.onnx"]),
                gate=_gate(Limits(max_error=1e-4, mean_error=1e-5, top1_agreement=1.0), None),
            ),
            Variant(
                id="int8-tensorrt",
                precision="int8",
                scheme="tensorrt",
                file=record("model.int8-tensorrt.onnx", files["model.int8-tensorrt.onnx"]),
                gate=_gate(Limits(centred_cosine=0.98, top1_agreement=0.95), unlabelled, emulated=True),
                kept_higher=kept,
            ),
            Variant(
                id="int8-cpu",
                precision="int8",
                scheme="cpu",
                file=record("model.int8-cpu.onnx", files["model.int8-cpu.onnx"]),
                gate=_gate(Limits(centred_cosine=0.98, top1_agreement=0.95), labelled),
                kept_higher=kept,
                speeds=speeds,
            ),
        ),
        engines=(),
        check=record("check.npz", files["check.npz"]),
        report=record("report.json", files["report.json"]),
        calibration=record("calibration.json", files["calibration.json"]),
    )


def _gate(limits: Limits, accuracy: Accuracy | None, *, emulated: bool = False) -> Gate:
    return Gate(
        passed=True,
        executor="written by hand",
        emulated=emulated,
        limits=limits,
        parity=Parity(
            samples=8,
            undecided=0,
            max_error=0.0,
            mean_error=0.0,
            centred_cosine=1.0,
            snr_db=400.0,
            top1_agreement=1.0,
            top5_agreement=1.0,
        ),
        accuracy=accuracy,
    )
