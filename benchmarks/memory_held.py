"""What holds things whose memory is measured: a machine, or clients of a broker.

A case makes so many of a thing, and gives what holds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from mb_broker import Router, RouterOptions
from mb_core import Message, MessageBrokerClient
from mb_core.header import Action
from mb_core.session import SubscriptionEntry
from mb_core.url import parse_url

from .growth_work import PAYLOAD, ready_session, topic, wildcard
from .workload import DOCUMENT

__all__ = ["BY_CLIENTS", "BY_MACHINES"]

_ID = b"123e4567-e89b-42d3-a456-%012d"

# By a machine


def router_connections(count: int) -> object:
    router = Router()
    for _ in range(count):
        router.connect(0.0)
    _empty_outboxes(router)
    return router


def router_subscriptions(pattern: Callable[[int], str]) -> Callable[[int], object]:
    def hold(count: int) -> object:
        router = Router()
        service = router.connect(0.0)
        for number in range(count):
            router.registry.subscribe(service, Action.PUBLISH, pattern(number), None)
        return router

    return hold


def router_requests(count: int) -> object:
    router = Router(RouterOptions(max_outstanding=count))
    requester, responder = router.connect(0.0), router.connect(0.0)
    router.registry.subscribe(responder, Action.REQUEST, "bench.ask", 1)
    for number in range(count):
        request = b"request:bench.ask:1.0.0:%b\n%b" % (_ID % number, PAYLOAD)
        router.receive(requester, [request], 0.0)
        _empty_outboxes(router)
    return router


def session_subscriptions(count: int) -> object:
    session = ready_session()
    for number in range(count):
        session.subscriptions.add(SubscriptionEntry(topic(number), Action.PUBLISH, 1, None))
    return session


def session_requests(count: int) -> object:
    session = ready_session()
    return session, [
        session.request("bench.ask", DOCUMENT, now=0.0, timeout=1000) for _ in range(count)
    ]


BY_MACHINES: dict[str, Callable[[int], object]] = {
    "Router: a connection": router_connections,
    "Router: a subscription, exact": router_subscriptions(topic),
    "Router: a subscription, wildcard": router_subscriptions(wildcard),
    "Router: an outstanding request": router_requests,
    "Session: a subscription": session_subscriptions,
    "Session: a pending request": session_requests,
}

# By clients of a broker that has a process of its own


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(MessageBrokerClient(url))
        yield


@asynccontextmanager
async def subscriptions(url: str, count: int) -> AsyncIterator[None]:
    async with MessageBrokerClient(url) as client:
        for number in range(count):
            await client.subscribe(topic(number), handler=_ignore)
        yield


@asynccontextmanager
async def requests(url: str, count: int) -> AsyncIterator[None]:
    """Requests that nobody answers; who is asked reads them and keeps nothing."""
    async with MessageBrokerClient(url) as client:
        reader, writer = await asyncio.open_connection(*_address(url))
        subscribe = b"request:system.topic.subscribe:1.0.0:%b\n" % (_ID % 0)
        subscribe += b'{"action":"request","topic":"bench.ask"}'
        writer.write(len(subscribe).to_bytes(4) + subscribe)
        received = asyncio.Semaphore(0)
        reading = asyncio.create_task(_read_messages(reader, received))
        for _ in range(2):  # the greeting, and the answer
            await received.acquire()
        asked = [
            asyncio.create_task(client.request("bench.ask", DOCUMENT, timeout=3_600_000))
            for _ in range(count)
        ]
        for _ in range(count):
            await received.acquire()
        yield
        for task in (*asked, reading):
            task.cancel()
        await asyncio.gather(*asked, reading, return_exceptions=True)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


BY_CLIENTS: dict[str, Callable[[str, int], AbstractAsyncContextManager[None]]] = {
    "a connection": connections,
    "a subscription": subscriptions,
    "a pending request": requests,
}


async def _read_messages(reader: asyncio.StreamReader, received: asyncio.Semaphore) -> None:
    while True:
        length = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(length)
        received.release()


def _address(url: str) -> tuple[str, int]:
    parsed = parse_url(url)
    assert parsed.port is not None
    return parsed.host, parsed.port


def _ignore(message: Message) -> None:
    pass


def _empty_outboxes(router: Router) -> None:
    for service in router.take_output():
        service.outbox = []
