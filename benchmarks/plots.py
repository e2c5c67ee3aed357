"""The plots of reports and curves, as SVG files that matplotlib draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .spread import Spread

__all__ = ["draw_bars", "draw_lines"]

Points = Sequence[tuple[float, float]]

_OURS, _THEIRS = "#2f6fab", "#9aa5b1"


def draw_bars(
    path: Path, title: str, figures: Mapping[str, Spread], *, ours: set[str], more_is_better: bool
) -> None:
    """Draw a bar for each median, the best on top, with whiskers between the quartiles."""
    names = sorted(figures, key=lambda name: figures[name].median, reverse=not more_is_better)
    medians = [figures[name].median for name in names]
    below = [figures[name].median - figures[name].low for name in names]
    above = [figures[name].high - figures[name].median for name in names]
    figure, axes = _subplots(height=0.3 * len(names) + 0.8)
    axes.barh(
        names,
        medians,
        xerr=[below, above],
        capsize=3,
        color=[_OURS if name in ours else _THEIRS for name in names],
    )
    for row, name in enumerate(names):
        at = (figures[name].high, row)
        axes.annotate(f"{medians[row]:,.0f}", at, (6, -3), textcoords="offset points")
    axes.set_title(f"{title} ({'more' if more_is_better else 'less'} is better)")
    axes.margins(x=0.1)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    _save(figure, path)


def draw_lines(path: Path, title: str, x_label: str, lines: Mapping[str, Points]) -> None:
    """Draw lines with logarithmic axes: one that is flat has a cost that does not grow."""
    figure, axes = _subplots(height=4.2)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=name)
    axes.set(title=title, xlabel=x_label, ylabel="microseconds", xscale="log", yscale="log")
    # At least two decades, or noise would look like growth.
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, high / 100), high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.7g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def _subplots(height: float) -> tuple[Any, Any]:
    # Imported here: only who draws needs it, and it takes a second.
    from matplotlib import pyplot, rcParams

    # The same figures give the same file, and text stays text.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "mb", "figure.facecolor": "white"})
    figure, axes = pyplot.subplots(figsize=(8, height))
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
