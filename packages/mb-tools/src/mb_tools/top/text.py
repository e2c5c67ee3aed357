"""Values as short texts: figures, times, curves, and cells of an exact width."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size

from ..exits import escaped

__all__ = [
    "bars",
    "bytes_text",
    "cell",
    "clean",
    "duration_text",
    "latency_text",
    "moment_text",
    "number_text",
    "rate_text",
    "short_id",
]

NOTHING = "-"
"""Stands for what is not known."""

_BARS = "▁▂▃▄▅▆▇█"


def clean(text: str) -> str:
    """`text` on one line and without what would steer the terminal: others wrote it."""
    return escaped(text, lambda each: " " if each.isspace() else "\N{REPLACEMENT CHARACTER}")


def cell(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly `width` columns of the terminal; an ellipsis tells that it was cut."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    space = " " * (width - length)
    return space + text if right else text + space


def bars(values: Sequence[float], width: int) -> str:
    """The newest `width` values as bars, the newest last; the highest bar is their maximum."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0)
    if top <= 0:
        return (_BARS[0] * len(shown)).rjust(width)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(max(0, value) / top * steps)] for value in shown).rjust(width)


def number_text(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}"


def rate_text(value: float | None) -> str:
    """So many a second; with a decimal where that says more."""
    if value is None:
        return NOTHING
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def latency_text(milliseconds: int | None) -> str:
    """Milliseconds; the broker's clock does not tell more exactly what is below one."""
    if milliseconds is None:
        return NOTHING
    return f"{milliseconds:,}" if milliseconds else "<1"


def bytes_text(value: float | None) -> str:
    """Bytes in the largest unit that leaves a figure of three digits at most."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration_text(seconds: float | None) -> str:
    """Two units of time, the largest first."""
    if seconds is None:
        return NOTHING
    whole = int(seconds)
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02}{smaller}"
    return f"{whole}s"


def moment_text(moment: datetime | None, today: datetime) -> str:
    """The time of day in the zone of `today`; for another day, its date."""
    if moment is None:
        return NOTHING
    local = moment.astimezone(today.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%d}"[2:]


def short_id(service_id: str) -> str:
    """The beginning of an id, which tells one service from another well enough."""
    return service_id[:8]
