"""Closing: in time whatever the network does, and nothing remains."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_client import ConnectError, ConnectionLost, MBError, MessageBrokerClient
from mb_testing.proxy import HALF_OPEN, STALLED, Conditions, Cut, Direction, Proxy

from .brokers import thread_broker
from .scene import FAST, scene
from .traffic import Received, Signal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

# Seconds that closing may take with the time limits of FAST, on a machine that is busy.
LIMIT = 4.0

FAULTS: dict[str, Callable[[Proxy], object]] = {
    "stalled": lambda proxy: proxy.set(STALLED),
    "stalled-up": lambda proxy: proxy.set(STALLED, Direction.UP),
    "stalled-down": lambda proxy: proxy.set(STALLED, Direction.DOWN),
    "half-open": lambda proxy: proxy.set(HALF_OPEN),
    "slow": lambda proxy: proxy.set(Conditions(delay=100)),
    "one-byte-at-a-time": lambda proxy: proxy.set(Conditions(chunk=1)),
    "orderly-end": lambda proxy: proxy.cut(Cut.ORDERLY),
    "reset": lambda proxy: proxy.cut(Cut.RESET),
}


@pytest.mark.parametrize(
    ("scheme", "fault"),
    [
        *(("tcp", fault) for fault in FAULTS),
        # These have a farewell of their own.
        *(("ws", fault) for fault in ("stalled", "half-open", "orderly-end")),
        *(("tls", fault) for fault in ("stalled", "half-open", "one-byte-at-a-time")),
    ],
)
async def test_closing_takes_its_time_limits_and_no_longer(
    scheme: str, fault: str, certificates: Any
) -> None:
    secure = scheme == "tls"
    async with scene(
        scheme,
        server_context=certificates.server() if secure else None,
        client_context=certificates.client() if secure else None,
    ) as stage:
        ended: list[BaseException] = []

        async def ask() -> None:
            with pytest.raises(MBError) as raised:
                await stage.far.request("nobody.answers", 1, timeout=60_000)
            ended.append(raised.value)

        await stage.near.subscribe(
            "nobody.answers", action="request", handler=lambda m: anyio.sleep(60)
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            FAULTS[fault](stage.proxy)
            began = time.monotonic()
            await stage.far.close()
            assert time.monotonic() - began < LIMIT
        assert isinstance(ended[0], ConnectionLost)
        assert stage.far.stats().pending == 0
        stage.proxy.cut(Cut.RESET)


async def test_closing_gives_up_what_the_connection_does_not_take() -> None:
    async with scene(publish_buffer=0) as stage:
        stage.proxy.set(STALLED, Direction.UP)
        async with anyio.create_task_group() as tasks:
            for _ in range(1500):  # more than the buffers of the system and the proxy hold
                tasks.start_soon(stage.far.publish, "to.near", "x" * 10_000)
            await anyio.wait_all_tasks_blocked()
            began = time.monotonic()
            await stage.far.close()
            assert time.monotonic() - began < LIMIT
        stage.proxy.cut(Cut.RESET)


@pytest.mark.parametrize("accepting", [Proxy.refuse, Proxy.hang])
async def test_closing_ends_a_reconnect_in_the_middle(accepting: Callable[[Proxy], None]) -> None:
    async with scene(connect_timeout=60_000, backoff_min=60_000, backoff_max=60_000) as stage:
        accepting(stage.proxy)
        stage.proxy.cut(Cut.RESET)
        await stage.losses.reaches(1, "the client has lost its connection")
        began = time.monotonic()
        await stage.far.close()
        assert time.monotonic() - began < LIMIT
        stage.proxy.cut(Cut.RESET)


@pytest.mark.parametrize("accepting", [Proxy.refuse, Proxy.hang])
@pytest.mark.parametrize("by", ["closing", "cancelling"])
async def test_a_first_connection_that_is_tried_again_and_again_can_be_ended(
    accepting: Callable[[Proxy], None], by: str
) -> None:
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        accepting(proxy)
        failures = Signal()
        client = MessageBrokerClient(
            proxy.url, **FAST | {"retry_connect": True, "connect_timeout": 50}
        )
        client.on_error(failures)
        async with anyio.create_task_group() as tasks:

            async def connect() -> None:
                if by == "closing":
                    with pytest.raises(ConnectError, match="closed"):
                        await client.connect()
                else:
                    await client.connect()

            tasks.start_soon(connect)
            await failures.reaches(2, "a try that failed")
            if by == "closing":
                await client.close()
            else:
                tasks.cancel_scope.cancel()
        proxy.cut(Cut.RESET)


async def test_leaving_the_block_sends_what_waits_if_the_broker_is_back_in_time() -> None:
    async with scene(drain_timeout=10_000, backoff_max=50) as stage:
        received = Received()
        await stage.near.subscribe("late", handler=received.take)
        stage.proxy.refuse()
        stage.proxy.cut(Cut.RESET)
        await stage.losses.reaches(1, "the client has lost its connection")
        for number in range(100):
            await stage.far.publish("late", number)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.far.close)
            await stage.failures.reaches(1, "a try that failed")
            stage.proxy.accept()
        await received.has(*range(100))
        assert received.order == list(range(100))


async def test_leaving_the_block_reports_what_could_not_be_sent() -> None:
    async with scene(drain_timeout=100) as stage:
        stage.proxy.refuse()
        stage.proxy.cut(Cut.RESET)
        await stage.losses.reaches(1, "the client has lost its connection")
        for number in range(7):
            await stage.far.publish("to.near", number)
        began = time.monotonic()
        await stage.far.close()
        assert time.monotonic() - began < LIMIT
        unsent = [e for e in stage.errors if isinstance(e, ConnectionLost) and "7" in str(e)]
        assert [error.sent for error in unsent] == [False]
        assert not stage.at_near.numbers
