"""``report.html``: what an export did, of the values that ``report.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import EXACT_DB, Axis, Point, axis_of, scatter
from .page import Cell, Html, Section, element, joined, page, pairs, table

Report = Mapping[str, Any]


def page_from_report(report: Report) -> bytes:
    """The file.

    Args:
        report: of ``report.json_from_report``.
    """
    model, variants = report["model"], report["variants"]
    shipped = [item["id"] for item in variants if item["shipped"]]
    sections = [
        Section("Variants", joined([_sizes(variants), _variants(variants), _note(_VARIANTS)])),
        *_accuracy(variants),
        *_kept(variants),
        *_said("Warnings", report["warnings"]),
        *_assumed(model["assumptions"]),
        Section("Folding", _folding(report["folding"])),
        *_said("Notes", report["notes"]),
        Section("Where the time went", _seconds(report["seconds"])),
        Section("Made with", pairs(list(report["tools"].items()))),
    ]
    source = model["source"]
    lead = (
        f"{model['architecture']}, {model['parameters'] / 1e6:.2f} M parameters, from {source['name']} "
        f"(SHA-256 {source['sha256'][:12]}), traced by {model['traced_by']}. Ships {', '.join(shipped)}."
    )
    return page(f"Export of {source['name']}", lead, sections)


_VARIANTS = (
    "Errors are of the spread, the range of an output over different inputs, against eager PyTorch in float32. "
    "Emulated: computed in FP32 with every result rounded, since this CPU has no such arithmetic."
)


def _note(text: str) -> Html:
    return element("p", text, class_="note")


def _sizes(variants: Sequence[Report]) -> Html:
    """Of each variant that was measured, its file's size and how exact it is."""
    points = []
    for item in variants:
        parity, size = item["gate"]["parity"], item["file"]["size"] / 1e6
        if parity is not None:
            tip = f"{item['id']}: {size:.1f} MB, {parity['snr_db']:.0f} dB"
            points.append(Point(size, min(parity["snr_db"], EXACT_DB), item["id"], item["shipped"], tip))
    if not points:
        return Html("")
    x = axis_of("megabytes of the file", [point.x for point in points], zero=True)
    return scatter(points, x, Axis("signal to noise, dB", 0.0, EXACT_DB + 8), height=300)


def _variants(variants: Sequence[Report]) -> Html:
    headings = ("variant", "MB", "gate", "max error", "mean error", "cosine", "SNR, dB", "top-1", "computed by")
    rows = []
    for item in variants:
        gate, megabytes = item["gate"], item["file"]["size"] / 1e6
        verdict = "passed" if item["shipped"] else f"failed: {'; '.join(item['faults'])}"
        rows.append(
            [
                Cell(item["id"]),
                Cell(f"{megabytes:.1f}", megabytes),
                Cell(verdict + (", emulated" if gate["emulated"] and item["shipped"] else "")),
                *_measured(gate["parity"]),
                Cell(gate["executor"] or "-"),
            ]
        )
    return table(headings, rows, marked=[item["shipped"] for item in variants])


def _measured(parity: Report | None) -> list[Cell]:
    if parity is None:
        return [Cell("-")] * 5
    return [
        Cell(f"{100 * parity['max_error']:.2g}%", parity["max_error"]),
        Cell(f"{100 * parity['mean_error']:.2g}%", parity["mean_error"]),
        Cell(f"{parity['centred_cosine']:.5f}", parity["centred_cosine"]),
        Cell(f"{parity['snr_db']:.0f}", parity["snr_db"]),
        Cell(f"{parity['top1_agreement']:.1%} of {parity['samples']}", parity["top1_agreement"]),
    ]


def _accuracy(variants: Sequence[Report]) -> list[Section]:
    rows = []
    for item in variants:
        found = item["gate"]["accuracy"]
        if found is not None:
            drop = 100 * (found["eager"] - found["measured"])
            allowed = "-" if found["max_drop"] is None else f"{found['max_drop']:g}"
            rows.append(
                [
                    Cell(item["id"]),
                    Cell(f"{found['eager']:.2%}", found["eager"]),
                    Cell(f"{found['measured']:.2%}", found["measured"]),
                    Cell(f"{drop:+.2f}", drop),
                    Cell(allowed),
                    Cell(f"{found['samples']:,}", found["samples"]),
                    Cell("labels" if found["labelled"] else "eager's answers"),
                ]
            )
    headings = ("variant", "eager", "measured", "points lost", "allowed", "images", "held to")
    return [Section("Accuracy on the evaluation images", table(headings, rows))] if rows else []


def _kept(variants: Sequence[Report]) -> list[Section]:
    parts: list[object] = []
    for item in variants:
        if not item["kept_higher"]:
            continue
        costs = {cost["node"]: cost for cost in item["kept_costs"]}
        rows = []
        for layer in item["kept_higher"]:
            cost = costs.get(layer["node"], {"noise": None, "slowdown": None})
            rows.append(
                [
                    Cell(layer["node"]),
                    Cell(layer["precision"]),
                    Cell(layer["reason"]),
                    Cell("-") if cost["noise"] is None else Cell(f"{cost['noise']:.2g}", cost["noise"]),
                    Cell("-") if cost["slowdown"] is None else Cell(f"{cost['slowdown']:.3f}", cost["slowdown"]),
                ]
            )
        headings = ("node", "computed in", "because", "noise if quantized", "time with it, relative")
        parts += [element("h3", item["id"]), table(headings, rows)]
    return [Section("Layers in higher precision", joined(parts))] if parts else []


def _assumed(assumptions: Sequence[Report]) -> list[Section]:
    rows = [[Cell(item["subject"]), Cell(item["value"]), Cell(item["option"])] for item in assumptions]
    text = "The checkpoint does not tell these: --reference checks the model's, the options set them."
    found = joined([table(("what", "assumed", "option"), rows), _note(text)])
    return [Section("Assumed", found)] if rows else []


def _folding(folding: Report) -> Html:
    shown = [
        ("BatchNorms folded into a layer", len(folding["folded"])),
        ("made a scale and a shift", len(folding["scale_and_shift"])),
        ("error against eager in float64", f"{folding['error']:.3g}"),
        ("allowed", f"{folding['allowed']:.3g}"),
        ("spread of the answers", f"{folding['spread']:.4g}"),
    ]
    kept = [f"{item['node']}: {item['reason']}" for item in folding["scale_and_shift"]]
    return joined([pairs(shown), _list(kept)])


def _seconds(seconds: Mapping[str, float]) -> Html:
    rows = [[Cell(name), Cell(f"{value:.2f}", value)] for name, value in seconds.items()]
    return table(("stage", "seconds"), rows)


def _said(title: str, texts: Sequence[str]) -> list[Section]:
    return [Section(title, _list(texts))] if texts else []


def _list(texts: Sequence[str]) -> Html:
    return element("ul", joined([element("li", text) for text in texts])) if texts else Html("")
