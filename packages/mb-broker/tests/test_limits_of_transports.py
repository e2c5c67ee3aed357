"""Limits over third-party transports, and of answers that are not read."""

from __future__ import annotations

import itertools
import re
import socket
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_core.plugins import Plugins
from mb_core.wire import Limits
from mb_testing import until

from .faulty_links import FaultyPlugin, FaultyTransport
from .limited import (
    BLOCK,
    ID,
    LEAST_UNREAD,
    UPGRADE,
    Connect,
    framed,
    port_of,
    subscription,
    tls_contexts,
    urls,
)

pytestmark = pytest.mark.anyio
LARGE = Limits(max_message=16_000_000)


# A transport of somebody else's


async def test_a_link_that_ends_within_its_abort_is_cut_off_once_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread=LEAST_UNREAD) as broker:
            stalled = [transport.join(f"stalled {n}") for n in range(3)]
            reader = transport.join("reader")
            for link in (*stalled, reader):
                link.handler.messages_received([subscription("a.b")])
            reader.congested = False
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            reader.handler.messages_received([publish] * 17)
            assert [link.aborted for link in stalled] == [1, 1, 1]
            assert reader.aborted == 0
            assert broker.connections == 1
            # One entry per second, for all of them.
            assert len([text for text in caplog.messages if "does not read" in text]) == 1


async def test_a_link_that_can_not_pause_is_cut_off_for_what_it_sends_without_reading(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread=LEAST_UNREAD) as broker:
            link = transport.join("sender")
            link.handler.messages_received([subscription("a.b")])
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            link.handler.messages_received([publish] * 5)
            unread = link.unsent
            assert LEAST_UNREAD // 4 < unread < LEAST_UNREAD // 2
            link.handler.messages_received([publish] * 5)
            assert link.unsent == unread  # it has to read first
            link.congested, link.unsent = False, 0
            link.relieved.set()
            while not link.unsent:
                await anyio.lowlevel.checkpoint()
            assert link.unsent > 5 * len(BLOCK)
            link.congested, link.relieved = True, anyio.Event()
            link.handler.messages_received([publish])
            while not link.aborted:
                link.handler.messages_received([publish] * 10)
            assert re.search(r"sender sends too fast: \d+ bytes from it are waiting", caplog.text)
            assert broker.connections == 0


async def test_tiny_messages_that_wait_count_with_the_memory_that_they_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count, limit = 100_000, 1_000_000
    assert 2 * count < limit
    with anyio.fail_after(30):
        async with Broker("faulty://", plugins=plugins, max_unread_total=limit) as broker:
            link, reader = transport.join("sender"), transport.join("reader")
            link.congested = reader.congested = False
            link.handler.messages_received([b"xx"] * count)
            assert broker.connections == 1
            assert re.search(
                r"sender sends too fast: \d+ bytes from it are waiting, of ", caplog.text
            )
            assert not reader.aborted


async def test_what_a_client_sent_before_it_left_takes_its_turn() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count = 20_000  # more than is handled as it comes
    with anyio.fail_after(30):
        async with Broker("faulty://", plugins=plugins) as broker:
            reader, leaving = transport.join("reader"), transport.join("leaving")
            reader.congested = leaving.congested = False
            reader.handler.messages_received([subscription("a.b")])
            greeting = reader.unsent
            leaving.handler.messages_received([b"publish:a.b:1.0.0\n"] * count)
            before = reader.unsent
            leaving.abort()
            assert reader.unsent == before
            assert broker.connections == 2
            await until(lambda: broker.connections == 1)
            assert reader.unsent - greeting == count * len(f"publish:a.b:1.0.0:{ID}\n")


async def test_a_broker_ends_though_clients_that_left_have_messages_waiting() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins) as broker:
            for number in range(20):
                link = transport.join(f"client {number}")
                link.congested = False
                link.handler.messages_received([b"publish:a.b:1.0.0\n"] * 20_000)
                link.abort()
    assert broker.connections == 0


@pytest.mark.parametrize("feed", ["", "system.message", "system.log"])
async def test_messages_are_handled_one_at_a_time_where_each_is_an_event_for_a_follower(
    feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count = 64
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins):
            reader, sender = transport.join("reader"), transport.join("sender")
            reader.congested = sender.congested = False
            reader.handler.messages_received([subscription("a.b")])
            if feed == "system.message":
                follower = transport.join("follower")
                follower.handler.messages_received([subscription(feed)])
            elif feed:
                follower = transport.join("follower")
                follow = b'request:system.log.subscribe:1.0.0\n{"levels":["debug"]}'
                follower.handler.messages_received([follow])
            # The time is over at the second look at it.
            looks = itertools.count(step=0.0015)
            with monkeypatch.context() as patch:
                patch.setattr("mb_broker.connections.time.perf_counter", looks.__next__)
                before = reader.unsent
                sender.handler.messages_received([b"publish:a.b:1.0.0\n"] * count)
                size = len(f"publish:a.b:1.0.0:{ID}\n")
                assert reader.unsent - before == (size if feed else count * size)
            await until(lambda: reader.unsent - before == count * size)


