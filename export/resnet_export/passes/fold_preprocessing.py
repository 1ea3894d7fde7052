"""Scaling, mean, standard deviation and transpose inside the graph: bytes (N, H, W, C) in.

A pixel p becomes (p scale - mean) / std = a (p - m) with a = scale / std and m = mean / scale. The factor a goes into
the weights of the first convolution, in float64. The shift does not go into its bias: the convolution pads with zeros
*after* normalization, which is m before it, so that a folded bias would be wrong at the borders. It stays one Sub, in
FP32.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resnet_export.graph import Graph, add_initializer, constant_of, insert_before, name_of, static_shape
from resnet_runtime.manifest import Preprocessing

from .result import PassResult, Skipped

PREFIX = "preprocessing"
"""The names of the nodes that this pass adds begin with it."""


def fold_preprocessing(graph: Graph, preprocessing: Preprocessing) -> PassResult:
    """Make the input uint8 (N, H, W, C); everything after the subtraction is as it was.

    Args:
        graph: with a float32 input (N, C, H, W).
        preprocessing: whose scale, mean and std are taken.

    Returns:
        ``skipped`` says where the factor could not go into a convolution and became a Mul.
    """
    copy = graph.copy()
    body = copy.model.graph
    old = copy.input
    name = copy.input_name
    _, channels, height, width = static_shape(old)
    batch = old.shape[0] if old.shape is not None else "batch"
    scale = np.float64(preprocessing.scale)
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    users = [(use.node, use.idx) for use in old.uses()]
    first = next(node for node in copy.nodes() if any(value is old for value in node.inputs))

    old.name = f"{PREFIX}/normalized"
    pixels = ir.Value(
        name=name, shape=ir.Shape([batch, height, width, channels]), type=ir.TensorType(ir.DataType.UINT8)
    )
    like = ir.Value(shape=ir.Shape([batch, height, width, channels]), type=ir.TensorType(ir.DataType.FLOAT))
    real = insert_before(first, "Cast", [pixels], f"{PREFIX}/real", like=like, to=int(ir.DataType.FLOAT))
    planes = insert_before(first, "Transpose", [real], f"{PREFIX}/planes", like=old, perm=[0, 3, 1, 2])
    shift = add_initializer(body, f"{PREFIX}.mean", (mean / scale).astype(np.float32).reshape(-1, 1, 1))
    centred = insert_before(first, "Sub", [planes, shift], f"{PREFIX}/centred", like=old)

    factor = scale / std
    done = [f"{PREFIX}/centred"]
    skipped: list[Skipped] = []
    if _scale_into(copy, users, factor):
        replacement = centred
        done.extend(str(node.name) for node, _ in users)
    else:
        reason = "the input is read by something else than convolutions with weights of their own: the factor is a Mul"
        skipped.append(Skipped(f"{PREFIX}/scaled", reason))
        value = add_initializer(body, f"{PREFIX}.factor", factor.astype(np.float32).reshape(-1, 1, 1))
        replacement = insert_before(first, "Mul", [centred, value], f"{PREFIX}/scaled", like=old)
    old.replace_all_uses_with(replacement)
    body.inputs[0] = pixels
    return PassResult(copy, tuple(done), tuple(skipped))


def _scale_into(
    graph: Graph, users: list[tuple[ir.Node, int]], factor: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> bool:
    """Multiply the weights of the convolutions that read the input; False where one of the readers has none."""
    for node, index in users:
        weight = node.inputs[1] if node.op_type == "Conv" and index == 0 else None
        array = constant_of(weight)
        if weight is None or array is None or array.shape[1] != len(factor) or len(weight.uses()) != 1:
            return False
    body = graph.model.graph
    for node, _ in users:
        weight = node.inputs[1]
        array = constant_of(weight)
        assert weight is not None
        assert array is not None
        scaled = array.astype(np.float64) * factor.reshape(1, -1, *(1,) * (array.ndim - 2))
        del body.initializers[name_of(weight)]
        node.replace_input_with(1, add_initializer(body, name_of(weight), scaled.astype(array.dtype)))
    return True
