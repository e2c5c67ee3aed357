"""A client whose broker has gone away, and calls that it makes meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.abc

from mb_core import ConnectionLost, MessageBrokerClient
from mb_testing import until

from .scripted import ScriptedBroker
from .watching import Watch

__all__ = ["QUICK", "Gone", "Outcome", "gone"]

E = TypeVar("E", bound=Exception)

QUICK: dict[str, Any] = {"backoff_min": 1, "backoff_max": 10, "close_timeout": 200}
"""Options of a client that comes back as soon as it can; in milliseconds."""


class Gone:
    """A client whose ScriptedBroker has gone away."""

    def __init__(self, scripted: ScriptedBroker, client: MessageBrokerClient) -> None:
        self.scripted = scripted
        self.client = client
        self.watch = Watch(client)

    async def come_back(self) -> list[bytes]:
        """The broker is there again; what it is sent then, without the heartbeat behind it."""
        await self.scripted.listen()
        await until(lambda: self.client.connected)
        connection = self.scripted.connections[-1]
        await self.client.request("system.heartbeat", {})
        return [each for each in connection.messages if b"system.heartbeat" not in each]


@asynccontextmanager
async def gone(scripted: ScriptedBroker, **options: Any) -> AsyncIterator[Gone]:
    async with MessageBrokerClient(scripted.url, **QUICK | {"drain_timeout": 0} | options) as it:
        state = Gone(scripted, it)
        await scripted.stop()
        await state.watch.disconnects(1)
        with anyio.fail_after(5):
            yield state


class Outcome:
    """How a call ends that is made in a task of its own."""

    def __init__(self, tasks: anyio.abc.TaskGroup, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        self.scope = anyio.CancelScope()
        self._over = anyio.Event()
        tasks.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Any]) -> None:
        with self.scope:
            try:
                self.result = await call()
            except Exception as error:
                self.error = error
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def ends(self) -> None:
        await self._over.wait()

    async def lost(self) -> ConnectionLost:
        return await self.fails(ConnectionLost)

    async def fails(self, kind: type[E]) -> E:
        await self._over.wait()
        assert isinstance(self.error, kind)
        return self.error

    async def succeeds(self) -> Any:
        await self._over.wait()
        assert self.error is None
        return self.result
