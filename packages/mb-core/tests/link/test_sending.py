"""What a Link writes, when, and how it counts; on real sockets, of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core.errors import ConnectionLost
from mb_core.link import FLUSH_AT
from mb_tcp import LengthPrefixWire

from .stuck import Numbers, accept_peer, of_tcp, stall

pytestmark = pytest.mark.anyio
of_framed = pytest.mark.parametrize("kind", ["tcp", "tls"])


# Writing


class MeasuringWire(LengthPrefixWire):
    """Keeps the sizes of what it was asked for: each is one write."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.writes: list[int] = []

    def data_to_send(self) -> bytes:
        data = super().data_to_send()
        if data:
            self.writes.append(len(data))
        return data


@of_tcp
@pytest.mark.parametrize("size", [100, 10_000, 100_000])
async def test_a_backlog_leaves_in_order_and_in_writes_of_bounded_size(
    net: Any, tools: Any, size: int
) -> None:
    wires: list[MeasuringWire] = []

    def make() -> MeasuringWire:
        wires.append(MeasuringWire(tools.limits))
        return wires[-1]

    with anyio.fail_after(20):
        accepted, peer = await accept_peer(net, wire=make)
        numbers = Numbers(size)
        accepted.link.send_many(numbers.next(20_000_000 // size))
        for _ in range(10):
            accepted.link.send_many(numbers.next(10))
            await anyio.wait_all_tasks_blocked()
        assert await peer.read(len(numbers.sent)) == numbers.sent
        framing = 4 * (FLUSH_AT // size + 1)
        assert max(wires[0].writes) < FLUSH_AT + size + framing
        assert accepted.link.messages_sent == len(numbers.sent)
        await peer.forsake()


@of_framed
async def test_a_link_is_congested_until_the_system_has_taken_all(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        accepted.link.send_many(numbers.next(2000))  # more than the system ever takes
        await peer.read(10)
        await anyio.wait_all_tasks_blocked()
        assert accepted.link.congested
        await peer.read(len(numbers.sent))
        await accepted.link.drain()
        assert not accepted.link.congested
        assert accepted.link.unsent == 0
        await peer.forsake()


# Counting


async def test_messages_and_their_bytes_are_counted_when_they_are_written(net: Any) -> None:
    with anyio.fail_after(5):
        for one, other in (pair := await net.pair(), pair[::-1]):
            link = one.link
            assert (link.messages_sent, link.bytes_sent) == (0, 0)
            link.send(b"four")
            link.send_many([b"", b"seven!!"])
            assert (link.messages_sent, link.bytes_sent) == (0, 0)
            await other.receive(3)
            assert (link.messages_sent, link.bytes_sent) == (3, 11)
            link.send(b"x" * 100_000)
            await other.receive(4)
            assert (link.messages_sent, link.bytes_sent) == (4, 100_011)


async def test_what_comes_back_was_not_counted(net: Any) -> None:
    with anyio.fail_after(10):
        accepted, peer = await accept_peer(net)
        numbers = Numbers()
        await stall(accepted.link, numbers)
        accepted.link.abort()
        await accepted.end()
        unsent = accepted.link.take_unsent()
        assert accepted.link.messages_sent == len(numbers.sent) - len(unsent)
        assert accepted.link.bytes_sent == numbers.size * accepted.link.messages_sent
        await peer.forsake()


# A batch


async def test_a_batch_is_taken_whole_or_not_at_all(net: Any) -> None:
    with anyio.fail_after(5):
        client, server = await net.pair()
        client.link.send_many([])
        batch = [b"one", b"two"]
        client.link.send_many(batch)
        batch.append(b"three")  # the caller's list is the caller's
        assert await server.receive(2) == [b"one", b"two"]
        client.link.close()
        with pytest.raises(ConnectionLost) as lost:
            client.link.send_many([b"four", b"five"])
        assert not lost.value.sent
        await client.end()
        assert client.link.take_unsent() == []


# Bugs of Wires


class PickyWire(LengthPrefixWire):
    """A third party's Wire with a bug."""

    def send(self, message: bytes) -> int:
        if message == b"poison":
            raise RuntimeError("a bug")
        return super().send(message)


@of_tcp
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
async def test_a_wire_that_raises_for_a_message_ends_its_connection_with_a_line_in_the_log(
    net: Any, tools: Any, logged: Callable[[], list[str]], closing: bool
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address, wire=PickyWire(tools.limits))
        accepted = await server.handler()
        client.link.send(b"good")
        await accepted.receive()
        client.link.send(b"poison")
        if closing:
            client.link.close()
        error = await client.end()
        assert isinstance(error, ConnectionLost)
        assert "a bug" in str(error)
        assert len(logged()) == 1
        assert client.link.take_unsent() == []  # or it would be sent again and again
        await accepted.end()
