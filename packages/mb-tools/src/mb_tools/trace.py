"""`mb trace`: who asked whom, what that caused, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio

from mb_core import Message, matches
from mb_core.topic import check_pattern

from .audit import read_event, registered_name
from .connect import ask_list, hint, staying
from .endpoint import Endpoint
from .exits import Status
from .names import Names
from .output import Output, json_line
from .trace_text import as_json as tree_as_json
from .trace_text import as_lines
from .trace_tree import Exchange, TraceBuilder

__all__ = ["run"]

# So many events are read before what they finished is printed.
_BATCH = 1_000


async def run(
    endpoint: Endpoint,
    patterns: Sequence[str],
    *,
    count: int | None,
    errors: bool,
    system: bool,
    as_json: bool,
) -> Status | None:
    """Print trees until `count` were printed, or forever.

    With `patterns` those in which a topic matches, with `errors` those in which something failed.
    Raises LocalProtocolError for a pattern that is not one.
    """
    for pattern in patterns:
        check_pattern(pattern)
    printer = _Printer(Output(as_json), patterns, count, errors)
    builder = TraceBuilder(system=system)
    async with (
        staying(endpoint, "mb trace", "Follows the audit feed") as client,
        client.subscribe("system.message") as events,
    ):
        # Services that were there before; later ones are in the feed.
        printer.names.learn_list(await ask_list(client, "system.service.list", "services"))
        hint(printer.output, f"tracing {' '.join(patterns) or 'all messages'} at {endpoint.shown}")
        while printer.left is None or printer.left > 0:
            deadline = builder.next_deadline()
            wait = float("inf") if deadline is None else max(0.0, deadline - time.monotonic())
            with anyio.move_on_after(wait):
                printer.feed(builder, await anext(events))
                for _ in range(min(events.queued, _BATCH)):
                    printer.feed(builder, await anext(events))
            await printer.print(builder.take_finished(time.monotonic()))
    return None


class _Printer:
    """Reads events, and prints the trees that were asked for."""

    def __init__(
        self, output: Output, patterns: Sequence[str], count: int | None, errors: bool
    ) -> None:
        self.output = output
        self.names = Names()
        self.left = count
        self._patterns = patterns
        self._errors = errors

    def feed(self, builder: TraceBuilder, message: Message) -> None:
        event = read_event(message.raw_payload)
        if event is not None:
            registered = registered_name(event)
            if registered is not None:
                self.names.learn(*registered)
            builder.feed(event, time.monotonic())

    async def print(self, roots: Sequence[Exchange]) -> None:
        wanted = [root for root in roots if self._wants(root)]
        if self.left is not None:
            wanted = wanted[: self.left]
            self.left -= len(wanted)
        if wanted:
            await self.output.write("".join(map(self._shown, wanted)))

    def _wants(self, root: Exchange) -> bool:
        if self._errors and not root.failed:
            return False
        return not self._patterns or any(
            matches(pattern, each.topic)
            for each in root.with_descendants()
            for pattern in self._patterns
        )

    def _shown(self, root: Exchange) -> str:
        if self.output.people:
            return as_lines(root, self.names, self.output.style)
        return json_line(tree_as_json(root, self.names))
