"""This project's own settings of the accuracy benchmark: what one export ships, and what others it could have made.

The variants are the files of a real bundle. The other calibration methods and the steps of the ablation are made by
the exporter's own functions from the same calibration, as an export with other options would make them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import resnet_runtime
from resnet_export import emulate
from resnet_export.calibration import OBSERVED
from resnet_export.emulate import emulated_graph
from resnet_export.graph import Graph, graph_from_bytes
from resnet_export.host_session import session_from_graph
from resnet_export.observe import observation_from_graph
from resnet_export.options import (
    CalibrationOptions,
    EvaluationOptions,
    ExportOptions,
    ModelOptions,
    PreprocessingOptions,
)
from resnet_export.passes.equalize import equalize
from resnet_export.passes.fold_constants import fold_constants
from resnet_export.passes.qdq_placement import SCHEMES
from resnet_export.pipeline import ExportResult, bundle_from_checkpoint
from resnet_export.quantization.calibrate import ranges_from_batches, weight_ranges
from resnet_export.quantization.choice import methods_from_images
from resnet_export.quantization.quantize import Quantized, QuantizeOptions, quantized_from_table
from resnet_export.quantization.reconstruct import ReconstructOptions
from resnet_export.quantization.table import CalibrationTable, table_from_bytes
from resnet_export.quantization.thresholds import METHODS
from resnet_runtime.backends import BACKENDS, facts_of, open_backend
from resnet_runtime.backends.base import OpenOptions, signature_from_manifest
from resnet_runtime.bundle import Bundle
from resnet_runtime.manifest import Batch

from .peers import Logits
from .photographs import LABELS, Crops
from .training import INPUT_SHAPE, MEAN, SCALE, STD

Float32 = NDArray[np.float32]

MAX_DROP: Final = 0.1
"""Points of top-1 that the export is told INT8 may lose on its evaluation images.

A third of the 0.3 that may be lost on others: what 4,000 crops lose is within 0.2 points or so of what others do.
"""

BATCH: Final = 128
"""Crops that are answered at once, and the largest batch of the bundle."""

ABLATION: Final[Mapping[str, tuple[bool, Mapping[str, object]]]] = MappingProxyType(
    {
        "nearest": (False, {"rounding": "nearest", "bias": False}),
        "+ adaptive": (False, {"rounding": "adaptive", "bias": False}),
        "+ equalization": (True, {"rounding": "nearest", "bias": False}),
        "+ bias": (True, {"rounding": "nearest", "bias": True}),
        "+ adaptive + bias": (True, {"rounding": "adaptive", "bias": True}),
    }
)
"""The steps on the way to what ships: whether channels are equalized, and which of ``ReconstructOptions`` differ from
the defaults. Equalized and rounded adaptively, without corrected biases, is the shipped variant."""


class NotShippedError(RuntimeError):
    """A variant did not pass its gate, so that the bundle does not have it."""


@dataclass(frozen=True)
class Opened:
    """Something that answers.

    Attributes:
        logits: from a batch to its logits.
        executor: what computes.
        kept: how many convolutions, Gemms and residual Adds are in higher precision than they could be.
    """

    logits: Logits
    executor: str
    kept: int = 0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the benchmark.

    Attributes:
        name: unique in a model.
        kind: ``eager``, ``shipped``, ``method``, ``ablation`` or ``peer``.
        open: makes it, which may take minutes; NotShippedError where there is none.
        scheme: of the Q/DQ nodes; None where there are none, and for peers.
        method: of the clipping magnitudes.
    """

    name: str
    kind: str
    open: Callable[[], Opened]
    scheme: str | None = None
    method: str | None = None


@dataclass(frozen=True)
class Exported:
    """One export, and what its INT8 variants were made from.

    Attributes:
        result: of ``bundle_from_checkpoint``.
        bundle: opened.
        folded: the FP32 graph.
        table: of the bundle's calibration.json.
        calibration: (N, C, H, W).
    """

    result: ExportResult
    bundle: Bundle
    folded: Graph
    table: CalibrationTable
    calibration: Float32


