"""The async client that a blocking one drives, on the event loop of the background thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any

import mb_core
from mb_core.client.callbacks import Callbacks, unwrapped
from mb_core.client.queue import MessageQueue
from mb_core.client.runner import Runner
from mb_core.client.supervisor import Supervisor
from mb_core.errors import LocalProtocolError
from mb_core.link import Link
from mb_core.message import Message
from mb_core.user_code import name_of

from .loop_thread import LoopThread
from .thread_queue import ThreadQueue
from .thread_runner import ThreadRunner, reject_awaitable

__all__ = ["LoopClient"]


class LoopClient(mb_core.MessageBrokerClient):
    """The async client, whose handlers and callbacks are called in threads."""

    _queue_type = ThreadQueue
    _remedy = "'with MessageBrokerClient(...) as client' or 'client.close()'"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.callbacks = self._callbacks = _ThreadCallbacks(self._handlers)
        self.codec = self._codec
        self._runner = _thread_runner
        self._loop: LoopThread
        self.handle = ClientHandle(self)
        # Gives what is called with the Supervisor when it is about to connect.
        self.on_connecting: weakref.ref[Callable[[Supervisor], None]]

    async def connect_on(
        self, loop: LoopThread, host: str | None, port: int | None, use_tls: bool
    ) -> None:
        """Connect on `loop`, where this runs."""
        self._loop = self.callbacks.loop = loop
        await self.connect(host, port, use_tls)

    async def wait_connecting(self) -> None:
        """Wait until a connect that another thread has called has begun."""
        await self._beginning()

    @property
    def given_up(self) -> bool:
        """Whether it was closed since the last connect."""
        return self._given_up

    @given_up.setter
    def given_up(self, value: bool) -> None:
        self._given_up = value

    async def shut_down(self, *, drain: bool) -> None:
        """Close; a connect that is under way fails."""
        await self._end(drain=drain)

    async def reset(self) -> None:
        """Undo a connect that has failed or was interrupted."""
        await self.shut_down(drain=False)
        self._supervisor = None

    def _check_handler(self, handler: Any, name: str = "handler") -> None:
        super()._check_handler(handler, name)
        if inspect.iscoroutinefunction(handler):
            raise LocalProtocolError(
                f"{name_of(handler)} is async: mb_sync calls plain functions, mb_core's client "
                "async ones as well"
            )

    def _callback(self, handler: Callable[..., Any], name: str) -> Callable[..., Awaitable[None]]:
        """A callback that calls `handler` in a thread."""
        handler = unwrapped(super()._callback(handler, name))
        callbacks = self.callbacks  # and not the client, which holds this

        async def call(*args: Any) -> None:
            reject_awaitable(await callbacks.loop.pool.run(handler, *args))

        call.__qualname__ = name_of(handler)
        return call

    def _supervising(self, supervisor: Supervisor) -> None:
        self.handle.supervisor = supervisor
        begin = self.on_connecting()
        if begin is not None:
            begin(supervisor)

    def _drop(self, supervisor: Supervisor) -> None:
        super()._drop(supervisor)
        self._loop.post(self.handle.close_in_background)


class ClientHandle:
    """A client as its loop knows it (see LoopUser): it does not keep the client alive."""

    def __init__(self, client: LoopClient) -> None:
        self.loop: LoopThread | None = None  # from the beginning of a connect
        self.supervisor: Supervisor | None = None  # a moment later
        self.connected = False  # whether that connect has succeeded
        self._client = weakref.ref(client)
        self._closing: asyncio.Task[None] | None = None

    def close(self, *, drain: bool) -> Future[None] | None:
        loop = self.loop
        return loop.submit(self._end, loop, drain=drain) if loop is not None else None

    def close_in_background(self) -> None:
        """Close without anybody who waits for that; called in the loop."""
        assert self.loop is not None
        self._closing = asyncio.ensure_future(self._end(self.loop, drain=True))

    def unsent(self) -> int:
        link = self._link()
        return link.unsent if link is not None else 0

    def abort(self) -> None:
        link = self._link()
        if link is not None:
            link.abort()

    def reset(self) -> None:
        """Forget a connect that was undone."""
        self.loop = self.supervisor = None
        self.connected = False

    async def _end(self, loop: LoopThread, *, drain: bool) -> None:
        client, supervisor = self._client(), self.supervisor
        try:
            if client is not None:
                await client.shut_down(drain=drain)
            elif supervisor is not None:
                await supervisor.close(drain=drain)
        finally:
            if self.connected:  # or it was connecting, and releases by itself
                loop.release(self)

    def _link(self) -> Link | None:
        return self.supervisor.link if self.supervisor is not None else None


class _ThreadCallbacks(Callbacks):
    """Callbacks that are due, posted in any thread."""

    loop: LoopThread

    def _wake(self) -> None:
        if self._wakeup is not None:
            self.loop.post(super()._wake)

    def count(self, kind: Hashable, report: Callable[[int], object]) -> None:
        self.loop.post(functools.partial(super().count, kind, report))


def _thread_runner(
    queue: MessageQueue,
    handler: Callable[[Message], Any],
    topic: str,
    concurrency: int,
    callbacks: Callbacks,
) -> Runner:
    assert isinstance(callbacks, _ThreadCallbacks)
    return ThreadRunner(callbacks.loop, queue, handler, topic, concurrency, callbacks)
