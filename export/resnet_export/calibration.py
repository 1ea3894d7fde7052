"""The stage of an export that calibrates: a pass over the images, or a table of an earlier one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resnet_runtime.bundle import CheckData
from resnet_runtime.manifest import FileRecord, Preprocessing

from .bundle_writer import StagedBundle
from .graph import Graph
from .host_session import batches, whole_batches
from .observe import observation_from_graph
from .options import CalibrationOptions
from .passes.equalize import equalization_groups, equalize, factors_from_statistics
from .passes.qdq_placement import SCHEMES, residual_adds
from .passes.to_fp16 import Ranges
from .progress import Stage, Timings
from .quantization.calibrate import calibration_tensors, ranges_from_batches, weight_ranges
from .quantization.channels import statistics_from_graph
from .quantization.choice import methods_from_images
from .quantization.evaluation import EvaluationSet
from .quantization.images import ImageStream
from .quantization.shortcuts import shortcuts_from_images
from .quantization.table import (
    CalibrationTable,
    TensorRange,
    bytes_from_table,
    check_table,
    check_weights,
    preprocessing_digest,
    table_from_file,
)

FEW_IMAGES: Final = 32

EQUALIZED_BY: Final = 32
"""How many images the channels' ranges are taken from."""

OBSERVED: Final = 8
"""How many inputs tell what fits FP16."""

SHORTCUTS_BY: Final = 16
"""How many images the shortcuts that stay whole are chosen by."""

CLIPPED_BY: Final = 512
"""How many evaluation images, beside those that weights are fitted to, the clipping methods are tried on."""

_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Images:
    """What there is to calibrate with.

    Attributes:
        calibration: the images; None where only a table is given.
        evaluation: other images, by which the clipping is chosen too.
        preprocessing: of the bundle.
    """

    calibration: ImageStream | None
    evaluation: EvaluationSet | None
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Calibrated:
    """What INT8 graphs are made from.

    Attributes:
        table: of the folded graph.
        graph: FP32, equalized by the table's factors.
        inputs: images to fit weights and biases to; None where only a table was given.
        ranges: of the equalized graph's tensors, on some of the check inputs and, where it was calibrated, all images.
        file: calibration.json.
    """

    table: CalibrationTable
    graph: Graph
    ranges: Ranges
    inputs: NDArray[np.generic] | None
    file: FileRecord


def calibrate(
    staged: StagedBundle,
    folded: Graph,
    images: Images,
    data: CheckData,
    options: CalibrationOptions,
    timings: Timings,
) -> Calibrated:
    """The table, from a pass over the images or from the user's file, and the equalized graph.

    Raises:
        CalibrationError: the table belongs to another model, or the images cannot be calibrated with.
        RequestError: an image cannot be used.
    """
    fitted = None
    if images.calibration is not None:
        fitted = whole_batches(folded, images.calibration.head(max(options.quantize.images, folded.fixed_batch or 1)))
    if options.table is not None:
        table, graph = _from_table(folded, fitted, images.preprocessing, options, timings)
    else:
        assert fitted is not None
        table, graph = _from_images(folded, images, fitted, options, timings)
    seen = observation_from_graph(graph, whole_batches(graph, data.inputs, OBSERVED)).ranges
    ranges = {name: _wider(name, found, table) for name, found in seen.items()}
    return Calibrated(table, graph, ranges, fitted, staged.add("calibration.json", bytes_from_table(table)))


def _wider(name: str, seen: tuple[float, float], table: CalibrationTable) -> tuple[float, float]:
    entry = table.tensors.get(name)
    return seen if entry is None else (min(seen[0], entry.low), max(seen[1], entry.high))


def _from_table(
    folded: Graph,
    fitted: NDArray[np.generic] | None,
    preprocessing: Preprocessing,
    options: CalibrationOptions,
    timings: Timings,
) -> tuple[CalibrationTable, Graph]:
    assert options.table is not None
    with timings.stage("calibrate") as stage:
        table = table_from_file(options.table)
        adds = [str(add.name) for add in residual_adds(folded)]
        groups = {group.name: group.channels for group in equalization_groups(folded)}
        check_table(table, folded.digest, calibration_tensors(folded), adds, groups, preprocessing)
        if options.method is not None:
            table = dataclasses.replace(table, methods=dict.fromkeys(SCHEMES, options.method))
        result = equalize(folded, table.equalization)
        check_weights(table, weight_ranges(result.graph))
        stage.tell(f"{len(table.tensors)} ranges of {table.images} images, from {options.table.name}")
        if fitted is None:
            stage.warn("weights are rounded to the nearest: fitting them to images needs --calibration")
        _warn_of_dead(table.dead, stage)
    return table, result.graph


