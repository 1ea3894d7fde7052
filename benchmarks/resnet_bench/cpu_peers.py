"""What else one would pick on a CPU: PyTorch in four more ways, and other tools' own INT8.

What each does is what its own documentation tells a user to do. Its libraries are imported when a case is prepared.
INT8 of other tools is calibrated with the bundle's check inputs, which are calibration images of the export.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from resnet_export.options import DEFAULT_LIMITS
from resnet_runtime.bundle import Bundle
from resnet_runtime.errors import UnavailableError
from resnet_runtime.manifest import Limits

from .cases import NEEDS_MODEL, WHOLE_CALL, Answers, Array, Case, FunctionCase, Label, MissingCase, Opened, Subject
from .peers import PeerInput, nncf_model, onnx_from_network, onnxruntime_file, onnxruntime_session, silence

LOOSE: Final = Limits(centred_cosine=0.9)
"""Of the INT8 that another tool made: it stands in the table with its errors, unless it is another function."""


@dataclass(frozen=True)
class CpuPeer:
    """One of ``OTHERS``.

    Attributes:
        opened: from the subject and the shape of a batch to what answers; raises UnavailableError.
        limits: what its answers are held to.
        close: frees what a case leaves in the process.
    """

    opened: Callable[[Subject, tuple[int, ...]], Opened]
    limits: Limits
    close: Callable[[], None] | None = None


def other_peer(subject: Subject, batch: int, name: str) -> Case:
    """The case of one of ``OTHERS``.

    Args:
        subject: what is measured; each of them needs its network.
        batch: of the case.
        name: of the peer.
    """
    peer = OTHERS[name]
    label = Label(name=name, batch=batch, timed=WHOLE_CALL, limits=peer.limits)
    if subject.network is None:
        return MissingCase(label, NEEDS_MODEL)
    if subject.network.fixed_batch not in (None, batch):
        return MissingCase(label, f"the model takes batches of {subject.network.fixed_batch} alone")
    return FunctionCase(label, lambda shape: peer.opened(subject, shape), peer.close)


def _eager(subject: Subject, shape: tuple[int, ...]) -> Opened:
    assert subject.network is not None
    return subject.network.answers, f"{subject.network.description}, {shape[0]} at once"


def _eager_bf16(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """Automatic mixed precision and channels last, as PyTorch's tuning guide says for CPUs."""
    return _torch(_module(subject), shape[0], bf16=True, says="bf16 by autocast, channels last, eager")


