"""One way to drive a client, for scenarios that are written once: each call waits for its end.

The blocking client is driven as it is; the async one is called on an event loop in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

import mb_core
from mb_core import Message

__all__ = ["Client", "Connect", "connecting"]

Connect = Callable[..., AbstractContextManager["Client"]]


class Client:
    """A client of any front end; `close` and the errors are the front end's own.

    It is connected, unless it was made with `connected=False`.
    """

    def __init__(self, client: Any, portal: BlockingPortal | None) -> None:
        self._client = client
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if self._portal is None or name.startswith("on_"):
            return method
        return partial(self._call, method)

    def handle(self, topic: str, handler: Callable[[Message], Any], **options: Any) -> None:
        """Subscribe with a handler, which may block: it runs in a thread."""

        async def in_thread(message: Message) -> Any:
            return await to_thread.run_sync(handler, message)

        taken = handler if self._portal is None else in_thread
        self.subscribe(topic, handler=taken, **options)

    def answer(self, topic: str, handler: Callable[[Message], Any]) -> None:
        """Answer requests with what a handler returns; as `handle`."""
        self.handle(topic, handler, action="request")

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        assert self._portal is not None

        async def call() -> Any:
            return await method(*args, **options)

        return self._portal.call(call)

    def listening(self, pattern: str) -> AbstractContextManager[Callable[[], Message]]:
        """Subscribe while the block lasts; gives a function that waits for the next message."""
        return self._receiving(lambda: self._client.subscribe(pattern))

    def following(
        self, levels: list[str], regex: str
    ) -> AbstractContextManager[Callable[[], Message]]:
        """Follow the broker's log while the block lasts; as `listening`."""
        return self._receiving(lambda: self._client.follow_log(levels, regex))

    @contextlib.contextmanager
    def _receiving(self, subscribe: Callable[[], Any]) -> Iterator[Callable[[], Message]]:
        if self._portal is None:
            with subscribe() as messages:
                yield partial(next, iter(messages))
        else:
            subscription = self._portal.call(_awaited(subscribe))
            with self._portal.wrap_async_context_manager(subscription) as messages:
                yield partial(self._portal.call, messages.__anext__)


def _awaited(function: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> Any:
        return function()

    return call


@contextlib.contextmanager
def connecting(frontend: str) -> Iterator[Connect]:
    """Give a function that connects clients of a front end, while the block lasts."""
    if frontend == "sync":
        yield _blocking
    else:
        with start_blocking_portal(frontend) as portal:
            yield partial(_async, portal)


@contextlib.contextmanager
def _blocking(url: str, *, connected: bool = True, **options: Any) -> Iterator[Client]:
    client = mb_core.connect(url, frontend="sync", **options)
    with client if connected else contextlib.closing(client):
        yield Client(client, None)


@contextlib.contextmanager
def _async(
    portal: BlockingPortal, url: str, *, connected: bool = True, **options: Any
) -> Iterator[Client]:
    async def make() -> Any:
        return mb_core.connect(url, **options)  # the front end of this event loop

    client = portal.call(make)
    block = client if connected else _closing(client)
    with portal.wrap_async_context_manager(block):
        yield Client(client, portal)


@contextlib.asynccontextmanager
async def _closing(client: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.close()
