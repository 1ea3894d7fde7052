"""What ``resnet-run`` prints, as text and as JSON values."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from .check import VariantCheck
from .manifest import Limits

_NONE = "-"


def unicode_name(name: str) -> str:
    """A file's name with U+FFFD for those of its bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def printable(text: str) -> str:
    """``text`` with control characters escaped, which could otherwise rewrite what stands on the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def result_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """A heading for each image, and a line for each of its best classes: probability, index, label.

    The label comes last, because the width of an arbitrary text on a terminal cannot be known.
    """
    entries = [entry for result in results for entry in result["top"]]
    width = max((len(str(entry["index"])) for entry in entries), default=1)
    lines: list[str] = []
    for result in results:
        lines.append(printable(result["image"]))
        for entry in result["top"]:
            label = "" if entry["label"] is None else f"  {printable(entry['label'])}"
            lines.append(f"  {entry['probability']:7.2%}  {entry['index']:>{width}}{label}")
    return lines


def check_object(check: VariantCheck) -> dict[str, Any]:
    """``check`` as a JSON value, with the keys of its own attributes."""
    return {**dataclasses.asdict(check), "passed": check.passed}


def check_table(found: Sequence[VariantCheck]) -> list[str]:
    """A table with a line for each check; under it what failed or could not run, and why; and what was recorded.

    The engines have a column where one was run.
    """
    titles = ("variant", "backend", "engine", "executor", "max error", "mean error", "top-1", "allowed", "verdict")
    rows: list[tuple[str, ...]] = [titles, *(_row(check) for check in found)]
    shown = [
        column
        for column, title in enumerate(titles)
        if title != "engine" or any(check.engine is not None for check in found)
    ]
    widths = [max(len(row[column]) for row in rows) for column in shown]
    lines = [
        "  ".join(row[column].ljust(width) for column, width in zip(shown, widths, strict=True)).rstrip()
        for row in rows
    ]
    for check in found:
        notes = [check.unavailable] if check.unavailable is not None else check.faults
        lines += [printable(f"{check.title}: {note}") for note in notes]
    recorded = list(dict.fromkeys(line for check in found for line in _recorded(check)))
    return lines + (["When it was exported:", *recorded] if recorded else [])


def _recorded(check: VariantCheck) -> list[str]:
    """What the manifest says of the variant's accuracy and speed, a line each."""
    name, accuracy = printable(check.variant), check.accuracy
    lines = []
    if accuracy is not None and accuracy.labelled:
        images = f"on {accuracy.samples} labelled images"
        lines.append(f"  {name}: top-1 {accuracy.measured:.2%}, eager {accuracy.eager:.2%}, {images}")
    elif accuracy is not None:
        lines.append(f"  {name}: eager's top-1 answer on {accuracy.measured:.2%} of {accuracy.samples} images")
    return lines + [
        f"  {name}: {speed.ratio:.2f} times as fast as {printable(speed.against)} on {printable(speed.backend)}"
        f" (batch {speed.batch}, {printable(speed.instructions)})"
        for speed in check.speeds
    ]


def _row(check: VariantCheck) -> tuple[str, ...]:
    measured = check.parity
    figures = (_NONE, _NONE, _NONE)
    if measured is not None:
        figures = (_percent(measured.max_error), _percent(measured.mean_error), f"{measured.top1_agreement:.2%}")
    verdict = "not run" if check.unavailable is not None else "passed" if check.passed else "FAILED"
    names = (check.variant, check.backend, check.engine, check.executor)
    return (*(printable(name or _NONE) for name in names), *figures, _allowed(check.limits), verdict)


def _percent(error: float) -> str:
    # What has no finite error is recorded as 1e30, because JSON has no infinity.
    return f"{error:.3%}" if error < 1e6 else "infinite"


def _allowed(limits: Limits) -> str:
    parts = (
        ("max", limits.max_error, "<="),
        ("mean", limits.mean_error, "<="),
        ("cosine", limits.centred_cosine, ">="),
        ("top-1", limits.top1_agreement, ">="),
    )
    return (
        ", ".join(
            f"{name} {sign} {value if name == 'cosine' else f'{value * 100:g}%'}"
            for name, value, sign in parts
            if value is not None
        )
        or _NONE
    )
