"""One network through the exporter's stages, and what each of them said."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from resnet_bench.networks import varied_images
from resnet_export.eager import answers_from_module
from resnet_export.emulate import Emulation
from resnet_export.engine import EngineOptions, EngineRequest, engine_from_request
from resnet_export.errors import DetailedError
from resnet_export.graph import Graph
from resnet_export.observe import observation_from_graph
from resnet_export.options import PreprocessingOptions
from resnet_export.passes import fold_batchnorm, to_fp16
from resnet_export.passes.insert_qdq import insert_qdq, undequantized_layers
from resnet_export.passes.qdq_placement import placement_from_graph
from resnet_export.preprocessing import preprocessing_from_options
from resnet_export.trace import graph_from_module
from resnet_export.verify import check_folding
from resnet_runtime.backends.tensorrt.library import library_named
from resnet_runtime.errors import lines_of
from resnet_runtime.manifest import Batch
from resnet_runtime.parity import parity
from tests.export.int8_graphs import nearest_weights

from .networks import network

IMAGES = 4


@dataclass(kw_only=True)
class Row:
    """What was seen of one network.

    Attributes:
        library, name, parameters: of it.
        traced: by which exporter.
        folded, apart, left: BatchNorms that went into a layer, that became one scale and shift, and that are left.
        error, allowed: of the folded graph, relative to the spread, and the design's bound for it.
        exact: whether that was held to float64.
        fp16: the largest error of the FP16 graph, relative to the spread.
        int8: the centred cosine of the INT8 graph for TensorRT, calibrated on the very images.
        engines: which graphs TensorRT-RTX parsed and built.
        failure: the first thing that went wrong, in a sentence; None where nothing did.
    """

    library: str
    name: str
    parameters: int = 0
    traced: str = ""
    folded: int = 0
    apart: int = 0
    left: int = 0
    error: float = 0.0
    allowed: float = 0.0
    exact: bool = False
    fp16: float = 0.0
    int8: float = 0.0
    engines: tuple[str, ...] = ()
    failure: str | None = None

    @property
    def within(self) -> bool:
        """Whether it exports: no BatchNormalization left, and no further from the module than the design allows."""
        return self.traced != "" and self.left == 0 and 0 <= self.error <= self.allowed

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return dataclasses.asdict(self)


def row_of(library: str, name: str, *, engines: bool = True) -> Row:
    """Trace, fold, compare, and make FP16 and INT8 of it; what fails is in the row."""
    row = Row(library=library, name=name)
    try:
        _fill(row, engines=engines)
    except Exception as error:  # of whatever stage: the row says it
        row.failure = (
            error.message if isinstance(error, DetailedError) else f"{type(error).__name__}: {lines_of(error)[0]}"
        )
    return row


def _fill(row: Row, *, engines: bool) -> None:
    built = network(row.library, row.name)
    row.parameters = built.parameters
    inputs = varied_images(IMAGES, built.shape, seed=1).numpy()
    rules, _ = preprocessing_from_options(PreprocessingOptions(), built.shape, "imagenet")
    answers = answers_from_module(built.module, inputs, rules)
    traced = graph_from_module(built.module, built.shape, tuple(answers.float32))
    row.traced = traced.exporter
    result = fold_batchnorm(traced.graph)
    row.folded, row.apart = len(result.done), len(result.skipped)
    row.left = len(list(result.graph.nodes("BatchNormalization")))
    observed = observation_from_graph(result.graph, inputs)
    checked = check_folding(observed, answers)
    row.error, row.allowed, row.exact = (
        checked.error / checked.spread,
        checked.allowed / checked.spread,
        bool(answers.exact),
    )
    graph = result.graph
    half = to_fp16(graph, observed.ranges)
    row.fp16 = parity(answers.float32, Emulation(half.graph, "fp16").infer(inputs)).max_error
    eighth = _quantized(graph, half.graph, observed.ranges)
    row.int8 = parity(answers.float32, Emulation(eighth, "fp16").infer(inputs)).centred_cosine
    if engines:
        kept = frozenset(item.node for item in half.skipped)
        _build(row, "fp16", half.graph, kept)
        _build(row, "int8", eighth, kept | frozenset(undequantized_layers(eighth)))


def _quantized(graph: Graph, half: Graph, ranges: Any) -> Graph:
    placement = placement_from_graph(graph, "tensorrt")
    limits = {name: max(abs(low), abs(high), 1e-3) for name, (low, high) in ranges.items()}
    return insert_qdq(half, placement, limits, nearest_weights(graph, placement)).graph


def _build(row: Row, precision: str, graph: Graph, kept: frozenset[str]) -> None:
    _, *shape = (axis if isinstance(axis, int) else -1 for axis in graph.input.shape or ())
    request = EngineRequest(
        name=precision,
        model=graph.to_bytes(),
        precision=precision,
        kept=kept,
        input=(graph.input_name, tuple(shape)),
        profiles=(Batch(smallest=1, optimal=1, largest=2),),
    )
    engine_from_request(request, library_named("tensorrt-rtx"), EngineOptions())
    row.engines = (*row.engines, precision)
