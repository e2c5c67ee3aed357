"""What one connection, subscription and pending request takes in memory.

    python -m benchmarks.memory [--connections 1000] [--others 9000]

Those of the machines (Router, Session) are counted as Python allocates memory (tracemalloc), those
of clients and brokers as the operating system does (resident memory).  Each figure comes from
processes of its own.  That nothing stays of what has ended is tested by `nox -s soak`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import platform
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import psutil

from mb_broker import Router, RouterOptions
from mb_core import MessageBrokerClient
from mb_core.header import Action
from mb_core.session import SubscriptionEntry

from . import processes
from .growth_cases import PAYLOAD, Pattern, empty_outboxes, ready_session, topic, wildcard
from .workload import DOCUMENT

__all__ = ["CLIENTS", "MACHINES", "main", "of_client", "of_machine", "table"]

# Made before the first look: imports, caches and the first arenas don't count.
_BEFORE = 100


# Held by a machine


def router_connections(count: int) -> object:
    router = Router()
    for _ in range(count):
        router.connect(0.0)
    empty_outboxes(router)
    return router


def router_subscriptions(pattern: Pattern) -> Callable[[int], object]:
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
        request_id = b"123e4567-e89b-42d3-a456-%012d" % number
        request = b"request:bench.ask:1.0.0:%b\n%b" % (request_id, PAYLOAD)
        router.receive(requester, [request], 0.0)
        empty_outboxes(router)
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


MACHINES: dict[str, Callable[[int], object]] = {
    "Router: a connection": router_connections,
    "Router: a subscription, exact": router_subscriptions(topic),
    "Router: a subscription, wildcard": router_subscriptions(wildcard),
    "Router: an outstanding request": router_requests,
    "Session: a subscription": session_subscriptions,
    "Session: a pending request": session_requests,
}


def of_machine(name: str, count: int) -> dict[str, float]:
    """Return the bytes of one of `count`, which are made in this process."""
    hold = MACHINES[name]
    tracemalloc.start()
    first = hold(_BEFORE)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    second = hold(count)
    gc.collect()
    found = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    del first, second
    return {"state machine": found}


# Held by clients of a broker that has a process of its own


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
            await client.subscribe(topic(number), handler=lambda message: None)
        yield


@asynccontextmanager
async def requests(url: str, count: int) -> AsyncIterator[None]:
    """Requests to a service that takes them and does not answer."""
    async with (
        MessageBrokerClient(url, drain_timeout=0) as client,
        MessageBrokerClient(url, drain_timeout=0) as service,
        service.subscribe("bench.ask", action="request", queue_size=None) as taken,
    ):
        asking = [
            asyncio.create_task(client.request("bench.ask", DOCUMENT, timeout=3_600_000))
            for _ in range(count)
        ]
        for _ in asking:
            await anext(taken)
        yield
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


CLIENTS: dict[str, Callable[[str, int], AbstractAsyncContextManager[None]]] = {
    "a connection": connections,
    "a subscription": subscriptions,
    "a pending request": requests,
}


def of_client(name: str, count: int) -> dict[str, float]:
    """Return the bytes that one of `count` takes in clients (this process) and in the broker.

    The last figure is the size of the broker's whole process.
    """
    things = f"{name.removeprefix('a ')}s"
    return asyncio.run(_of_client(CLIENTS[name], count, things))


async def _of_client(
    hold: Callable[[str, int], AbstractAsyncContextManager[None]], count: int, things: str
) -> dict[str, float]:
    earlier = psutil.Process().children()
    with processes.mb_broker("tcp") as url:
        [broker] = [each for each in psutil.Process().children() if each not in earlier]
        async with hold(url, _BEFORE):
            before = _resident(), _resident(broker)
        # The memory of the first ones is reused for as many of the second.
        async with hold(url, count + _BEFORE):
            after = _resident(), _resident(broker)
    return {
        "client": (after[0] - before[0]) / count,
        "broker": (after[1] - before[1]) / count,
        f"the whole broker, with {count + _BEFORE:,} {things}": after[1],
    }


def _resident(process: psutil.Process | None = None) -> int:
    gc.collect()
    size: int = (process or psutil.Process()).memory_info().rss
    return size


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| | where | bytes |", "|---|---|---|"]
    for name, places in found.items():
        lines += [f"| {name} | {place} | {size:,.0f} |" for place, size in places.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    # A broker takes up to 10,000 of them from a client.
    parser.add_argument("--others", type=int, default=9000)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in (*MACHINES, *CLIENTS):
        measure = of_machine if name in MACHINES else of_client
        count = given.connections if "a connection" in name else given.others
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found[name] = pool.submit(measure, name, count).result()
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores\n\n{table(found)}")


if __name__ == "__main__":
    main()
