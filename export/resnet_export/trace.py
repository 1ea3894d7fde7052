"""A graph from a module: ``torch.export`` first, the TorchScript exporter where that fails; of an ONNX file its own.

The exporter's own optimizer stays off, so that nothing is folded but by the passes here. Nodes are named after the
module that they come from (``layer1.0.conv1/Conv``); stack traces, paths and everything else that depends on where
and how the export ran is removed.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common

from resnet_runtime.errors import lines_of

from . import __version__
from .errors import SignatureError, TraceError
from .graph import IR_VERSION, OPSET, Graph, add_initializer, name_of
from .onnx_network import INPUT_NAME, OnnxNetwork
from .passes.fold_constants import fold_constants
from .passes.split_sequences import split_sequences

OUTPUT_NAME = "logits"
BATCH = "batch"

Traceable = torch.nn.Module | torch.jit.ScriptModule | torch.export.ExportedProgram


@dataclass(frozen=True)
class Traced:
    """A graph, which exporter made it, and why the one before it did not."""

    graph: Graph
    exporter: str
    notes: tuple[str, ...]


def graph_from_module(module: Traceable, input_shape: tuple[int, ...], names: Sequence[str]) -> Traced:
    """Trace a module in evaluation mode.

    Args:
        module: takes one float32 tensor (N, C, H, W), and returns a tensor or a tuple, list or dict of tensors.
        input_shape: (C, H, W).
        names: of the outputs, in order, as ``named_outputs`` gives them.

    Returns:
        A graph of opset 20 whose first axes are the symbolic dimension ``batch``, its input named ``input``.

    Raises:
        TraceError: no exporter traces it.
    """
    attempts: list[tuple[str, str]] = []
    for exporter, trace in _exporters(module):
        try:
            with _quiet(), _without_collector(), torch.no_grad():
                graph = _normalized(trace(module, input_shape, list(names)), list(names))
        except Exception as error:  # the exporters raise whatever the module's own code raises
            attempts.append((exporter, first_line(error)))
            continue
        notes = tuple(f"{name} could not trace the model, and {exporter} did: {why}" for name, why in attempts)
        return Traced(graph, exporter, notes)
    tried = " or ".join(name for name, _ in attempts)
    raise TraceError(
        f"PyTorch could not trace the model to ONNX by {tried}", details=[f"{name}: {why}" for name, why in attempts]
    )


def _exporters(module: Traceable) -> list[tuple[str, Callable[[Any, tuple[int, ...], list[str]], ir.Model]]]:
    """What can trace this kind of module, in the order in which it is tried."""
    by_export, by_script = ("torch.export", _by_torch_export), ("TorchScript", _by_torchscript)
    if isinstance(module, OnnxNetwork):
        return [("the ONNX file", _from_onnx)]
    if isinstance(module, torch.jit.ScriptModule):
        return [by_script]
    return [by_export] if isinstance(module, torch.export.ExportedProgram) else [by_export, by_script]


def callable_of(module: Traceable) -> torch.nn.Module:
    """What computes the module's answer eagerly."""
    return module.module() if isinstance(module, torch.export.ExportedProgram) else module


def named_outputs(result: Any) -> dict[str, torch.Tensor]:
    """The tensors that a module returned, by the names that the graph gives them.

    Raises:
        SignatureError: they are not tensors of shape (N, ...).
    """
    tensors = list(result.values()) if isinstance(result, dict) else result
    tensors = list(tensors) if isinstance(tensors, list | tuple) else [tensors]
    if not tensors or not all(isinstance(item, torch.Tensor) and item.ndim > 0 for item in tensors):
        kinds = ", ".join(type(item).__name__ for item in tensors) or "nothing"
        raise SignatureError(f"the module returns {kinds}, and only tensors with a batch axis can be exported")
    keys = [str(key) for key in result] if isinstance(result, dict) else []
    names = keys if len(keys) > 1 else [OUTPUT_NAME, *(f"output_{index}" for index in range(1, len(tensors)))]
    return dict(zip(names, tensors, strict=True))


