"""A 16-bit graph computed in FP32 with every result rounded to the 16-bit type, for hosts without that arithmetic.

What rounds are Cast nodes in the graph itself, FP32 to 16 bits and back: an executor that computes FP16 graphs in
FP32 (ONNX Runtime does) removes the casts that it added itself, not those. Sums are accumulated in FP32, as a GPU's
tensor cores and a CPU's matrix units accumulate them. ``rounds`` shows, on a graph whose result tells, that an
executor does round.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .graph import IR_VERSION, MADE_OF_INPUTS, OPSET, Graph, add_initializer, constant_of, name_of
from .host_session import batches, executor_name, session_from_graph

_VALUES_AT_ONCE = 150528
"""Of the input: one image of 224 x 224 at a time, more where they are smaller."""

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def emulated_graph(graph: Graph, precision: str) -> Graph:
    """The graph in FP32 with explicit rounding.

    Args:
        graph: for fp16 the strongly typed graph, in which the FP16 tensors are rounded; for bf16 the FP32 graph, in
            which every tensor and every weight is, as a backend does that runs it in bf16.
        precision: fp16 or bf16.
    """
    rounded_type = TYPES[precision]
    narrow = ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.FLOAT
    copy = graph.copy()
    body = copy.model.graph
    nodes = list(copy.nodes())
    if copy.input.dtype == narrow:
        _round(body, None, copy.input, rounded_type)
    for node in nodes:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == int(ir.DataType.FLOAT16):
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        for value in node.outputs:
            if value.dtype == narrow and node.op_type not in MADE_OF_INPUTS:
                _round(body, node, value, rounded_type)
            if value.dtype == ir.DataType.FLOAT16:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    for name, value in list(body.initializers.items()):
        array = constant_of(value)
        if array is None or value.dtype not in (ir.DataType.FLOAT16, ir.DataType.FLOAT):
            continue
        if value.dtype == narrow and (array.ndim > 1 or precision == "fp16"):  # backends keep bf16's biases in FP32
            exact = array.astype(rounded_type.numpy()).astype(np.float32)
            del body.initializers[name]
            value.replace_all_uses_with(add_initializer(body, name, exact))
    return copy


class Emulation:
    """A graph whose 16-bit results are rounded.

    Args:
        graph, precision: as ``emulated_graph`` takes them.
    """

    def __init__(self, graph: Graph, precision: str) -> None:
        self._graph = graph
        self._session = session_from_graph(emulated_graph(graph, precision))

    def infer(self, inputs: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
        """The outputs by name, each (N, ...)."""
        names = list(self._graph.output_names)
        fixed = self._graph.fixed_batch
        short = 0 if fixed is None else -len(inputs) % fixed
        whole = np.concatenate([inputs, np.zeros((short, *inputs.shape[1:]), inputs.dtype)]) if short else inputs
        values = int(np.prod(inputs.shape[1:]))
        parts = [
            self._session.run(names, {self._graph.input_name: batch})
            for batch in batches(self._graph, whole, max(1, _VALUES_AT_ONCE // values))
        ]
        whole_answers = [np.concatenate([part[index] for part in parts]) for index in range(len(names))]
        return {name: array[: len(inputs)] for name, array in zip(names, whole_answers, strict=True)}


def answers_from_emulation(graph: Graph, precision: str, inputs: NDArray[np.generic]) -> dict[str, NDArray[np.float32]]:
    """The outputs by name, each (N, ...), of ``graph`` with its 16-bit results rounded."""
    return Emulation(graph, precision).infer(inputs)


@functools.cache
def rounds(precision: str) -> bool:
    """Whether the emulation rounds, on 8 * 100 * 300 / 301: infinite in FP16 on the way, and not exact in bf16."""
    name = {"fp16": "FLOAT16", "bf16": "FLOAT"}[precision]
    answers = answers_from_emulation(_probe(ir.DataType[name]), precision, np.full((1, 8, 4, 4), 100, np.float32))
    answer = float(np.ravel(answers["logits"])[0])
    exact = 8 * 100 * 300 / 301
    if precision == "fp16":
        return not np.isfinite(answer)
    return 1e-4 < abs(answer - exact) / exact < 0.03


def description(precision: str) -> str:
    """How the emulation is named in a gate, for what is rounded to."""
    return f"{executor_name()}, each result rounded to {precision}"


def _round(body: ir.Graph, node: ir.Node | None, value: ir.Value, rounded_type: ir.DataType) -> None:
    """Two casts after ``value``, which ``node`` makes, or is the input; a graph output keeps its name."""
    name = name_of(value)
    down = ir.node("Cast", [value], attributes={"to": int(rounded_type)}, name=f"{name}/rounded")
    up = ir.node("Cast", [down.outputs[0]], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}/widened")
    for made, kind in ((down, rounded_type), (up, ir.DataType.FLOAT)):
        made.outputs[0].name, made.outputs[0].shape = made.name, value.shape
        made.outputs[0].type = ir.TensorType(kind)
    for user, index in list(value.uses()):
        if user is not down:
            user.replace_input_with(index, up.outputs[0])
    if value.is_graph_output():
        value.name, up.outputs[0].name = f"{name}/exact", name
        body.outputs[:] = [up.outputs[0] if output is value else output for output in body.outputs]
    if node is None:
        body.insert_before(body[0], [down, up])
    else:
        body.insert_after(node, [down, up])


def _probe(kind: ir.DataType) -> Graph:
    """Two convolutions, the value between them 240000, typed ``kind`` between float32 ends."""
    shape = ir.Shape(["batch", 8, 4, 4])
    data = ir.Value(name="input", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    body = ir.Graph([data], [], nodes=[], opset_imports={"": OPSET}, name="probe")
    value = data
    steps: list[tuple[str, NDArray[np.generic] | None, ir.DataType]] = [
        ("Cast", None, kind),
        ("Conv", np.full((8, 8, 1, 1), 300, kind.numpy()), kind),
        ("Conv", (np.eye(8) / 301)[:, :, None, None].astype(kind.numpy()), kind),
        ("Cast", None, ir.DataType.FLOAT),
    ]
    for index, (op_type, weight, out) in enumerate(steps):
        inputs = [value] if weight is None else [value, add_initializer(body, f"weight{index}", weight)]
        made = ir.node(op_type, inputs, attributes={"to": int(out)} if weight is None else {}, name=f"{op_type}{index}")
        value = made.outputs[0]
        value.name, value.shape, value.type = made.name, shape, ir.TensorType(out)
        body.append(made)
    value.name = "logits"
    body.outputs.append(value)
    return Graph(ir.Model(body, ir_version=IR_VERSION))
