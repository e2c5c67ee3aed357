"""The lines at the head of the screen: the broker, and what is unusual."""

from __future__ import annotations

from ..text import bytes_text, duration_text, number_text, one_line
from .model import Audit, Head, Model

__all__ = ["head_text", "notices"]

# What is missing from the screen if the broker does not answer a system topic.
_PARTS = {
    "system.metrics": "totals",
    "system.service.list": "services",
    "system.topic.subscriptions": "subscribers",
    "system.message": "latencies and errors",
}


def head_text(url: str, head: Head) -> str:
    """Return the broker's URL and state; unknown values are left out."""
    parts = [f"mb top {one_line(url)}"]
    if head.uptime is not None:
        parts.append(f"up {duration_text(head.uptime)}")
    if head.connections is not None:
        plural = "" if head.connections == 1 else "s"
        parts.append(f"{number_text(head.connections)} connection{plural}")
    if head.cpu is not None:
        parts.append(f"cpu {head.cpu:.0%}")
    if head.memory is not None:
        parts.append(f"memory {bytes_text(head.memory)}")
    return "  ".join(parts)


def notices(model: Model, *, paused: bool, wanted: str) -> list[str]:
    """Return what is unusual, most important first."""
    found = []
    if model.trouble:
        found.append(f"NO CONNECTION, retrying: {model.trouble}")
    if paused:
        found.append("PAUSED (p: resume)")
    if wanted:
        found.append(f"only {wanted!r} (esc: all)")
    if model.audit is Audit.OFF:
        found.append("audit feed off: no rates, no latencies (a: on)")
    for topic, reason in model.missing.items():
        found.append(f"no {_PARTS.get(topic, topic)}: {topic} {reason}")
    if model.skipped:
        found.append(f"{model.skipped:,} audit messages skipped: figures are too low")
    if model.unreadable:
        found.append(f"{model.unreadable:,} audit messages can't be read")
    return found
