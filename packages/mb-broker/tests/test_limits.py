"""What a client may leave unread: who goes over a limit is cut off, and affects no other."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_core import ConnectError
from mb_testing import until

from .limited import (
    BLOCK,
    ID,
    LEAST_UNREAD,
    UPGRADE,
    Connect,
    flood,
    framed,
    metric,
    port_of,
    read_to_end,
    subscription,
    urls,
)

pytestmark = pytest.mark.anyio
kinds = pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
streams = pytest.mark.parametrize("scheme", ["tcp", "ws"])


async def send_until_refused(stream: anyio.abc.ByteStream) -> None:
    """Send on a stream whose other end is gone: the system says so soon."""
    with contextlib.suppress(anyio.BrokenResourceError):
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.001)


# max_connections


async def what_is_said(connect: Connect, url: str) -> str:
    """The error for a client that is refused."""
    try:
        client = await connect(url, greeted=False)
    except ConnectError as error:
        # Over WebSocket it may come in one piece: then there never was a connection.
        return str(error)
    header, _, payload = (await client.receive()).partition(b"\n")
    assert header == b"response:error:1.0.0"
    error = json.loads(payload)["error"]
    assert error["code"] == "SERVICE_UNAVAILABLE"
    await client.lost.wait()
    return str(error["message"])


@kinds
async def test_one_too_many_is_turned_away_with_the_limit_and_the_others_stay(
    scheme: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=2) as broker:
            first, second = [await connect(broker.url_of(scheme)) for _ in range(2)]
            limit = "the broker is full: max_connections is 2"
            words = await what_is_said(connect, broker.url_of(scheme))
            assert words.endswith(limit)
            assert broker.connections == 2
            (text,) = caplog.messages
            assert text.endswith(f" refused: {limit}")
            await first.is_served()
            assert await metric(first, "connection.rejected.total") == 1
            # A place that becomes free can be taken.
            await second.close()
            await until(lambda: broker.connections == 1)
            await (await connect(broker.url_of(scheme))).is_served()


async def test_what_a_client_says_that_was_turned_away_is_ignored(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=1) as broker:
            client = await connect(broker.url_of("memory"))
            await client.subscribe("a.b")
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as stranger:
                await stranger.send(framed(b"publish:a.b:1.0.0\n{}", subscription("a.b")))
                assert (await read_to_end(stranger)).count(b"response:") == 1
            await client.is_served()


@streams
async def test_who_was_turned_away_and_stays_is_gone_when_the_broker_ends(
    scheme: str, connect: Connect
) -> None:
    async with AsyncExitStack() as stack:
        with anyio.fail_after(3):  # and not after the close time limit
            async with Broker(*urls(), max_connections=1, close_timeout=60_000) as broker:
                await connect(broker.url_of("memory"))
                stranger = await stack.enter_async_context(
                    await anyio.connect_tcp("127.0.0.1", port_of(broker, scheme))
                )
                await stranger.send(UPGRADE if scheme == "ws" else b"\0\0\0\1")
                while b"max_connections" not in await stranger.receive():
                    pass
            await send_until_refused(stranger)


async def test_who_was_turned_away_and_stays_is_cut_off_at_the_close_time_limit(
    connect: Connect,
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=1, close_timeout=50) as broker:
            client = await connect(broker.url_of("memory"))
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as stranger:
                assert b"max_connections" in await read_to_end(stranger)
                await send_until_refused(stranger)
            await client.is_served()


# max_unread


class Deaf:
    """A client that subscribes over TCP and then reads nothing."""

    def __init__(self, broker: Broker) -> None:
        self.socket = socket.socket()
        # A small buffer: what the kernel takes is not counted as unread.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port_of(broker, "tcp")))

    def say(self, *messages: bytes) -> None:
        self.socket.sendall(framed(*messages))


@pytest.fixture
async def deaf() -> AsyncIterator[Callable[[Broker], Deaf]]:
    made: list[Deaf] = []

    def make(broker: Broker) -> Deaf:
        made.append(Deaf(broker))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()


async def subscribers(client: Any) -> int:
    topics = (await client.ask("topic.list", {}))["topics"]
    return sum(len(topic["subscribers"]) for topic in topics)


async def test_a_subscriber_that_does_not_read_is_cut_off_and_its_neighbour_gets_all(
    connect: Connect, deaf: Callable[[Broker], Deaf], caplog: pytest.LogCaptureFixture
) -> None:
    unread = 1_000_000
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=unread) as broker:
            publisher = await connect(broker.url_of("memory"))
            neighbour = await connect(broker.url_of("tcp"))
            await neighbour.subscribe("a.b")
            deaf(broker).say(subscription("a.b"))
            while await subscribers(publisher) < 2:
                pass
            assert broker.connections == 3
            sent = await flood(publisher, "a.b", lambda: broker.connections == 2)
            for _ in range(sent):
                assert (await neighbour.receive()).endswith(BLOCK.encode())
            await neighbour.is_served()
            (text,) = caplog.messages
            found = re.fullmatch(
                r"127\.0\.0\.1:\d+ does not read: (\d+) bytes are waiting for it, "
                r"the limit is 1000000 \(max_unread\); it is cut off",
                text,
            )
            assert found is not None
            # Not many more than one turn of the loop adds.
            assert unread < int(found[1]) < unread + 500_000
            assert await metric(neighbour, "connection.cutoff.total") == 1
            assert await metric(neighbour, "connection.active") == 2


async def test_an_auditor_that_does_not_read_is_cut_off(
    connect: Connect, deaf: Callable[[Broker], Deaf], caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            client = await connect(broker.url_of("memory"))
            deaf(broker).say(subscription("system.message"))
            while await subscribers(client) < 1:
                pass
            while broker.connections == 2:
                await client.is_served()
            assert "it is cut off" in caplog.text
            assert await subscribers(client) == 0
            await client.is_served()


async def test_a_follower_of_the_log_that_does_not_read_is_cut_off_and_others_are_told(
    connect: Connect, deaf: Callable[[Broker], Deaf]
) -> None:
    follow = f'request:system.log.subscribe:1.0.0:{ID}\n{{"levels":["info","warn"]}}'.encode()
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            follower, client = [await connect(broker.url_of("memory")) for _ in range(2)]
            follower.send(follow)
            await follower.receive()
            deaf(broker).say(follow)
            while await subscribers(client) < 2:
                pass
            register = b'request:system.service.register:1.0.0\n{"name":"%b","description":"x"}'
            while broker.connections == 3:
                client.send(*[register % (b"\xe2\x98\x83" * 36)] * 100)
                while len(client.inbox) < 100:
                    await anyio.lowlevel.checkpoint()
                client.inbox.clear()
            while b"it is cut off" not in await follower.receive():
                pass
            await client.is_served()


async def test_an_entry_about_a_cut_off_needs_no_other_traffic(
    connect: Connect, deaf: Callable[[Broker], Deaf]
) -> None:
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            publisher, follower = [await connect(broker.url_of("memory")) for _ in range(2)]
            await follower.ask("log.subscribe", {"levels": ["warn"]})
            deaf(broker).say(subscription("a.b"))
            while await subscribers(publisher) < 2:
                pass
            await flood(publisher, "a.b", lambda: bool(follower.inbox))
            assert b"(max_unread); it is cut off" in await follower.receive()


async def test_who_reads_slowly_is_not_cut_off_for_what_it_has_read(connect: Connect) -> None:
    with anyio.fail_after(20):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            publisher = await connect(broker.url_of("memory"))
            reader = await connect(broker.url_of("tcp"))
            await reader.subscribe("a.b")
            # Never without something on its way, and never with much of it.
            for _ in range(8):
                publisher.send(f"publish:a.b:1.0.0\n{BLOCK}")
            for _ in range(400):
                publisher.send(f"publish:a.b:1.0.0\n{BLOCK}")
                await reader.receive()
            for _ in range(8):
                await reader.receive()
            await reader.is_served()
            assert await metric(reader, "connection.cutoff.total") == 0
