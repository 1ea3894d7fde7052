"""Whether a record of the accuracy benchmark holds what is promised, and the record as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Record = Mapping[str, Any]

SCHEMES: Final = ("int8-cpu", "int8-tensorrt")

MOST_DROP: Final = 0.3
"""Points of top-1 that INT8 may lose."""
LEAST_KEPT: Final = 0.99
"""The share of eager's accuracy that INT8 keeps: the rule of MLPerf's inference benchmark."""
MOST_DROP_FP16: Final = 0.05
HARD_ENOUGH: Final = 0.5
"""Points that at least one peer loses: where none does, nothing is shown by losing little."""
EAGER: Final = (0.60, 0.95)
"""Eager's accuracy: a network that knows little, or everything, shows nothing either."""

_NOT_INSTALLED: Final = "ModuleNotFoundError"

_ROUNDING: Final = 1e-9  # of differences of means, which are counts in truth


def verdict(model: Record) -> dict[str, Any]:
    """Judge one model's record.

    Returns:
        ``passed``; ``checks``: what was asked, of which setting, whether it holds and what was found;
        ``failed_peers``: the peers that gave no answer, so that nothing is said of them. One that is not installed
        is no fault; one that is and fails is.
    """
    rows = {row["setting"]: row for row in model["rows"]}
    peers = [row for row in model["rows"] if row["kind"] == "peer"]
    checks = [*_of_setting_up(rows["eager"], peers), _of_fp16(rows["fp16"])]
    for name in SCHEMES:
        checks += _of_int8(rows[name], rows["eager"], peers)
    return {
        "model": model["model"],
        "passed": all(check["passed"] for check in checks),
        "checks": checks,
        "failed_peers": [row["setting"] for row in peers if row["error"] is not None],
    }


def _check(asked: str, setting: str, passed: bool, found: str) -> dict[str, Any]:
    return {"asked": asked, "setting": setting, "passed": bool(passed), "found": found}


def _of_setting_up(eager: Record, peers: Sequence[Record]) -> Iterator[dict[str, Any]]:
    low, high = EAGER
    yield _check(f"top-1 of {low:.0%} to {high:.0%}", "eager", low <= eager["top1"] <= high, f"{eager['top1']:.2%}")
    worst = max((row for row in peers if row["error"] is None), key=lambda row: row["drop_points"], default=None)
    yield _check(
        f"a peer loses {HARD_ENOUGH} points or more",
        "peers",
        worst is not None and worst["drop_points"] >= HARD_ENOUGH - _ROUNDING,
        "no peer answered" if worst is None else f"{worst['setting']} loses {worst['drop_points']:.2f}",
    )
    failed = [row for row in peers if row["error"] is not None and not row["error"].startswith(_NOT_INSTALLED)]
    yield _check(
        "every installed peer answers",
        "peers",
        not failed,
        ", ".join(f"{row['setting']}: {row['error']}" for row in failed) or "they do",
    )


def _of_fp16(row: Record) -> dict[str, Any]:
    asked = f"drop of {MOST_DROP_FP16} points at most"
    if row["error"] is not None:
        return _check(asked, row["setting"], False, row["error"])
    drop = row["drop_points"]
    return _check(asked, row["setting"], drop <= MOST_DROP_FP16 + _ROUNDING, f"{drop:.2f}")


def _of_int8(row: Record, eager: Record, peers: Sequence[Record]) -> Iterator[dict[str, Any]]:
    name, answered = row["setting"], [peer for peer in peers if peer["error"] is None]
    if row["error"] is not None:
        yield _check("shipped", name, False, row["error"])
        return
    drop, kept = row["drop_points"], row["top1"] / max(eager["top1"], 1e-12)
    yield _check(f"drop of {MOST_DROP} points at most", name, drop <= MOST_DROP + _ROUNDING, f"{drop:.2f}")
    yield _check(f"keeps {LEAST_KEPT:.0%} of eager's top-1", name, kept >= LEAST_KEPT - _ROUNDING, f"{kept:.2%}")
    nearer = [peer for peer in answered if not row["kl_nats"] < peer["kl_nats"]]
    yield _check(
        "KL lower than every peer's",
        name,
        bool(answered) and not nearer,
        ", ".join(f"{peer['setting']} has {peer['kl_nats']:.2e}" for peer in nearer)
        or (f"{row['kl_nats']:.2e}" if answered else "no peer answered"),
    )
    better = [peer for peer in answered if peer["against"][name]["top1_points"]["low"] > 0]
    yield _check(
        "no peer better in top-1, at 95%",
        name,
        bool(answered) and not better,
        ", ".join(f"{peer['setting']} by {_interval(peer['against'][name]['top1_points'])}" for peer in better)
        or ("none" if answered else "no peer answered"),
    )


def table(model: Record) -> str:
    """The rows of one model's record, at most 100 columns wide, without a line break at the end."""
    lines = [
        f"{model['model']}: {model['held_out']:,} held-out crops, calibrated with {model['calibration_images']:,}, "
        f"{model['seconds'] / 60:.1f} min",
        f"{'':<33}{'top-1 %':>8}  {'minus eager, points (95%)':<27}{'agree %':>8}{'KL, nats':>11}",
    ]
    for row in model["rows"]:
        if row["error"] is not None:
            lines.append(f"{row['setting']:<33} {row['error']}"[:100])
            continue
        difference = "" if row["kind"] == "eager" else _interval(row["top1_minus_eager_points"])
        lines.append(
            f"{row['setting']:<33}{row['top1'] * 100:>8.2f}  {difference:<27}"
            f"{row['agreement'] * 100:>8.2f}{row['kl_nats']:>11.2e}"
        )
    return "\n".join(lines)


def verdict_text(found: Record) -> str:
    """A line for each check; details that do not fit into 100 columns go on in further ones."""
    lines = []
    for check in found["checks"]:
        mark = "ok  " if check["passed"] else "FAIL"
        lines.append(f"{mark} {check['setting']:<14} {check['asked']:<34} {check['found']}")
    if found["failed_peers"]:
        lines.append(f"     not judged: {', '.join(found['failed_peers'])}")
    return "\n".join(wrapped for line in lines for wrapped in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 100, subsequent_indent=" " * 55, break_on_hyphens=False)


def _interval(interval: Record) -> str:
    return f"{interval['mean']:+.2f} ({interval['low']:+.2f} to {interval['high']:+.2f})"
