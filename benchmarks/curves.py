"""Line plots with logarithmic axes, as SVG: legible in light and dark, without any library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

__all__ = ["Points", "line_plot"]

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 250, 44, 52
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-size:15px;font-weight:600}"
    ".g{stroke:#ddd}.a{stroke:#888}.b{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#333}.b{fill:#111}}"
)


def line_plot(title: str, x_label: str, y_label: str, lines: Mapping[str, Points]) -> str:
    """An SVG of the lines by name; all coordinates have to be greater than zero.

    Both axes are logarithmic: a line that is flat has a cost that does not grow, one that rises
    as the diagonal of a decade grows in proportion.  Raises ValueError where there is no point.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        raise ValueError("a plot needs a point")
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    # At least two decades, or noise would look like growth.
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP, least=2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="b" width="{_WIDTH}" height="{_HEIGHT}"/>',
        _text(_LEFT, 24, title, "start", "t"),
        *_grid(across, up),
        _text((across.start + across.end) / 2, _HEIGHT - 12, x_label, "middle"),
        _text(_LEFT, _TOP - 6, y_label, "start"),
    ]
    ends = _spread([up.at(line[-1][1]) if line else 0.0 for line in lines.values()])
    for number, (name, line) in enumerate(lines.items()):
        parts.extend(_line(name, line, across, up, _COLOURS[number % len(_COLOURS)], ends[number]))
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Whole decades around some values, laid from `start` to `end` in pixels."""

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, least: int = 1
    ) -> None:
        logs = [math.log10(value) for value in values]
        self.low = math.floor(min(logs))
        self.high = max(math.ceil(max(logs)), self.low + least)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def decades(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _grid(across: _Axis, up: _Axis) -> list[str]:
    parts = []
    for value in across.decades:
        x = across.at(value)
        parts.append(_stroke("g", x, up.start, x, up.end))
        parts.append(_text(x, up.start + 18, _short(value), "middle"))
    for value in up.decades:
        y = up.at(value)
        parts.append(_stroke("g", across.start, y, across.end, y))
        parts.append(_text(across.start - 8, y + 4, _short(value), "end"))
    parts.append(_stroke("a", across.start, up.start, across.end, up.start))
    parts.append(_stroke("a", across.start, up.start, across.start, up.end))
    return parts


def _line(
    name: str, line: Points, across: _Axis, up: _Axis, colour: str, label_at: float
) -> list[str]:
    places = [(across.at(x), up.at(y)) for x, y in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places)
    label = _WIDTH - _RIGHT + 14
    drawn = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
    key = f'<circle cx="{label}" cy="{label_at:.1f}" r="4"/>'
    return [
        f'<g fill="{colour}">{drawn}{key}</g>',
        _text(label + 10, label_at + 4, name, "start"),
    ]


def _spread(places: Sequence[float], gap: float = 16) -> list[float]:
    """Where labels stand that would lie on each other: apart, in their order, within the plot."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    found = list(places)
    for before, number in pairwise(order):
        found[number] = max(found[number], found[before] + gap)
    below = float(_HEIGHT - _BOTTOM)
    for number in reversed(order):
        found[number] = min(found[number], below)
        below = found[number] - gap
    return found


def _short(value: float) -> str:
    for unit, letter in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text{styled} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
