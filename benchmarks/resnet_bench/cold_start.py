"""From a new process to its first answer: seconds and memory of whole processes, started in interleaved rounds.

Each program is what its library's documentation shows, written out: it imports, loads, answers one sample and writes
the answer to a file, which is held to eager's.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from resnet_runtime.backends import BACKENDS, facts_of
from resnet_runtime.bundle import CheckData
from resnet_runtime.errors import UnavailableError, lines_of
from resnet_runtime.manifest import Variant
from resnet_runtime.selection import choose

from .cases import Subject
from .clock import ProcessCost, ProcessFailedError, process_cost
from .statistics import RatioInterval, ratio_interval

RUNTIME: Final = "runtime"
FIRST_TIME: Final = "runtime, first time"
"""With nothing in the user's cache folder."""
EAGER: Final = "eager"

_RUNTIME = """
import sys
import numpy
import resnet_runtime
with resnet_runtime.load(sys.argv[1]) as session:
    numpy.save(sys.argv[3], session.infer(numpy.load(sys.argv[2]))[sys.argv[4]])
"""

_EAGER = """
import sys
import numpy
import torch
from resnet_export.resnet import module_from_state_dict
from resnet_export.resnet_inference import config_from_state_dict
weights = torch.load(sys.argv[1], weights_only=True)
network = module_from_state_dict(weights, config_from_state_dict(weights).config).eval()
with torch.inference_mode():
    numpy.save(sys.argv[3], network(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
"""

_OPENVINO = """
import sys
import numpy
import openvino
sample = numpy.load(sys.argv[2])
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape(list(sample.shape))
config = {"INFERENCE_PRECISION_HINT": sys.argv[5], "PERFORMANCE_HINT": "LATENCY"}
compiled = core.compile_model(model, "CPU", config)
numpy.save(sys.argv[3], compiled(sample)[compiled.output(sys.argv[4])])
"""

_ONNXRUNTIME = """
import sys
import numpy
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
sample = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], session.run([sys.argv[4]], {session.get_inputs()[0].name: sample})[0])
"""

_TOLERANCE: Final = 0.25
"""Of the spread: these are the variants whose gates passed; another model's answers are further away."""


@dataclass(kw_only=True)
class ColdStart:
    """One program and what its processes took.

    Attributes:
        name: of the row.
        program: Python, given to the interpreter.
        arguments: before the sample's file: what it loads; after the output's name: what else it takes.
        empty_cache: whether each process finds an empty cache folder.
        reason: why it was not measured, in a sentence; None where it was.
        costs: one a process.
    """

    name: str
    program: str
    loads: str
    more: tuple[str, ...] = ()
    empty_cache: bool = False
    reason: str | None = None
    costs: list[ProcessCost] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """From the process's start to its end."""
        return [cost.seconds for cost in self.costs]

    @property
    def peak_bytes(self) -> float:
        """The median of the largest resident sets."""
        return float(np.median([cost.peak_bytes for cost in self.costs]))

    @property
    def median(self) -> float:
        """In seconds."""
        return float(np.median(self.seconds))


def cold_starts(subject: Subject, checkpoint: Path | None) -> list[ColdStart]:
    """This runtime as ``load`` chooses, eager, and each library on the file that it would be given by default.

    Args:
        subject: what is measured.
        checkpoint: of eager, a plain state_dict; None: not given.
    """
    bundle = subject.bundle
    found = [
        ColdStart(name=RUNTIME, program=_RUNTIME, loads=str(bundle.path)),
        ColdStart(name=FIRST_TIME, program=_RUNTIME, loads=str(bundle.path), empty_cache=True),
    ]
    if checkpoint is not None and subject.network is not None and not bundle.manifest.preprocessing.in_graph:
        found.append(ColdStart(name=EAGER, program=_EAGER, loads=str(checkpoint)))
    return [*found, *_by_hand(subject)]


def _by_hand(subject: Subject) -> list[ColdStart]:
    manifest = subject.bundle.manifest
    found = []
    for backend in BACKENDS:
        try:
            choice = choose(manifest, [facts_of(backend)])
        except UnavailableError:
            continue
        variant = manifest.variant(choice.variant)
        assert variant is not None
        found.append(_PROGRAMS[backend](str(subject.bundle.path / variant.file.path), variant))
    return found


