"""The client within the event loop, which the blocking client asks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import mb_core
from mb_core.client.arguments import check_handler
from mb_core.client.callbacks import Callbacks, Registration, name_of, unwrapped
from mb_core.client.inbox import Inbox
from mb_core.client.pump import Pump
from mb_core.client.supervisor import Supervisor
from mb_core.errors import LocalProtocolError
from mb_core.message import Message

from .loop import LoopThread
from .pump import ThreadPump, plain
from .queue import ThreadQueue

__all__ = ["Within", "check_plain"]


class Within(mb_core.MessageBrokerClient):
    """The async client, whose handlers and callbacks are called in threads."""

    _queue_type = ThreadQueue

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.callbacks = self._callbacks = _ThreadCallbacks()
        self.codec = self._codec
        self._pump = self._pump_in_threads
        self._loop: LoopThread
        # Called with the Supervisor when it is about to connect.
        self.at_begin: Callable[[Supervisor], None]

    async def connect_in(
        self, loop: LoopThread, host: str | None, port: int | None, use_tls: bool
    ) -> None:
        """Connect on `loop`, where this runs."""
        self._loop = self.callbacks.loop = loop
        await self.connect(host, port, use_tls)

    async def begin(self) -> None:
        """Wait until a connect that another thread has called has begun."""
        await self._beginning()

    @property
    def given_up(self) -> bool:
        """Whether it was closed since the last connect."""
        return self._given_up

    @given_up.setter
    def given_up(self, value: bool) -> None:
        self._given_up = value

    async def end(self, *, drain: bool) -> None:
        """Close; one that is connecting does not, and says so to whom it connects for."""
        await self._end(drain=drain)

    async def undo_connect(self) -> None:
        """Nothing is left of a connect that has failed, or that nobody has waited for."""
        await self.end(drain=False)
        self._supervisor = None

    async def stats_in(self) -> mb_core.ClientStats:
        return self.stats()

    async def on_message_in(self, handler: Callable[..., Any]) -> Registration:
        return self.on_message(handler)

    async def remove_in(self, registration: Registration) -> None:
        registration.remove()

    def threaded(self, handler: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        """A callback that calls `handler` in a thread."""
        handler = unwrapped(handler)

        async def call(*args: Any) -> None:
            plain(await self._loop.pool.run(handler, *args))

        call.__qualname__ = name_of(handler)
        return call

    def _supervising(self, supervisor: Supervisor) -> None:
        self.at_begin(supervisor)

    def _pump_in_threads(
        self,
        inbox: Inbox,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> Pump:
        return ThreadPump(self._loop, inbox, handler, topic, concurrency, callbacks)


class _ThreadCallbacks(Callbacks):
    """Callbacks that are due, posted in any thread."""

    loop: LoopThread

    def _wake(self) -> None:
        if self._wakeup is not None:
            self.loop.post(super()._wake)

    def count(self, kind: Hashable, report: Callable[[int], object]) -> None:
        self.loop.post(functools.partial(super().count, kind, report))


def check_plain(handler: Callable[..., Any] | None, name: str = "handler") -> None:
    """Raises LocalProtocolError for a handler that can't be called in a thread."""
    check_handler(handler, name)
    if inspect.iscoroutinefunction(handler):
        raise LocalProtocolError(
            f"{name_of(handler)} is async: mb_sync calls plain functions, mb_core's client "
            "async ones as well"
        )
