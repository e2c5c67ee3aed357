"""Silence: told from death in time, and never taken for it wrongly."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from mb_client import ConnectionLost, Message, MessageBrokerClient, RequestTimeoutError
from mb_testing.proxy import HALF_OPEN, STALLED, Conditions, Direction, Proxy

from .brokers import thread_broker
from .scene import FAST
from .traffic import MARGIN, Signal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

INTERVAL = 100


def client_of(proxy: Proxy, scheme: str = "tcp", **options: Any) -> MessageBrokerClient:
    return MessageBrokerClient(proxy.url, **FAST | {"heartbeat_interval": INTERVAL} | options)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_quiet_connection_is_kept_and_costs_a_question_an_interval(scheme: str) -> None:
    with thread_broker(scheme) as broker, Proxy(broker.url) as proxy:
        losses = Signal()
        # As long as a busy machine may take for an answer.
        client = client_of(proxy, scheme, heartbeat_interval=1_000)
        client.on_disconnect(losses)
        async with client:
            before = proxy.stats
            # A question has some 80 bytes, so this is more than one, and an answer.
            await proxy.until(lambda stats: stats.forwarded_up > before.forwarded_up + 100)
            assert proxy.stats.forwarded_down > before.forwarded_down
            assert losses.count == 0
        assert proxy.stats.accepted == 1


@pytest.mark.parametrize("conditions", [STALLED, HALF_OPEN], ids=["stalled", "half-open"])
async def test_a_dead_connection_is_found_within_a_few_intervals(conditions: Conditions) -> None:
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        losses = Signal()
        client = client_of(proxy)
        client.on_disconnect(losses)
        async with client:
            began = time.monotonic()
            proxy.set(conditions, connections="existing")
            await losses.reaches(1, "the client has lost its connection")
            # Three intervals and some time for a machine that is busy; and not before one.
            assert INTERVAL / 1000 < time.monotonic() - began < 3 * INTERVAL / 1000 + 5


async def test_a_request_ends_with_its_dead_connection_unless_it_may_be_sent_again() -> None:
    limit = 1000
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        async with MessageBrokerClient(broker.url, **FAST) as service, client_of(proxy) as client:
            asked = Signal()

            async def answer_the_second_time(message: Message) -> str:
                asked()
                if message.payload == "never" or asked.count <= 2:
                    await anyio.sleep_forever()
                return "answer"

            await service.subscribe(
                "slow", action="request", handler=answer_the_second_time, concurrency=4
            )
            ends: dict[str, float] = {}
            began = time.monotonic()

            async def ask_once() -> None:
                with pytest.raises(ConnectionLost, match="no reply to the heartbeat") as raised:
                    await client.request("slow", "never", timeout=limit)
                assert raised.value.sent
                ends["once"] = time.monotonic() - began

            async def ask_again() -> None:
                answer = await client.request("slow", "second", timeout=limit, retry=True)
                assert answer.payload == "answer"
                ends["again"] = time.monotonic() - began

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_once)
                tasks.start_soon(ask_again)
                await asked.reaches(2, "the service is asked")
                proxy.set(HALF_OPEN, connections="existing")
            assert list(ends) == ["once", "again"]
            assert ends["again"] < limit / 1000 + MARGIN
            assert asked.count == 3


async def test_a_program_that_keeps_its_event_loop_busy_is_not_the_connections_fault() -> None:
    interval = 200
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        losses = Signal()
        client = client_of(proxy, heartbeat_interval=interval)
        client.on_disconnect(losses)
        async with client:
            # So that the answer is not there yet when the program is busy.
            proxy.set(Conditions(delay=20), Direction.DOWN)
            for _ in range(2):
                before = proxy.stats.received_up
                await proxy.until(lambda stats, before=before: stats.received_up > before)  # type: ignore[misc]
                time.sleep(6 * interval / 1000)  # noqa: ASYNC251
            await client.request("system.heartbeat", {})
            assert losses.count == 0
        assert proxy.stats.accepted == 1


async def test_a_quiet_client_answers_the_brokers_questions() -> None:
    with (
        thread_broker(heartbeat_after=100, drop_after=1000) as broker,
        Proxy(broker.url) as proxy,
    ):
        losses = Signal()
        client = client_of(proxy, heartbeat_interval=None)
        client.on_disconnect(losses)
        async with client:
            before = proxy.stats.forwarded_up
            began = time.monotonic()
            await proxy.until(
                lambda stats: stats.forwarded_up > before + 500 and time.monotonic() > began + 1.5
            )
            assert losses.count == 0


async def test_without_an_interval_a_dead_connection_is_borne() -> None:
    with thread_broker() as broker, Proxy(broker.url) as proxy:
        losses = Signal()
        client = client_of(proxy, heartbeat_interval=None)
        client.on_disconnect(losses)
        async with client:
            proxy.set(STALLED, Direction.DOWN, connections="existing")
            before = proxy.stats.received_up
            with pytest.raises(RequestTimeoutError):
                await client.request("system.heartbeat", {}, timeout=300)
            assert losses.count == 0
            assert proxy.stats.received_up > before
