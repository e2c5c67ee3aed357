"""Links over the real transport: messages, and how they are counted."""

from __future__ import annotations

import anyio
import pytest

from mb_core.errors import MessageTooLarge
from mb_core.link import Link

from ..links import LinkEnd
from .check_runner import on_loops
from .link_checks import expect_end
from .links_under_test import Network
from .requirements import COALESCED, COUNTED, GREETED, HELD, LIMIT, MESSAGES, PEER, PROGRESS, expect
from .settings import LIMITS, Settings
from .wire_messages import SIZES, text
from .wires import SIDES, shortened

__all__ = ["LinkMessages"]

from_each_side = pytest.mark.parametrize("side", SIDES)

BLOCK = b"x" * 10_000
# Characters of one to four bytes in UTF-8.
ALPHABET = "".join(map(chr, [*range(0x3000), *range(0x1F300, 0x1F700)])).encode()


class LinkMessages(Settings):
    """What is sent on one end of a connection arrives at the other."""

    @on_loops
    async def test_messages_go_both_ways_in_order(self, net: Network) -> None:
        client, server = await net.pair()
        sent = [b"%d" % number for number in range(1000)]
        for number in sent[:500]:
            client.link.send(number)
        client.link.send_many(sent[500:])
        server.link.send_many(sent)
        for end in (client, server):
            came = await end.receive_many(1000)
            expect(MESSAGES, came == sent, f"of numbers from 0 to 999, {shortened(came)} came")

    @from_each_side
    @on_loops
    async def test_every_byte_of_a_message_is_kept(self, net: Network, side: str) -> None:
        one, other = await net.sides(side)
        sent = [b"\r\n", b"\0", ALPHABET, *map(text, SIZES), text(LIMITS.max_message)]
        one.link.send_many(sent)
        for message in sent:
            came = await other.receive()
            found = f"{shortened(message)} came as {shortened(came)}"
            expect(MESSAGES, came == message, found)

    @on_loops
    async def test_what_accept_sends_comes_before_all_else(self, net: Network) -> None:
        def greet(link: Link) -> LinkEnd:
            link.send(b"hello")
            return LinkEnd(link)

        server = await net.listen(greet)
        client = await net.connect(server.url, greet)
        accepted = await server.accepted()
        client.link.send(b"more")
        accepted.link.send(b"more")
        for end in (client, accepted):
            came = await end.receive_many(2)
            expect(GREETED, came == [b"hello", b"more"], f"{came} came")

    @on_loops
    async def test_a_link_knows_its_peer(self, net: Network) -> None:
        for end in await net.pair():
            peer = end.link.peer
            expect(PEER, isinstance(peer, str) and peer != "", f"peer is {peer!r}")

    @on_loops
    async def test_many_connections_at_a_time_are_kept_apart(self, net: Network) -> None:
        async def talk(number: int) -> None:
            name = b"client %d" % number
            client = await net.connect(server.url)
            client.link.send(name)
            came = await client.receive()
            expect(MESSAGES, came == name, f"{name!r} got the answer to {came!r}")

        async def answer(number: int) -> None:
            end = await server.accepted(number)
            end.link.send(await end.receive())

        server = await net.listen()
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(talk, number)
                tasks.start_soon(answer, number)

    @from_each_side
    @on_loops
    async def test_what_is_sent_in_one_turn_leaves_in_one_write(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        for number in range(100):
            one.link.send(b"%d" % number)
        await other.receive_many(100)
        # Its bytes may be cut on the way; messages that leave one by one come in a hundred batches.
        found = f"100 messages came in {other.batches} batches"
        expect(COALESCED, other.batches <= 10, found)

    @from_each_side
    @on_loops
    async def test_messages_are_counted_when_they_are_handed_over(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        _expect_counts(one.link, 0, 0)
        one.link.send(b"four")
        one.link.send_many([b"", b"seven!!"])
        await other.receive_many(3)
        await anyio.wait_all_tasks_blocked()  # across threads, word of it takes a turn
        _expect_counts(one.link, 3, 11)
        expect(COUNTED, one.link.unsent == 0, f"unsent is {one.link.unsent} when all has come")

    @from_each_side
    @on_loops
    async def test_what_arrives_is_progress(self, net: Network, side: str) -> None:
        one, other = await net.sides(side)
        for end in (other, one):  # behind what a handshake leaves for later
            end.link.send(b"first")
        await one.receive()
        await other.receive()
        await anyio.wait_all_tasks_blocked()
        sender, before = getattr(one.link, "progress", None), getattr(other.link, "progress", None)
        one.link.send(b"hello")
        await other.receive()
        await anyio.wait_all_tasks_blocked()
        after = getattr(other.link, "progress", None)
        expect(PROGRESS, before != after, f"progress is {after!r} before and after a message")
        after = getattr(one.link, "progress", None)
        found = f"progress goes from {sender!r} to {after!r} with a message that is taken at once"
        expect(PROGRESS, sender == after, found)

    @from_each_side
    @on_loops
    async def test_a_link_with_much_to_send_is_congested_until_it_is_taken(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        await one.link.drain()  # at once
        sent = 0
        while not one.link.congested and sent < 10_000:
            one.link.send(BLOCK)
            sent += 1
        expect(HELD, sent < 10_000, "100 MB were sent in one turn, and it was not congested")
        await one.link.drain()
        expect(HELD, not one.link.congested, "after drain, it was congested still")
        await other.receive_many(sent)

    @from_each_side
    @on_loops
    async def test_a_message_over_the_limit_ends_the_link_behind_those_before_it(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        one.link.send_many([b"one", text(LIMITS.max_message + 1), b"three"])
        await expect_end(net, LIMIT, other, in_order=False)
        found = f"it was lost with {other.error!r}"
        expect(LIMIT, isinstance(other.error, MessageTooLarge), found)
        came = list(other.messages)
        expect(LIMIT, came == [b"one"], f"around a message over the limit, {shortened(came)} came")
        await expect_end(net, LIMIT, one)


def _expect_counts(link: Link, messages: int, size: int) -> None:
    __tracebackhide__ = True
    counts = (link.messages_sent, link.bytes_sent)
    found = f"after {messages} messages of {size} bytes, the counts are {counts}"
    expect(COUNTED, counts == (messages, size), found)
