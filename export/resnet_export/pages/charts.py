"""Charts as SVG: points with labels, bars of a distribution, lines.

In a page the colours are its CSS variables, so that they follow light and dark; alone, as in a README, they are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .page import LIGHT, Html, element, joined

Palette = Mapping[str, str]

OF_THE_PAGE: Final[Palette] = MappingProxyType({name: f"var(--{name})" for name in LIGHT})
FIXED: Final[Palette] = MappingProxyType(dict(LIGHT))

EXACT_DB: Final = 120.0
"""A signal to noise that is drawn as exact: above it the figure is of float32's rounding alone."""

WIDTH: Final = 560
_FONT: Final = 13
_LEFT: Final = 66
_RIGHT: Final = 14
_TOP: Final = 12
_BOTTOM: Final = 44
_LINE: Final = 16
"""The least distance of two labels, in pixels of the drawing."""


@dataclass(frozen=True)
class Point:
    """A point and what it is called.

    Attributes:
        x, y: numbers, x above 0.
        label: what stands beside it.
        own: whether it is shown as one's own.
        tip: what a pointer that rests on it is told.
    """

    x: float
    y: float
    label: str
    own: bool
    tip: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale of one direction.

    Attributes:
        title: with the unit.
        low, high: the ends.
        logarithmic: whether equal ratios are equal distances.
    """

    title: str
    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where it is, 0 to 1; what is beyond an end is at the end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers within the ends, about two to eight."""
        if self.logarithmic:
            found = [
                factor * 10.0**power
                for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                for factor in (1, 2, 5)
                if self.low <= factor * 10.0**power <= self.high
            ]
            if len(found) > 8:
                return [value for value in found if f"{value:e}"[0] == "1"]
            if len(found) >= 2:
                return found
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(title: str, values: Sequence[float], *, logarithmic: bool = False, zero: bool = False) -> Axis:
    """Ends with some room around the values.

    Args:
        title: of the axis.
        values: at least one; above 0 where the axis is logarithmic.
        logarithmic: see ``Axis``.
        zero: whether the axis begins at 0.
    """
    low, high = min(values), max(values)
    if logarithmic:
        return Axis(title, low / 1.25, high * 1.25, True)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(title, 0.0 if zero else low - room, high + room)


def scatter(points: Sequence[Point], x: Axis, y: Axis, *, palette: Palette = OF_THE_PAGE, height: int = 380) -> Html:
    """Points with labels that do not lie on each other."""
    frame = _Frame(x, y, height, palette)
    marks: list[Html] = []
    for point, label_y in zip(points, _spread([frame.y(point.y) for point in points], height), strict=True):
        px, py, color = frame.x(point.x), frame.y(point.y), palette["own" if point.own else "other"]
        right = px < WIDTH * 0.62
        text_x = px + 10 if right else px - 10
        if abs(label_y - py) > 2:
            marks.append(_line(px, py, text_x, label_y, palette["line"]))
        dot = element("title", point.tip)
        marks.append(element("circle", dot, cx=_n(px), cy=_n(py), r=5 if point.own else 4, fill=color))
        anchor = "start" if right else "end"
        marks.append(_text(text_x, label_y + 4, point.label, color, anchor, bold=point.own))
    return frame.drawn(marks, f"{y.title} over {x.title}")


def lines(
    series: Sequence[tuple[str, bool, Sequence[tuple[float, float]]]],
    x: Axis,
    y: Axis,
    *,
    palette: Palette = OF_THE_PAGE,
    height: int = 340,
) -> Html:
    """A line for each series ``(label, own, points)``, its label at its last point."""
    frame = _Frame(x, y, height, palette, right=150)
    ends = [frame.y(points[-1][1]) for _, _, points in series]
    marks: list[Html] = []
    for (label, own, points), label_y in zip(series, _spread(ends, height), strict=True):
        color = palette["own" if own else "other"]
        path = " ".join(f"{_n(frame.x(px))},{_n(frame.y(py))}" for px, py in points)
        width = 2.5 if own else 1.2
        marks.append(element("polyline", points=path, fill="none", stroke=color, stroke_width=width))
        for px, py in points:
            tip = element("title", f"{label}: {py:.4g} at {px:g}")
            marks.append(element("circle", tip, cx=_n(frame.x(px)), cy=_n(frame.y(py)), r=3, fill=color))
        last = frame.x(points[-1][0])
        marks.append(_line(last + 4, frame.y(points[-1][1]), last + 12, label_y, palette["line"]))
        marks.append(_text(last + 14, label_y + 4, label, color, "start", bold=own))
    return frame.drawn(marks, f"{y.title} over {x.title}")


