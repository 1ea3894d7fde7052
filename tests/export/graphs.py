"""Small graphs for the tests of the passes, and what computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnet_export.graph import IR_VERSION, OPSET, Graph, graph_from_bytes
from resnet_export.host_session import session_from_graph

Array = NDArray[np.generic]


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, Array],
    *,
    input_shape: tuple[int | str, ...],
    output_shape: tuple[int | str, ...],
    inputs: str = "input",
    outputs: Sequence[str] = ("logits",),
) -> Graph:
    """A graph with inferred shapes."""
    body = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(inputs, TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return graph_from_bytes(model.SerializeToString())


def answers(graph: Graph, batch: Array) -> Array:
    """The first output, by ONNX Runtime in float32, after ONNX's own checker has passed the graph."""
    onnx.checker.check_model(graph.to_bytes(), full_check=True)
    result: Array = session_from_graph(graph).run(None, {graph.input_name: batch})[0]
    return result


def operators(graph: Graph) -> list[str]:
    """The operators in order."""
    return [node.op_type for node in graph.nodes()]


def random(shape: tuple[int, ...], seed: int, low: float = -1.0, high: float = 1.0) -> NDArray[np.float32]:
    """Uniform float32."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def batchnorm_arrays(name: str, channels: int, seed: int) -> dict[str, Array]:
    """gamma, beta, mean and a positive variance, under ``name``'s prefix."""
    return {
        f"{name}.weight": random((channels,), seed, 0.5, 1.5),
        f"{name}.bias": random((channels,), seed + 1),
        f"{name}.mean": random((channels,), seed + 2),
        f"{name}.var": random((channels,), seed + 3, 0.1, 4.0),
    }


def batchnorm(name: str, data: str, result: str, **attributes: float) -> onnx.NodeProto:
    """A BatchNormalization node that reads ``batchnorm_arrays(name)``."""
    parameters = [f"{name}.{part}" for part in ("weight", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", [data, *parameters], [result], name=name, **attributes)
