"""Bars as SVG, written by hand: the same figures give the same file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from .spread import Spread

__all__ = ["Bar", "bars"]

WIDTH = 760
LABELS = 210
VALUES = 90
ROW = 26
HEAD = 48
OURS = "#2f6fab"
THEIRS = "#9aa5b1"
INK = "#1f2933"


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender's figure; `ours` gives it the colour that stands out."""

    label: str
    figure: Spread
    ours: bool


def bars(title: str, contenders: Sequence[Bar], *, more_is_better: bool) -> str:
    """A chart of horizontal bars, the best on top, with a whisker between the quartiles."""
    ordered = sorted(contenders, key=lambda bar: bar.figure.median, reverse=more_is_better)
    scale = (WIDTH - LABELS - VALUES) / max(bar.figure.high for bar in ordered)
    height = HEAD + ROW * len(ordered) + 10
    svg = _element(
        None,
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        font_family="sans-serif",
        font_size=13,
    )
    _element(svg, "title", title)
    _element(svg, "rect", width=WIDTH, height=height, fill="#ffffff")
    _element(svg, "text", title, x=12, y=26, fill=INK, font_size=16, font_weight="bold")
    better = "more is better" if more_is_better else "less is better"
    _element(svg, "text", better, x=WIDTH - 12, y=26, fill=INK, text_anchor="end")
    for number, bar in enumerate(ordered):
        _draw(svg, bar, HEAD + ROW * number, scale)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _draw(svg: ET.Element, bar: Bar, top: int, scale: float) -> None:
    """The label, the bar, its whisker and its value."""
    middle = top + ROW // 2
    low, high = (round(LABELS + value * scale, 1) for value in (bar.figure.low, bar.figure.high))
    _element(svg, "text", bar.label, x=LABELS - 8, y=middle + 4, fill=INK, text_anchor="end")
    _element(
        svg,
        "rect",
        x=LABELS,
        y=top + 4,
        width=round(bar.figure.median * scale, 1),
        height=ROW - 8,
        fill=OURS if bar.ours else THEIRS,
    )
    ends = "".join(f"M{x} {middle - 4}v8" for x in (low, high))
    _element(svg, "path", d=f"M{low} {middle}H{high}{ends}", stroke=INK, fill="none")
    _element(svg, "text", f"{bar.figure.median:,.0f}", x=high + 8, y=middle + 4, fill=INK)


def _element(
    parent: ET.Element | None, tag: str, text: str | None = None, **attributes: float | str
) -> ET.Element:
    """An element of the drawing; `font_size` is written as `font-size`."""
    written = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    element = ET.Element(tag, written) if parent is None else ET.SubElement(parent, tag, written)
    element.text = text
    return element
