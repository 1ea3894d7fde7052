"""The verdict on records whose figures are made up: every limit is where it is said to be."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_bench.verdict import table, verdict, verdict_text


def row(setting: str, kind: str, top1: float, kl: float, low: float = -1.0) -> dict[str, Any]:
    interval = {"mean": low + 0.1, "low": low, "high": low + 0.2}
    return {
        "setting": setting,
        "kind": kind,
        "error": None,
        "top1": top1,
        "drop_points": 100 * (0.8 - top1),
        "agreement": 0.99,
        "kl_nats": kl,
        "top1_minus_eager_points": interval,
        "against": {name: {"top1_points": interval} for name in ("int8-cpu", "int8-tensorrt")},
    }


def record(**changes: dict[str, Any]) -> dict[str, Any]:
    """One that passes, with some rows changed."""
    rows = {
        "eager": row("eager", "eager", 0.8, 0.0),
        "fp16": row("fp16", "shipped", 0.7995, 1e-6),
        "int8-cpu": row("int8-cpu", "shipped", 0.797, 1e-3),
        "int8-tensorrt": row("int8-tensorrt", "shipped", 0.797, 1e-3),
        "peer": row("peer", "peer", 0.795, 2e-3),
    }
    for name, change in changes.items():
        setting = name.replace("_", "-")
        rows[setting] = {**rows[setting], **change}
    return {"model": "made:0", "held_out": 12000, "calibration_images": 256, "seconds": 90, "rows": list(rows.values())}


def failed(changed: dict[str, Any]) -> set[str]:
    found = verdict(changed)
    wrong = {f"{check['setting']}: {check['asked']}" for check in found["checks"] if not check["passed"]}
    assert found["passed"] == (not wrong)
    return wrong


def test_figures_at_the_limits_pass() -> None:
    assert failed(record()) == set()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (record(fp16={"drop_points": 0.051}), {"fp16: drop of 0.05 points at most"}),
        (record(int8_cpu={"drop_points": 0.301}), {"int8-cpu: drop of 0.3 points at most"}),
        (record(int8_tensorrt={"top1": 0.7919}), {"int8-tensorrt: keeps 99% of eager's top-1"}),
        (record(int8_cpu={"kl_nats": 2e-3}), {"int8-cpu: KL lower than every peer's"}),
        (record(peer={"drop_points": 0.49}), {"peers: a peer loses 0.5 points or more"}),
        (record(eager={"top1": 0.599}), {"eager: top-1 of 60% to 95%"}),
        (
            record(eager={"top1": 0.951}, int8_cpu={"top1": 0.95}, int8_tensorrt={"top1": 0.95}),
            {"eager: top-1 of 60% to 95%"},
        ),
        (
            record(peer=row("peer", "peer", 0.795, 2e-3, low=0.01)),
            {f"int8-{scheme}: no peer better in top-1, at 95%" for scheme in ("cpu", "tensorrt")},
        ),
    ],
)
def test_every_limit_is_held(changed: dict[str, Any], expected: set[str]) -> None:
    assert failed(changed) == expected


def test_a_peer_whose_interval_touches_zero_is_not_better() -> None:
    assert failed(record(peer=row("peer", "peer", 0.795, 2e-3, low=0.0))) == set()


def test_a_variant_that_did_not_ship_fails() -> None:
    found = record(int8_cpu={"error": "not shipped: centred cosine"})
    assert failed(found) == {"int8-cpu: shipped"}
    assert "not shipped: centred cosine" in table(found)


def test_without_peers_nothing_is_claimed() -> None:
    found = record(peer={"error": "ModuleNotFoundError: none"})
    assert len(failed(found)) == 5
    text = verdict_text(verdict(found))
    assert "not judged: peer" in text
    assert text.count("no peer answered") == 5


def test_peers_that_are_nearer_are_all_named_within_100_columns() -> None:
    found = record()
    found["rows"] += [row(f"a-peer-with-a-name-{number}", "peer", 0.795, 1e-4) for number in range(5)]
    text = verdict_text(verdict(found))
    assert all(text.count(f"a-peer-with-a-name-{number}") == 2 for number in range(5))
    assert max(map(len, text.splitlines())) <= 100


def test_a_peer_that_is_installed_and_fails_is_a_fault() -> None:
    found = record()
    found["rows"].append({**row("other", "peer", 0.795, 2e-3), "error": "RuntimeError: no kernel"})
    assert failed(found) == {"peers: every installed peer answers"}
    assert "other: RuntimeError: no kernel" in verdict_text(verdict(found))
    found["rows"][-1]["error"] = "ModuleNotFoundError: No module named 'other'"
    assert failed(found) == set()
