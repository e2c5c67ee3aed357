"""Print what is published to topics that match a PATTERN.

In a pattern, + is any one segment and a closing # any number of them; quote it for the shell.
On a pipe each message is a line of JSON with topic, action, requestId and payload.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio
import click

from mb_core import Message, Subscription, matches

from ..connect import Endpoint, endpoint_options, following, hint
from ..errors import Failure
from ..options import count_option, json_option, reconnect_option, timeout_option
from ..output import Output
from ..payloads import json_line, payload_text, raw_json
from ..runner import asynchronous
from ..text import clock

# Lines that are written at once if as many messages wait.
_BATCH = 256


@click.command(help=__doc__)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@count_option("messages")
@timeout_option("Stop after MS milliseconds; exit with 1 if fewer than COUNT messages came.")
@reconnect_option
@endpoint_options
@json_option
@asynchronous(endless=lambda given: given["count"] is None and given["timeout"] is None)
async def command(
    endpoint: Endpoint,
    patterns: tuple[str, ...],
    count: int | None,
    timeout: int | None,
    reconnect: bool,
    as_json: bool,
) -> None:
    different = list({pattern.lower(): pattern for pattern in patterns}.values())
    printer = _Printer(Output(as_json), different, count)
    shown = " ".join(different)
    seconds = timeout / 1000 if timeout is not None else math.inf
    # With --reconnect, the time that it waits for the broker counts as well.
    with anyio.move_on_after(seconds if reconnect else math.inf):
        async with (
            following(endpoint, "mb sub", f"Prints {shown}", reconnect=reconnect) as client,
            AsyncExitStack() as stack,
        ):
            subscriptions = [
                await stack.enter_async_context(client.subscribe(pattern)) for pattern in different
            ]
            hint(printer.output, f"listening to {shown} at {endpoint.shown}")
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as tasks:
                    for subscription in subscriptions:
                        tasks.start_soon(printer.follow, subscription, tasks.cancel_scope)
    if printer.left:
        received = (count or 0) - printer.left
        raise Failure(f"timed out after {timeout} ms: received {received} of {count} messages")


class _Printer:
    """Prints the messages of several subscriptions, each message once."""

    def __init__(self, output: Output, patterns: Sequence[str], count: int | None) -> None:
        self.output = output
        self.left = count
        self._patterns = patterns

    async def follow(self, messages: Subscription, scope: anyio.CancelScope) -> None:
        async for message in messages:
            batch = [message]
            while messages.queued and len(batch) < _BATCH:
                batch.append(await anext(messages))
            ours = [each for each in batch if self._first(each.topic) == messages.topic]
            if self.left is not None:
                ours = ours[: self.left]
                self.left -= len(ours)
            await self.output.write("".join(map(self._line, ours)))
            if self.left == 0:
                scope.cancel()

    def _first(self, topic: str) -> str | None:
        """Return the first pattern that matches: a message arrives once for each that does."""
        return next((pattern for pattern in self._patterns if matches(pattern, topic)), None)

    def _line(self, message: Message) -> str:
        if self.output.people:
            style = self.output.style
            return (
                f"{style(clock(), dim=True)}  {style(message.topic, fg='cyan')}  "
                f"{payload_text(message.raw_payload)}\n"
            )
        payload = raw_json(message.raw_payload)
        entry = {
            "topic": message.topic,
            "action": message.action.value,
            "requestId": message.request_id,
            "payload": payload,
        }
        if payload is None:
            entry["text"] = message.raw_payload.decode(errors="backslashreplace")
        return json_line(entry)
