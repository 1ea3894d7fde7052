"""Other tools that make a network INT8, each set up as its own documentation tells a user to.

Each is a function from what a user of it has - the module, or the file that ``torch.onnx.export`` makes of it, and the
calibration images - to something that answers batches. All run on a CPU.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resnet_runtime.backends.instructions import NONE, host_instructions

Float32 = NDArray[np.float32]

Logits: TypeAlias = Callable[[Float32], Float32]
"""From a batch (n, C, H, W) to logits (n, classes)."""

_AT_ONCE: Final = 32  # calibration images in a batch where a peer does not ask for single ones


@dataclass(frozen=True, kw_only=True)
class PeerInput:
    """What a peer starts from.

    Attributes:
        network: float32, in eval mode; a peer that changes it changes a copy.
        onnx: what ``onnx_from_network`` wrote.
        calibration: (N, C, H, W).
        folder: for files; it stays as long as the logits are asked for.
    """

    network: nn.Module
    onnx: Path
    calibration: Float32
    folder: Path


Peer: TypeAlias = Callable[[PeerInput], Logits]


def onnx_from_network(network: nn.Module, shape: tuple[int, int, int], path: Path) -> Path:
    """Write what ``torch.onnx.export`` makes of a network, with a dynamic batch; return the path."""
    example = (torch.zeros(2, *shape),)
    with silence():
        torch.onnx.export(
            network,
            example,
            str(path),
            input_names=["input"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            external_data=False,
            verbose=False,
        )
    return path


def onnxruntime_peer(given: PeerInput, *, method: str, per_channel: bool) -> Logits:
    """``onnxruntime_file``, run with the session's defaults."""
    session = onnxruntime_session(onnxruntime_file(given, method=method, per_channel=per_channel).read_bytes())
    return lambda batch: np.asarray(session.run(["logits"], {"input": batch})[0])


def onnxruntime_file(given: PeerInput, *, method: str, per_channel: bool) -> Path:
    """``quant_pre_process`` and ``quantize_static``: QDQ, activations uint8, weights int8, as for x86.

    Without integer dot products weights get 7 bits, as is recommended there: sums of two products would not fit.
    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html and the docstring of
    ``quantize_static``, "Choosing parameters for CPU inference".

    Args:
        given: its ``onnx`` and ``calibration``; images are calibrated with one at a time.
        method: ``minmax`` or ``entropy``.
        per_channel: whether weights have a scale for each output channel; it is False by default.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = given.folder / "prepared.onnx", given.folder / "quantized.onnx"
    methods = {"minmax": quantization.CalibrationMethod.MinMax, "entropy": quantization.CalibrationMethod.Entropy}
    images = iter([{"input": image[None]} for image in given.calibration])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Float32] | None:
            return next(images, None)

    with silence():
        quant_pre_process(str(given.onnx), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(quantized),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=host_instructions() == NONE,
            calibrate_method=methods[method],
        )
    return quantized


def onnxruntime_session(model: bytes) -> Any:
    """An ``InferenceSession`` on the CPU with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def nncf_peer(given: PeerInput, *, preset: str | None, minmax: bool) -> Logits:
    """``nncf_model``, run by OpenVINO in FP32 between what is quantized."""
    import openvino

    model = nncf_model(given, preset=preset, minmax=minmax)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.array(compiled(batch)[0])


def nncf_model(given: PeerInput, *, preset: str | None, minmax: bool) -> Any:
    """``openvino.convert_model`` of the module and ``nncf.quantize``.

    Source: https://docs.openvino.ai, "Basic Quantization Flow", and the README of NNCF.

    Args:
        given: its ``network`` and ``calibration``; images are calibrated with one at a time, as the README does it,
            and all of them are used (``subset_size``).
        preset: ``mixed`` for asymmetric activations; None for the default.
        minmax: whether the range of an activation is the largest of the images' ranges. By default it is their mean,
            which clips the images of higher contrast; with batches of many images the two are nearly the same.
    """
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    shape = given.calibration.shape[1:]
    advanced = None
    if minmax:
        ranges = RangeEstimatorParametersSet.MINMAX
        advanced = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges)
    with silence():
        model = openvino.convert_model(given.network, example_input=torch.zeros(1, *shape), input=[-1, *shape])
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in given.calibration]),
            preset=None if preset is None else nncf.QuantizationPreset(preset),
            subset_size=len(given.calibration),
            advanced_parameters=advanced,
        )


def modelopt_peer(given: PeerInput) -> Logits:
    """``modelopt.torch.quantization.quantize`` with INT8_DEFAULT_CFG; its fake quantization is run by PyTorch.

    Source: https://nvidia.github.io/Model-Optimizer/guides/_pytorch_quantization.html
    """
    import modelopt.torch.quantization as mtq

    images = torch.from_numpy(given.calibration)

    def forward_loop(model: nn.Module) -> None:
        for batch in images.split(_AT_ONCE):  # type: ignore[no-untyped-call]
            model(batch)

    network = copy.deepcopy(given.network)
    with silence(), torch.no_grad():
        quantized = mtq.quantize(network, mtq.INT8_DEFAULT_CFG, forward_loop)
    return logits_from_module(quantized)


def logits_from_module(network: nn.Module) -> Logits:
    """Eager PyTorch, channels last in memory: on a CPU it is the faster way."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def logits(batch: Float32) -> Float32:
        answers: Any = network(torch.from_numpy(batch).contiguous(memory_format=torch.channels_last))
        return np.asarray(answers.numpy())

    return logits


PEERS: Final[Mapping[str, Peer]] = MappingProxyType(
    {
        "onnxruntime-minmax": functools.partial(onnxruntime_peer, method="minmax", per_channel=False),
        "onnxruntime-minmax-per-channel": functools.partial(onnxruntime_peer, method="minmax", per_channel=True),
        "onnxruntime-entropy": functools.partial(onnxruntime_peer, method="entropy", per_channel=False),
        "onnxruntime-entropy-per-channel": functools.partial(onnxruntime_peer, method="entropy", per_channel=True),
        "nncf": functools.partial(nncf_peer, preset=None, minmax=False),
        "nncf-mixed": functools.partial(nncf_peer, preset="mixed", minmax=False),
        "nncf-minmax": functools.partial(nncf_peer, preset=None, minmax=True),
        "modelopt": modelopt_peer,
    }
)
"""By name."""


def peer_versions() -> dict[str, str]:
    """The versions of the peers' distributions; those that are not installed are left out."""
    versions = {}
    for name in ("onnxruntime", "nncf", "openvino", "nvidia-modelopt", "torchao"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep progress bars and notes off the terminal; what goes wrong is raised, and that is what a row says."""
    import logging
    import warnings

    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
