"""Links over real sockets: every promise of the contract, on each event loop, of each kind."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core.errors import ConnectError, ConnectionLost, MessageTooLarge, RemoteProtocolError
from mb_core.link import FLUSH_AT, Link
from mb_tcp import LengthPrefixWire

pytestmark = pytest.mark.anyio

of_tcp = pytest.mark.parametrize("kind", ["tcp"])
of_ws = pytest.mark.parametrize("kind", ["ws"])
of_plain = pytest.mark.parametrize("kind", ["tcp", "ws"])
of_secure = pytest.mark.parametrize("kind", ["tls", "wss"])
of_framed = pytest.mark.parametrize("kind", ["tcp", "tls"])
with_handshake = pytest.mark.parametrize("kind", ["ws", "tls", "wss"])

BLOCK = b"x" * 10_000


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


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


async def congest(link: Link) -> int:
    """Fill a link to a peer that does not read; gives how many messages that takes."""
    sent, written = 0, -1
    # Until nothing moves: on a busy machine, a while of its own says little.
    while written < link.messages_sent:
        written = link.messages_sent
        with anyio.move_on_after(0.05):
            while True:
                link.send(BLOCK)
                sent += 1
                if link.congested:
                    await link.drain()
    return sent


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


# Closing


@of_framed
async def test_what_was_sent_before_close_arrives_at_a_peer_that_goes_on_sending(
    net: Any, tools: Any
) -> None:
    async def send(stream: anyio.abc.ByteStream) -> None:
        with anyio.CancelScope() as sending:
            scopes.append(sending)
            while True:
                await stream.send(framed(BLOCK))

    scopes: list[anyio.CancelScope] = []
    with anyio.fail_after(10):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, peer)
            await accepted.receive(10)
            accepted.link.send_many([BLOCK] * 300)
            accepted.link.close()
            assert await tools.read_to_end(peer) == framed(BLOCK) * 300
            scopes[0].cancel()
        await peer.aclose()
        assert await accepted.end() is None


@of_framed
async def test_what_was_sent_before_close_arrives_at_a_peer_that_sends_all_before_it_reads(
    net: Any, tools: Any
) -> None:
    with anyio.fail_after(20):
        server = await net.listen(close_timeout=20)
        peer = await net.raw(server)
        accepted = await server.handler()
        accepted.link.send_many([BLOCK] * 1500)
        accepted.link.close()
        for _ in range(20):
            await peer.send(framed(BLOCK) * 100)
        assert await tools.read_to_end(peer) == framed(BLOCK) * 1500
        await peer.aclose()
        assert await accepted.end() is None


@of_framed
async def test_a_peer_that_never_ends_is_given_up_at_the_close_time_limit(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(close_timeout=0.05)
        peer = await net.raw(server)
        accepted = await server.handler()
        accepted.link.close()
        error = await accepted.end()
        assert isinstance(error, ConnectionLost)
        assert error.sent
        assert "did not close it within 0.05 s" in str(error)
        await anyio.aclose_forcefully(peer)


@of_framed
async def test_a_peer_that_does_not_read_is_given_up_at_the_close_time_limit(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(close_timeout=0.05)
        peer = await net.raw(server)
        accepted = await server.handler()
        await congest(accepted.link)
        accepted.link.close()
        assert isinstance(await accepted.end(), ConnectionLost)
        await anyio.aclose_forcefully(peer)


@of_framed
async def test_a_reset_while_closing_is_a_lost_connection(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        accepted.link.close()
        assert await tools.read_to_end(peer) == b""
        tools.reset(peer)
        await anyio.aclose_forcefully(peer)
        assert isinstance(await accepted.end(), ConnectionLost)


@of_tcp
@pytest.mark.parametrize("queued", [0, 1, 300])
async def test_closing_behind_a_reset_that_nobody_has_seen_yet_raises_nothing(
    net: Any, queued: int
) -> None:
    with anyio.fail_after(5):
        for _ in range(20):
            server = await net.listen()
            with socket.socket() as peer:
                peer.connect(server.address)
                accepted = await server.handler()
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.link.send_many([BLOCK] * queued)
            accepted.link.close()
            accepted.link.close()
            assert isinstance(await accepted.end(), ConnectionLost)


@of_ws
async def test_a_websocket_peer_that_answers_no_close_is_given_up(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            wire = net.server_wire()
            wire.receive_data(await stream.receive())
            await stream.send(wire.data_to_send())
            await release.wait()

    release = anyio.Event()
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            client = await net.connect(address, close_timeout=0.05)
            client.link.close()
            assert isinstance(await client.end(), ConnectionLost)
            release.set()


async def test_closing_and_aborting_are_safe_at_any_time_and_twice(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.close()
        client.link.close("again")
        assert await client.end() is None
        client.link.close()
        client.link.abort()
        await server.end()
        server.link.abort()
        server.link.abort()
        server.link.close()
        client, server = await net.pair()
        client.link.abort()
        client.link.close()
        client.link.abort()
        assert await client.end() is None
        await server.end()


@of_tcp
async def test_aborting_is_safe_after_an_end_that_waited_for_output(net: Any, tools: Any) -> None:
    def abort_when_lost(link: Link) -> Any:
        def link_lost(error: Any) -> None:
            link.abort()
            lost(error)

        handler = tools.Handler(link)
        lost, handler.link_lost = handler.link_lost, link_lost
        return handler

    with anyio.fail_after(10):
        server = await net.listen(abort_when_lost)
        peer = await net.raw(server)
        accepted = await server.handler()
        accepted.link.send_many([BLOCK] * 1000)
        await peer.send_eof()
        assert await tools.read_to_end(peer) == framed(BLOCK) * 1000
        await peer.aclose()
        await accepted.end()
        accepted.link.abort()
        await anyio.wait_all_tasks_blocked()


async def test_an_abort_ends_at_once_without_an_error_of_our_own(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.send(b"early")
        await server.receive()
        client.link.abort()
        with pytest.raises(ConnectionLost):
            client.link.send(b"late")
        assert await client.end() is None
        error = await server.end()
        if net.kind in ("ws", "wss"):
            assert isinstance(error, RemoteProtocolError | ConnectionLost)


@of_tcp
async def test_an_accepted_link_may_be_closed_by_accept(net: Any, tools: Any) -> None:
    def accept(link: Link) -> Any:
        link.send(b"we are full")
        link.close()
        return tools.Handler(link)

    with anyio.fail_after(5):
        server = await net.listen(accept)
        client = await net.connect(server.address)
        assert await client.end() is None
        assert client.messages == [b"we are full"]
        assert await (await server.handler()).end() is None


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_a_dialled_link_may_be_ended_by_accept(net: Any, tools: Any, method: str) -> None:
    def accept(link: Link) -> Any:
        getattr(link, method)()
        return tools.Handler(link)

    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, accept)
        assert await client.end() is None


@pytest.mark.parametrize("kind", ["ws", "wss"])
async def test_what_came_with_the_farewell_can_not_be_answered(net: Any, tools: Any) -> None:
    def answer(link: Link) -> Any:
        def messages_received(messages: list[bytes]) -> None:
            received(messages)
            with pytest.raises(ConnectionLost) as lost:
                link.send(b"an answer")
            assert not lost.value.sent

        handler = tools.Handler(link)
        received, handler.messages_received = handler.messages_received, messages_received
        return handler

    with anyio.fail_after(5):
        server = await net.listen(answer)
        client = await net.connect(server.address)
        accepted = await server.handler()
        client.link.send(b"last words")
        client.link.close()  # in one piece with them
        assert await accepted.end() is None
        assert accepted.messages == [b"last words"]


# Why a link was lost


@of_framed
async def test_a_peers_plain_end_between_messages_is_in_order(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        await peer.send(framed(b"one", b"two"))
        await peer.aclose()
        accepted = await server.handler()
        assert await accepted.end() is None
        assert accepted.messages == [b"one", b"two"]


@of_framed
async def test_a_peers_end_within_a_message_is_a_protocol_error(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        await peer.send(framed(b"one", b"two")[:-1])
        await peer.aclose()
        accepted = await server.handler()
        assert isinstance(await accepted.end(), RemoteProtocolError)
        assert accepted.messages == [b"one"]


@of_tcp
async def test_what_was_sent_goes_out_behind_the_other_sides_end(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        accepted.link.send_many([BLOCK] * 300)
        await peer.send_eof()
        assert await tools.read_to_end(peer) == framed(BLOCK) * 300
        await peer.aclose()
        assert await accepted.end() is None


async def test_a_reset_is_a_lost_connection_whatever_the_wire_makes_of_it(
    net: Any, tools: Any
) -> None:
    async def pipe(stream: anyio.abc.SocketStream) -> None:
        async with stream, await anyio.connect_tcp(*server.address) as other:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(copy, stream, other)
                tasks.start_soon(copy, other, stream)
                await broken.wait()
                tasks.cancel_scope.cancel()
            tools.reset(stream)
            tools.reset(other)

    async def copy(one: anyio.abc.ByteStream, other: anyio.abc.ByteStream) -> None:
        async for chunk in one:
            await other.send(chunk)

    broken = anyio.Event()
    with anyio.fail_after(5):
        server = await net.listen()
        async with net.raw_server(pipe) as address:
            client = await net.connect(address)
            accepted = await server.handler()
            broken.set()
            for handler in (client, accepted):
                error = await handler.end()
                assert isinstance(error, ConnectionLost)
                assert error.sent
                assert "reset" in str(error)


@pytest.mark.parametrize("from_client", [True, False], ids=["from a client", "from a server"])
async def test_a_message_above_the_limit_ends_the_link_behind_those_before_it(
    net: Any, from_client: bool
) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        sender, receiver = (client, server) if from_client else (server, client)
        sender.link.send_many([b"one", b"x" * 100_001, b"three"])
        error = await receiver.end()
        assert isinstance(error, MessageTooLarge)
        assert error.size == 100_001
        assert receiver.messages == [b"one"]
        told = await sender.end()
        if net.kind in ("ws", "wss"):
            assert isinstance(told, RemoteProtocolError)
            assert "1009" in str(told)
        else:
            assert told is None


# Handshakes


async def send_forever(stream: anyio.abc.ByteStream) -> None:
    while True:
        await stream.send(b"still here")
        await anyio.wait_all_tasks_blocked()


@with_handshake
async def test_a_client_that_says_nothing_is_closed_and_logged(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen(handshake_timeout=0.05)
        async with await anyio.connect_tcp(*server.address) as peer:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await peer.receive()
        assert server.handlers == []
        (line,) = logged()
        assert "did not complete its handshake in 0.05 s" in line


@with_handshake
async def test_a_server_that_says_nothing_is_a_connect_error(net: Any, tools: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await tools.read_to_end(stream)
        ended.set()

    ended = anyio.Event()
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match=r"did not complete its handshake in 0.05 s"):
                await net.connect(address, handshake_timeout=0.05)
            await ended.wait()


@with_handshake
async def test_a_server_that_closes_at_once_is_a_connect_error(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        await stream.aclose()

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="handshake"):
                await net.connect(address)


@with_handshake
async def test_a_server_that_resets_the_handshake_is_a_connect_error(net: Any, tools: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        tools.reset(stream)
        await anyio.aclose_forcefully(stream)

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="reset"):
                await net.connect(address)


@with_handshake
async def test_a_handshake_that_is_none_is_closed_and_logged(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"\0\0\0\x06framed\r\n")
            await tools.read_to_end(peer)
        (line,) = logged()
        assert line.startswith("connection from 127.0.0.1:")
        assert "refused" in line
        assert server.handlers == []
        # The listener lives on.
        client = await net.connect(server.address)
        client.link.send(b"one")
        await (await server.handler()).receive()


@with_handshake
@pytest.mark.parametrize("says", [b"\0\0\0\x06framed\r\n", b""], ids=["garbage", "nothing"])
async def test_who_asks_for_it_hears_of_failed_handshakes_instead_of_the_log(
    net: Any, tools: Any, logged: Callable[[], list[str]], says: bytes
) -> None:
    refused: list[tuple[str, Any]] = []
    with anyio.fail_after(5):
        server = await net.listen(
            handshake_timeout=0.1, refused=lambda peer, error: refused.append((peer, error))
        )
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(says)
            with contextlib.suppress(anyio.BrokenResourceError):
                await tools.read_to_end(peer)
        ((name, error),) = refused
        assert name.startswith("127.0.0.1:")
        assert isinstance(error, ConnectError)
        assert logged() == []


@of_ws
async def test_a_refused_client_can_read_why_though_it_sent_more(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n" + bytes(100_000))
            await peer.send(bytes(100_000))
            await peer.send_eof()
            assert (await tools.read_to_end(peer)).startswith(b"HTTP/1.1 426 ")
        (line,) = logged()
        assert "not a WebSocket handshake: missing Connection header" in line


@of_ws
async def test_a_refused_client_that_never_ends_is_given_up(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(handshake_timeout=0.5, close_timeout=0.1)
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n")
            assert (await tools.read_to_end(peer)).startswith(b"HTTP/1.1 426 ")
            with pytest.raises(anyio.BrokenResourceError):
                await send_forever(peer)


@of_ws
async def test_a_refusal_reaches_the_client_with_status_and_body(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nmembers")

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="HTTP status 403: members"):
                await net.connect(address)


@of_ws
async def test_a_server_that_accepts_and_closes_in_one_chunk_is_a_connect_error(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            wire = net.server_wire()
            wire.receive_data(await stream.receive())
            wire.close("try again later")
            await stream.send(wire.data_to_send())

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(
                ConnectError,
                match="closed the connection after the WebSocket handshake: try again later",
            ):
                await net.connect(address)


@pytest.mark.parametrize("stage", ["connected", "answered"])
@with_handshake
async def test_a_cancelled_connect_leaves_nothing(net: Any, tools: Any, stage: str) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = await stream.receive()
            if stage == "answered" and net.secure:
                # The server's half of the TLS handshake, cut.
                await stream.send(bytes.fromhex("16030300") + bytes([100]) + b"\x02")
            elif stage == "answered":
                assert received.startswith(b"GET ")
                await stream.send(b"HTTP/1.1 101 Switching")
            arrived.set()
            await tools.read_to_end(stream)
        ended.set()

    arrived, ended = anyio.Event(), anyio.Event()
    accepted: list[Link] = []
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(net.connect, address, accepted.append)
                await arrived.wait()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await ended.wait()
    assert accepted == []


@of_tcp
async def test_a_connect_may_be_cancelled_before_it_begins(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await net.connect(server.address)
        assert scope.cancelled_caught


# Listeners


@with_handshake
async def test_closing_a_listener_ends_handshakes_and_its_links_live_on(
    net: Any, tools: Any
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address)
        accepted = await server.handler()
        async with await anyio.connect_tcp(*server.address) as slow:
            await anyio.wait_all_tasks_blocked()
            await server.listener.close()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await slow.receive()
        assert server.handlers == [accepted]
        client.link.send(b"still")
        accepted.link.send(b"here")
        assert await accepted.receive() == [b"still"]
        assert await client.receive() == [b"here"]
        await server.listener.close()


async def test_nothing_is_accepted_after_the_listener_was_closed(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        # In the kernel's queue, or on its way through the event loop.
        with socket.socket() as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(server.address)
            await net.backend.checkpoint()
            await server.listener.close()
            await anyio.wait_all_tasks_blocked()
        assert server.handlers == []
        with pytest.raises(ConnectError, match="nobody listens"):
            await net.connect(server.address)


# asyncio forgets a socket that it is just accepting when its server is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_connection_that_was_just_accepted_is_not_opened_by_a_closed_listener(
    net: Any,
) -> None:
    with anyio.fail_after(5):
        for turns in range(6):
            server = await net.listen()
            with socket.socket() as waiting:
                waiting.connect(server.address)
                for _ in range(turns):
                    await net.backend.checkpoint()
                before = len(server.handlers)
                await server.listener.close()
                await anyio.wait_all_tasks_blocked()
                assert len(server.handlers) == before
                for handler in server.handlers:
                    handler.link.abort()


# Bugs of handlers


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("method", ["messages_received", "link_lost"])
async def test_a_handler_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]], side: str, method: str
) -> None:
    def bad(link: Link) -> Any:
        handler = tools.Handler(link)
        if made or side == "client":  # the server's first connection has a good handler
            original = getattr(handler, method)

            def raising(argument: Any) -> None:
                original(argument)
                raise RuntimeError("a bug")

            setattr(handler, method, raising)
        made.append(handler)
        return handler

    made: list[Any] = []
    with anyio.fail_after(5):
        server = await net.listen(bad if side == "server" else tools.Handler)
        bystander = await net.connect(server.address)
        await server.handler(0)
        client = await net.connect(server.address, bad if side == "client" else tools.Handler)
        accepted = await server.handler(1)
        one, other = (client, accepted) if side == "client" else (accepted, client)
        other.link.send(b"one")
        await one.receive()
        if method == "link_lost":
            other.link.close()
        error = await one.end()
        if method == "messages_received":
            assert isinstance(error, ConnectionLost)
            assert "a bug" in str(error)
        else:
            assert error is None
        await other.end()
        (line,) = logged()
        assert line.startswith("internal error: the link to 127.0.0.1:")
        bystander.link.send(b"still here")
        assert await server.handlers[0].receive() == [b"still here"]
        await net.connect(server.address)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_accept_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]], side: str
) -> None:
    def bad(link: Link) -> Any:
        calls.append(link)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return greet(link)

    def greet(link: Link) -> Any:
        link.send(b"hello")
        return tools.Handler(link)

    calls: list[Link] = []
    with anyio.fail_after(5):
        if side == "client":
            server = await net.listen(greet)
            with pytest.raises(ConnectError, match="a bug"):
                await net.connect(server.address, bad)
        else:
            server = await net.listen(bad)
            with contextlib.suppress(ConnectError):
                await (await net.connect(server.address)).end()
        await calls[0].wait_closed()
        assert len(calls) == 1
        assert logged()[0].startswith("internal error: the link to 127.0.0.1:")
        client = await net.connect(server.address, bad if side == "client" else tools.Handler)
        assert await client.receive() == [b"hello"]


class BrokenWire(LengthPrefixWire):
    """A third party's Wire with a bug."""

    def receive_data(self, data: bytes) -> list[bytes]:
        raise RuntimeError("a bug")


@of_tcp
async def test_a_wire_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        bystander = await net.connect(server.address)
        await server.handler(0)
        client = await net.connect(server.address, wire=BrokenWire(tools.limits))
        accepted = await server.handler(1)
        accepted.link.send(b"one")
        error = await client.end()
        assert isinstance(error, ConnectionLost)
        assert len(logged()) == 1
        bystander.link.send(b"still here")
        assert await server.handlers[0].receive() == [b"still here"]


@of_plain
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
async def test_a_link_ends_with_the_tasks_that_hold_it_and_blames_nobody(
    net: Any, anyio_backend_name: str, closing: bool
) -> None:
    """On trio a Link runs in tasks of its owner; on asyncio it needs none."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if net.kind == "ws":
                wire = net.server_wire()
                wire.receive_data(await stream.receive())
                await stream.send(wire.data_to_send())
            await release.wait()

    release = anyio.Event()
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            async with anyio.create_task_group() as tasks:
                client = await net.connect(address, spawn=tasks.start_soon)
                if closing:
                    client.link.close()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            if anyio_backend_name == "asyncio":
                client.link.abort()
            assert await client.end() is None
            release.set()
