"""What a client tells its callbacks, and what its broker knows of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from mb_core import Message, MessageBrokerClient

__all__ = ["Gate", "Start", "Watch", "known_subscriptions", "settle"]

E = TypeVar("E", bound=Exception)

# The type of fixtures that start a broker or a server for a block.
Start = Callable[..., AbstractAsyncContextManager[Any]]


class Watch:
    """The calls of a client's callbacks, in order: "connect", "disconnect", and errors."""

    def __init__(self, client: MessageBrokerClient) -> None:
        self.calls: list[str | Exception] = []
        self._news = anyio.Event()
        client.on_connect(_Note(self, "connect"))
        client.on_disconnect(_Note(self, "disconnect"))
        client.on_error(_Note(self))

    @property
    def moves(self) -> list[str]:
        """The calls without the errors."""
        return [call for call in self.calls if isinstance(call, str)]

    @property
    def errors(self) -> list[Exception]:
        return [call for call in self.calls if isinstance(call, Exception)]

    async def connects(self, count: int) -> None:
        """Wait until on_connect was called `count` times."""
        await self._reach(lambda: self.moves.count("connect") >= count)

    async def disconnects(self, count: int) -> None:
        """Wait until on_disconnect was called `count` times."""
        await self._reach(lambda: self.moves.count("disconnect") >= count)

    async def error(self, kind: type[E], count: int = 1) -> E:
        """Error number `count` of this kind, once on_error was called with it."""
        await self._reach(lambda: len(self._of(kind)) >= count)
        return self._of(kind)[count - 1]

    def _of(self, kind: type[E]) -> list[E]:
        return [call for call in self.calls if isinstance(call, kind)]

    async def _reach(self, fact: Callable[[], bool]) -> None:
        while not fact():
            await self._news.wait()

    def note(self, call: str | Exception) -> None:
        self.calls.append(call)
        self._news.set()
        self._news = anyio.Event()


@dataclass(frozen=True)
class _Note:
    """A callback of a Watch.  They are equal: calls of equal handlers come in order."""

    watch: Watch
    move: str | None = field(default=None, compare=False)

    def __call__(self, error: Exception | None = None) -> None:
        call = self.move if self.move is not None else error
        assert call is not None
        self.watch.note(call)


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.opened = anyio.Event()
        self.handled: list[Any] = []
        self.cancelled = 0

    async def __call__(self, message: Message) -> Any:
        self.entered.set()
        try:
            await self.opened.wait()
        except BaseException:
            self.cancelled += 1
            raise
        self.handled.append(message.payload)
        return message.payload


async def known_subscriptions(client: MessageBrokerClient) -> list[tuple[str, str]]:
    """What the broker has subscribed `client` to: actions and topics."""
    answer = await client.request("system.service.subscriptions", {})
    return [(each["action"], each["topic"]) for each in answer.payload["subscriptions"]]


async def settle(client: MessageBrokerClient) -> None:
    """Wait until `client` has received all that the broker sent it so far."""
    await client.request("system.heartbeat", {})
