"""One self-contained HTML file: no network, light and dark, legible on a phone and on paper, tables that sort.

Everything that comes from outside is escaped here; ``Html`` marks what is markup already.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


class Html(str):
    """Text that is markup, with all that came from outside escaped."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """Of any value, unless it is markup already."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def joined(parts: Sequence[object], between: str = "") -> Html:
    """Several, each escaped."""
    return Html(between.join(escaped(part) for part in parts))


def element(name: str, content: object = "", **attributes: object) -> Html:
    """``<name attributes>content</name>``. A trailing underscore and others in an attribute's name become hyphens."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{escaped(content)}</{name}>")


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and what it is sorted by.

    Attributes:
        text: what is read.
        value: a number, or None: the text.
    """

    text: object
    value: float | None = None


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    title: str
    content: Html


def table(headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, marked: Sequence[bool] | None = None) -> Html:
    """A table whose headings sort it.

    Args:
        headings: of the columns.
        rows: each as long as the headings.
        marked: which rows are shown as one's own; None: none.
    """
    head = joined(
        [element("th", element("button", text, type="button"), scope="col", aria_sort="none") for text in headings]
    )
    body = []
    for index, row in enumerate(rows):
        assert len(row) == len(headings)
        cells = []
        for cell in row:
            attributes: dict[str, object] = {} if cell.value is None else {"class_": "number", "data_value": cell.value}
            cells.append(element("td", cell.text, **attributes))
        own = {"class_": "own"} if marked is not None and marked[index] else {}
        body.append(element("tr", joined(cells), **own))
    content = joined([element("thead", element("tr", head)), element("tbody", joined(body))])
    return element("div", element("table", content, class_="sortable"), class_="wide", tabindex="0", role="region")


def pairs(items: Sequence[tuple[str, object]]) -> Html:
    """A list of names and values."""
    return element("dl", joined([joined([element("dt", name), element("dd", value)]) for name, value in items]))


def page(title: str, lead: object, sections: Sequence[Section]) -> bytes:
    """The file, UTF-8.

    Args:
        title: of the page.
        lead: a sentence or two under it.
        sections: in order.
    """
    body = [element("h1", title), element("p", lead, class_="lead")]
    body += [element("section", joined([element("h2", section.title), section.content])) for section in sections]
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", title),
            element("style", Html(_STYLE)),
        ]
    )
    main = element("main", joined(body))
    document = f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}<body>{main}{_SCRIPT}</body></html>\n'
    return document.encode("utf-8")


LIGHT: Final = {
    "paper": "#ffffff",
    "ink": "#1c2024",
    "faint": "#5d6670",
    "line": "#d5dae0",
    "own": "#0b62c4",
    "other": "#8a5a00",
    "tint": "#eef4fb",
}
"""Colours by their part; every text has a contrast of 4.5 or more with the paper (WCAG 2.2, 1.4.3)."""

DARK: Final = {
    "paper": "#14171a",
    "ink": "#e8eaed",
    "faint": "#a3abb5",
    "line": "#3a4149",
    "own": "#6cb2ff",
    "other": "#e0b060",
    "tint": "#1d2733",
}


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colors.items())


_STYLE = f"""
:root{{{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
@media print{{:root{{{_variables(LIGHT)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}}
main{{max-width:60rem;margin:0 auto;padding:1rem}}
h1{{font-size:1.6rem;line-height:1.2;margin:.5rem 0;overflow-wrap:anywhere}}
h2{{font-size:1.15rem;margin:2rem 0 .5rem}}
.lead{{color:var(--faint);margin:0 0 1rem}}
.note{{color:var(--faint);font-size:.9rem}}
svg{{display:block;width:100%;max-width:52rem;height:auto}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:.9rem;min-width:100%}}
th,td{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}}
td.number{{text-align:right;font-variant-numeric:tabular-nums}}
tr.own td{{background:var(--tint)}}
th button{{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer}}
th[aria-sort=ascending] button::after{{content:" \\25b2"}}
th[aria-sort=descending] button::after{{content:" \\25bc"}}
dl{{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.2rem 1rem;margin:0}}
dt{{color:var(--faint)}}
dd{{margin:0;overflow-wrap:anywhere}}
pre{{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--tint);padding:.6rem;margin:0}}
@media print{{body{{font-size:11px}}main{{max-width:none}}section{{break-inside:avoid}}.wide{{overflow:visible}}
th,td{{white-space:normal}}}}
"""

_SCRIPT = """<script>
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstChild.addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach(other => other.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
      : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => order(key(a), key(b)) * (up ? 1 : -1));
    table.tBodies[0].append(...rows);
  }));
}
</script>"""
