"""What TensorRT-RTX makes of the ``tensorrt`` scheme: every convolution reads INT8, unless it is kept."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_export.observe import observation_from_graph
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import placement_from_graph
from resnet_export.passes.to_fp16 import to_fp16
from tests.export.int8_graphs import folded, images, nearest_weights, thresholds
from tests.export.tensorrt_parser import QUANTIZED, parsed_convolutions


def int8_graph(name: str, kept: frozenset[str] = frozenset()):
    """Strongly typed: FP16 where it is not INT8."""
    graph = folded(name)
    ranges = observation_from_graph(graph, images()).ranges
    placement = placement_from_graph(graph, "tensorrt", kept)
    half = to_fp16(graph, ranges).graph
    return insert_qdq(half, placement, thresholds(graph), nearest_weights(graph, placement)).graph


@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_every_convolution_reads_int8_tensors(name: str) -> None:
    expected = {str(node.name) for node in folded(name).nodes("Conv")}
    found = parsed_convolutions(int8_graph(name))
    assert set(found) == expected
    assert {conv.name for conv in found.values() if conv.inputs != QUANTIZED} == set()
    assert {conv.types[1] for conv in found.values()} == {"HALF"}


def test_a_kept_convolution_reads_fp16_and_the_others_int8() -> None:
    kept = "layer1.0.conv2/Conv"
    found = parsed_convolutions(int8_graph("bottleneck", frozenset({kept})))
    assert [conv.name for conv in found.values() if conv.inputs != QUANTIZED] == [kept]
    assert found[kept].types[1] == "HALF"


def test_the_fp16_graph_has_no_int8_in_it() -> None:
    graph = folded("basic")
    half = to_fp16(graph, observation_from_graph(graph, images()).ranges).graph
    for conv in parsed_convolutions(half).values():
        assert "INT8" not in np.ravel(conv.inputs)
        assert conv.types[1] == "HALF"
