"""ONNX files of a small ResNet, as exporters write them, for tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from resnet_export.trace import graph_from_module
from tests.export.models import TINY, live_resnet, varied_images

SHAPE = (3, 16, 16)
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


@functools.cache
def plain() -> bytes:
    """A small ResNet as an exporter writes it, BatchNormalization and all."""
    return graph_from_module(live_resnet(TINY, size=16), SHAPE, ("logits",)).graph.to_bytes()


def model() -> onnx.ModelProto:
    return onnx.load_from_string(plain())


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def answers(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(batch)
    parts = [session.run(None, {entry.name: batch[at : at + size]})[0] for at in range(0, len(batch), size)]
    return np.concatenate(parts)


def images(count: int = 4) -> np.ndarray:
    return varied_images(count, SHAPE, seed=5).numpy()


def sized(proto: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    """With another batch axis; None: a name."""
    for value in (*proto.graph.input, *proto.graph.output):
        axis = value.type.tensor_type.shape.dim[0]
        axis.Clear()
        if batch is None:
            axis.dim_param = "N"
        else:
            axis.dim_value = batch
    del proto.graph.value_info[:]
    return proto


def function(opset: int) -> Change:
    """The first Relu as a function that the file defines."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        body = [helper.make_node("Relu", ["x"], ["y"])]
        own = helper.make_function("own", "Act", ["x"], ["y"], body, [helper.make_opsetid("", opset)])
        proto.functions.append(own)
        proto.opset_import.append(helper.make_opsetid("own", 1))
        relu = next(node for node in proto.graph.node if node.op_type == "Relu")
        relu.op_type, relu.domain = "Act", "own"
        return proto

    return change
