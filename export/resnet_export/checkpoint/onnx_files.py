"""ONNX files, whatever wrote them: what they have to be, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper

from resnet_export.errors import CheckpointError
from resnet_export.files import file_digest
from resnet_export.onnx_network import (
    INPUT_NAME,
    OnnxNetwork,
    converted_to_opset,
    fixed_batch,
    opset_of,
    original_input,
    same_with_free_batch,
    turns_channels_first,
    with_channels_first,
    with_free_batch,
)
from resnet_runtime.errors import lines_of

_LARGEST: Final = 2**31 - 1
_OWN_DOMAINS: Final = ("", "ai.onnx")
_OLDEST: Final = 7
"""ONNX's converter knows no opset before."""
_BRANCHES: Final = ("If", "Loop", "Scan")
_QUANTIZED: Final = (
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
_CHANNELS: Final = (1, 3, 4)
_CHANNELS_FIRST: Final = ("Conv", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool")
"""Operators of which ONNX says that their input is (N, C, H, W)."""


def network_from_onnx(path: Path) -> tuple[OnnxNetwork, tuple[str, ...]]:
    """Read an ONNX file, with the tensors that it keeps in files of their own.

    Args:
        path: of the file.

    Returns:
        The network, and what was changed on the way to it, a sentence each.

    Raises:
        CheckpointError: it cannot be read; it takes or gives something else than a classifier of images does; or it
            has operators that cannot be converted, which are named.
    """
    name = path.name
    model, notes = _read(path)
    if len(model.functions):
        model = _inlined(name, model)
    _refuse_operators(name, model)
    _check(name, model)
    _refuse_signature(name, model)
    _refuse_values(name, model)
    last = _is_channels_last(model)
    if last:
        notes.append(f"{name} takes (N, H, W, C): the bundle takes (N, C, H, W)")
    converted, note = _converted(name, _without_listed_initializers(model))
    notes += note
    fixed = fixed_batch(model)
    free = None if fixed is None else with_free_batch(converted, fixed)
    freed = free is not None and fixed is not None and same_with_free_batch(model, free, fixed)
    if free is not None and freed:
        notes.append(f"{name} takes batches of {fixed} alone: its batch axis was opened, and answers the same")
        converted = free
    elif fixed is not None:
        notes.append(f"{name} takes batches of {fixed} alone, and does not answer the same with its batch axis opened")
    if last:
        converted = with_channels_first(converted)
    try:
        return OnnxNetwork(model, converted, channels_last=last, opened=freed), tuple(notes)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise CheckpointError(f"ONNX Runtime cannot load {name}: {_line(error)}") from error


def _read(path: Path) -> tuple[onnx.ModelProto, list[str]]:
    """The model with all its tensors, and a note on each file that it keeps some in."""
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        others = _others(model)
        onnx.load_external_data_for_model(model, str(path.parent))  # it refuses links and what lies elsewhere
        notes = [
            f"tensors of {path.name} stand in {other}, SHA-256 {file_digest(path.parent / other)}" for other in others
        ]
    except (OSError, onnx.checker.ValidationError) as error:
        raise CheckpointError(
            f"{path.name} keeps tensors in other files, and one cannot be read: {_line(error)}; put them beside it"
        ) from error
    except Exception as error:  # protobuf's own, which depends on its version
        raise CheckpointError(f"{path.name} is a damaged ONNX file: copy or download it again") from error
    if model.ByteSize() > _LARGEST:
        raise CheckpointError(f"{path.name} has more than 2 GB, and an ONNX model in one piece cannot")
    return model, notes


def _others(model: onnx.ModelProto) -> list[str]:
    """The files of tensors that stand outside, each once."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return list(dict.fromkeys(entry.value for entry in entries if entry.key == "location"))


def _inlined(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the inliner's own, of no common class
        raise CheckpointError(f"the functions of {name} cannot be inlined: {_line(error)}") from error
    return inlined


def _refuse_operators(name: str, model: onnx.ModelProto) -> None:
    versions = {item.domain: item.version for item in model.opset_import}
    version = max((versions.get(domain, 0) for domain in _OWN_DOMAINS), default=0)
    if version < _OLDEST:
        raise CheckpointError(
            f"{name} has opset {version or 'none'}, and {_OLDEST} is the oldest that can be converted: write it anew"
        )
    found = {node.op_type: node for node in model.graph.node}
    foreign = _named(f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain not in _OWN_DOMAINS)
    if foreign:
        raise CheckpointError(
            f"{name} has operators that are not ONNX's own: {foreign}; write the file anew without an optimizer"
        )
    branches = _named(kind for kind in _BRANCHES if kind in found)
    if branches:
        raise CheckpointError(f"{name} has the control flow operators {branches}, and a ResNet needs none of them")
    quantized = _named(kind for kind in _QUANTIZED if kind in found)
    if quantized:
        raise CheckpointError(
            f"{name} is quantized already, with {quantized}: give the floating point model, of which INT8 is made here"
        )


def _check(name: str, model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise CheckpointError(f"{name} is no valid ONNX model: {_line(error)}") from error


def _refuse_signature(name: str, model: onnx.ModelProto) -> None:
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise CheckpointError(f"{name} takes {len(inputs)} inputs ({listed}), and a ResNet takes one batch of images")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = _type_name(kind.elem_type)
        raise CheckpointError(
            f"{name} takes {found} images, and only float32 can be exported: write it anew in float32"
        )
    if len(kind.shape.dim) != 4:
        raise CheckpointError(f"{name} takes a tensor of {len(kind.shape.dim)} axes, and images have (N, C, H, W)")
    outputs = list(model.graph.output)
    unfit = [value.name for value in outputs if not value.name.isprintable() or value.name == INPUT_NAME]
    if not outputs or unfit:
        raise CheckpointError(
            f"{name} has {len(outputs)} outputs" + (f", of which {unfit[0]!r} has no name of its own" if unfit else "")
        )
    scalars = [
        value.name
        for value in outputs
        if value.type.tensor_type.HasField("shape") and not value.type.tensor_type.shape.dim
    ]
    if scalars:
        raise CheckpointError(f"the output {scalars[0]} of {name} is one number, and answers have a batch axis")
    others = [value.name for value in outputs if value.type.tensor_type.elem_type != TensorProto.FLOAT]
    if others:
        raise CheckpointError(f"the outputs {', '.join(others)} of {name} are not float32, which answers have to be")


def _refuse_values(name: str, model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            kind = _type_name(tensor.data_type)
            raise CheckpointError(f"{tensor.name} of {name} is {kind}: write the file anew with float32 weights")
        if tensor.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise CheckpointError(f"{tensor.name} of {name} has values that are not finite: training diverged")


def _is_channels_last(model: onnx.ModelProto) -> bool:
    """Told by what reads the input, else by which axis has the length of colors."""
    entry = original_input(model)
    readers = [node for node in model.graph.node if entry.name in node.input]
    if readers and all(turns_channels_first(node) for node in readers):
        return True
    if any(node.op_type in _CHANNELS_FIRST for node in readers):
        return False
    axes = [axis.dim_value for axis in entry.type.tensor_type.shape.dim]
    return axes[3] in _CHANNELS and axes[1] not in _CHANNELS


def _without_listed_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Files of before IR version 4 list their weights as inputs too, of which they are the defaults."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    entry = original_input(copy)
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(entry)
    del copy.graph.input[:]
    copy.graph.input.append(kept)
    copy.ir_version = max(copy.ir_version, 4)
    return copy


def _converted(name: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    before = opset_of(model)
    try:
        converted = converted_to_opset(model)
    except Exception as error:  # the converter's own, of no common class
        raise CheckpointError(f"{name} has opset {before}, which ONNX cannot convert: {_line(error)}") from error
    after = opset_of(converted)
    return converted, [] if before == after else [f"opset {before} was converted to {after}"]


def _type_name(kind: int) -> str:
    return TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else f"type {kind}"


def _named(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(set(kinds)))


def _line(error: BaseException) -> str:
    return lines_of(error)[0].rstrip(".:")
