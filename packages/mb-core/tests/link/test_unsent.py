"""Messages that were not sent are taken back, and what closing does with them."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core.errors import ConnectionLost
from mb_core.link import FLUSH_AT, Link

from .stuck import Numbers, accept_peer, of_tcp, stall

pytestmark = pytest.mark.anyio
of_ws = pytest.mark.parametrize("kind", ["ws", "wss"])
PING = b"\x89\x80\0\0\0\0"
PONG = b"\x8a\0"


async def until_closed(net: Any, link: Link) -> None:
    """Wait until the link takes no more messages."""
    with contextlib.suppress(ConnectionLost):
        while True:
            link.send_many([])
            await net.backend.checkpoint()


def reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def assert_parted(sent: list[bytes], read: list[bytes], unsent: list[bytes]) -> None:
    """The peer has a beginning, the end has come back, and they overlap nowhere."""
    assert read == sent[: len(read)]
    assert unsent == sent[len(sent) - len(unsent) :]
    assert all(one is other for one, other in zip(unsent[::-1], sent[::-1], strict=False))
    assert len(read) + len(unsent) <= len(sent)


# Taking back


async def test_what_was_not_written_comes_back_once_in_order_as_it_was_given(net: Any) -> None:
    with anyio.fail_after(5):
        for side in (0, 1):
            handler = (await net.pair())[side]
            numbers = Numbers(100)
            for message in numbers.next(3):
                handler.link.send(message)
            handler.link.send_many(numbers.next(3))
            handler.link.abort()
            await handler.end()
            unsent = handler.link.take_unsent()
            assert len(unsent) == 6
            assert all(one is other for one, other in zip(unsent, numbers.sent, strict=True))
            assert handler.link.take_unsent() == []


async def test_it_can_be_taken_back_from_within_link_lost(net: Any, tools: Any) -> None:
    class Taker(tools.Handler):  # type: ignore[misc, name-defined]
        def link_lost(self, error: Any) -> None:
            self.unsent = self.link.take_unsent()
            super().link_lost(error)

    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, Taker)
        client.link.send(b"one")
        client.link.abort()
        await client.end()
        assert client.unsent == [b"one"]
        assert client.link.take_unsent() == []


async def test_what_was_written_does_not_come_back(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.send_many([b"one", b"two"])
        await server.receive(2)
        client.link.send(b"three")
        await server.receive(3)
        client.link.abort()
        await client.end()
        assert client.link.take_unsent() == []


async def test_a_close_behind_an_abort_hands_nothing_over(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.send(b"one")
        client.link.abort()
        client.link.close()
        await client.end()
        assert client.link.take_unsent() == [b"one"]
        await server.end()
        assert server.messages == []


async def test_a_peer_that_stops_reading_and_an_abort(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        accepted.link.abort()
        await accepted.end()
        unsent = accepted.link.take_unsent()
        read = await peer.read_to_end()
        assert_parted(numbers.sent, read, unsent)
        assert len(unsent) >= 290  # the last 300 were sent when nothing went out any more
        # What is in neither: one write, of which the system has taken a part or nothing.
        missing = numbers.sent[len(read) : len(numbers.sent) - len(unsent)]
        assert sum(map(len, missing)) < FLUSH_AT + 2 * numbers.size
        await peer.forsake()


async def test_a_peer_that_stops_reading_and_resets(net: Any, tools: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        await peer.read(10)
        await stall(accepted.link, numbers)
        tools.reset(peer.stream)
        await peer.forsake()
        assert isinstance(await accepted.end(), ConnectionLost)
        unsent = accepted.link.take_unsent()
        assert len(unsent) >= 290
        assert_parted(numbers.sent, peer.messages, unsent)


async def test_a_peer_that_reads_on_for_a_while_gets_more_and_less_comes_back(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        before = accepted.link.messages_sent
        await peer.read(before + 50)
        await anyio.wait_all_tasks_blocked()
        accepted.link.abort()
        await accepted.end()
        unsent = accepted.link.take_unsent()
        assert_parted(numbers.sent, await peer.read_to_end(), unsent)
        assert len(unsent) <= len(numbers.sent) - before - 50
        await peer.forsake()


@of_tcp
@pytest.mark.parametrize("batch", [1, 100], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("count", [3, 100], ids=["one write", "many writes"])
async def test_what_the_system_refuses_whole_comes_back(net: Any, count: int, batch: int) -> None:
    with anyio.fail_after(5):
        for _ in range(20):
            server = await net.listen()
            with socket.socket() as peer:
                peer.connect(server.address)
                accepted = await server.handler()
                reset_on_close(peer)
            # Reset, and nobody has seen it yet.
            numbers = Numbers()
            sent: list[bytes] = []
            with contextlib.suppress(ConnectionLost):
                for _ in range(0, count, batch):
                    messages = numbers.next(min(batch, count))
                    accepted.link.send_many(messages)
                    sent += messages
            assert isinstance(await accepted.end(), ConnectionLost)
            assert accepted.link.messages_sent == accepted.link.bytes_sent == 0
            assert accepted.link.take_unsent() == sent


@of_tcp
@pytest.mark.parametrize("turns", range(2, 7))
async def test_closing_behind_a_refused_write_takes_nothing_along(net: Any, turns: int) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with socket.socket() as peer:
            peer.connect(server.address)
            accepted = await server.handler()
            reset_on_close(peer)
        accepted.link.send_many([b"one", b"two"])
        for _ in range(turns):
            await net.backend.checkpoint()
        accepted.link.close()
        assert isinstance(await accepted.end(), ConnectionLost)
        assert accepted.link.take_unsent() == [b"one", b"two"]


@of_tcp
@pytest.mark.parametrize("reads", [True, False], ids=["reads on", "resets"])
async def test_what_a_server_was_not_sent_when_it_ended_comes_back(net: Any, reads: bool) -> None:
    """It is through with us, though it may read on for a while: it would ignore what it reads."""

    def end() -> bytes:
        received = bytearray()
        while reads and (chunk := server.recv(1 << 20)):
            received += chunk
        reset_on_close(server)
        server.close()
        return bytes(received)

    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(10):
        client = await net.connect(listener.getsockname())
        server, _ = listener.accept()
        numbers = Numbers()
        await stall(client.link, numbers)
        server.shutdown(socket.SHUT_WR)
        await until_closed(net, client.link)
        read = net.client_wire().receive_data(await anyio.to_thread.run_sync(end))
        assert isinstance(await client.end(), ConnectionLost | None)
        unsent = client.link.take_unsent()
        assert len(unsent) >= 290
        assert_parted(numbers.sent, read, unsent)


@of_ws
async def test_what_was_not_sent_when_the_other_side_closed_comes_back(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        peer.wire.close("bye")
        await peer.stream.send(peer.wire.data_to_send())
        await until_closed(net, accepted.link)
        read = await peer.read_to_end()
        await peer.forsake()
        assert await accepted.end() is None
        unsent = accepted.link.take_unsent()
        assert len(unsent) >= 290
        assert_parted(numbers.sent, read, unsent)


# Closing, and the Wire's own output, while the system takes nothing


async def test_close_hands_over_all_though_the_system_takes_no_more(net: Any) -> None:
    with anyio.fail_after(20):
        accepted, peer = await accept_peer(net, close_timeout=20)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        handed_over = accepted.link.messages_sent
        accepted.link.send_many(numbers.next(1000))
        accepted.link.close()
        assert accepted.link.messages_sent == len(numbers.sent)
        await peer.read(handed_over + 10)
        assert accepted.link.unsent
        read = await peer.read(len(numbers.sent))
        assert read == numbers.sent
        await peer.forsake()
        await accepted.end()
        assert accepted.link.take_unsent() == []


async def test_close_within_the_turn_sends_all_and_then_the_farewell(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.send(b"one")
        client.link.send_many([b"two", b"three"])
        client.link.close()
        assert await server.end() is None
        assert await client.end() is None
        assert server.messages == [b"one", b"two", b"three"]
        assert client.link.take_unsent() == []


@of_ws
async def test_a_pong_goes_out_before_the_messages_that_wait(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        handed_over = accepted.link.messages_sent
        assert handed_over < len(numbers.sent) - 250
        await peer.stream.send(PING)
        await peer.send(b"behind it")
        await accepted.receive(1)
        frame = b"\x81\x7e" + numbers.size.to_bytes(2, "big")
        expected = b"".join(frame + message for message in numbers.sent[:handed_over]) + PONG
        received = b""
        while len(received) < len(expected):
            received += await peer.stream.receive()
        assert received[: len(expected)] == expected
        await peer.forsake()
