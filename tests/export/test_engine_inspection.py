"""What the engine inspector tells of convolutions is understood in each of its forms, or said not to be."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest

from resnet_export.engine import EngineRequest
from resnet_export.engine_inspection import InspectedConvolution, inspected_convolutions, refuse_other_precisions
from resnet_export.errors import EngineError
from resnet_runtime.manifest import Batch

NODES = ("conv1/Conv", "layer1.0.conv1/Conv", "layer1.0.conv2/Conv")


class Form(Enum):
    """``LayerInformationFormat``."""

    ONELINE = 0
    JSON = 1


class FakeEngine:
    """An engine whose inspector gives a text, and texts of its layers."""

    LayerInformationFormat = Form

    def __init__(self, text: str | None, layers: tuple[str, ...] = (), *, inspector: bool = True) -> None:
        self.num_layers = len(layers)
        self._text = text
        self._layers = layers
        self._inspector = inspector

    def create_engine_inspector(self) -> FakeEngine | None:
        return self if self._inspector else None

    def get_engine_information(self, form: Form) -> str | None:
        assert form is Form.JSON
        return self._text

    def get_layer_information(self, index: int, form: Form) -> str:
        assert form is Form.JSON
        return self._layers[index]


def inspected(text: str | None, layers: tuple[str, ...] = (), **options: Any) -> tuple[InspectedConvolution, ...]:
    engine = FakeEngine(text, layers, **options)
    return inspected_convolutions(engine, engine)


def request(precision: str, *kept: str) -> EngineRequest:
    return EngineRequest(
        name=precision,
        model=b"",
        precision=precision,
        kept=frozenset(kept),
        input=("input", (3, 32, 32)),
        profiles=(Batch(smallest=1, optimal=4, largest=8),),
    )


def convolution(node: str, data: str | None, weights: str | None = None, **changes: Any) -> dict[str, Any]:
    """As TensorRT 10 tells of it, with a ReLU."""
    relu = node.replace("conv", "relu").replace("Conv", "Relu")
    tensor: dict[str, Any] = {"Name": f"{node}_in", "Location": "Device", "Dimensions": [-1, 64, 8, 8]}
    if data is not None:
        tensor["Format/Datatype"] = data
    return {
        "Name": f"{node} + {relu}",
        "LayerType": "CaskConvolution",
        "Inputs": [tensor],
        "Outputs": [{**tensor, "Name": f"{relu}_out"}],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Weights": {"Type": weights, "Count": 36864} if weights else {},
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
        "Metadata": f"[ONNX Layer: {node}]\x1f[ONNX Layer: {relu}]",
        **changes,
    }


REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv1/Conv + conv1/Relu",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "input", "Format/Datatype": "Float"}],
    "Outputs": [{"Name": "Reformatted Input Tensor 0 to conv1/Conv", "Format/Datatype": "Half"}],
    "ParameterType": "Reformat",
    "Origin": "REFORMAT",
    "Metadata": "",
}

# The classifier, which the plan computes as a convolution though the network has a product there.
PRODUCT = convolution("fc/Gemm", "Float", "Float", LayerType="CaskGemmConvolution")


def engine_text(*layers: Any) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["input", "logits"]})


# The example of the developer guide: its tensors have no location, and it has no metadata.
OLDER = """{"Layers": [{
  "Name": "res4_0_branch2a_1 + res4_0_branch2a_bn_1 + res4_0_branch2a_bn_2",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "res3_3_branch2c_bn_3", "Dimensions": [16,512,28,28],
              "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "Outputs": [{"Name": "res4_0_branch2a_bn_2", "Dimensions": [16,256,28,28],
               "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "ParameterType": "Convolution",
  "Kernel": [1,1], "PaddingMode": "kEXPLICIT_ROUND_DOWN", "PrePadding": [0,0], "PostPadding": [0,0],
  "Stride": [1,1], "Dilation": [1,1], "OutMaps": 256, "Groups": 1,
  "Weights": {"Type": "Int8", "Count": 131072}, "Bias": {"Type": "Float", "Count": 256},
  "AllowSparse": 0, "Activation": "RELU", "HasBias": 1, "HasReLU": 1,
  "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32", "TacticValue": "0x11bde0e1d9f2f35d"
}], "Bindings": ["gpu_0/data_0", "gpu_0/softmax_1"]}"""

# Names alone, as an engine tells them that was not built to be inspected.
NAMES = """{"Layers": ["Reformatting CopyNode for Input Tensor 0 to conv1/Conv + conv1/Relu"
,"conv1/Conv + conv1/Relu"
,"layer1.0.conv1/Conv + layer1.0.relu1/Relu"
],
"Bindings": ["input","logits"]
}"""


def test_the_form_of_the_developer_guide() -> None:
    (found,) = inspected(OLDER)
    names = ("res4_0_branch2a_1", "res4_0_branch2a_bn_1", "res4_0_branch2a_bn_2")
    assert found == InspectedConvolution(" + ".join(names), frozenset(names), "int8", "int8")
    assert refuse_other_precisions(request("int8"), ["res4_0_branch2a_1"], [found]) is None
    with pytest.raises(EngineError, match="1 of 1 convolutions of fp16 do not read fp16"):
        refuse_other_precisions(request("fp16"), ["res4_0_branch2a_1"], [found])


def test_metadata_names_the_nodes() -> None:
    layer = convolution("conv1/Conv", "Half", "Half", Name="__myl_ConvRelu_myl0_3")
    (found,) = inspected(engine_text(REFORMAT, layer))
    assert found == InspectedConvolution(
        "__myl_ConvRelu_myl0_3", frozenset({"conv1/Conv", "relu1/Relu"}), "fp16", "fp16"
    )


@pytest.mark.parametrize(
    ("told", "precision"),
    [
        ("Half", "fp16"),
        ("FP16 NHWC", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Float", "fp32"),
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Int8", "int8"),
        ("Int8 NHWC32", "int8"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("INT8", "int8"),
        ("BFloat16", "bf16"),
        ("BF16", "bf16"),
        ("FP8", "fp8"),
        ("Int32", "int32"),
        ("N/A due to dynamic shapes", None),
        ("", None),
        (None, None),
    ],
)
def test_each_way_to_write_a_type(told: str | None, precision: str | None) -> None:
    (found,) = inspected(engine_text(convolution("conv1/Conv", told)))
    assert found.input == precision


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
def test_a_type_that_stands_by_itself_goes_before_the_format(key: str) -> None:
    tensor = {"Name": "x", key: "Int8", "Format": "NHWC32", "Format/Datatype": "N/A due to dynamic shapes"}
    (found,) = inspected(engine_text(convolution("conv1/Conv", None, Inputs=[tensor])))
    assert found.input == "int8"


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [
        ({"LayerType": "CudaDepthwiseConvolution", "ParameterType": ""}, True),
        ({"LayerType": "FusedConvActConvDirect", "ParameterType": ""}, True),
        ({"LayerType": "correlation", "ParameterType": ""}, True),
        ({"LayerType": "something new"}, True),
        ({"LayerType": "CaskPooling", "ParameterType": "Pooling"}, False),
        ({"LayerType": "kgen", "ParameterType": ""}, False),
    ],
)
def test_which_layers_are_convolutions(changes: dict[str, str], is_one: bool) -> None:
    assert len(inspected(engine_text(convolution("conv1/Conv", "Half", **changes)))) == is_one


@pytest.mark.parametrize(("precision", "told"), [("fp16", "Half"), ("int8", "Int8"), ("fp32", "Float")])
def test_an_engine_that_is_what_was_promised_passes_in_silence(precision: str, told: str) -> None:
    layers = inspected(engine_text(REFORMAT, *(convolution(node, told, told) for node in NODES), PRODUCT))
    assert refuse_other_precisions(request(precision), NODES, layers) is None


@pytest.mark.parametrize(("precision", "told"), [("fp16", "Float"), ("int8", "Half"), ("int8", "Float")])
def test_one_that_is_not_is_refused_by_the_convolutions_names(precision: str, told: str) -> None:
    right = {"fp16": "Half", "int8": "Int8"}[precision]
    layers = inspected(
        engine_text(
            convolution(NODES[0], right, right), convolution(NODES[1], told, right), convolution(NODES[2], told)
        )
    )
    with pytest.raises(EngineError, match=f"2 of 3 convolutions of {precision} do not read {precision}") as caught:
        refuse_other_precisions(request(precision), NODES, layers)
    found = {"Float": "fp32", "Half": "fp16"}[told]
    assert caught.value.details == (
        f"{NODES[1]}: {found}, in the layer '{NODES[1]} + layer1.0.relu1/Relu' with weights of {precision}",
        f"{NODES[2]}: {found}, in the layer '{NODES[2]} + layer1.0.relu2/Relu' with weights of a type not told",
    )
    assert refuse_other_precisions(request(precision, *NODES[1:]), NODES, layers) is None, "all of them are kept"
    with pytest.raises(EngineError, match="1 of 3"):
        refuse_other_precisions(request(precision, NODES[1]), NODES, layers)


def test_two_convolutions_side_by_side_in_a_layer_both_count() -> None:
    name = " || ".join(NODES[:2])
    layers = inspected(engine_text(convolution("", "Float", Name=name, Metadata=""), convolution(NODES[2], "Half")))
    with pytest.raises(EngineError, match="2 of 3") as caught:
        refuse_other_precisions(request("fp16"), NODES, layers)
    assert [text.split(":")[0] for text in caught.value.details] == list(NODES[:2])
    with pytest.raises(EngineError, match="1 of 3"):
        refuse_other_precisions(request("fp16", NODES[0]), NODES, layers)


def test_each_profile_of_an_engine_counts() -> None:
    second = convolution(NODES[0], "Float", Name=f"{NODES[0]} [profile 1]", Metadata="")
    layers = inspected(engine_text(*(convolution(node, "Half") for node in NODES), second))
    assert layers[-1].name == NODES[0]
    with pytest.raises(EngineError, match="1 of 3"):
        refuse_other_precisions(request("fp16"), NODES, layers)


def test_the_residual_that_a_convolution_adds_may_be_of_another_type() -> None:
    tensors = [{"Name": "x", "Format/Datatype": "Int8"}, {"Name": "shortcut", "Format/Datatype": "Half"}]
    layers = inspected(engine_text(convolution(NODES[0], None, Inputs=tensors)))
    assert refuse_other_precisions(request("int8"), NODES[:1], layers) is None


@pytest.mark.parametrize(
    "text",
    [
        NAMES,
        "",
        None,
        "null",
        "[]",
        "3",
        '{"Layers": null}',
        '{"Layers": [3, null, ["conv1/Conv"]]}',
        "not JSON",
        "[" * 100_000,
        engine_text(*(convolution(node, "N/A due to dynamic shapes", "Half") for node in NODES)),
        engine_text(*(convolution(node, None, Inputs=[]) for node in NODES)),
        engine_text(*(convolution(node, None, Inputs=None, Weights=None) for node in NODES)),
        engine_text(*(convolution(node, None, Inputs=["x"]) for node in NODES)),
        engine_text(*(convolution("x", "Half", Name="__myl_Conv_myl0_1", Metadata=None) for _ in NODES)),
    ],
)
def test_what_tells_no_types_is_said_and_neither_refused_nor_passed_in_silence(text: str | None) -> None:
    said = refuse_other_precisions(request("fp16"), NODES, inspected(text))
    assert said == (
        "TensorRT's engine inspector tells no type of the 3 convolutions of fp16: conv1/Conv, layer1.0.conv1/Conv, "
        "layer1.0.conv2/Conv could be compared in the parsed network alone"
    )


def test_an_engine_without_an_inspector_is_said_to_tell_nothing() -> None:
    found = inspected(NAMES, inspector=False)
    assert found == ()
    said = refuse_other_precisions(request("fp16"), [f"conv{index}/Conv" for index in range(5)], found)
    assert said is not None
    assert "tells no type of the 5 convolutions of fp16: conv0/Conv, conv1/Conv, conv2/Conv, ... could be" in said


def test_what_is_told_of_some_is_compared_and_the_others_are_named() -> None:
    text = engine_text(convolution(NODES[0], "Half"), convolution(NODES[1], None), "layer1.0.conv2/Conv")
    said = refuse_other_precisions(request("fp16"), NODES, inspected(text))
    assert said is not None
    assert "tells the types of only 1 of the 3 convolutions of fp16: layer1.0.conv1/Conv, layer1.0.conv2/Conv" in said
    with pytest.raises(EngineError, match="1 of 3 convolutions of int8"):
        refuse_other_precisions(request("int8"), NODES, inspected(text))


def test_raw_control_characters_between_names_are_read() -> None:
    text = engine_text(convolution(NODES[0], "Half")).replace("\\u001f", "\x1f")
    assert "\x1f" in text
    assert inspected(text)[0].nodes == {"conv1/Conv", "relu1/Relu"}


def test_where_one_layer_breaks_the_json_the_others_are_read_one_by_one() -> None:
    layers = tuple(json.dumps(convolution(node, "Half")) for node in NODES[:2])
    broken = '{"Name": "x", "LayerType": "CaskConvolution", "TacticName": "{"a": 1}"}'
    found = inspected(f'{{"Layers": [{", ".join((*layers, broken))}]}}', (*layers, broken))
    assert [item.input for item in found] == ["fp16", "fp16"]
    said = refuse_other_precisions(request("fp16"), NODES, found)
    assert said is not None
    assert "the types of only 2 of the 3" in said


def test_the_real_classes_have_what_is_called() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    for kind, names in {
        rtx.ICudaEngine: ("create_engine_inspector", "num_layers"),
        rtx.EngineInspector: ("get_engine_information", "get_layer_information"),
    }.items():
        assert [name for name in names if not hasattr(kind, name)] == []
        assert [name for name in names if not hasattr(FakeEngine("", ()), name)] == []
    assert rtx.LayerInformationFormat.JSON.name == Form.JSON.name
