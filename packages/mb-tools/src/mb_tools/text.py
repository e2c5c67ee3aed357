"""Format values for people: numbers, times, sizes, and untrusted text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = [
    "UNKNOWN",
    "bytes_text",
    "clock",
    "duration_text",
    "escaped",
    "escaped_json",
    "iso_time",
    "milliseconds_text",
    "number_text",
    "one_line",
    "rate_text",
    "short_id",
    "time_text",
]

UNKNOWN = "-"
"""Shown for an unknown value."""


def number_text(value: float | None) -> str:
    """Return a number with thousands separators and up to six significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def rate_text(value: float | None) -> str:
    """Return a rate as a whole number, or with one decimal if it is small."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if 0 < value < 9.95 else f"{value:,.0f}"


def milliseconds_text(value: int | None) -> str:
    """Return whole milliseconds, the resolution of the broker's clock."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if value else "<1"


def bytes_text(value: float | None) -> str:
    """Return a size in the largest binary unit that gives at least 1."""
    if value is None:
        return UNKNOWN
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration_text(seconds: float | None) -> str:
    """Return a duration in its two largest units."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02}{smaller}"
    return f"{whole}s"


def clock(moment: datetime | None = None) -> str:
    """Return the local time of day, now by default, to the millisecond."""
    moment = moment if moment is not None else datetime.now().astimezone()
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


def time_text(moment: datetime | None, now: datetime | None = None) -> str:
    """Return the time of day in the time zone of `now`, or the date if the day differs."""
    if moment is None:
        return UNKNOWN
    now = now if now is not None else datetime.now().astimezone()
    local = moment.astimezone(now.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == now.date() else f"{local:%y-%m-%d}"


def iso_time(seconds: float) -> str:
    """Return seconds since 1970 in ISO 8601, to the millisecond."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def short_id(service_id: str) -> str:
    """Return the beginning of an id, which is enough to tell services apart."""
    return service_id[:8]


def one_line(text: str) -> str:
    """Escape characters that must not reach a terminal: `text` is untrusted.

    These are line breaks, control sequences, and characters that are invisible or change the
    direction of others.
    """
    return escaped(text, lambda each: ascii(each)[1:-1])


def escaped_json(lines: str) -> str:
    """Escape in lines of JSON, with JSON's escapes, the characters that one_line escapes in
    text."""
    return escaped(lines, lambda each: json.dumps(each)[1:-1], keep="\n")


def escaped(text: str, escape: Callable[[str], str], keep: str = "") -> str:
    """Replace each invisible character of `text`, except those in `keep`, with its escape."""
    if text.isascii() and text.isprintable():
        return text

    def is_shown(each: str) -> bool:
        return each in keep or (each.isprintable() and not _INVISIBLE.match(each))

    return "".join(each if is_shown(each) else escape(each) for each in text)


# Python counts these as letters and marks, but they are invisible. The variation selectors that
# turn a symbol into an emoji are not included.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0d\uffa0"
    "\U000e0100-\U000e01ef]"
)
