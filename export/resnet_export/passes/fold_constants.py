"""What depends on no input becomes one initializer; what depends on the batch size alone leaves the graph.

Nodes whose inputs are all initializers are evaluated by the ONNX reference implementation. A Reshape to
(batch, constants...) reads its batch size from a chain of Shape, Gather and Concat after tracing; its shape becomes the
constant (0, constants...), in which 0 means "as in the input" (ONNX, Reshape, allowzero=0).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from resnet_export.graph import Graph, add_initializer, constant_of, name_of, remove_unused

from .result import PassResult, Skipped

_Array = NDArray[np.generic] | None

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def fold_constants(graph: Graph) -> PassResult:
    """Evaluate what can be evaluated now, and remove what nothing reads."""
    copy = graph.copy()
    model = copy.model
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    done: list[str] = []
    skipped: list[Skipped] = []
    for node in copy.nodes():
        name = node.name or node.op_type
        if _fold_batch_reshape(node):
            done.append(name)
            continue
        arrays = [None if value is None else constant_of(value) for value in node.inputs]
        known = [array is not None for array, value in zip(arrays, node.inputs, strict=True) if value is not None]
        if node.op_type in _BY_TYPE:
            arrays = [_BY_TYPE[node.op_type](node)]
            known = [arrays[0] is not None]
        if not known or not all(known):
            continue
        if node.op_type in _RANDOM or any(attr.type == ir.AttributeType.GRAPH for attr in node.attributes.values()):
            skipped.append(Skipped(name, f"{node.op_type} cannot be evaluated beforehand"))
            continue
        if any(value.is_graph_output() for value in node.outputs):
            skipped.append(Skipped(name, "it is an output of the graph"))
            continue
        results = arrays if node.op_type in _BY_TYPE else list[_Array](_evaluate(node, arrays))
        _replace(model.graph, node, results)
        done.append(name)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    remove_unused(model.graph)
    return PassResult(copy, tuple(done), tuple(skipped))


def _known_shape(node: ir.Node) -> NDArray[np.generic] | None:
    """What a Shape node gives, where the axes that it looks at are known."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    dims = list(value.shape)
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(dims)
    chosen = dims[start:end]
    return np.array(chosen, np.int64) if all(isinstance(dim, int) for dim in chosen) else None


def _cast_like(node: ir.Node) -> NDArray[np.generic] | None:
    """A constant cast to the type of a tensor, of which the type alone is needed."""
    array, like = constant_of(node.inputs[0]), node.inputs[1]
    return None if array is None or like is None or like.dtype is None else array.astype(like.dtype.numpy())


_BY_TYPE = {"Shape": _known_shape, "CastLike": _cast_like}
"""Operators of which an input is looked at, and its values are not needed."""


def _fold_batch_reshape(node: ir.Node) -> bool:
    """Give a Reshape that keeps the batch axis a constant shape."""
    if node.op_type != "Reshape" or constant_of(node.inputs[1]) is not None:
        return False
    data, result = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or result.shape is None or not len(data.shape) or not len(result.shape):
        return False
    before, after = data.shape[0], result.shape[0]
    rest = list(result.shape)[1:]
    if isinstance(before, int) or before != after or not all(isinstance(dim, int) and dim > 0 for dim in rest):
        return False
    assert node.graph is not None
    assert isinstance(node.graph, ir.Graph)
    shape = add_initializer(node.graph, f"{name_of(result)}.shape", np.array([0, *rest], np.int64))
    node.replace_input_with(1, shape)
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
    return True


def _evaluate(node: ir.Node, arrays: list[NDArray[np.generic] | None]) -> list[NDArray[np.generic]]:
    proto = ir.to_proto(node)
    inputs = [
        onnx.helper.make_tensor_value_info(
            name_of(value), onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
        )
        for value, array in zip(node.inputs, arrays, strict=True)
        if value is not None and array is not None
    ]
    feeds = {
        name_of(value): array
        for value, array in zip(node.inputs, arrays, strict=True)
        if value is not None and array is not None
    }
    unique = {entry.name: entry for entry in inputs}
    outputs = [onnx.helper.make_empty_tensor_value_info(name_of(value)) for value in node.outputs]
    assert node.graph is not None
    opset = onnx.helper.make_opsetid("", node.graph.opset_imports[""])
    body = onnx.helper.make_graph([proto], "constant", list(unique.values()), outputs)
    evaluator = ReferenceEvaluator(onnx.helper.make_model(body, opset_imports=[opset]))
    return [np.asarray(array) for array in evaluator.run(None, feeds)]


def _replace(graph: ir.Graph, node: ir.Node, arrays: list[NDArray[np.generic] | None]) -> None:
    for value, array in zip(list(node.outputs), arrays, strict=True):
        if array is not None and value.uses():
            value.replace_all_uses_with(add_initializer(graph, name_of(value), array))
    graph.remove(node, safe=True)
