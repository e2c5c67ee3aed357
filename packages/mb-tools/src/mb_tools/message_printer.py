"""Print messages as they arrive: up to a count, for a limited time, or forever."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import anyio

from mb_core import Message, Subscription

from .errors import Failure
from .output import Output

__all__ = ["MessagePrinter"]

# The most lines written in one go while messages are waiting.
_BATCH = 256


class MessagePrinter:
    """Prints a line for each message of one or more subscriptions.

    `line` returns what to print, or None to skip the message. `count` is the number of messages to
    print, `timeout` the time limit in milliseconds; None means no limit.
    """

    def __init__(
        self,
        output: Output,
        line: Callable[[Subscription, Message], str | None],
        *,
        count: int | None,
        timeout: int | None,
    ) -> None:
        self.output = output
        self.seconds = timeout / 1000 if timeout is not None else math.inf
        self._line = line
        self._count = count
        self._timeout = timeout
        self._received = 0

    async def follow(self, subscriptions: Sequence[Subscription]) -> None:
        """Print until the count is reached or the time is up."""
        with anyio.move_on_after(self.seconds):
            async with anyio.create_task_group() as tasks:
                for subscription in subscriptions:
                    tasks.start_soon(self._follow, subscription, tasks.cancel_scope)

    def check(self, what: str) -> None:
        """Raise Failure if fewer messages were printed than requested."""
        if self._count is not None and self._received < self._count:
            received = f"received {self._received} of {self._count} {what}"
            raise Failure(f"timed out after {self._timeout} ms: {received}")

    async def _follow(self, messages: Subscription, scope: anyio.CancelScope) -> None:
        async for message in messages:
            batch = [message]
            while messages.queued and len(batch) < _BATCH:
                batch.append(await anext(messages))
            lines = [line for each in batch if (line := self._line(messages, each)) is not None]
            if self._count is not None:
                lines = lines[: self._count - self._received]
            self._received += len(lines)
            await self.output.write("".join(lines))
            if self._received == self._count:
                scope.cancel()