def _openvino(file: str, variant: Variant) -> ColdStart:
    from resnet_runtime.backends.openvino import HINTS

    return ColdStart(
        name=f"openvino, {variant.precision}", program=_OPENVINO, loads=file, more=(HINTS[variant.precision],)
    )


def _onnxruntime(file: str, variant: Variant) -> ColdStart:
    return ColdStart(name=f"onnxruntime, {variant.precision}", program=_ONNXRUNTIME, loads=file)


_PROGRAMS: Final[dict[str, Callable[[str, Variant], ColdStart]]] = {
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}


def measure_cold_starts(
    starts: Sequence[ColdStart], check: CheckData, rounds: int, tell: Callable[[str], None] = lambda text: None
) -> None:
    """Run each program once untimed, then twice a round, forwards and backwards; what fails says why and is left out.

    Args:
        starts: their ``costs`` and ``reason`` are filled in.
        check: a sample, and eager's answers.
        rounds: how many.
        tell: told what happens.
    """
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "sample.npy")
        np.save(sample, check.inputs[:1])
        for start in starts:
            tell(f"cold start: {start.name}")
            _run(start, sample, check, keep=False)
        for _ in range(rounds):
            for start in (*starts, *reversed(starts)):
                _run(start, sample, check, keep=True)


def _run(start: ColdStart, sample: Path, check: CheckData, *, keep: bool) -> None:
    if start.reason is not None:
        return
    name = next(iter(check.outputs))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.npy")
        command = [sys.executable, "-c", start.program, start.loads, str(sample), str(answer), name, *start.more]
        if start.empty_cache:
            command = ["/usr/bin/env", f"XDG_CACHE_HOME={folder}{os.sep}cache", *command]
        try:
            cost = process_cost(command)
            found = np.load(answer)
        except (ProcessFailedError, subprocess.CalledProcessError, OSError, ValueError) as error:
            start.reason, start.costs = lines_of(error)[-1], []
            return
    expected = check.outputs[name]
    spread = float(np.ptp(expected, axis=0).max()) or float(np.ptp(expected))  # of one sample, between its classes
    if found.shape != expected[:1].shape or not np.abs(found - expected[:1]).max() <= _TOLERANCE * spread:
        start.reason, start.costs = "its answer is wrong", []
    elif keep:
        start.costs.append(cost)


def compared_with_eager(start: ColdStart, starts: Sequence[ColdStart]) -> RatioInterval | None:
    """How many times as fast as eager, run by run; None where one of the two was not measured."""
    eager = next((other for other in starts if other.name == EAGER and other.costs), None)
    if eager is None or eager is start or not start.costs:
        return None
    count = min(len(eager.costs), len(start.costs))
    return ratio_interval(np.asarray(eager.seconds[:count]), np.asarray(start.seconds[:count]))


def cold_start_table(starts: Sequence[ColdStart]) -> list[str]:
    """A line for each program, and for each that was not measured why."""
    measured = [start for start in starts if start.costs]
    if not measured:
        return [f"cold start, {start.name}: {start.reason}" for start in starts if start.reason]
    heading = ("from a new process to its first answer", "median", "worst", "peak memory", "times as fast as eager")
    rows = [heading]
    for start in measured:
        ratio = compared_with_eager(start, starts)
        rows.append(
            (
                start.name,
                f"{start.median:.3f} s",
                f"{max(start.seconds):.3f} s",
                f"{start.peak_bytes / 1e6:.0f} MB",
                "-" if ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [*lines, *(f"cold start, {start.name}: {start.reason}" for start in starts if start.reason)]


def cold_start_json(start: ColdStart, starts: Sequence[ColdStart]) -> dict[str, Any]:
    """The raw figures, and what follows from them."""
    ratio = compared_with_eager(start, starts)
    return {
        "name": start.name,
        "reason": start.reason,
        "seconds": [round(seconds, 6) for seconds in start.seconds],
        "peak_bytes": [cost.peak_bytes for cost in start.costs],
        "median_seconds": start.median if start.costs else None,
        "times_as_fast_as_eager": None if ratio is None else dataclasses.asdict(ratio),
    }
