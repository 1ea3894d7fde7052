"""SplitToSequence whose parts are taken by constant positions becomes Split: TensorRT has no sequences.

``torch.split`` is traced so: a sequence of the parts, and a SequenceAt for each of them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resnet_export.graph import Graph, add_initializer, constant_of, name_of, remove_unused

from .result import PassResult, Skipped


def split_sequences(graph: Graph) -> PassResult:
    """Replace what can be replaced.

    Returns:
        ``done`` names the SplitToSequence nodes that became Splits, ``skipped`` the others with the reason.
    """
    copy = graph.copy()
    done: list[str] = []
    skipped: list[Skipped] = []
    for node in copy.nodes("SplitToSequence"):
        name = node.name or "SplitToSequence"
        sizes = _sizes(node)
        takers = [user for user, _ in node.outputs[0].uses()]
        if sizes is None:
            skipped.append(Skipped(name, "the sizes of its parts are not known"))
        elif not all(user.op_type == "SequenceAt" and constant_of(user.inputs[1]) is not None for user in takers):
            skipped.append(Skipped(name, "its parts are not each taken by a constant position"))
        else:
            _become_split(node, takers, sizes)
            done.append(name)
    remove_unused(copy.model.graph)
    return PassResult(copy, tuple(done), tuple(skipped))


def _sizes(node: ir.Node) -> list[int] | None:
    """The parts' lengths along the axis; a single number is the length of all but the last."""
    data, given = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    split = constant_of(given)
    if split is None or data is None or data.shape is None:
        return None
    if split.ndim == 1:
        return [int(size) for size in split]
    whole, each = data.shape[_axis(node)], int(split)
    if not isinstance(whole, int) or each < 1:
        return None
    return [min(each, whole - first) for first in range(0, whole, each)]


def _axis(node: ir.Node) -> int:
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 0


def _become_split(node: ir.Node, takers: list[ir.Node], sizes: list[int]) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    data = node.inputs[0]
    lengths = add_initializer(graph, f"{node.name}.sizes", np.array(sizes, np.int64))
    made = ir.node(
        "Split", [data, lengths], attributes={"axis": _axis(node)}, num_outputs=len(sizes), name=f"{node.name}/Split"
    )
    graph.insert_before(node, made)
    for index, value in enumerate(made.outputs):
        value.name = f"{node.name}/Split:{index}"
        if data is not None and data.dtype is not None:
            value.dtype = data.dtype
        if data is not None and data.shape is not None:
            axes = list(data.shape)
            axes[_axis(node)] = sizes[index]
            value.shape = ir.Shape(axes)
    for taker in takers:
        position = constant_of(taker.inputs[1])
        assert position is not None
        part, result = made.outputs[int(position)], taker.outputs[0]
        if result.is_graph_output():
            part.name, result.name = name_of(result), None
            graph.outputs[:] = [part if value is result else value for value in graph.outputs]
        result.replace_all_uses_with(part)
        graph.remove(taker, safe=True)
    graph.remove(node, safe=True)
