"""Show live who sends requests to whom, what they cause, and how long they take.

A message that was caused by another one (see its parent id) is shown below it. With PATTERNs, only
trees with a matching topic are shown. On a pipe, each tree is a line of JSON.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import click

from mb_core import Message, matches
from mb_core.topic import check_pattern

from ..audit import read_event, registered_name
from ..connect import Endpoint, endpoint_options, following, hint, list_services
from ..exchange_trees import Node, TreeBuilder
from ..exchanges import Exchange, Outcome
from ..output import Output
from ..payloads import json_line
from ..runner import asynchronous
from ..shared_options import count_option, json_option
from ..text import clock, iso_time, milliseconds_text, one_line, short_id

# Events to read before printing the trees that they finish.
_BATCH = 1_000
# Services whose names are kept, and receivers of a publication to show by name.
_MAX_NAMES = 10_000
_SHOWN = 5


@click.command(help=__doc__)
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option(
    "--errors", is_flag=True, help="Print only trees in which something failed or timed out."
)
@click.option("--system", is_flag=True, help="Include requests to the broker's own topics.")
@count_option("trees")
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None)
async def command(
    endpoint: Endpoint,
    patterns: tuple[str, ...],
    errors: bool,
    system: bool,
    count: int | None,
    as_json: bool,
) -> None:
    for pattern in patterns:
        check_pattern(pattern)
    output = Output(as_json)
    names = Names()
    builder = TreeBuilder(system=system)
    left = count

    def take(message: Message) -> None:
        event = read_event(message.raw_payload)
        if event is not None:
            registered = registered_name(event)
            if registered is not None:
                names.set(*registered)
            builder.take(event, time.monotonic())

    def is_wanted(root: Node) -> bool:
        return (not errors or root.failed) and (
            not patterns
            or any(matches(p, node.exchange.topic) for node in root.walk() for p in patterns)
        )

    async with (
        following(endpoint, "mb trace", "Follows the audit feed") as client,
        client.subscribe("system.message") as events,
    ):
        # Services that are already connected; the feed shows when others register.
        for service in await list_services(client):
            names.set(service.get("id"), service.get("name"))
        hint(output, f"tracing {' '.join(patterns) or 'all messages'} at {endpoint.shown}")
        while left is None or left > 0:
            deadline = builder.next_deadline()
            wait = float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
            with anyio.move_on_after(wait):
                take(await anext(events))
                for _ in range(min(events.queued, _BATCH)):
                    take(await anext(events))
            roots = [root for root in builder.take_finished(time.monotonic()) if is_wanted(root)]
            if left is not None:
                roots = roots[:left]
                left -= len(roots)
            if roots and output.people:
                await output.write("".join(tree_text(root, names, output.style) for root in roots))
            elif roots:
                await output.write("".join(json_line(tree_json(root, names)) for root in roots))


class Names:
    """The names of services by their ids; keeps the last ten thousand."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def set(self, service_id: object, name: object) -> None:
        """Add a name that the broker sent, unless it is empty."""
        if isinstance(service_id, str) and isinstance(name, str) and name:
            self._names[service_id] = name
            self._names.move_to_end(service_id)
            if len(self._names) > _MAX_NAMES:
                self._names.popitem(last=False)

    def get(self, service_id: str) -> str | None:
        """Return the name, or None if it is not known."""
        return self._names.get(service_id)

    def shown(self, service_id: str) -> str:
        """Return the name to show, or the beginning of the id if the name is not known."""
        return one_line(self.get(service_id) or short_id(service_id))


def tree_json(root: Node, names: Names) -> dict[str, Any]:
    """Return the tree as JSON: each message with its `children`."""
    done: dict[Node, dict[str, Any]] = {}

    def service(service_id: str) -> dict[str, Any]:
        return {"id": service_id, "name": names.get(service_id)}

    for node in reversed(list(root.walk())):
        exchange = node.exchange
        value: dict[str, Any] = {
            "action": exchange.action,
            "topic": exchange.topic,
            "from": service(exchange.sender),
            "to": [service(receiver) for receiver in exchange.receivers],
            "timestamp": iso_time(exchange.began or 0.0),
            "ms": _milliseconds(exchange),
            "outcome": exchange.outcome.value,
        }
        if exchange.count > len(exchange.receivers):
            value["receivers"] = exchange.count
        if node.cause is not None:
            value["parentRequestId"] = node.cause
        if exchange.error is not None:
            value["error"] = {"code": exchange.error.code, "message": exchange.error.message}
        value["children"] = [done[child] for child in node.children]
        done[node] = value
    return done[root]


def tree_text(root: Node, names: Names, style: Callable[..., str]) -> str:
    """Return the tree as lines; `style(text, fg=..., bold=..., dim=...)` may colour them."""
    began = clock(datetime.fromtimestamp(root.exchange.began or 0.0, UTC))
    lines = [f"{style(began, dim=True)}  {_line(root, names, style)}"]

    def add_children(node: Node, indent: str) -> None:
        for child in node.children:
            last = child is node.children[-1]
            branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            lines.append(f"{style(indent + branch, dim=True)}{_line(child, names, style)}")
            add_children(child, indent + below)

    add_children(root, " " * (len(began) + 2))
    return "\n".join(lines) + "\n"


def _line(node: Node, names: Names, style: Callable[..., str]) -> str:
    exchange = node.exchange
    receivers = ", ".join(map(names.shown, exchange.receivers[:_SHOWN]))
    if exchange.count > _SHOWN:
        receivers += f" and {exchange.count - _SHOWN} more"
    parts = [
        style(f"{exchange.action:<7}", dim=True),
        style(one_line(exchange.topic), fg="cyan", bold=True),
        f"{names.shown(exchange.sender)} → {receivers or 'nobody'}",
        *_ending(exchange, style),
    ]
    if node.cause is not None:
        parts.append(style(f"(caused by {short_id(node.cause)}, not in this tree)", dim=True))
    return "  ".join(parts)


def _ending(exchange: Exchange, style: Callable[..., str]) -> Sequence[str]:
    ms = _milliseconds(exchange)
    took = "" if ms is None else f"{milliseconds_text(ms)} ms"
    if exchange.outcome is Outcome.UNHEARD:
        return [style("unheard", fg="yellow")]
    if exchange.error is not None:
        failed = style(one_line(str(exchange.error)), fg="red", bold=True)
        return [took, failed] if exchange.action == "request" else [failed]
    if exchange.action != "request":
        return []
    if exchange.outcome is Outcome.UNSEEN:
        return [style("no answer seen", fg="red", bold=True)]
    if exchange.outcome is Outcome.OPEN:
        return [style("not answered yet", fg="yellow")]
    return [style(took, fg="green")]


def _milliseconds(exchange: Exchange) -> int | None:
    if exchange.seconds is None or exchange.action != "request":
        return None
    return round(exchange.seconds * 1000)