def exported(
    checkpoint: Path, calibration: Float32, evaluation: Crops, folder: Path, arch: str | None = None
) -> Exported:
    """Export a checkpoint as a user would: ``--calibration``, ``--evaluation`` and ``--max-drop``.

    Args:
        checkpoint: of a network for ``photographs``.
        calibration: (N, C, H, W), preprocessed.
        evaluation: images of which at most ``MAX_DROP`` points of top-1 may be lost.
        folder: where the bundle goes, as ``model.bundle``.
        arch: the architecture, where the tensors are those of several networks.

    Raises:
        ResnetExportError: the export failed.
    """
    options = ExportOptions(
        model=ModelOptions(input_shape=INPUT_SHAPE, arch=arch),
        preprocessing=PreprocessingOptions(
            resize=False, crop=False, mean=MEAN, std=STD, scale=SCALE, color_order="RGB"
        ),
        calibration=CalibrationOptions(images=calibration),
        evaluation=EvaluationOptions(images=_class_folders(evaluation, folder / "evaluation"), max_drop=MAX_DROP),
        labels=_labels_file(folder / "labels.txt"),
        engines=None,
        variants=("fp32", "fp16", "int8"),
        batch=Batch(smallest=1, optimal=BATCH, largest=BATCH),
    )
    result = bundle_from_checkpoint(checkpoint, folder / "model.bundle", options)
    bundle = Bundle.open(result.path)
    variant, record = bundle.manifest.variant("fp32"), bundle.manifest.calibration
    assert variant is not None
    assert record is not None
    folded = graph_from_bytes(bundle.read(variant.file))
    return Exported(result, bundle, folded, table_from_bytes(bundle.read(record)), calibration)


def _class_folders(crops: Crops, folder: Path) -> Path:
    """PNG files, a folder for each class."""
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(crops.images, crops.labels, strict=True)):
        Image.fromarray(image).save(folder / LABELS[label] / f"{number}.png", compress_level=1)
    return folder


def _labels_file(path: Path) -> Path:
    path.write_text("".join(f"{label}\n" for label in LABELS))
    return path


def shipped(made: Exported) -> Iterator[Setting]:
    """The bundle's FP16 and INT8 files."""
    yield Setting(name="fp16", kind="shipped", open=lambda: _emulated_variant(made, "fp16"))
    methods = made.table.methods
    yield Setting(name="int8-cpu", kind="shipped", open=lambda: _cpu_variant(made), scheme="cpu", method=methods["cpu"])
    yield Setting(
        name="int8-tensorrt",
        kind="shipped",
        open=lambda: _emulated_variant(made, "int8-tensorrt"),
        scheme="tensorrt",
        method=methods["tensorrt"],
    )


def other_methods(made: Exported) -> Iterator[Setting]:
    """What ``CalibrationOptions(method=...)`` would have given, for every method that was not chosen."""
    for method in METHODS:
        table = dataclasses.replace(made.table, methods=dict.fromkeys(SCHEMES, method))
        for scheme in reversed(SCHEMES):
            if made.table.methods[scheme] != method:
                opened = functools.partial(_made_from, made, functools.partial(_same, table), QuantizeOptions(), scheme)
                yield Setting(name=f"int8-{scheme} {method}", kind="method", open=opened, scheme=scheme, method=method)


