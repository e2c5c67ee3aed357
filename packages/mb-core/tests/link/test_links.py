"""Links over real sockets: messages, back-pressure, what is unsent, and progress."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core.errors import ConnectionLost
from mb_core.link import FLUSH_AT, Link
from mb_tcp import LengthPrefixWire

from .real_links import BLOCK, congest, framed, of_framed, of_plain, of_tcp

pytestmark = pytest.mark.anyio
of_secure = pytest.mark.parametrize("kind", ["tls", "wss"])


# Opening


async def test_a_link_knows_its_peer(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address)
        accepted = await server.handler()
        assert client.link.peer == f"127.0.0.1:{server.address[1]}"
        assert accepted.link.peer.startswith("127.0.0.1:")
        assert accepted.link.peer != client.link.peer


# Sending


class CountingWire(LengthPrefixWire):
    """Counts how often it was asked for output and had some: each time is one write."""

    writes = 0

    def data_to_send(self) -> bytes:
        data = super().data_to_send()
        self.writes += bool(data)
        return data


@of_tcp
async def test_the_little_that_is_sent_in_one_turn_leaves_in_one_write(
    net: Any, tools: Any
) -> None:
    wire = CountingWire(tools.limits)
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, wire=wire)
        accepted = await server.handler()
        for n in range(100):
            client.link.send(b"%d" % n)
        client.link.send_many([b"x"] * 100)
        await accepted.receive(200)
        assert wire.writes == 1
        client.link.send(b"later")
        await accepted.receive(201)
        assert wire.writes == 2


@of_tcp
async def test_on_asyncio_who_sends_once_in_a_turn_does_not_wait_for_its_end(
    net: Any, tools: Any, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio writes in a task of its own")
    wire = CountingWire(tools.limits)
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, wire=wire)
        accepted = await server.handler()
        sent, writes = 0, []
        for count in (1, 1, 3, 2, 1, 1):
            for _ in range(count):
                client.link.send(b".")
            sent += count
            writes.append(wire.writes)
            await accepted.receive(sent)
        # At once from the second on; of three the first; of what comes after several, none.
        assert writes == [0, 2, 3, 4, 5, 7]


@of_tcp
async def test_on_asyncio_a_long_turn_is_written_in_few_and_growing_parts(
    net: Any, tools: Any, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio writes in a task of its own")
    wire = CountingWire(tools.limits)
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, wire=wire)
        parts = [0]
        while not client.link.congested:
            client.link.send(b"." * 64)
            if client.link.unsent == 0:
                parts.append(client.link.bytes_sent - sum(parts))
        assert parts == [0, 8_192, 8_192, 16_384, 32_768]
        assert wire.writes == len(parts) - 1


@of_tcp
async def test_a_turn_with_much_to_send_is_congested_until_the_loop_had_its_turn(
    net: Any,
) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        assert not client.link.congested
        await client.link.drain()  # at once
        sent = 0
        while not client.link.congested:
            client.link.send(BLOCK)
            sent += 1
        assert FLUSH_AT <= sent * (len(BLOCK) + 4) < FLUSH_AT + len(BLOCK) + 4
        await client.link.drain()
        assert not client.link.congested
        assert await server.receive(sent) == [BLOCK] * sent


@of_framed
async def test_unsent_is_what_the_system_has_not_taken_yet(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        assert accepted.link.unsent == 0
        sent = await congest(accepted.link)
        assert 0 < accepted.link.unsent <= sent * (len(BLOCK) + 100)
        received = 0
        while received < sent * (len(BLOCK) + 4):
            received += len(await peer.receive())
        await accepted.link.drain()
        await anyio.wait_all_tasks_blocked()
        assert accepted.link.unsent == 0
        await peer.aclose()
        await accepted.end()
        assert accepted.link.unsent == 0


@of_framed
@pytest.mark.parametrize("how", ["abort", "reset", "close timeout"])
async def test_a_lost_connection_ends_the_wait_of_drain(net: Any, tools: Any, how: str) -> None:
    drained = []

    async def drain(link: Link) -> None:
        await link.drain()
        drained.append(link)

    with anyio.fail_after(5):
        server = await net.listen(close_timeout=0.05)
        peer = await net.raw(server)
        accepted = await server.handler()
        await congest(accepted.link)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(drain, accepted.link)
            await anyio.wait_all_tasks_blocked()
            assert drained == []
            if how == "abort":
                accepted.link.abort()
            elif how == "close timeout":
                accepted.link.close()
            else:
                tools.reset(peer)
                await anyio.aclose_forcefully(peer)
        assert len(drained) == 3
        await accepted.end()
        await accepted.link.drain()
        await anyio.aclose_forcefully(peer)


async def test_sending_on_a_closing_or_lost_link_says_that_it_was_not_sent(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.close()
        with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:\d+ is closed") as closing:
            client.link.send(b"late")
        assert not closing.value.sent
        assert await server.end() is None
        for handler in (client, server):
            await handler.end()
            with pytest.raises(ConnectionLost) as lost:
                handler.link.send_many([b"late"])
            assert not lost.value.sent
        assert server.messages == client.messages == []


# What is unsent


async def test_all_that_was_sent_is_unsent_until_it_is_written(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        assert client.link.unsent == server.link.unsent == 0
        message = BLOCK[:1000]  # not so much that it would be written at once
        for count in (1, 2, 3):
            client.link.send(message)
            # The frame's header comes on top.
            assert 0 <= client.link.unsent - count * len(message) <= count * 14
        await server.receive(3)
        assert client.link.unsent == 0
        client.link.send(b"")
        await server.receive(4)
        assert client.link.unsent == 0


@of_plain
async def test_what_a_peer_does_not_read_is_unsent_and_less_when_it_reads(
    net: Any, tools: Any
) -> None:
    with anyio.fail_after(10):
        server = await net.listen()
        peer = await net.raw(server)
        if net.kind == "ws":
            await peer.send(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Sec-WebSocket-Version: 13\r\n\r\n"
            )
        accepted = await server.handler()
        await congest(accepted.link)
        stalled = accepted.link.unsent
        assert stalled > 0
        # One that ignores it: nothing is lost count of.
        for _ in range(100):
            accepted.link.send(BLOCK)
        await anyio.wait_all_tasks_blocked()
        assert accepted.link.unsent >= stalled + 100 * len(BLOCK)
        while accepted.link.unsent:
            await peer.receive()
        assert not accepted.link.congested
        await peer.aclose()


@of_tcp
async def test_what_was_written_is_not_unsent_though_more_is_sent_all_the_time(net: Any) -> None:
    with anyio.fail_after(10):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        # More than the kernel ever takes: there is always something on its way.
        accepted.link.send_many([BLOCK] * 1000)
        backlog = accepted.link.unsent
        received = 0
        for count in range(1, 3001):
            accepted.link.send(BLOCK)
            while received < count * (len(BLOCK) + 4):
                received += len(await peer.receive())
        # One write of all that there is may count until it is through.
        assert 0 < accepted.link.unsent < 2.5 * backlog
        await peer.aclose()


# How far it has come


@of_framed
async def test_each_part_of_a_message_is_progress(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        for part in (framed(BLOCK)[:1], framed(BLOCK)[1:50], framed(BLOCK)[50:-1]):
            before = accepted.link.progress
            await peer.send(part)
            while accepted.link.progress == before:
                await anyio.lowlevel.checkpoint()
        assert accepted.messages == []
        await anyio.aclose_forcefully(peer)


@of_framed
async def test_what_the_system_takes_at_once_is_no_progress_and_a_backlog_that_shrinks_is(
    net: Any,
) -> None:
    with anyio.fail_after(10):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        at_first = accepted.link.progress
        accepted.link.send(b"little")
        while accepted.link.unsent:
            await anyio.lowlevel.checkpoint()
        assert accepted.link.progress == at_first
        # One message alone, of which the system takes a part.
        accepted.link.send(b"x" * 64_000_000)
        await until_still(accepted.link)
        assert accepted.link.unsent > 0
        for _ in range(3):
            before = accepted.link.progress
            while accepted.link.progress == before:
                await peer.receive()
            await until_still(accepted.link)
        await anyio.aclose_forcefully(peer)
        await accepted.end()


async def until_still(link: Link) -> None:
    """Wait until nothing moves any more."""
    before = -1
    while link.progress > before:
        before = link.progress
        await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("how", ["abort", "close", "reset"])
async def test_nothing_is_unsent_on_a_link_that_is_over(net: Any, tools: Any, how: str) -> None:
    with anyio.fail_after(10):
        client, server = await net.pair(close_timeout=0.05)
        server.link.send_many([BLOCK] * 500)
        if how == "reset":
            client.link.abort()
        else:
            getattr(server.link, how)()
        await server.end()
        assert server.link.unsent == 0
