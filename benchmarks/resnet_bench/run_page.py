"""The record of ``resnet-bench run`` as one HTML file, and its first picture as SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from resnet_export.pages.charts import (
    EXACT_DB,
    FIXED,
    OF_THE_PAGE,
    Axis,
    Palette,
    Point,
    axis_of,
    lines,
    scatter,
    spans,
)
from resnet_export.pages.page import LIGHT, Cell, Html, Section, element, escaped, joined, page, pairs, table
from resnet_runtime.errors import UnavailableError

Record = Mapping[str, Any]
Row = Mapping[str, Any]

MOST_LINES: Final = 10

WALL: Final = "wall"


def page_from_record(record: Record) -> bytes:
    """The file.

    Args:
        record: of ``resnet-bench run --json``.
    """
    figures = record["figures"]
    model = figures["bundle"]["model"]
    rows = [row for row in figures["rows"] if row["figures"]]
    sections = []
    if any(row["parity"] for row in rows):
        sections.append(Section("Speed against accuracy", joined([speed_against_accuracy(record), _note(_ACCURACY)])))
    if rows:
        sections += [
            Section("Latency", joined([_latencies(rows), _note(_LATENCY)])),
            *_over_batches(rows),
            Section("All figures", joined([_table(figures["rows"]), _note(_TABLE)])),
        ]
    if figures.get("cold_starts"):
        sections.append(Section("Cold start", joined([_cold_starts(figures["cold_starts"]), _note(_COLD)])))
    sections += [
        *_missing(figures),
        *_kept(figures),
        Section("Environment", _environment(record)),
        Section("How to reproduce", element("pre", figures.get("command", "resnet-bench run BUNDLE"))),
    ]
    title = f"{model['architecture']}: how fast it answers, and how exactly"
    lead = f"{figures['bundle']['name']} on {_host_name(record)}. Every figure is of one run, in interleaved rounds."
    return page(title, lead, sections)


def speed_against_accuracy(record: Record, palette: Palette = OF_THE_PAGE) -> Html:
    """The picture that one looks at first: of each case its best images a second, and how exact it is."""
    best: dict[str, Row] = {}
    for row in record["figures"]["rows"]:
        if row["figures"] and row["parity"] and _speed(row) > (_speed(best[row["name"]]) if row["name"] in best else 0):
            best[row["name"]] = row
    points = [
        Point(
            _speed(row),
            min(row["parity"]["snr_db"], EXACT_DB),
            name,
            _own(row),
            f"{name}: {_speed(row):.4g} images/s at batch {row['batch']}, {row['parity']['snr_db']:.0f} dB",
        )
        for name, row in best.items()
    ]
    x = axis_of("images per second, at the best batch", [point.x for point in points], logarithmic=True)
    y = Axis("signal to noise of the answers, dB", 0.0, EXACT_DB + 8)
    return scatter(points, x, y, palette=palette, height=max(360, 19 * len(points) + 70))


def png_from_record(record: Record, path: Path) -> None:
    """Write ``speed_against_accuracy`` as a picture on white.

    Raises:
        UnavailableError: resvg_py is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise UnavailableError("resvg_py is not installed here: pip install 'resnet-export[bench]'") from None
    picture = resvg_py.svg_to_bytes(
        svg_string=str(speed_against_accuracy(record, FIXED)), width=1120, background=LIGHT["paper"]
    )
    path.write_bytes(bytes(picture))


_ACCURACY: Final = (
    "Up and to the right is better. The accuracy is how far the answers are from eager PyTorch's in float32, on the "
    "bundle's check inputs: 20 dB is an error of a tenth, 40 dB of a hundredth. Lines of this project are blue."
)
_LATENCY: Final = "Thin: 1% to 99% of the samples; thick: the middle half; the stroke is the median."
_TABLE: Final = (
    "Times are of one batch. Ratios are taken round by round: their median, and 95% of the bootstrap's medians. "
    "Select a heading to sort."
)
_COLD: Final = "Whole processes, imports and all, from their start to their end; the answers are checked."


def _note(text: str) -> Html:
    return element("p", text, class_="note")


def _own(row: Row) -> bool:
    return str(row["name"]).startswith("runtime")


def _speed(row: Row) -> float:
    return max(float(figure["images_per_second"]) for figure in row["figures"])


