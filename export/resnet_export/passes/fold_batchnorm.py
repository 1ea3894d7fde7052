"""BatchNormalization folded into the convolution or the linear layer before it.

With s = gamma / sqrt(var + epsilon), per output channel (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section
3.2):

    BN(conv(x, W) + b) = conv(x, s W) + s (b - mean) + beta

computed in float64 and rounded to the weights' type once. A normalization with nothing to go into (pre-activation
ResNets, a convolution that others read too) becomes ``s x + (beta - s mean)``: one Mul and one Add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resnet_export.errors import PassError
from resnet_export.graph import Graph, add_initializer, constant_of, insert_before, name_of, remove_unused

from .result import PassResult, Skipped

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class _Affine:
    """A normalization as y = scale x + shift, per channel, float64."""

    scale: Float64
    shift: Float64


def fold_batchnorm(graph: Graph) -> PassResult:
    """Leave no BatchNormalization in the graph.

    Returns:
        ``done`` names the normalizations that went into a layer, ``skipped`` those that became one scale and shift.

    Raises:
        PassError: one cannot be folded exactly: it is in training mode, its statistics depend on the input, its
            variance is negative, or a folded weight is not finite.
    """
    copy = graph.copy()
    done: list[str] = []
    skipped: list[Skipped] = []
    for node in copy.nodes("BatchNormalization"):
        name = node.name or "BatchNormalization"
        affine = _affine(node, name)
        layer, reason = _layer_before(node)
        if layer is None:
            _become_scale_and_shift(node, affine, name)
            skipped.append(Skipped(name, f"{reason}: it became one scale and shift"))
        else:
            _fold_into(layer, node, affine, name)
            done.append(name)
    remove_unused(copy.model.graph)
    return PassResult(copy, tuple(done), tuple(skipped))


def _affine(node: ir.Node, name: str) -> _Affine:
    if "training_mode" in node.attributes and node.attributes["training_mode"].as_int() != 0:
        raise PassError(
            f"{name} is in training mode, in which it normalizes by the batch's own statistics: "
            "call model.eval() before saving the module"
        )
    arrays = [constant_of(value) for value in node.inputs[1:5]]
    if any(array is None for array in arrays):
        raise PassError(f"the statistics of {name} depend on the input, and there is nothing to fold")
    gamma, beta, mean, var = (np.asarray(array, np.float64) for array in arrays)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    if not np.all(var + epsilon > 0):
        raise PassError(f"{name} has a running variance of {var.min():g}, and a variance is not negative")
    scale = gamma / np.sqrt(var + epsilon)
    return _Affine(scale, beta - mean * scale)


def _layer_before(node: ir.Node) -> tuple[ir.Node | None, str]:
    """The Conv or Gemm that alone feeds ``node``, or None with the reason."""
    value = node.inputs[0]
    layer = value.producer() if value is not None else None
    if value is None or layer is None or layer.op_type not in ("Conv", "Gemm"):
        return None, f"it follows {layer.op_type if layer is not None else 'the input'}, not a convolution"
    if len(value.uses()) != 1 or value.is_graph_output():
        return None, f"others read {layer.name} too"
    if constant_of(layer.inputs[1]) is None or (len(layer.inputs) > 2 and _bias(layer) is None):
        return None, f"the weights of {layer.name} depend on the input"
    if layer.op_type == "Gemm" and _gemm_is_scaled(layer):
        return None, f"{layer.name} has an alpha or a beta"
    return layer, ""


def _gemm_is_scaled(layer: ir.Node) -> bool:
    return any(key in layer.attributes and layer.attributes[key].as_float() != 1.0 for key in ("alpha", "beta"))


def _bias(layer: ir.Node) -> NDArray[np.generic] | None:
    """The bias, zeros where the layer has none, or None where it depends on the input."""
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        return constant_of(layer.inputs[2])
    return np.zeros(1)


def _fold_into(layer: ir.Node, node: ir.Node, affine: _Affine, name: str) -> None:
    weight, bias = constant_of(layer.inputs[1]), _bias(layer)
    assert weight is not None
    assert bias is not None
    channels_last = layer.op_type == "Gemm" and not (
        "transB" in layer.attributes and layer.attributes["transB"].as_int()
    )
    scale = affine.scale if channels_last else affine.scale.reshape(-1, *(1,) * (weight.ndim - 1))
    _set_input(layer, 1, weight.astype(np.float64) * scale, weight.dtype, name, "weight")
    folded = affine.scale * bias.astype(np.float64) + affine.shift
    _set_input(layer, 2, folded, weight.dtype, name, "bias")
    result, output = node.outputs[0], layer.outputs[0]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    _take_over(graph, node, result, output)


def _take_over(graph: ir.Graph, node: ir.Node, result: ir.Value, output: ir.Value) -> None:
    """Let ``output`` stand where ``result``, the output of ``node``, stood; the name of a graph output stays."""
    if result.is_graph_output():
        output.name, result.name = result.name, None
        graph.outputs[:] = [output if value is result else value for value in graph.outputs]
    result.replace_all_uses_with(output)
    graph.remove(node, safe=True)


def _set_input(layer: ir.Node, index: int, array: Float64, dtype: np.dtype[np.generic], name: str, what: str) -> None:
    with np.errstate(over="ignore"):
        rounded = array.astype(dtype)
    if not np.isfinite(rounded).all():
        raise PassError(f"folding {name} gives {layer.name} a {what} that is not finite, and is refused")
    graph = layer.graph
    assert isinstance(graph, ir.Graph)
    old = layer.inputs[index] if index < len(layer.inputs) else None
    base = name_of(layer.inputs[1]) if layer.inputs[1] is not None else layer.name
    wanted = name_of(old) if old is not None else f"{str(base).removesuffix('.weight')}.{what}"
    if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
        del graph.initializers[name_of(old)]
    fresh = add_initializer(graph, wanted, rounded)
    if index >= len(layer.inputs):
        layer.resize_inputs(index + 1)
    layer.replace_input_with(index, fresh)


def _become_scale_and_shift(node: ir.Node, affine: _Affine, name: str) -> None:
    data, result = node.inputs[0], node.outputs[0]
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    assert data is not None
    rank = len(data.shape) if data.shape is not None else 4
    shape = (-1, *(1,) * max(rank - 2, 0))
    original = constant_of(node.inputs[1])
    assert original is not None
    values = []
    for what, array in (("scale", affine.scale), ("shift", affine.shift)):
        with np.errstate(over="ignore"):
            rounded = array.astype(original.dtype)
        if not np.isfinite(rounded).all():
            raise PassError(f"{name} has a {what} that is not finite, and is refused")
        values.append(add_initializer(graph, f"{name}.{what}", rounded.reshape(shape)))
    scaled = insert_before(node, "Mul", [data, values[0]], f"{name}/scaled", like=result)
    shifted = insert_before(node, "Add", [scaled, values[1]], f"{name}/shifted", like=result)
    _take_over(graph, node, result, shifted)
