"""What the first golden bundle of resnet-bundle/1 was made from: its records, and what its graphs compute.

It was written before ``calibration``, ``speeds`` and ``accuracy`` were added to the schema, lacks those keys, and is
never written anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.manifest import (
    Assumption,
    Batch,
    Engine,
    Gate,
    Input,
    KeptLayer,
    Limits,
    Manifest,
    Model,
    Output,
    Parity,
    Preprocessing,
    Resize,
    Source,
    Variant,
)

from .bundles import record

GOLDEN = Path(__file__).with_name("golden") / "resnet-bundle-1"

WEIGHTS = np.array([[8, -4, 2], [-4, 8, 1], [1, -2, 8], [-2, 1, -4]], np.float32)
BIAS = np.array([-2, -1, 0, 1], np.float32)


def answers(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 3, 8, 8) to (N, 4): the mean over each channel, and a linear layer; in float64."""
    return inputs.astype(np.float64).mean(axis=(2, 3)) @ WEIGHTS.T.astype(np.float64) + BIAS


def golden_inputs() -> NDArray[np.float32]:
    """Eight samples of colors between -1 and 1, exact multiples of 1/64."""
    colors = np.random.default_rng(1).integers(-64, 65, (8, 3, 1, 1))
    return np.broadcast_to(colors / 64, (8, 3, 8, 8)).astype(np.float32)


def golden_manifest(files: dict[str, bytes]) -> Manifest:
    """The records of ``files``."""
    fp32 = record("model.fp32.onnx", files["model.fp32.onnx"])
    quantized = record("model.int8-cpu.onnx", files["model.int8-cpu.onnx"])
    limits = Limits(max_error=1e-6, mean_error=1e-7, centred_cosine=None, top1_agreement=1.0)
    return Manifest(
        tools={"resnet-export": "0.1.0", "torch": "2.13.0+cpu"},
        model=Model(
            architecture="colors",
            parameters=16,
            source=Source(name="colors.pt", sha256="0123456789abcdef" * 4, size=64),
            traced_by="hand",
            assumptions=(Assumption(subject="mean", value="0.5 0.5 0.5", option="--mean"),),
        ),
        input=Input(
            name="images",
            layout="NCHW",
            dtype="float32",
            shape=(3, 8, 8),
            batch=Batch(smallest=1, optimal=2, largest=4),
        ),
        outputs=(Output(name="logits", shape=(4,)),),
        preprocessing=Preprocessing(
            exif="apply",
            alpha="white",
            color_order="RGB",
            resize=Resize(mode="shorter", size=(9,), interpolation="bilinear", antialias=True),
            crop=(8, 8),
            scale=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.25, 0.5),
            in_graph=False,
        ),
        variants=(
            Variant(id="fp32", precision="fp32", scheme=None, file=fp32, gate=_gate(limits)),
            Variant(
                id="bf16", precision="bf16", scheme=None, file=fp32, gate=_gate(Limits(max_error=0.1, mean_error=0.015))
            ),
            Variant(
                id="int8-cpu",
                precision="int8",
                scheme="cpu",
                file=quantized,
                gate=_gate(Limits(centred_cosine=0.98), emulated=True),
                kept_higher=(KeptLayer(node="fc", precision="fp32", reason="it is the last layer"),),
            ),
        ),
        engines=(
            Engine(
                id="fp32-sm90",
                variant="fp32",
                file=record("engines/fp32.engine", files["engines/fp32.engine"]),
                builder="tensorrt",
                builder_version="10.13.0",
                platform="linux-x86_64",
                gpu="NVIDIA H100",
                compute_capabilities=("9.0",),
                compatibility="none",
                profiles=(Batch(smallest=1, optimal=2, largest=4),),
                verified_on=None,
            ),
        ),
        check=record("check.npz", files["check.npz"]),
        report=record("report.json", files["report.json"]),
        labels=record("labels.txt", files["labels.txt"]),
    )


def _gate(limits: Limits, *, emulated: bool = False) -> Gate:
    return Gate(
        passed=True,
        executor="written by hand",
        emulated=emulated,
        limits=limits,
        parity=Parity(
            samples=8,
            undecided=1,
            max_error=0.0,
            mean_error=0.0,
            centred_cosine=1.0,
            snr_db=400.0,
            top1_agreement=1.0,
            top5_agreement=1.0,
        ),
    )
