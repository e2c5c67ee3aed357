"""A tree of Exchanges as lines for people, or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .exits import one_line
from .names import Names
from .output import clock
from .trace_tree import Exchange, Outcome

__all__ = ["as_json", "as_lines"]

Style = Callable[..., str]

# Of the receivers of a publication so many are shown by name.
_SHOWN = 5


def as_lines(root: Exchange, names: Names, style: Style) -> str:
    """The tree as lines; `style(text, fg=..., bold=..., dim=...)` colours them or does not."""
    began = clock(datetime.fromtimestamp(root.began, UTC))
    lines = [f"{style(began, dim=True)}  {_line(root, names, style)}"]
    indent = " " * (len(began) + 2)
    _draw(root, names, style, indent, lines)
    return "\n".join(lines) + "\n"


def as_json(root: Exchange, names: Names) -> dict[str, Any]:
    """The tree as JSON: each message with its `children`."""
    done: dict[Exchange, dict[str, Any]] = {}
    for exchange in reversed(root.with_descendants()):
        value: dict[str, Any] = {
            "action": exchange.action,
            "topic": exchange.topic,
            "from": _service(exchange.sender, names),
            "to": [_service(receiver, names) for receiver in exchange.receivers],
            "timestamp": _iso(exchange.began),
            "ms": _ms(exchange),
            "outcome": exchange.outcome.value,
        }
        if exchange.count > len(exchange.receivers):
            value["receivers"] = exchange.count
        if exchange.cause is not None:
            value["parentRequestId"] = exchange.cause
        if exchange.error_code is not None:
            value["error"] = {"code": exchange.error_code, "message": exchange.error_text}
        value["children"] = [done[child] for child in exchange.children]
        done[exchange] = value
    return done[root]


def _draw(exchange: Exchange, names: Names, style: Style, indent: str, lines: list[str]) -> None:
    for child in exchange.children:
        last = child is exchange.children[-1]
        branch, below = ("\u2514\u2500 ", "   ") if last else ("\u251c\u2500 ", "\u2502  ")
        lines.append(f"{style(indent + branch, dim=True)}{_line(child, names, style)}")
        _draw(child, names, style, indent + below, lines)


def _line(exchange: Exchange, names: Names, style: Style) -> str:
    receivers = ", ".join(one_line(names.of(each)) for each in exchange.receivers[:_SHOWN])
    if exchange.count > _SHOWN:
        receivers += f" and {exchange.count - _SHOWN} more"
    parts = [
        style(f"{exchange.action:<7}", dim=True),
        style(one_line(exchange.topic), fg="cyan", bold=True),
        f"{one_line(names.of(exchange.sender))} \u2192 {receivers or 'nobody'}",
    ]
    ending = _ending(exchange, style)
    if ending:
        parts.append(ending)
    if exchange.cause is not None:
        parts.append(style(f"(caused by {exchange.cause[:8]}, not in this tree)", dim=True))
    return "  ".join(parts)


def _ending(exchange: Exchange, style: Style) -> str:
    ms = _ms(exchange)
    took = "" if ms is None else f"{ms} ms" if ms else "<1 ms"
    if exchange.outcome is Outcome.FAILED:
        text = f"{exchange.error_code}: {exchange.error_text}" if exchange.error_text else ""
        failed = style(one_line(text or str(exchange.error_code)), fg="red", bold=True)
        return f"{took}  {failed}" if exchange.action == "request" else failed
    if exchange.outcome is Outcome.UNHEARD:
        return style("unheard", fg="yellow")
    if exchange.outcome is Outcome.UNSEEN:
        return style("no answer seen", fg="red", bold=True)
    if exchange.outcome is Outcome.OPEN and exchange.action == "request":
        return style("not answered yet", fg="yellow")
    return style(took, fg="green") if exchange.action == "request" else ""


def _ms(exchange: Exchange) -> int | None:
    if exchange.seconds is None or exchange.action != "request":
        return None
    return round(exchange.seconds * 1000)


def _service(service_id: str, names: Names) -> dict[str, Any]:
    return {"id": service_id, "name": names.get(service_id)}


def _iso(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"
