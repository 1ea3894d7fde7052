"""ONNX files that are no ResNet, or cannot be converted: each is refused by name, in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resnet_export import ModelOptions
from resnet_export.checkpoint import checkpoint_from_file
from resnet_export.errors import CheckpointError
from resnet_export.source import model_from_checkpoint
from tests.export.onnx_files import Change, function, model, plain, saved, sized


def changed(change: Callable[[onnx.GraphProto], object]) -> Change:
    def apply(proto: onnx.ModelProto) -> onnx.ModelProto:
        change(proto.graph)
        return proto

    return apply


def foreign(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.node[1].domain = "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def renamed_operator(graph: onnx.GraphProto) -> None:
    graph.node[1].op_type = "Hypercube"


def weights(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(graph: onnx.GraphProto) -> None:
        first = next(tensor for tensor in graph.initializer if len(tensor.dims) == 4)
        first.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(first).copy()), first.name))

    return changed(apply)


def second_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1]))


def quantized_input(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "step"))
    graph.node.insert(0, helper.make_node("QuantizeLinear", ["input", "step"], ["eight"]))


def branch(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("If", ["input"], ["either"]))


def flat_input(graph: onnx.GraphProto) -> None:
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 768]))


def byte_input(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def old(proto: onnx.ModelProto) -> onnx.ModelProto:
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", 6))
    return proto


def integer_output(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("ArgMax", ["logits"], ["class"], "best", axis=1, keepdims=0))
    graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, ["batch"]))


def mixed_types(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(1), "whole"))
    graph.node.append(helper.make_node("Add", ["logits", "whole"], ["more"], "add"))
    graph.output[0].name = "more"


def recursive(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto = function(20)(proto)
    call = helper.make_node("Act", ["x"], ["y"], domain="own")
    proto.functions[0].node[0].CopyFrom(call)
    proto.functions[0].opset_import.append(helper.make_opsetid("own", 1))
    return proto


def one_number(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("ReduceSum", ["logits"], ["total"], "sum", keepdims=0))
    graph.output.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, []))


def output_called_input(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.input[:] = ["picture" if given == "input" else given for given in node.input]
    graph.input[0].name = "picture"
    graph.node.append(helper.make_node("Relu", ["logits"], ["input"], "again"))
    graph.output.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 10]))


REFUSED = {
    "foreign operator": (foreign, "has operators that are not ONNX's own: com.microsoft.BatchNormalization"),
    "unknown operator": (changed(renamed_operator), "is no valid ONNX model: .*Hypercube"),
    "a batch beyond all": (lambda proto: sized(proto, 2**62), "ONNX Runtime cannot load model.onnx: "),
    "wrong types": (changed(mixed_types), "ONNX Runtime cannot load model.onnx: "),
    "a function of itself": (recursive, "the functions of model.onnx cannot be inlined: "),
    "no outputs": (changed(lambda graph: graph.ClearField("output")), "has 0 outputs"),
    "one number": (changed(one_number), "the output total of model.onnx is one number"),
    "an output called input": (changed(output_called_input), "has 2 outputs, of which 'input' has no name of its own"),
    "old": (old, "has opset 6, and 7 is the oldest that can be converted"),
    "two inputs": (changed(second_input), r"takes 2 inputs \(input, mask\), and a ResNet takes one"),
    "quantized": (changed(quantized_input), "is quantized already, with QuantizeLinear: give the floating point model"),
    "branches": (changed(branch), "has the control flow operators If, and a ResNet needs none"),
    "flat input": (changed(flat_input), "takes a tensor of 2 axes"),
    "uint8 input": (changed(byte_input), "takes uint8 images"),
    "integer output": (changed(integer_output), "the outputs class of .* are not float32"),
    "half weights": (weights(lambda array: array.astype(np.float16)), "is float16: write the file anew with float32"),
    "infinite weights": (weights(lambda array: array * np.inf), "has values that are not finite: training diverged"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_name(what: str, tmp_path: Path) -> None:
    change, said = REFUSED[what]
    path = saved(tmp_path / "model.onnx", change(model()))
    with pytest.raises(CheckpointError, match=said) as caught:
        checkpoint_from_file(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kept", [100, 5000, -1])
def test_a_file_that_is_cut_off_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(plain()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.onnx is (a damaged ONNX file|no valid ONNX model)"):
        checkpoint_from_file(path)


def test_options_of_other_checkpoints_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", model())
    with pytest.raises(CheckpointError, match=r"--weights ema is not in model\.onnx, an ONNX model: leave it out"):
        checkpoint_from_file(path, weights="ema")
    with pytest.raises(ValueError, match=r"--arch is for a state_dict, and model\.onnx holds its own architecture"):
        model_from_checkpoint(checkpoint_from_file(path), ModelOptions(arch="resnet18"))
