"""Runs a client on the loop thread, and calls its handlers in the threads of the pool."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any
from weakref import WeakMethod, ref

from mb_core.errors import LocalProtocolError
from mb_core.hosted_client import (
    Callbacks,
    Host,
    HostedClient,
    MessageQueue,
    Runner,
    Supervisor,
    unwrapped,
)
from mb_core.link import Link
from mb_core.message import Message
from mb_core.user_code import name_of

from .loop_thread import LoopThread
from .thread_queue import ThreadQueue
from .thread_runner import ThreadRunner, reject_awaitable

__all__ = ["ThreadHost"]


class ThreadHost(Host):
    """The host of one client, which is also its LoopUser on the loop thread.

    It does not keep the client alive.
    """

    queue_type = ThreadQueue
    unclosed_remedy = "'with MessageBrokerClient(...) as client' or 'client.close()'"

    client: ref[HostedClient]
    on_connecting: WeakMethod[Callable[[Supervisor], None]]
    """Called with the Supervisor when it is about to connect."""

    def __init__(self) -> None:
        self.loop: LoopThread | None = None  # from the beginning of a connect
        self.supervisor: Supervisor | None = None  # a moment later
        self.connected = False  # whether that connect has succeeded
        self._closing: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Forget a connect that was undone."""
        self.loop = self.supervisor = None
        self.connected = False

    # As the host of a client

    def post(self, function: Callable[[], object]) -> object:
        return self.loop is not None and self.loop.post(function)

    def check_handler(self, handler: Any, name: str = "handler") -> None:
        super().check_handler(handler, name)
        if inspect.iscoroutinefunction(handler):
            raise LocalProtocolError(
                f"{name_of(handler)} is async: mb_sync calls plain functions, mb_core's client "
                "async ones as well"
            )

    def wrap_callback(self, handler: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        handler = unwrapped(handler)

        async def call(*args: Any) -> None:
            assert self.loop is not None
            reject_awaitable(await self.loop.pool.run(handler, *args))

        call.__qualname__ = name_of(handler)
        return call

    def make_runner(
        self,
        queue: MessageQueue,
        handler: Callable[[Message], Any],
        topic: str,
        concurrency: int,
        callbacks: Callbacks,
    ) -> Runner:
        assert self.loop is not None
        return ThreadRunner(self.loop, queue, handler, topic, concurrency, callbacks)

    def connecting(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        on_connecting = self.on_connecting()
        if on_connecting is not None:
            on_connecting(supervisor)

    def dropped(self) -> None:
        self.post(self._close_in_background)

    # As a user of the loop

    def close(self, *, drain: bool) -> Future[None] | None:
        loop = self.loop
        return loop.submit(self._close, loop, drain=drain) if loop is not None else None

    def unsent(self) -> int:
        link = self._link()
        return link.unsent if link is not None else 0

    def abort(self) -> None:
        link = self._link()
        if link is not None:
            link.abort()

    # In the loop

    def _close_in_background(self) -> None:
        assert self.loop is not None
        self._closing = asyncio.ensure_future(self._close(self.loop, drain=True))

    async def _close(self, loop: LoopThread, *, drain: bool) -> None:
        client, supervisor = self.client(), self.supervisor
        try:
            if client is not None:
                await client.shut_down(drain=drain)
            elif supervisor is not None:
                await supervisor.close(drain=drain)
        finally:
            if self.connected:  # or it was connecting, and releases by itself
                loop.release(self)
                self.supervisor = None  # which refers to this host

    def _link(self) -> Link | None:
        return self.supervisor.link if self.supervisor is not None else None
