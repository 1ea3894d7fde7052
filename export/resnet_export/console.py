"""What a person sees of an export: stages with their times, a table, the next command."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import rich.box
import rich.console
import rich.markup
import rich.progress
import rich.table

from resnet_runtime.cli_tables import printable, unicode_name

from .progress import Stage, floored

if TYPE_CHECKING:
    from resnet_runtime.manifest import Engine

    from .engine_stages import EnginesResult
    from .pipeline import ExportResult
    from .report import Verdict


class Console:
    """A ``Progress`` on standard error, and the result on standard output.

    Args:
        quiet: only warnings and errors.
        as_json: one JSON object on standard output in place of the table.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self._errors = rich.console.Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._output = rich.console.Console(highlight=False, soft_wrap=True, emoji=False, stderr=as_json)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A spinner with the time while it runs on a terminal, one line when it is done."""
        start = time.perf_counter()
        if self._quiet or not self._errors.is_terminal:
            shown = _Stage()
            yield shown
        else:
            with _bar(self._errors) as bar:
                shown = _Stage(bar, bar.add_task(f"{name} ...", total=None, rate=""))
                yield shown
        if not self._quiet:
            seconds = time.perf_counter() - start
            self._errors.print(
                f"  [green]✓[/] {name:<12} [dim]{seconds:6.1f} s[/]  {rich.markup.escape('; '.join(shown.results))}"
            )
        for text in shown.warnings:
            self._errors.print(f"  [yellow]! warning:[/] {rich.markup.escape(text)}")

    def finish(self, result: ExportResult, status: int) -> None:
        """The table and the next command, or the JSON object."""
        if self._as_json:
            from .report import json_from_report

            bundle = unicode_name(str(result.path))
            engines = None if result.engines is None else _json_of_engines(result.engines)
            report = json_from_report(result.report)
            self._print_json({"bundle": bundle, "status": status, "report": report, "engines": engines})
        if self._quiet:
            return
        self._print_assumptions(result)
        table = _table(result)
        # Its own width also where the terminal has less, or is none: a figure that was cut off says nothing.
        table.width = self._output.measure(table, options=self._output.options.update(width=1000)).maximum
        self._output.print("", table, "", sep="\n")
        for verdict in result.report.verdicts:
            for line in _about_int8(verdict):
                self._output.print(rich.markup.escape(line))
        for name, faults in result.dropped.items():
            self._output.print(f"[red]{name} is not in the bundle:[/] {'; '.join(faults)}")
        emulated = [v for v in result.report.verdicts if v.variant.gate.emulated and not v.faults]
        if emulated:
            names = " and ".join(verdict.variant.id for verdict in emulated)
            self._output.print(
                f"[dim]Errors are of the spread, beside what is allowed. * {names}: this CPU has no such arithmetic, "
                f"so the gate was passed in emulation; resnet-run --check repeats it where there is.[/]"
            )
        if result.engines is not None:
            self._print_engines(result.engines)
        path = rich.markup.escape(shlex.quote(printable(unicode_name(str(result.path)))))
        self._output.print(f"\nThe bundle is {path}. Next:\n  resnet-run {path} IMAGE.jpg")

    def finish_engines(self, result: EnginesResult) -> None:
        """What was built and where it runs, or the JSON object."""
        if self._as_json:
            bundle = unicode_name(str(result.path))
            self._print_json({"bundle": bundle, "status": 0, "engines": _json_of_engines(result)})
        if not self._quiet:
            self._print_engines(result)

    def _print_engines(self, result: EnginesResult) -> None:
        """A row an engine: where it runs, and whether it has been seen to."""
        for reason in result.missing.values():
            self._output.print(f"No engine: {rich.markup.escape(reason)}")
        if not result.engines:
            return
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for title in ("engine", "MB", "batch", "runs on", "verified on"):
            table.add_column(title, justify="right" if title == "MB" else "left", no_wrap=True)
        for engine in result.engines:
            profiles = "; ".join(f"{item.smallest}-{item.largest}" for item in engine.profiles)
            lines = _runs_on(engine)
            seen = engine.verified_on or "no GPU yet"
            table.add_row(engine.id, f"{engine.file.size / 1e6:.1f}", profiles, lines[0], seen)
            for line in lines[1:]:
                table.add_row("", "", "", line, "")
        table.width = self._output.measure(table, options=self._output.options.update(width=1000)).maximum
        self._output.print("", table, sep="\n")

    def _print_assumptions(self, result: ExportResult) -> None:
        assumptions = result.manifest.model.assumptions
        if not assumptions:
            return
        self._output.print("\nAssumed, because the checkpoint does not tell; --reference checks the model's:")
        for item in assumptions:
            self._output.print(f"  {item.subject:<20} {rich.markup.escape(item.value):<34} [dim]{item.option}[/]")

    def _print_json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")  # ASCII, whatever the terminal's encoding


def _bar(console: rich.console.Console) -> rich.progress.Progress:
    """A spinner, and a bar with its rate once a stage says how far it is; gone when the stage is done."""
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeElapsedColumn(),
    )
    return rich.progress.Progress(*columns, console=console, transient=True)


class _Stage:
    """What a stage says; ``bar`` shows how far it is, on a terminal."""

    def __init__(self, bar: rich.progress.Progress | None = None, task: rich.progress.TaskID | None = None) -> None:
        self.results: list[str] = []
        self.warnings: list[str] = []
        self._bar = bar
        self._task = task
        self._unit = ""
        self._begun = time.perf_counter()

    def tell(self, result: str) -> None:
        self.results.append(result)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def advance(self, done: int, total: int | None, unit: str) -> None:
        if self._bar is None or self._task is None:
            return
        now = time.perf_counter()
        if unit != self._unit:
            self._unit, self._begun = unit, now
        rate = done / max(now - self._begun, 1e-9)
        of = "" if total is None else f"/{total}"
        self._bar.update(self._task, completed=done, total=total, rate=f"{done}{of} {unit}, {rate:.3g} {unit}/s")


def _table(result: ExportResult) -> rich.table.Table:
    """A row a variant: what was needed beside what is allowed."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("variant", "MB", "max error", "mean error", "SNR", "top-1", "gate"):
        table.add_column(title, justify="left" if title in ("variant", "gate") else "right", no_wrap=True)
    for verdict in result.report.verdicts:
        variant = verdict.variant
        parity, limits = variant.gate.parity, variant.gate.limits
        table.add_row(
            variant.id,
            f"{variant.file.size / 1e6:.1f}",
            _against(parity.max_error, limits.max_error),
            _against(parity.mean_error, limits.mean_error),
            f"{parity.snr_db:.0f} dB",
            f"{parity.top1_agreement:.0%} of {parity.samples - parity.undecided}",
            "[red]failed[/]" if verdict.faults else "[green]passed[/]" + ("*" if variant.gate.emulated else ""),
        )
    return table


