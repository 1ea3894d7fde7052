"""The network that TensorRT-RTX parses from a graph: its ONNX parser needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from resnet_export.graph import Graph


@dataclass(frozen=True)
class ParsedConvolution:
    """A convolution of the parsed network.

    Attributes:
        name: of the ONNX node.
        inputs: for the input and the weights, the type of the layer that makes it and the type of what that reads.
        output: the type of the output.
    """

    name: str
    inputs: tuple[tuple[str, str], tuple[str, str]]
    output: str


QUANTIZED = (("DEQUANTIZE", "INT8"), ("DEQUANTIZE", "INT8"))


def parsed_convolutions(graph: Graph) -> dict[str, ParsedConvolution]:
    """By name. A strongly typed network; every error of the parser fails the test."""
    tensorrt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    parsed = parser.parse(graph.to_bytes())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}

    def origin(layer, index: int) -> tuple[str, str]:
        tensor = layer.get_input(index)
        if tensor is None:
            return ("CONSTANT", "")  # weights that the layer holds itself
        maker = makers.get(tensor.name)
        if maker is None:
            return ("INPUT", tensor.dtype.name)
        return (maker.type.name, maker.get_input(0).dtype.name if maker.num_inputs else "")

    return {
        layer.name: ParsedConvolution(layer.name, (origin(layer, 0), origin(layer, 1)), layer.get_output(0).dtype.name)
        for layer in layers
        if layer.type == tensorrt.LayerType.CONVOLUTION
    }
