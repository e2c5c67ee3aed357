"""A client's figures, in exchanges in which each of them is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from mb_core import (
    ClientStats,
    ConnectError,
    ConnectionLost,
    MessageBrokerClient,
    NoRouteFoundError,
    RequestTimeoutError,
)
from mb_core.stats import Latencies, Traffic
from mb_testing import until

from .gone_broker import QUICK, Outcome
from .scripted import GREETING, VIRTUAL_TIME, ScriptedBroker, error
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

NOTHING = ClientStats(
    connected=True,
    messages_sent=0,
    bytes_sent=0,
    messages_received=1,
    bytes_received=len(GREETING),
    pending=0,
    buffered=0,
    buffered_bytes=0,
    dropped=0,
    dropped_publishes=0,
    unroutable=0,
    late_answers=0,
    reconnects=0,
    latency=None,
)


async def settles(client: MessageBrokerClient, expected: ClientStats) -> None:
    """What is sent counts when it was handed to the system, a turn of the loop later."""
    with anyio.move_on_after(5):
        await until(lambda: replace(client.stats(), latency=None) == expected)
    assert replace(client.stats(), latency=None) == expected


# An exchange


async def test_every_message_and_its_bytes_are_counted_both_ways(
    scripted: ScriptedBroker,
) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=None) as client:
        connection = scripted.connections[0]
        await settles(client, NOTHING)

        await client.publish("a.b", "x" * 100)
        sent = len(b'publish:a.b:1.0.0\n""') + 100
        await settles(client, replace(NOTHING, messages_sent=1, bytes_sent=sent))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.request, "c", [1])
                request = await connection.wait_for(b"request:c:")
                sent += len(request)
                waiting = replace(NOTHING, messages_sent=2, bytes_sent=sent, pending=1)
                await settles(client, waiting)
                connection.answer(request, b'"grue\xc3\x9fe"')
        received = len(GREETING) + len(request.split(b"\n")[0]) + len(b'response\n"grue\xc3\x9fe"')
        received -= len(b"request") + len(b"::30000")
        stats = replace(
            NOTHING,
            messages_sent=2,
            bytes_sent=sent,
            messages_received=2,
            bytes_received=received,
        )
        await settles(client, stats)

        # The broker's own question, and the answer to it.
        connection.send(b"request:system.heartbeat:1.0.0\n{}")
        stats = replace(
            stats,
            messages_sent=3,
            bytes_sent=sent + len(b"response:system.heartbeat:1.0.0\n{}"),
            messages_received=3,
            bytes_received=received + len(b"request:system.heartbeat:1.0.0\n{}"),
        )
        await settles(client, stats)
    assert client.stats().messages_received == 3
    assert not client.stats().connected


async def test_figures_go_on_across_reconnects_and_failed_tries(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=None) as client:
            watch = Watch(client)
            events = await client.subscribe("a")
            before = client.stats()
            assert before.messages_sent == 1
            assert before.messages_received == 2
            # A try that fails: it has heard a word instead of the greeting, and that counts.
            scripted.greeting = b"response:error:1.0.0\n" + error("NO_ROOM")
            await scripted.connections[0].drop()
            await watch.disconnects(1)
            gone = client.stats()
            assert not gone.connected
            assert gone.reconnects == 0
            await until(lambda: len(scripted.connections) >= 2)
            scripted.greeting = GREETING
            await watch.connects(1)
            tries = len(scripted.connections)
            # The subscription was sent, and its answer and the greeting received, once more.
            subscribing = before.bytes_sent
            refused = (tries - 2) * len(b"response:error:1.0.0\n" + error("NO_ROOM"))
            await settles(
                client,
                replace(
                    before,
                    messages_sent=2,
                    bytes_sent=2 * subscribing,
                    messages_received=2 * before.messages_received + tries - 2,
                    bytes_received=2 * before.bytes_received + refused,
                    reconnects=1,
                    latency=None,
                ),
            )
            scripted.connections[-1].send(b"publish:a:1.0.0\n1")
            await anext(events)
            assert client.stats().messages_received == 2 * before.messages_received + tries - 1
            for number in range(2, 5):
                await scripted.connections[-1].drop()
                await watch.connects(number)
                assert client.stats().reconnects == number


async def test_what_waits_and_what_was_dropped_is_counted(scripted: ScriptedBroker) -> None:
    one = len(b"publish:a:1.0.0\n1")
    options: dict[str, Any] = {"publish_buffer": 3 * one, "buffer_overflow": "drop_oldest"}
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK, **options, drain_timeout=0) as client,
            anyio.create_task_group() as tasks,
        ):
            watch = Watch(client)
            events = await client.subscribe("few", queue_size=2)
            scripted.connections[0].send(*[b"publish:few:1.0.0\n1"] * 5)
            await until(lambda: client.stats().dropped == 3)
            assert events.dropped == 3
            await scripted.stop()
            await watch.disconnects(1)
            for number in range(8):
                await client.publish("a", number)
            request = Outcome(tasks, lambda: client.request("b", 1, retry=True))
            await anyio.wait_all_tasks_blocked()
            stats = client.stats()
            assert (stats.buffered, stats.buffered_bytes) == (3, 3 * one)
            assert stats.dropped_publishes == 5
            assert stats.pending == 1
            assert stats.dropped == 3
            request.scope.cancel()
        stats = client.stats()
        assert (stats.buffered, stats.buffered_bytes, stats.pending) == (0, 0, 0)
        assert (stats.dropped, stats.dropped_publishes) == (3, 5)


async def test_what_nobody_is_subscribed_to_is_counted_each_time(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            for number in range(20):
                await client.publish("nobody.listens", number)
            await until(lambda: client.stats().unroutable == 20)
            with pytest.raises(NoRouteFoundError):
                await client.publish("nobody.listens", {}, confirm=True)
            assert client.stats().unroutable == 20


async def test_before_there_was_a_connection_all_is_nothing(free_port: int) -> None:
    client = MessageBrokerClient(f"tcp://127.0.0.1:{free_port}")
    assert client.stats() == ClientStats()
    with pytest.raises(ConnectError):
        await client.connect()
    assert client.stats() == ClientStats()


async def test_figures_can_be_read_after_the_end(mb_broker: Any) -> None:
    client = MessageBrokerClient(mb_broker.url)
    await client.connect()
    await client.request("system.heartbeat", {})
    before = client.stats()
    await client.close()
    assert client.stats() == replace(before, connected=False)


# Latency


@VIRTUAL_TIME
async def test_the_latency_is_that_of_answers_in_milliseconds(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            connection = scripted.connections[0]
            begun = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.request, "slow", {})
                request = await connection.wait_for(b"request:slow:")
                await anyio.sleep(0.1)
                connection.answer(request)
            most = 1000 * (anyio.current_time() - begun)
            latency = client.stats().latency
            assert latency is not None
            assert latency.count == 1
            assert 99 < latency.median <= most
            assert latency.median == latency.p99 == latency.longest

            # The time limit has no part in it.
            scripted.answers["quick"] = b"{}"
            for timeout in (1_000, 3_600_000):
                await client.request("quick", {}, timeout=timeout)
            latency = client.stats().latency
            assert latency is not None
            assert latency.count == 3
            assert latency.median < 99 < latency.longest


@VIRTUAL_TIME
async def test_errors_have_no_latency(scripted: ScriptedBroker) -> None:
    scripted.answers["refused"] = error("FORBIDDEN")
    calls: list[tuple[type[Exception], Callable[[MessageBrokerClient], Any]]] = [
        (Exception, lambda client: client.request("refused", {})),
        (RequestTimeoutError, lambda client: client.request("silent", {}, timeout=1)),
    ]
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            for kind, call in calls:
                with pytest.raises(kind):
                    await call(client)
            async with anyio.create_task_group() as tasks:
                lost = Outcome(tasks, lambda: client.request("silent", {}))
                await scripted.connections[0].wait_for(b"request:silent:", 2)
                await scripted.connections[0].drop()
                assert isinstance(await lost.lost(), ConnectionLost)
            assert client.stats().latency is None


def test_latencies_are_those_of_the_last_thousand() -> None:
    latencies = Latencies()
    assert latencies.summary() is None
    for number in range(5_000):
        latencies.add(number / 1000)
    summary = latencies.summary()
    assert summary is not None
    assert summary.count == 1000
    assert (summary.median, summary.p99, summary.longest) == (4_500, 4_990, 4_999)


@pytest.mark.parametrize(
    ("count", "median", "p99"), [(1, 0, 0), (2, 1, 1), (3, 1, 2), (100, 50, 99), (101, 50, 99)]
)
def test_figures_of_few_latencies_are_among_them(count: int, median: int, p99: int) -> None:
    latencies = Latencies()
    for number in reversed(range(count)):
        latencies.add(number / 1000)
    summary = latencies.summary()
    assert summary is not None
    assert (summary.count, summary.longest) == (count, count - 1)
    assert (summary.median, summary.p99) == (median, p99)


def test_traffic_adds_up() -> None:
    assert Traffic(1, 2, 3, 4) + Traffic(10, 20, 30, 40) == Traffic(11, 22, 33, 44)
    assert Traffic() + Traffic() == Traffic()