def _compiled(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """``torch.compile`` with ``freezing``, which folds and packs the weights; channels last.

    Source: the docstring of ``torch.compile`` and ``torch._inductor.config.freezing``.
    """
    return _frozen(
        _module(subject), _some(subject, shape), bf16=False, says="fp32, channels last, torch.compile with freezing"
    )


def _compiled_bf16(subject: Subject, shape: tuple[int, ...]) -> Opened:
    return _frozen(
        _module(subject),
        _some(subject, shape),
        bf16=True,
        says="bf16 by autocast, channels last, torch.compile, freezing",
    )


def _compiled_int8(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """Quantized by export, with the quantizer for Inductor on x86, and compiled with ``freezing``.

    Source: https://docs.pytorch.org/ao, "PyTorch 2 Export Quantization with X86 Backend through Inductor".
    """
    with silence():
        try:
            import torchao
        except ImportError as error:
            reason = f"torchao is not installed here ({error}): pip install 'resnet-export[bench]'"
            raise UnavailableError(reason) from None
        inputs = _some(subject, shape)
        quantized, names = _quantized_by_torchao(_module(subject), inputs, _batches(subject.check.inputs, shape[0]))
        says = f"int8 by torchao {torchao.__version__}, torch.compile with freezing"
        return _frozen(quantized, inputs, bf16=False, says=says, names=names)


def _quantized_by_torchao(network: Any, example: Array, calibration: list[Array]) -> tuple[Any, list[str]]:
    """The quantized module, and the names of its outputs, which it has lost."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    from resnet_export.trace import named_outputs

    given = torch.from_numpy(example)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        names = list(named_outputs(network(given)))
        # Strict, or the calls of a module that is used twice, as a block's ReLU is, become one pattern too many for it.
        prepared = prepare_pt2e(torch.export.export(network, (given,), strict=True).module(), quantizer)
        for batch in calibration:
            prepared(torch.from_numpy(batch))
        return convert_pt2e(prepared), names


def _nncf(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """NNCF's default quantization in OpenVINO, with the shape made static and the hint for latency."""
    import openvino

    model = _nncf_model(subject)
    model.reshape(list(shape))
    config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()

    def answers(batch: Array) -> Answers:
        return _named(subject, request.infer({0: batch}, share_inputs=True))

    return answers, f"{_nncf_version()}, int8, static shape, hint LATENCY"


def _nncf_defaults(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """The same as NNCF's README goes on: ``compile_model`` of it and nothing else."""
    import openvino

    compiled = openvino.Core().compile_model(_nncf_model(subject), "CPU")

    def answers(batch: Array) -> Answers:
        return _named(subject, compiled(batch))

    return answers, f"{_nncf_version()}, its defaults, {shape[0]} at once"


def _nncf_model(subject: Subject) -> Any:
    """A copy that may be changed."""
    return _made_once(_NNCF, subject, lambda given: nncf_model(given, preset=None, minmax=False)).clone()


def _nncf_version() -> str:
    import nncf
    import openvino

    return f"NNCF {nncf.__version__}, OpenVINO {openvino.get_version()}"


def _named(subject: Subject, found: Mapping[Any, Any]) -> Answers:
    names = [output.name for output in subject.bundle.manifest.outputs]
    return {name: np.asarray(array) for name, array in zip(names, found.values(), strict=True)}


def _own_int8_of_onnxruntime(subject: Subject, shape: tuple[int, ...]) -> Opened:
    """``quantize_static`` with its default calibration, run with the session's defaults."""
    import onnxruntime

    data = _made_once(
        _ONNXRUNTIME, subject, lambda given: onnxruntime_file(given, method="minmax", per_channel=False).read_bytes()
    )
    session = onnxruntime_session(data)
    name = session.get_inputs()[0].name
    names = [output.name for output in subject.bundle.manifest.outputs]

    def answers(batch: Array) -> Answers:
        return dict(zip(names, session.run(None, {name: batch}), strict=True))

    version = onnxruntime.__version__
    return answers, f"ONNX Runtime {version}, its own int8: quantize_static, minmax, {shape[0]} at once"


_NNCF: WeakKeyDictionary[Bundle, Any] = WeakKeyDictionary()
_ONNXRUNTIME: WeakKeyDictionary[Bundle, bytes] = WeakKeyDictionary()
"""What was quantized for a batch size serves the next one."""

Made = TypeVar("Made")


def _made_once(kept: WeakKeyDictionary[Bundle, Made], subject: Subject, make: Callable[[PeerInput], Made]) -> Made:
    found = kept.get(subject.bundle)
    if found is None:
        with tempfile.TemporaryDirectory() as folder:
            found = kept[subject.bundle] = make(_given(subject, Path(folder)))
    return found


def _module(subject: Subject) -> Any:
    """A copy that may be changed, channels last."""
    import torch

    assert subject.network is not None
    module: Any = copy.deepcopy(subject.network.module).eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


def _given(subject: Subject, folder: Path) -> PeerInput:
    """What the quantizers take: one input ``input`` and one output ``logits``."""
    assert subject.network is not None
    if len(subject.bundle.manifest.outputs) > 1 or subject.check.inputs.dtype != np.float32:
        raise UnavailableError("it is set up for one float32 input and one output, and this model has others")
    inputs = np.ascontiguousarray(subject.check.inputs)
    onnx = onnx_from_network(subject.network.module, inputs.shape[1:], folder / "network.onnx")
    return PeerInput(network=subject.network.module, onnx=onnx, calibration=inputs, folder=folder)


def _some(subject: Subject, shape: tuple[int, ...]) -> Array:
    """A batch of that shape."""
    return _batches(subject.check.inputs, shape[0])[0]


def _batches(inputs: Array, size: int) -> list[Array]:
    """All inputs in batches of one size; the last is filled up from the beginning."""
    starts = range(0, len(inputs), size)
    return [np.ascontiguousarray(np.take(inputs, range(first, first + size), axis=0, mode="wrap")) for first in starts]


def _frozen(module: Any, inputs: Array, *, bf16: bool, says: str, names: list[str] | None = None) -> Opened:
    """Compiled for the shape of ``inputs``, now."""
    import torch
    from torch._inductor import config

    answers, description = _torch(torch.compile(module, dynamic=False), len(inputs), bf16=bf16, says=says, names=names)
    with config.patch(freezing=True):
        answers(inputs)
    return answers, description


def _torch(module: Any, batch_size: int, *, bf16: bool, says: str, names: list[str] | None = None) -> Opened:
    import torch

    from resnet_export.trace import named_outputs

    def answers(batch: Array) -> Answers:
        images = torch.from_numpy(batch)
        if images.is_floating_point():
            images = images.to(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = module(images)
        given = named_outputs(found)
        named = given if names is None else dict(zip(names, given.values(), strict=True))
        return {name: tensor.float().numpy() for name, tensor in named.items()}

    return answers, f"PyTorch {torch.__version__}, {says}, {batch_size} at once"


def _reset() -> None:
    """Drop what was compiled: the next batch size compiles anew."""
    import torch

    torch.compiler.reset()


OTHERS: Final[Mapping[str, CpuPeer]] = MappingProxyType(
    {
        "eager": CpuPeer(_eager, DEFAULT_LIMITS["fp32"]),
        "eager-bf16": CpuPeer(_eager_bf16, DEFAULT_LIMITS["bf16"]),
        "compile": CpuPeer(_compiled, DEFAULT_LIMITS["fp32"], _reset),
        "compile-bf16": CpuPeer(_compiled_bf16, DEFAULT_LIMITS["bf16"], _reset),
        "compile-int8": CpuPeer(_compiled_int8, LOOSE, _reset),
        "nncf-int8": CpuPeer(_nncf, LOOSE),
        "nncf-int8-defaults": CpuPeer(_nncf_defaults, LOOSE),
        "onnxruntime-own-int8": CpuPeer(_own_int8_of_onnxruntime, LOOSE),
    }
)
"""By the names that ``--against`` knows. All of them need the checkpoint."""