def _about_int8(verdict: Verdict) -> list[str]:
    """What the table has no room for: accuracy, speed, and what had to stay in higher precision."""
    variant, accuracy = verdict.variant, verdict.variant.gate.accuracy
    parts = []
    if accuracy is not None:
        what = "top-1" if accuracy.labelled else "agreement"
        parts.append(
            f"{what} {accuracy.measured:.2%}, eager {accuracy.eager:.2%}, over {accuracy.samples} images "
            f"({accuracy.drop:+.2f} points lost, {accuracy.max_drop:g} allowed)"
        )
    parts += [
        f"{floored(speed.ratio, 1)} times as fast as {speed.against} on {speed.backend}" for speed in variant.speeds
    ]
    lines = [f"{variant.id}: {'; '.join(parts)}"] if parts else []
    for cost in verdict.kept_costs:
        time = "time not measured" if cost.slowdown is None else f"{cost.slowdown - 1:+.1%} time"
        lines.append(f"  kept higher: {cost.node}, noise {cost.noise:.2g} if quantized alone, {time}")
    return lines


_GPUS: Final = {
    "7.5": "T4, RTX 20",
    "8.0": "A100, A30",
    "8.6": "RTX 30, A10, A40",
    "8.9": "RTX 40, L4, L40S",
    "9.0": "H100, H200",
    "10.0": "B200",
    "12.0": "RTX 50, RTX PRO",
    "12.1": "GB10",
}
"""The best known GPUs of a compute capability: https://developer.nvidia.com/cuda-gpus"""


def _runs_on(engine: Engine) -> list[str]:
    """Which GPUs and library, a line each."""
    library = f"{engine.builder} {engine.builder_version}" + (
        " and newer" if "+versions" in engine.compatibility else ""
    )
    if engine.compatibility.startswith("ampere_plus"):
        return [f"GPUs from Ampere on, {library}"]
    if engine.gpu is not None:
        return [f"{engine.gpu}, {library}"]
    known = [f"{item} ({_GPUS[item]})" if item in _GPUS else item for item in engine.compute_capabilities]
    return [f"{library}, compute capability", *known]


def _json_of_engines(result: EnginesResult) -> dict[str, object]:
    return {
        "built": [dataclasses.asdict(engine) for engine in result.engines],
        "missing": list(result.missing.values()),
        "warnings": list(result.warnings),
    }


def _against(value: float, allowed: float | None) -> str:
    """An error beside what is allowed, both in percent of the spread."""
    shown = f"{value:.2%}" if 1e-4 <= value < 1e3 else f"{value * 100:.0e}%".replace("e-0", "e-").replace("e+0", "e+")
    return shown if allowed is None else f"{shown} / {100 * allowed:g}%"
