"""Links over real sockets: how they close, and why they are lost."""

from __future__ import annotations

import socket
import struct
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core.errors import ConnectionLost, MessageTooLarge, RemoteProtocolError
from mb_core.link import Link

from .real_links import BLOCK, congest, framed, of_framed, of_tcp, of_ws

pytestmark = pytest.mark.anyio


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
