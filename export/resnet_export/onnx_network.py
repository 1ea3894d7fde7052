"""An ONNX file as a network: what it computes, by ONNX Runtime and unchanged, and the model that the passes begin with.

``forward`` runs the bytes of the file with ONNX Runtime's optimizer off: that is what every gate compares with. The
model for the passes is the same converted to the opset that is used here, with its input as (N, C, H, W).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from .graph import OPSET

INPUT_NAME: Final = "input"
"""Of every graph that is made here."""

_MOST_NUMBERS: Final = 2**26
"""In the images that opening a batch is tried with: 445 of 224x224."""


class OnnxNetwork(nn.Module):
    """What ``network_from_onnx`` read.

    Args:
        original: the file's model, with one float32 input of four axes.
        converted: the same in opset ``OPSET``.
        channels_last: whether the file's own input is (N, H, W, C).
        opened: whether ``converted`` takes any batch where the file takes but one.

    Attributes:
        image_shape: (C, H, W), None where the file leaves an axis open.
        fixed_batch: the only batch size that the file takes; None: any.
        opset: the file's own.
        parameters_count: how many numbers its floating point initializers hold.
    """

    def __init__(
        self, original: onnx.ModelProto, converted: onnx.ModelProto, *, channels_last: bool, opened: bool
    ) -> None:
        super().__init__()
        self._session = _session(original.SerializeToString())
        self._converted = converted
        self.opset = opset_of(original)
        self._channels_last = channels_last
        self._input = original_input(original).name
        self._outputs = [value.name for value in original.graph.output]
        batch, *shape = _dimensions(original_input(original))
        self._at_once = batch
        self.fixed_batch = None if opened else batch
        self.image_shape = (shape[2], *shape[:2]) if channels_last else tuple(shape)
        self.parameters_count = sum(
            int(np.prod(tensor.dims))
            for tensor in original.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) float32 to the file's outputs by their names.

        Raises:
            TypeError: the images are not float32, as the file's are.
        """
        if images.dtype != torch.float32:
            raise TypeError(f"the ONNX file takes float32, not {images.dtype}")
        array = images.numpy()
        given = np.ascontiguousarray(array.transpose(0, 2, 3, 1) if self._channels_last else array)
        size = self._at_once or max(1, len(given))
        short = -len(given) % size  # a file of fixed batches is run in those
        whole = np.concatenate([given, np.zeros((short, *given.shape[1:]), given.dtype)]) if short else given
        parts = [
            self._session.run(self._outputs, {self._input: whole[first : first + size]})
            for first in range(0, len(whole), size)
        ]
        found = [np.concatenate(arrays)[: len(given)] for arrays in zip(*parts, strict=True)]
        return {name: torch.from_numpy(array) for name, array in zip(self._outputs, found, strict=True)}

    def model(self, input_shape: tuple[int, ...]) -> onnx.ModelProto:
        """The converted model for images of one size, with the shape of each tensor that can be told.

        Args:
            input_shape: (C, H, W).
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._converted)
        del model.graph.value_info[:]
        entry = model.graph.input[0]
        batch: int | str = "batch" if self.fixed_batch is None else self.fixed_batch
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, onnx.TensorProto.FLOAT, [batch, *input_shape]))
        for output in model.graph.output:  # what the file says of them may be of another size
            output.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def original_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no initializer."""
    held = {tensor.name for tensor in model.graph.initializer}
    (entry,) = (value for value in model.graph.input if value.name not in held)
    return entry


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The only batch size that the model takes; None: any."""
    return _dimensions(original_input(model))[0]


def with_channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with (N, H, W, C) taken as (N, C, H, W): a Transpose that turns it round is left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    entry = original_input(copy)
    batch, height, width, channels = (_axis(axis) for axis in entry.type.tensor_type.shape.dim)
    last, first = entry.name, f"{entry.name}/channels_first"
    entry.CopyFrom(helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, [batch, channels, height, width]))
    for node in [node for node in graph.node if turns_channels_first(node) and node.input[0] == last]:
        _replace(graph, node.output[0], first)
        graph.node.remove(node)
    if any(last in node.input for node in graph.node):
        turned = helper.make_node("Transpose", [first], [last], name=f"{last}/channels_last", perm=[0, 2, 3, 1])
        graph.node.insert(0, turned)
    return copy


def turns_channels_first(node: onnx.NodeProto) -> bool:
    """Whether it is the Transpose from (N, H, W, C) to (N, C, H, W)."""
    return node.op_type == "Transpose" and any(
        attribute.name == "perm" and list(attribute.ints) == [0, 3, 1, 2] for attribute in node.attribute
    )


def with_free_batch(model: onnx.ModelProto, fixed: int) -> onnx.ModelProto:
    """The model with its batch axis open, and each Reshape that names the fixed batch keeping its input's instead.

    It may be another function than before: ``same_with_free_batch`` tells.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    entry = original_input(copy)
    entry.type.tensor_type.shape.dim[0].dim_param = "batch"
    arrays = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "Constant":
            arrays.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    for node in list(copy.graph.node):
        shape = arrays.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None:
            continue
        target = numpy_helper.to_array(shape).copy()
        if target.ndim == 1 and len(target) > 1 and target[0] == fixed and (target[1:] != 0).all():
            target[0] = 0  # as in the input, unless allowzero says that it is a length
            name = f"{node.input[1]}/{node.output[0]}"
            copy.graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[1] = name
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def same_with_free_batch(original: onnx.ModelProto, free: onnx.ModelProto, fixed: int) -> bool:
    """Whether the freed model answers samples one by one, and more than the fixed batch, as the file answers them."""
    entry = original_input(original)
    shape = [axis for axis in _dimensions(entry)[1:] if axis is not None]
    if len(shape) < 3 or fixed * int(np.prod(shape, dtype=object)) > _MOST_NUMBERS:
        return False
    samples = np.random.default_rng(0).standard_normal((fixed + 1, *shape)).astype(np.float32)
    try:
        given = _session(original.SerializeToString(), silent=True)
        firsts = given.run(None, {entry.name: samples[:fixed]})
        rolled = given.run(None, {entry.name: samples[1:]})
        freed = _session(free.SerializeToString(), silent=True)
        whole = freed.run(None, {entry.name: samples})
        alone = freed.run(None, {entry.name: samples[-1:]})
    except Exception:  # ONNX Runtime's exceptions share no base class but Exception
        return False
    for first, last, array, one in zip(firsts, rolled, whole, alone, strict=True):
        if len(first) != fixed or array.shape != (fixed + 1, *first.shape[1:]) or one.shape != (1, *first.shape[1:]):
            return False
        exact = np.concatenate([first, last[-1:]])
        allowed = 1e-4 * (np.ptp(exact) + 1e-30)  # float32, and kernels that differ with the batch
        if not (np.abs(array - exact).max() <= allowed and np.abs(one - exact[-1:]).max() <= allowed):
            return False
    return True


def converted_to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the opset that is used here. Raises what ONNX's own converter raises."""
    if opset_of(model) == OPSET:
        return model
    converted = onnx.version_converter.convert_version(model, OPSET)
    assert isinstance(converted, onnx.ModelProto)
    return converted


def _session(data: bytes, *, silent: bool = False) -> Any:
    """With the optimizer off: what the file says, node by node. Silent where failing is an answer."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4 if silent else 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _dimensions(entry: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    axes = (_axis(axis) for axis in entry.type.tensor_type.shape.dim)
    return tuple(axis if isinstance(axis, int) else None for axis in axes)


def _axis(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """Its length, its name, or None where it has neither."""
    if axis.HasField("dim_value"):
        return int(axis.dim_value) if axis.dim_value > 0 else None
    return str(axis.dim_param) if axis.dim_param else None


def _replace(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
