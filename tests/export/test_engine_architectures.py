"""TensorRT-RTX builds FP16 and INT8 engines of every architecture, and their convolutions are what was asked for.

Its parser and builder need no GPU. The graphs are those that an export makes, ResNet-50's at 224x224 and the others' at
a small input, which makes the measurements of the graph quick and leaves the engine's weights what they are.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from resnet_bench.networks import live_resnet, varied_images
from resnet_export.engine import EngineOptions, EngineRequest, engine_from_request
from resnet_export.graph import Graph
from resnet_export.observe import observation_from_graph
from resnet_export.passes import fold_batchnorm, to_fp16
from resnet_export.passes.insert_qdq import insert_qdq
from resnet_export.passes.qdq_placement import placement_from_graph, residual_adds
from resnet_export.trace import graph_from_module
from resnet_runtime.backends.tensorrt.library import Library, library_named
from resnet_runtime.manifest import Batch
from tests.export.int8_graphs import nearest_weights
from tests.export.tensorrt_parser import QUANTIZED, parsed_convolutions

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed: x86-64 Linux alone")

CONVOLUTIONS = {
    "resnet18": 20,
    "resnet34": 36,
    "resnet50": 53,
    "resnet101": 104,
    "resnet152": 155,
    "resnext50_32x4d": 53,
    "wide_resnet50_2": 53,
}
"""One for the stem, two or three a block, one a projection."""
SECONDS = 30
"""That building one engine may take."""


@pytest.fixture(scope="module")
def library() -> Library:
    return library_named("tensorrt-rtx")


def graphs_of(name: str, side: int) -> dict[str, Graph]:
    """The ``fp16`` and ``int8`` graphs of the scheme ``tensorrt``, a third of the shortcuts unquantized."""
    traced = graph_from_module(live_resnet(name, size=side), (3, side, side), ("logits",)).graph
    graph = fold_batchnorm(traced).graph
    ranges = observation_from_graph(graph, varied_images(4, (3, side, side), seed=3).numpy()).ranges
    limits = {tensor: max(abs(low), abs(high), 1e-3) for tensor, (low, high) in ranges.items()}
    whole = frozenset([str(add.name) for add in residual_adds(graph)][::3])
    placement = placement_from_graph(graph, "tensorrt", whole_shortcuts=whole)
    half = to_fp16(graph, ranges).graph
    return {"fp16": half, "int8": insert_qdq(half, placement, limits, nearest_weights(graph, placement)).graph}


# The others of the same blocks are tried by make zoo, where every network is.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("resnet18", "resnet50", "resnext50_32x4d") else pytest.mark.zoo)
        for name in CONVOLUTIONS
    ],
)
def test_both_engines_are_built(name: str, library: Library) -> None:
    side = 224 if name == "resnet50" else 32
    for precision, graph in graphs_of(name, side).items():
        parsed = parsed_convolutions(graph)
        assert len(parsed) == CONVOLUTIONS[name]
        assert {item.precision for item in parsed.values()} == {precision}
        if precision == "fp16":
            assert {item.types for item in parsed.values()} == {("HALF", "HALF")}
        else:
            assert {item.inputs for item in parsed.values()} == {QUANTIZED}
        request = EngineRequest(
            name=precision,
            model=graph.to_bytes(),
            precision=precision,
            kept=frozenset(),
            input=(graph.input_name, (3, side, side)),
            profiles=(Batch(smallest=1, optimal=8, largest=32),),
        )
        start = time.perf_counter()
        built = engine_from_request(request, library, EngineOptions(capabilities=("8.6",)))
        assert time.perf_counter() - start < SECONDS
        assert built.convolutions == CONVOLUTIONS[name]
        # an engine holds the weights, in two bytes or one each
        weights = sum(np.prod(node.inputs[1].shape) for node in graph.nodes("Conv"))
        assert len(built.data) > weights * (2 if precision == "fp16" else 1)