def _latencies(rows: Sequence[Row]) -> Html:
    """At the smallest batch, one call at a time, the fastest first."""
    alone = [row for row in rows if "at once" not in row["timed"]]
    if not alone:
        return Html("")
    smallest = min(row["batch"] for row in alone)
    single = [row for row in alone if row["batch"] == smallest]
    several = len({row["timed"] for row in single}) > 1
    shown = []
    for row in single:
        label = f"{row['name']}, {row['timed']}" if several else str(row["name"])
        shown.append((label, _own(row), [1e3 * value for samples in row["wall_seconds"] for value in samples]))
    shown.sort(key=lambda item: sorted(item[2])[len(item[2]) // 2])
    values = [value for _, _, samples in shown for value in (min(samples), max(samples))]
    title = f"milliseconds, batch {smallest}"
    return spans(shown, axis_of(title, values, logarithmic=True), left=250 if several else 200)


def _over_batches(rows: Sequence[Row]) -> list[Section]:
    """None where there is one batch size."""
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        speeds = series.setdefault(str(row["name"]), {})
        speeds[row["batch"]] = max(speeds.get(row["batch"], 0.0), _speed(row))
    kept = sorted(
        ((name, speeds) for name, speeds in series.items() if len(speeds) > 1),
        key=lambda item: -max(item[1].values()),
    )[:MOST_LINES]
    if not kept:
        return []
    drawn = [(name, name.startswith("runtime"), sorted(speeds.items())) for name, speeds in kept]
    sizes = [float(size) for _, _, points in drawn for size, _ in points]
    x = axis_of("batch size", sizes, logarithmic=True)
    y = axis_of("images per second", [speed for _, _, points in drawn for _, speed in points], zero=True)
    note = _note(f"The {len(kept)} fastest.") if len(kept) < len(series) else Html("")
    return [Section("Throughput over batch size", joined([lines(drawn, x, y), note]))]


def _table(rows: Sequence[Row]) -> Html:
    headings = (
        "case",
        "batch",
        "timed",
        "clock",
        "median, ms",
        "p90",
        "p99",
        "images/s",
        "times eager",
        "SNR, dB",
        "top-1",
    )
    cells, marked = [], []
    for row in rows:
        for figure in row["figures"]:
            parity, reference = row["parity"], figure["reference"]
            cells.append(
                [
                    Cell(row["name"]),
                    Cell(row["batch"], row["batch"]),
                    Cell(row["timed"]),
                    Cell(figure["clock"]),
                    *(_rounded(1e3 * figure[name]) for name in ("median", "p90", "p99")),
                    _rounded(figure["images_per_second"]),
                    Cell("-") if reference is None else _ratio(reference["ratio"]),
                    Cell("-") if parity is None else Cell(f"{parity['snr_db']:.0f}", parity["snr_db"]),
                    Cell("-") if parity is None else Cell(f"{parity['top1_agreement']:.1%}", parity["top1_agreement"]),
                ]
            )
            marked.append(_own(row))
    return table(headings, cells, marked=marked)


def _rounded(value: float) -> Cell:
    return Cell(f"{value:.4g}" if value < 1e4 else f"{value:,.0f}", value)


def _ratio(ratio: Mapping[str, float]) -> Cell:
    return Cell(f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]", ratio["median"])


def _cold_starts(starts: Sequence[Row]) -> Html:
    rows, marked = [], []
    for start in starts:
        if start["seconds"]:
            seconds, peak = sorted(start["seconds"]), sorted(start["peak_bytes"])
            ratio = start["times_as_fast_as_eager"]
            middle = peak[len(peak) // 2] / 1e6
            rows.append(
                [
                    Cell(start["name"]),
                    _rounded(start["median_seconds"]),
                    _rounded(seconds[-1]),
                    Cell(f"{middle:.0f}", middle),
                    Cell("-") if ratio is None else _ratio(ratio),
                ]
            )
            marked.append(_own(start))
    return table(("program", "median, s", "worst, s", "peak memory, MB", "times eager"), rows, marked=marked)


def _missing(figures: Mapping[str, Any]) -> list[Section]:
    said = [
        f"{row['name']}, batch {row['batch']}: {row['reason']}" for row in figures["rows"] if row["reason"] is not None
    ]
    said += [
        f"{row['name']}, batch {row['batch']}: it did not come to a steady speed"
        for row in figures["rows"]
        if not row["steady"]
    ]
    said += [
        f"cold start, {start['name']}: {start['reason']}" for start in figures.get("cold_starts", ()) if start["reason"]
    ]
    said += list(figures.get("noticed", ()))
    return [Section("What was not measured, or not well", _listed(said))] if said else []


def _kept(figures: Mapping[str, Any]) -> list[Section]:
    held = {name: layers for name, layers in figures.get("kept_higher", {}).items() if layers}
    if not held:
        return []
    parts = []
    for name, layers in held.items():
        parts += [
            element("h3", name),
            _listed([f"{item['node']}: {item['precision']}, {item['reason']}" for item in layers]),
        ]
    return [Section("Layers in higher precision", joined(parts))]


def _listed(items: Sequence[str]) -> Html:
    return element("ul", joined([element("li", item) for item in items]))


def _environment(record: Record) -> Html:
    host, settings = record["host"], record["figures"]["settings"]
    shown: list[tuple[str, object]] = [
        ("processor", host["processor"]),
        ("instruction sets", ", ".join(host["instruction_sets"]) or "none of those that matter"),
        ("cores", host["cores"]),
        ("system", host["system"]),
        *((f"GPU: {key}", value) for key, value in (record["figures"]["gpu"] or {}).items()),
        *((name, version) for name, version in record["tools"].items()),
        ("rounds", settings["rounds"]),
    ]
    return pairs([(name, escaped(value)) for name, value in shown])


def _host_name(record: Record) -> str:
    gpu = (record["figures"]["gpu"] or {}).get("gpu")
    host = record["host"]
    return str(gpu or f"{host['cores']} cores of {host['processor'] or 'a CPU'}")
