"""The head of the screen: the broker as a whole, and what is to be known of the screen itself."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from .text import bars, bytes_text, clean, duration_text, number_text, rate_text
from .view import Audit, Head, View

__all__ = ["HeadLines", "Notices", "head_line", "notices", "rates_line"]

_GAP = "  "
_PARTS = {
    "system.metrics": "totals",
    "system.service.list": "services",
    "system.topic.subscriptions": "subscribers",
    "system.message": "latencies and errors",
}


class HeadLines(Static):
    """Two lines: the broker, and its totals with their curves."""

    def show(self, url: str, head: Head) -> None:
        """Show these figures."""
        width = self.size.width
        lines = f"{head_line(url, head, width)}\n{rates_line(head, width)}"
        self.update(Content(lines))


class Notices(Static):
    """One line for what is not as usual; without a reason, it takes no place."""

    def show(self, texts: list[str]) -> None:
        """Show these, joined."""
        self.display = bool(texts)
        self.update(Content(clean(" · ".join(texts))))


def head_line(url: str, head: Head, width: int) -> str:
    """Where the broker is and how it is; what is not known, or has no place, is left out."""
    parts = [f"mb top {clean(url)}"]
    if head.uptime is not None:
        parts.append(f"up {duration_text(head.uptime)}")
    if head.connections is not None:
        plural = "" if head.connections == 1 else "s"
        parts.append(f"{number_text(head.connections)} connection{plural}")
    if head.cpu is not None:
        parts.append(f"cpu {head.cpu:.0%}")
    if head.memory is not None:
        parts.append(f"memory {bytes_text(head.memory)}")
    while len(parts) > 1 and len(_GAP.join(parts)) > width:
        parts.pop()
    return _GAP.join(parts)


def rates_line(head: Head, width: int) -> str:
    """The totals, side by side, each with its curve in the place that is left."""
    count = max(1, len(head.rates))
    room = (width - len(_GAP) * (count - 1)) // count
    cells = []
    for rate in head.rates:
        text = (
            f"{rate.name} {rate_text(rate.now)}/s " if rate.now is not None else f"{rate.name} - "
        )
        cells.append(text + bars(rate.past, room - len(text)))
    return _GAP.join(cells)


def notices(view: View, *, paused: bool, wanted: str) -> list[str]:
    """What is to be known of the screen, the most important first."""
    found = []
    if view.trouble:
        found.append(f"NO CONNECTION, trying again: {view.trouble}")
    if paused:
        found.append("PAUSED (p: go on)")
    if wanted:
        found.append(f"only {wanted!r} (esc: all)")
    if view.audit is Audit.OFF:
        found.append("audit feed off: no rates, no latencies (a: on)")
    for topic, reason in view.missing.items():
        found.append(f"no {_PARTS.get(topic, topic)}: {topic} {reason}")
    if view.skipped:
        found.append(f"{view.skipped:,} audit messages skipped: figures are too low")
    if view.unreadable:
        found.append(f"{view.unreadable:,} audit messages can't be read")
    return found