def ablation(made: Exported) -> Iterator[Setting]:
    """The steps of ``ABLATION``, in order, and what ships with every shortcut quantized."""
    tables: dict[bool, CalibrationTable] = {True: made.table}

    def table(equalized: bool) -> CalibrationTable:
        if equalized not in tables:
            batches = [made.calibration]
            ranges, count = ranges_from_batches(made.folded, batches, CalibrationOptions().calibrate)
            methods = methods_from_images(made.folded, ranges, lambda: [made.calibration])
            tables[equalized] = CalibrationTable(
                model=made.table.model,
                images=count,
                preprocessing=None,
                methods=methods,
                whole_shortcuts=made.table.whole_shortcuts,
                equalization={},
                weights=weight_ranges(made.folded),
                tensors=ranges,
            )
        return tables[equalized]

    for step, (equalized, changes) in ABLATION.items():
        options = QuantizeOptions()
        reconstruct: ReconstructOptions = dataclasses.replace(options.reconstruct, **changes)  # type: ignore[arg-type]
        options = dataclasses.replace(options, reconstruct=reconstruct)
        for scheme in reversed(SCHEMES):
            opened = functools.partial(_made_from, made, functools.partial(table, equalized), options, scheme)
            yield Setting(name=f"int8-{scheme} {step}", kind="ablation", open=opened, scheme=scheme)
    every = functools.partial(_same, dataclasses.replace(made.table, whole_shortcuts=()))
    yield Setting(
        name="int8-tensorrt all shortcuts",
        kind="ablation",
        open=functools.partial(_made_from, made, every, QuantizeOptions(), "tensorrt"),
        scheme="tensorrt",
    )


def _same(table: CalibrationTable) -> CalibrationTable:
    return table


def _made_from(made: Exported, table: Callable[[], CalibrationTable], options: QuantizeOptions, scheme: str) -> Opened:
    chosen = table()
    graph = equalize(made.folded, chosen.equalization).graph
    inputs = made.calibration[: options.images]
    ranges = observation_from_graph(graph, inputs[:OBSERVED]).ranges
    quantized = quantized_from_table(graph, chosen, scheme, inputs, options, ranges, ExportOptions().fp16)
    return _cpu_graph(made, quantized) if scheme == "cpu" else _emulated(quantized.graph(), len(_kept(quantized)))


def cpu_backend() -> str:
    """Which backend runs the scheme ``cpu`` here: OpenVINO, the faster one, where it computes INT8."""
    return next((name for name in BACKENDS if "int8" in facts_of(name).precisions), BACKENDS[-1])


def _cpu_variant(made: Exported) -> Opened:
    """As a user runs it: through a session."""
    _refuse_dropped(made, "int8-cpu")
    session = resnet_runtime.load(made.bundle.path, backend=cpu_backend(), precision="int8")
    output = session.signature.outputs[0].name
    kept = made.bundle.manifest.variant("int8-cpu")
    assert kept is not None
    return Opened(lambda batch: session.infer(batch)[output], session.description, len(kept.kept_higher))


def _cpu_graph(made: Exported, quantized: Quantized) -> Opened:
    """By the same backend."""
    signature = signature_from_manifest(made.bundle.manifest)
    kept = _kept(quantized)
    backend = open_backend(cpu_backend(), quantized.graph().to_bytes(), signature, "int8", OpenOptions(kept=kept))
    name, output = signature.input.name, signature.outputs[0].name
    return Opened(lambda batch: backend.start({name: batch}).result()[output], backend.description, len(kept))


def _emulated_variant(made: Exported, name: str) -> Opened:
    _refuse_dropped(made, name)
    variant = made.bundle.manifest.variant(name)
    assert variant is not None
    return _emulated(graph_from_bytes(made.bundle.read(variant.file)), len(variant.kept_higher))


def _emulated(graph: Graph, kept: int) -> Opened:
    """As ``emulate.Emulation`` computes it; weights become constants first, so that they are prepared once for all."""
    assert emulate.rounds("fp16")
    ready = fold_constants(emulated_graph(graph, "fp16")).graph
    session = session_from_graph(ready)
    name, outputs = ready.input_name, list(ready.output_names)
    what = "int8 and fp16" if any(graph.nodes("QuantizeLinear")) else "fp16"
    return Opened(lambda batch: np.asarray(session.run(outputs, {name: batch})[0]), emulate.description(what), kept)


def _refuse_dropped(made: Exported, name: str) -> None:
    if name in made.result.dropped:
        raise NotShippedError(f"not shipped: {'; '.join(made.result.dropped[name])}")


def _kept(quantized: Quantized) -> frozenset[str]:
    placement = quantized.placement
    return frozenset((*(item.node for item in (*placement.kept, *quantized.overflowing)), *placement.whole_shortcuts))