def _from_images(
    folded: Graph,
    images: Images,
    fitted: NDArray[np.generic],
    options: CalibrationOptions,
    timings: Timings,
) -> tuple[CalibrationTable, Graph]:
    stream = images.calibration
    assert stream is not None
    with timings.stage("calibrate") as stage:
        factors: dict[str, tuple[float, ...]] = {}
        if options.equalize:
            groups = equalization_groups(folded)
            tensors = list(dict.fromkeys(tensor for group in groups for _, tensor in group.readers))
            statistics = statistics_from_graph(folded, whole_batches(folded, fitted, EQUALIZED_BY), tensors)
            factors = factors_from_statistics(folded, groups, statistics)
        graph = equalize(folded, factors).graph
        ranges, count = ranges_from_batches(
            graph,
            stream.batches(options.calibrate.batch),
            options.calibrate,
            lambda done: stage.advance(done, stream.count, "images"),
        )
        stage.tell(f"{count} images, {len(ranges)} tensors, {len(factors)} groups of channels equalized")
        _warn_of_images(stream, count, stage)
        _warn_of_dead([name for name, found in ranges.items() if found.dead], stage)
    methods = _methods(graph, ranges, fitted, images.evaluation, options, timings)
    table = CalibrationTable(
        model=folded.digest,
        images=count,
        preprocessing=preprocessing_digest(images.preprocessing) if stream.decoded else None,
        methods=methods,
        whole_shortcuts=_whole_shortcuts(graph, ranges, methods, fitted, options, timings),
        equalization=factors,
        weights=weight_ranges(graph),
        tensors=ranges,
    )
    return table, graph


def _warn_of_images(images: ImageStream, count: int, stage: Stage) -> None:
    if images.skipped:
        stage.warn(f"images that were skipped: {len(images.skipped)}, the first: {images.skipped[0]}")
    if count < FEW_IMAGES:
        images_are = "one image is" if count == 1 else f"{count} images are"
        stage.warn(f"{images_are} few to calibrate with: ranges come out too small; take {FEW_IMAGES} or more")


def _warn_of_dead(tensors: Iterable[str], stage: Stage) -> None:
    for name in tensors:
        stage.warn(f"{name} is zero for every image: is the model trained, and are these its images?")


def _methods(
    graph: Graph,
    ranges: dict[str, TensorRange],
    fitted: NDArray[np.generic],
    evaluation: EvaluationSet | None,
    options: CalibrationOptions,
    timings: Timings,
) -> dict[str, str]:
    if options.method is not None:
        return dict.fromkeys(SCHEMES, options.method)
    more = 0 if evaluation is None else min(CLIPPED_BY, evaluation.count)

    def looked_at() -> Iterator[NDArray[np.generic]]:
        yield from batches(graph, fitted, _AT_ONCE)
        if evaluation is not None:
            size = graph.fixed_batch or _AT_ONCE
            yield from (images for images, _ in itertools.islice(evaluation.batches(size), -(-more // size)))

    total = (len(fitted) + more) * len(SCHEMES)
    with timings.stage("clipping") as stage:
        methods = methods_from_images(
            graph, ranges, looked_at, lambda done: stage.advance(min(done, total), total, "images")
        )
        stage.tell(", ".join(f"{methods[scheme]} for int8-{scheme}" for scheme in SCHEMES))
    return methods


def _whole_shortcuts(
    graph: Graph,
    ranges: dict[str, TensorRange],
    methods: dict[str, str],
    fitted: NDArray[np.generic],
    options: CalibrationOptions,
    timings: Timings,
) -> tuple[str, ...]:
    with timings.stage("shortcuts") as stage:
        found = shortcuts_from_images(
            graph,
            ranges,
            methods["tensorrt"],
            whole_batches(graph, fitted, SHORTCUTS_BY),
            options.quantize.whole_shortcuts,
            lambda done, total: stage.advance(done, total, "shortcuts"),
        )
        stage.tell(f"{len(found)} of {len(residual_adds(graph))} stay in FP16 in int8-tensorrt")
    return found
