"""`mb sub`: print what is published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio

from mb_core import Message, Subscription, matches

from .connect import hint, staying
from .endpoint import Endpoint
from .exits import Failure, Status, one_line
from .output import Output, clock, json_line, raw_json

__all__ = ["run"]

# Lines that are written at once, where that many messages wait.
_BATCH = 256


async def run(
    endpoint: Endpoint,
    patterns: Sequence[str],
    *,
    count: int | None,
    timeout: int | None,
    reconnect: bool,
    as_json: bool,
) -> Status | None:
    """Print messages until `count` were printed, or for `timeout` milliseconds, or forever.

    With `reconnect`, the time that it waits for the broker counts, too.
    """
    patterns = list({pattern.lower(): pattern for pattern in patterns}.values())
    printer = _Printer(Output(as_json), patterns, count)
    shown = " ".join(patterns)
    seconds = timeout / 1000 if timeout is not None else math.inf
    with anyio.move_on_after(seconds if reconnect else math.inf):
        async with (
            staying(endpoint, "mb sub", f"Prints {shown}", reconnect=reconnect) as client,
            AsyncExitStack() as stack,
        ):
            subscriptions = [
                await stack.enter_async_context(client.subscribe(pattern)) for pattern in patterns
            ]
            hint(printer.output, f"listening to {shown} at {endpoint.shown}")
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as tasks:
                    for subscription in subscriptions:
                        tasks.start_soon(printer.follow, subscription, tasks.cancel_scope)
    if printer.left:
        received = (count or 0) - printer.left
        raise Failure(f"timed out after {timeout} ms: received {received} of {count} messages")
    return None


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
        """The first pattern that matches: a message comes once for each that does."""
        return next((pattern for pattern in self._patterns if matches(pattern, topic)), None)

    def _line(self, message: Message) -> str:
        payload = raw_json(message.raw_payload)
        if self.output.people:
            style = self.output.style
            shown = message.raw_payload if payload is None else bytes(payload)
            return (
                f"{style(clock(), dim=True)}  {style(message.topic, fg='cyan')}  "
                f"{one_line(shown.decode(errors='backslashreplace'))}\n"
            )
        header = {
            "topic": message.topic,
            "action": message.action.value,
            "requestId": message.request_id,
        }
        if payload is None:  # no JSON: as text, under a name of its own
            text = message.raw_payload.decode(errors="backslashreplace")
            return json_line({**header, "payload": None, "text": text})
        return json_line({**header, "payload": payload})