def _by_torch_export(
    module: torch.nn.Module | torch.export.ExportedProgram, input_shape: tuple[int, ...], names: list[str]
) -> ir.Model:
    if isinstance(module, torch.export.ExportedProgram):
        program = module
    else:
        shapes = ({0: torch.export.Dim(BATCH, min=1, max=65535)},)
        program = torch.export.export(module, (torch.zeros(2, *input_shape),), dynamic_shapes=shapes)
    exported = torch.onnx.export(
        program,
        opset_version=OPSET,
        dynamo=True,
        optimize=False,
        verbose=False,
        input_names=[INPUT_NAME],
        output_names=names,
    )
    assert exported is not None
    return exported.model


def _by_torchscript(module: torch.nn.Module, input_shape: tuple[int, ...], names: list[str]) -> ir.Model:
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (torch.zeros(2, *input_shape),),
        buffer,  # type: ignore[arg-type]  # a file object is taken, and not declared
        dynamo=False,
        opset_version=OPSET,
        # EVAL would fold BatchNormalization already here, in float32.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=[INPUT_NAME],
        output_names=names,
        dynamic_axes={name: {0: BATCH} for name in (INPUT_NAME, *names)},
    )
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(buffer.getvalue()))
    model: ir.Model = ir.from_proto(proto)
    return model


def _from_onnx(network: OnnxNetwork, input_shape: tuple[int, ...], names: list[str]) -> ir.Model:
    model: ir.Model = ir.from_proto(network.model(input_shape))
    graph = model.graph
    for value in list(graph.initializers.values()):  # they keep their names, which are those of neither side
        if value.name in (INPUT_NAME, *names):
            tensor = value.const_value
            assert tensor is not None
            value.replace_all_uses_with(add_initializer(graph, f"{value.name}.weight", tensor.numpy()))
            del graph.initializers[name_of(value)]
    graph.inputs[0].name = INPUT_NAME
    return model


def _normalized(model: ir.Model, names: list[str]) -> Graph:
    """Names, types and nothing else: see the module's docstring."""
    common.InlinePass()(model)
    graph = model.graph
    for node in graph:
        node.meta["scope"] = _scope(node)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    graph.metadata_props.clear()
    graph.doc_string = None
    graph.name = "resnet"
    model.producer_name, model.producer_version = "resnet-export", __version__
    model.ir_version = IR_VERSION
    _own_tensors(graph)
    folded = split_sequences(fold_constants(Graph(model)).graph).graph
    graph = folded.model.graph
    if any(value.dtype is None for node in graph for value in node.outputs):  # the exporter leaves some out
        common.ShapeInferencePass(strict_mode=False)(folded.model)
    _name_nodes(graph, names)
    _name_batch(graph)
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name
    folded.model.opset_imports.clear()
    folded.model.opset_imports[""] = OPSET
    return folded


def _scope(node: ir.Node) -> str:
    """The path of the module that the node was traced from, "" where the exporter does not tell."""
    text = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if text:
        scopes = ast.literal_eval(text)
        return str(scopes[-2]) if len(scopes) > 1 else ""
    # TorchScript's own names: /layer1/layer1.0/conv1/Conv
    parts = [part for part in (node.name or "").split("/") if part][:-1]
    path = ""
    for part in parts:
        path = part if part.startswith(f"{path}.") or not path else f"{path}.{part}"
    return path


def _own_tensors(graph: ir.Graph) -> None:
    """Plain arrays in place of views of the module's parameters and of protobuf messages."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.Tensor(tensor.numpy(), name=name)


def _name_nodes(graph: ir.Graph, names: list[str]) -> None:
    taken: dict[str, int] = {}
    held = {*graph.initializers, *(value.name for value in (*graph.inputs, *graph.outputs)), *names}
    for node in graph:
        scope = node.meta.get("scope", "")
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        number = taken.get(base, 0)
        while (f"{base}_{number}" if number else base) in held:
            number += 1
        taken[base] = number + 1
        node.name = f"{base}_{number}" if number else base
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}:{index}" if index else node.name


def _name_batch(graph: ir.Graph) -> None:
    """The batch axis has one name wherever it stands; a batch that was traced as a number stays that number."""
    first = graph.inputs[0].shape
    symbol = None if first is None or isinstance(first[0], int) else str(first[0].value)
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None and symbol is not None and len(value.shape) and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of what concerns their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Tracing makes millions of objects that live on, and the cyclic collector would go over them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def first_line(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    kind, line = type(error).__name__, lines_of(error)[0]
    return kind if line == kind else f"{kind}: {line}"
