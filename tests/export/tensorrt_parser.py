"""The network that TensorRT-RTX parses from a graph: its ONNX parser needs no GPU."""

from __future__ import annotations

import pytest

from resnet_export.engine import ParsedConvolution
from resnet_export.engine import parsed_convolutions as convolutions_of_network
from resnet_export.graph import Graph
from resnet_runtime.backends.tensorrt.library import library_named

QUANTIZED = (("DEQUANTIZE", "INT8"), ("DEQUANTIZE", "INT8"))


def parsed_convolutions(graph: Graph) -> dict[str, ParsedConvolution]:
    """By name. A strongly typed network; every error of the parser fails the test."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")
    library = library_named("tensorrt-rtx")
    logger = library.logger([])
    builder = library.module.Builder(logger)
    network = library.network(builder)
    parser = library.module.OnnxParser(network, logger)
    parsed = parser.parse(graph.to_bytes())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    return {item.name: item for item in convolutions_of_network(network, library.module)}
