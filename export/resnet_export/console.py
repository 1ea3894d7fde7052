"""What a person sees of an export: stages with their times, a table, the next command."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import rich.box
import rich.console
import rich.markup
import rich.table

from .progress import Stage

if TYPE_CHECKING:
    from .pipeline import ExportResult


class Console:
    """A ``Progress`` on standard error, and the result on standard output.

    Args:
        quiet: only warnings and errors.
        as_json: one JSON object on standard output in place of the table.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet = quiet
        self._as_json = as_json
        self._errors = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
        self._output = rich.console.Console(highlight=False, soft_wrap=True, stderr=as_json)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A spinner with the time while it runs on a terminal, one line when it is done."""
        shown = _Stage()
        start = time.perf_counter()
        if self._quiet or not self._errors.is_terminal:
            yield shown
        else:
            with self._errors.status(f"{name} ..."):
                yield shown
        if not self._quiet:
            seconds = time.perf_counter() - start
            self._errors.print(
                f"  [green]✓[/] {name:<12} [dim]{seconds:6.1f} s[/]  {rich.markup.escape('; '.join(shown.results))}"
            )
        for text in shown.warnings:
            self._errors.print(f"  [yellow]! warning:[/] {rich.markup.escape(text)}")

    def failure(self, error: Exception) -> None:
        """One sentence, and what belongs to it as a list."""
        message = str(getattr(error, "message", error))
        details = list(getattr(error, "details", ()))
        self._errors.print(f"[red]Error:[/] {rich.markup.escape(message)}")
        for line in details:
            self._errors.print(f"  {rich.markup.escape(line)}")
        if self._as_json:
            self._print_json({"error": {"type": type(error).__name__, "message": message, "details": details}})

    def finish(self, result: ExportResult, status: int) -> None:
        """The table and the next command, or the JSON object."""
        if self._as_json:
            from .report import json_from_report

            self._print_json({"bundle": str(result.path), "status": status, "report": json_from_report(result.report)})
        if self._quiet:
            return
        self._print_assumptions(result)
        self._output.print(_table(result))
        for name, faults in result.dropped.items():
            self._output.print(f"[red]{name} is not in the bundle:[/] {'; '.join(faults)}")
        emulated = [v for v in result.report.verdicts if v.variant.gate.emulated and not v.faults]
        if emulated:
            names = " and ".join(verdict.variant.id for verdict in emulated)
            self._output.print(
                f"[dim]Errors are of the spread, beside what is allowed. * {names}: this CPU has no such arithmetic, so the "
                f"gate was passed in emulation; resnet-run --check repeats it where there is.[/]"
            )
        path = shlex.quote(str(result.path))
        self._output.print(f"\nThe bundle is {path}. Next:\n  resnet-run {path} IMAGE.jpg")

    def _print_assumptions(self, result: ExportResult) -> None:
        assumptions = result.manifest.model.assumptions
        if not assumptions:
            return
        self._output.print("\nAssumed, because the checkpoint does not tell; --reference checks the model's:")
        for item in assumptions:
            self._output.print(f"  {item.subject:<20} {rich.markup.escape(item.value):<34} [dim]{item.option}[/]")

    def _print_json(self, value: object) -> None:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


class _Stage:
    def __init__(self) -> None:
        self.results: list[str] = []
        self.warnings: list[str] = []

    def tell(self, result: str) -> None:
        self.results.append(result)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _table(result: ExportResult) -> rich.table.Table:
    """A row a variant: what was needed beside what is allowed; at most 80 columns."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("variant", "MB", "max error", "mean error", "SNR", "top-1", "top-5", "gate"):
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
            f"{parity.top5_agreement:.0%}",
            "[red]failed[/]" if verdict.faults else "[green]passed[/]" + ("*" if variant.gate.emulated else ""),
        )
    return table


def _against(value: float, allowed: float | None) -> str:
    """An error beside what is allowed, both in percent of the spread."""
    shown = f"{value:.2%}" if 1e-4 <= value < 1e3 else f"{value * 100:.0e}%".replace("e-0", "e-").replace("e+0", "e+")
    return shown if allowed is None else f"{shown} / {100 * allowed:g}%"