def spans(
    rows: Sequence[tuple[str, bool, Sequence[float]]], x: Axis, *, palette: Palette = OF_THE_PAGE, left: int = 190
) -> Html:
    """For each row ``(label, own, samples)`` its quantiles: a bar from 1% to 99%, a thicker one over the middle half.

    The stroke is the median.
    """
    step = 26
    height = _TOP + step * len(rows) + _BOTTOM
    marks: list[Html] = [*_vertical_grid(x, left, height, palette)]
    for index, (label, own, samples) in enumerate(rows):
        ordered = sorted(samples)
        middle = _TOP + step * (index + 0.5)
        color = palette["own" if own else "other"]
        at = [_place(x, _quantile(ordered, share), left) for share in (0.01, 0.25, 0.5, 0.75, 0.99)]
        marks.append(_text(left - 8, middle + 4, label, color, "end", bold=own))
        marks.append(_bar(at[0], at[4], middle, 3, color, f"{label}: 1% to 99%"))
        marks.append(_bar(at[1], at[3], middle, 11, color, f"{label}: the middle half"))
        marks.append(_line(at[2], middle - 9, at[2], middle + 9, palette["ink"], 2))
    return _svg(marks, height, x.title)


class _Frame:
    """The place of a chart with two axes."""

    def __init__(self, x: Axis, y: Axis, height: int, palette: Palette, right: int = _RIGHT) -> None:
        self._x, self._y, self._height, self._palette, self._right = x, y, height, palette, right

    def x(self, value: float) -> float:
        return _place(self._x, value, _LEFT, self._right)

    def y(self, value: float) -> float:
        return self._height - _BOTTOM - self._y.share(value) * (self._height - _TOP - _BOTTOM)

    def drawn(self, marks: Sequence[Html], name: str) -> Html:
        grid = [*_vertical_grid(self._x, _LEFT, self._height, self._palette, self._right)]
        for tick in self._y.ticks():
            at = self.y(tick)
            grid.append(_line(_LEFT, at, WIDTH - self._right, at, self._palette["line"]))
            grid.append(_text(_LEFT - 6, at + 4, _number(tick), self._palette["faint"], "end"))
        middle = (_TOP + self._height - _BOTTOM) / 2
        title = _text(13, middle, self._y.title, self._palette["faint"], "middle", turned=True)
        return _svg([*grid, title, *marks], self._height, name)


def _vertical_grid(x: Axis, left: int, height: int, palette: Palette, right: int = _RIGHT) -> list[Html]:
    found = []
    for tick in x.ticks():
        at = _place(x, tick, left, right)
        found.append(_line(at, _TOP, at, height - _BOTTOM, palette["line"]))
        found.append(_text(at, height - _BOTTOM + 17, _number(tick), palette["faint"], "middle"))
    middle = (left + WIDTH - right) / 2
    found.append(_text(middle, height - 8, x.title, palette["faint"], "middle"))
    return found


def _place(axis: Axis, value: float, left: int, right: int = _RIGHT) -> float:
    return left + axis.share(value) * (WIDTH - left - right)


def _spread(wanted: Sequence[float], height: int) -> list[float]:
    """Heights as near to those as the least distance allows, within the drawing."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    found = list(wanted)
    lowest = float(_TOP + 4)
    for index in order:
        found[index] = lowest = max(found[index], lowest)
        lowest += _LINE
    highest = float(height - _BOTTOM - 2)
    for index in reversed(order):
        found[index] = highest = min(found[index], highest)
        highest -= _LINE
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def _svg(marks: Sequence[Html], height: int, name: str) -> Html:
    return element(
        "svg",
        joined(marks),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=name,
        font_family="system-ui, sans-serif",
        font_size=_FONT,
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> Html:
    return element("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), stroke=color, stroke_width=width)


def _bar(start: float, end: float, middle: float, thick: float, color: str, tip: str) -> Html:
    width = max(end - start, 1.0)
    return element(
        "rect", element("title", tip), x=_n(start), y=_n(middle - thick / 2), width=_n(width), height=thick, fill=color
    )


def _text(x: float, y: float, text: str, color: str, anchor: str, *, bold: bool = False, turned: bool = False) -> Html:
    more: dict[str, object] = {"font_weight": 600} if bold else {}
    if turned:
        more["transform"] = f"rotate(-90 {_n(x)} {_n(y)})"
    return element("text", text, x=_n(x), y=_n(y), fill=color, text_anchor=anchor, **more)


def _n(value: float) -> str:
    return f"{value:.1f}"


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e4 else f"{value:,.0f}"