async def test_the_sum_of_what_is_unread_has_a_limit_and_the_worst_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread_total=1_000_000) as broker:
            links = [transport.join(f"client {n}") for n in range(10)]
            for number, link in enumerate(links):
                for topic in range(number + 1):
                    link.handler.messages_received([subscription(f"t{topic}")])
            publisher = transport.join("publisher")
            publisher.congested = False
            round_ = [f"publish:t{n}:1.0.0\n{BLOCK}".encode() for n in range(10)]
            # Of each round, the client N gets N + 1 messages: 55 of 16 kB in all.
            publisher.handler.messages_received(round_)
            assert not [link for link in links if link.aborted]
            publisher.handler.messages_received(round_)
            aborted = [link.peer for link in links if link.aborted]
            assert "client 9" in aborted
            assert not {"client 0", "client 1", "client 2", "client 3"} & {*aborted}
            assert sum(link.unsent for link in links if not link.aborted) < 1_100_000
            assert re.search(
                r"client 9 does not read: \d+ bytes are waiting for it, of \d+ for all clients, "
                r"the limit is 1000000 \(max_unread_total\); it is cut off",
                caplog.text,
            )
            assert broker.connections == 11 - len(aborted)


# Questions whose answers are not read; and more of them than fit into one go


async def test_who_does_not_read_the_answers_is_not_read_from_until_it_does(
    connect: Connect,
) -> None:
    topics = {f"t{number}x{'a' * 200}" for number in range(600)}
    question = b"request:system.topic.list:1.0.0:%b\n{}" % ID.encode()
    with anyio.fail_after(30):
        async with Broker(*urls()) as broker:
            client = await connect(broker.url_of("tcp"), limits=LARGE)
            for topic in topics:
                await client.subscribe(topic)
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as greedy:
                await greedy.send(framed(*[question] * 400))
                # 80 MB are asked for, and the broker holds a little of that for it.
                for _ in range(200):
                    await client.is_served()
                connections = broker._connections.by_service.values()
                (held,) = [each.buffered for each in connections if each.stalled]
                assert held < 5_000_000
                # It reads, and gets them all.
                read, answers = b"", 0
                while answers < 401:
                    read += await greedy.receive(1 << 20)
                    while len(read) >= 4 and len(read) >= (end := 4 + int.from_bytes(read[:4])):
                        answers += 1
                        read = read[end:]
                await greedy.send(framed(b"request:system.heartbeat:1.0.0:%b\n{}" % ID.encode()))
                assert b"success" in await greedy.receive()


@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
async def test_many_messages_at_once_are_handled_in_order_up_to_the_end(
    scheme: str, connect: Connect
) -> None:
    count = 1_000
    with anyio.fail_after(10):
        async with Broker(*urls()) as broker:
            subscriber = await connect(broker.url_of("memory"))
            await subscriber.subscribe("a.b")
            client = await connect(broker.url_of(scheme))
            lists = f"request:system.service.list:1.0.0:{ID}\n{{}}"
            for number in range(count):
                client.send(f"publish:a.b:1.0.0\n{number}")
                if number % 100 == 0:
                    client.send(lists)
            await client.close()
            for number in range(count):
                assert (await subscriber.receive()).endswith(b"\n%d" % number)


async def test_a_slow_reader_is_spared_as_long_as_it_reads() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    limits: Any = {"max_unread": LEAST_UNREAD, "heartbeat_after": 20, "drop_after": 40}
    with anyio.fail_after(10):
        async with Broker("faulty://", plugins=plugins, **limits) as broker:
            reader, publisher = transport.join("reader"), transport.join("publisher")
            publisher.congested = False
            reader.handler.messages_received([subscription("a.b")])
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            publisher.handler.messages_received([publish] * 10)
            connections = broker._connections.by_service.values()
            (connection,) = [each for each in connections if each.stalled]
            for _ in range(3):
                seen = connection.unread
                reader.unsent -= 5_000
                await until(lambda seen=seen: connection.unread != seen)  # type: ignore[misc]
                assert not reader.aborted
            await until(lambda: bool(reader.aborted))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("pause", [False, True], ids=["reads", "reads later"])
async def test_a_flood_of_pings_is_answered_whole_and_what_follows_is_handled(
    scheme: str, pause: bool
) -> None:
    server, trusting = tls_contexts()
    count = 20_000
    question = f"request:system.heartbeat:1.0.0:{ID}\n{{}}".encode()
    with anyio.fail_after(30):
        async with (
            Broker(f"{scheme}://127.0.0.1:0", ssl_context=server) as broker,
            await anyio.connect_tcp(
                "127.0.0.1",
                port_of(broker, scheme),
                ssl_context=trusting if scheme == "wss" else None,
                tls_standard_compatible=False,
            ) as stream,
            anyio.create_task_group() as tasks,
        ):
            received = b""

            async def read_until(text: bytes) -> None:
                nonlocal received
                while text not in received:
                    received += await stream.receive()

            await stream.send(UPGRADE)
            await read_until(b"system.initialize:1.0.0\n{}")
            received = b""
            flood = b"\x89\x80\0\0\0\0" * count
            head = bytes((0x81, 0x80 | len(question))) + bytes(4)
            tasks.start_soon(stream.send, flood + head + question)
            if pause:
                [connection] = broker._connections.by_service.values()
                connection.link.pause_reading()
                for _ in range(100):
                    await anyio.lowlevel.checkpoint()
                connection.link.resume_reading()
            await read_until(b"success")
            assert received.count(b"\x8a\x00") == count
            assert received.startswith(b"\x8a\x00" * count)


async def test_pings_count_as_output_that_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
    with anyio.fail_after(20), socket.socket() as flooder:
        async with Broker("ws://127.0.0.1:0", max_unread=LEAST_UNREAD) as broker:
            flooder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flooder.connect(("127.0.0.1", port_of(broker, "ws")))
            flooder.sendall(UPGRADE)
            await until(lambda: broker.connections == 1)
            flooder.setblocking(False)
            while broker.connections:
                try:
                    flooder.send(ping * 500)
                except (BlockingIOError, ConnectionError):
                    await anyio.lowlevel.checkpoint()
            assert re.search(r"does not read: \d+ bytes are waiting for it", caplog.text)
