"""What an export did, for ``report.json``."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_runtime import strictjson
from resnet_runtime.manifest import Manifest, Variant

from . import __version__
from .passes import Skipped
from .verify import FoldingCheck

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "numpy", "onnxruntime", "openvino")


@dataclass(frozen=True)
class KeptCost:
    """What a layer that INT8 keeps in higher precision costs.

    Attributes:
        node: its name.
        noise: which it would add if it were quantized alone, relative to the answers' variance.
        slowdown: the graph's time with it kept, relative to that with it quantized; None where it was not measured.
    """

    node: str
    noise: float
    slowdown: float | None


@dataclass(frozen=True)
class Verdict:
    """A variant with its gate.

    Attributes:
        variant: as it ships.
        faults: what was outside the limits; empty where it ships.
        kept_costs: of the layers that went back to higher precision so that the gate is passed.
    """

    variant: Variant
    faults: tuple[str, ...]
    kept_costs: tuple[KeptCost, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Everything that an export found out.

    Attributes:
        manifest: of the bundle, without its report.
        verdicts: on every variant that was asked for.
        folded: the BatchNorms that went into a layer.
        not_folded: those that became a scale and a shift, with the reason.
        folding: how exact the folded graph is.
        notes: what reading and tracing ignored or changed.
        warnings: what the user has to know.
        seconds: wall time by stage.
    """

    manifest: Manifest
    verdicts: tuple[Verdict, ...]
    folded: tuple[str, ...]
    not_folded: tuple[Skipped, ...]
    folding: FoldingCheck
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]


def bytes_from_report(report: ExportReport) -> bytes:
    """The JSON file."""
    return strictjson.dumps(json_from_report(report))


def json_from_report(report: ExportReport) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "schema": "resnet-report/1",
        "model": dataclasses.asdict(report.manifest.model),
        "variants": [
            {
                **dataclasses.asdict(verdict.variant),
                "shipped": not verdict.faults,
                "faults": list(verdict.faults),
                "kept_costs": [dataclasses.asdict(cost) for cost in verdict.kept_costs],
            }
            for verdict in report.verdicts
        ],
        "folding": {
            "folded": list(report.folded),
            "scale_and_shift": [dataclasses.asdict(item) for item in report.not_folded],
            **dataclasses.asdict(report.folding),
        },
        "notes": list(report.notes),
        "warnings": list(report.warnings),
        "seconds": {name: round(value, 3) for name, value in report.seconds.items()},
        "tools": dict(report.manifest.tools),
    }


def tool_versions() -> dict[str, str]:
    """The versions of this package and of what it was made with."""
    versions = {"resnet-export": __version__, "python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
