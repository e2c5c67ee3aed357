"""Back-pressure: stream Links whose peer does not read, answer, or speak MB."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import anyio
import pytest

from mb_core.link import Link

from .check_runner import on_loops
from .link_checks import Echo, expect_answer, expect_end, expect_in_time
from .link_messages import BLOCK
from .links_under_test import Network
from .raw_peer import RawPeer, against_raw, connect_raw, in_thread
from .requirements import (
    CANCELLED,
    DRAIN_ENDS,
    GIVEN_UP,
    HELD,
    LOST,
    MESSAGES,
    UNDISTURBED,
    UNSENT,
    expect,
)
from .settings import Settings
from .wire_endings import OTHER_PROTOCOLS
from .wire_messages import text
from .wires import SIDES, shortened

__all__ = ["LinkPressure"]

from_each_side = pytest.mark.parametrize("side", SIDES)

_MOST = 64 * 1024 * 1024
"""Bytes that no system takes for a peer which does not read."""


async def fill(link: Link) -> list[bytes]:
    """Send until nothing moves any more; gives all that was sent."""
    sent: list[bytes] = []
    written = -1
    # On a busy machine, a single wait without progress means little.
    while written < link.messages_sent:
        written = link.messages_sent
        with anyio.move_on_after(0.05):
            while len(sent) * len(BLOCK) < _MOST:
                sent.append(b"%d " % len(sent) + BLOCK)
                link.send(sent[-1])
                if link.congested:
                    await link.drain()
        found = f"{len(sent) * len(BLOCK)} bytes were sent to a peer that does not read"
        expect(HELD, len(sent) * len(BLOCK) < _MOST, found)
    return sent


class LinkPressure(Settings):
    """Back-pressure, and the ends that the other side does not play its part in."""

    @from_each_side
    @on_loops
    async def test_drain_waits_for_a_peer_that_does_not_read(self, net: Network, side: str) -> None:
        with ExitStack() as stack:
            end, peer = await against_raw(net, side, stack)
            sent = await fill(end.link)
            expect(HELD, end.link.congested, "nobody reads, and it is not congested")
            expect(HELD, end.link.unsent > 0, "nobody reads, and unsent is 0")
            came = await in_thread(peer.receive_many, len(sent))
            expect(MESSAGES, came == sent, f"of {len(sent)} messages, {len(came)} came as sent")
            found = "the peer has read all, and drain still waits"
            await expect_in_time(net, HELD, end.link.drain, found)

    @from_each_side
    @pytest.mark.parametrize("way", ["abort", "close time limit", "end of the peer"])
    @on_loops
    async def test_a_lost_connection_ends_the_wait_of_drain(
        self, net: Network, side: str, way: str
    ) -> None:
        with ExitStack() as stack:
            end, peer = await against_raw(net, side, stack, close_timeout=0.1)
            await fill(end.link)
            with anyio.move_on_after(net.patience) as late:
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(end.link.drain)
                    await anyio.wait_all_tasks_blocked()
                    _end(way, end.link, peer)
            expect(DRAIN_ENDS, not late.cancelled_caught, "drain still waits")
            await end.ended()

    @from_each_side
    @on_loops
    async def test_of_several_that_drain_one_may_be_cancelled(
        self, net: Network, side: str
    ) -> None:
        with ExitStack() as stack:
            end, peer = await against_raw(net, side, stack)
            sent = await fill(end.link)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end.link.drain)
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(end.link.drain)
                    await anyio.wait_all_tasks_blocked()
                    cancelled.cancel_scope.cancel()
                came = await in_thread(peer.receive_many, len(sent))
            expect(CANCELLED, came == sent, f"of {len(sent)} messages, {len(came)} came as sent")

    @from_each_side
    @on_loops
    async def test_what_was_not_sent_can_be_taken_back(self, net: Network, side: str) -> None:
        with ExitStack() as stack:
            end, peer = await against_raw(net, side, stack)
            sent = await fill(end.link)
            more = [b"one more", b"and another"]
            end.link.send_many(more)
            sent += more
            end.link.abort()
            await end.ended()
            taken = end.link.take_unsent()
            again = end.link.take_unsent()
            came = await in_thread(peer.receive_all)
            handed = end.link.messages_sent
            found = f"of {len(sent)} messages, {handed} were handed over, {len(taken)} came back"
            expect(UNSENT, taken[-2:] == more, f"take_unsent ends with {shortened(taken[-2:])}")
            expect(UNSENT, taken == sent[handed:], found)
            expect(UNSENT, not again, f"the second time, {shortened(again)} came back")
            expect(UNSENT, came == sent[: len(came)], f"{found}; {shortened(came)} arrived")
            expect(UNSENT, len(came) <= handed, f"{found}; {len(came)} arrived")

    @from_each_side
    @on_loops
    async def test_a_peer_that_never_ends_is_given_up(self, net: Network, side: str) -> None:
        with ExitStack() as stack:
            end, _ = await against_raw(net, side, stack, close_timeout=0.1)
            end.link.close()
            await expect_end(net, GIVEN_UP, end, in_order=False)

    @from_each_side
    @on_loops
    async def test_an_end_within_a_message_is_an_error(self, net: Network, side: str) -> None:
        with ExitStack() as stack:
            end, peer = await against_raw(net, side, stack)
            # Long enough to be in several records of TLS, which keeps one that is not whole.
            half = peer.framed(b"whole", text(50_000))[:-3]
            await in_thread(peer.sock.sendall, half)
            await in_thread(peer.end)
            await expect_end(net, LOST, end, in_order=False)
            came = list(end.messages)
            expect(LOST, came == [b"whole"], f"before the end, {came} came")

    @on_loops
    async def test_untrusted_clients_end_no_other_connection(self, net: Network) -> None:
        server = await net.listen(Echo)
        bystander = await net.connect(server.url)
        with ExitStack() as stack:
            for greeting in OTHER_PROTOCOLS.values():
                client = await in_thread(connect_raw, net, server.url, stack)
                await in_thread(client.visit, greeting)
        await expect_answer(net, UNDISTURBED, bystander)
        await expect_answer(net, UNDISTURBED, await net.connect(server.url))


def _end(way: str, link: Link, peer: RawPeer) -> None:
    ends: dict[str, Callable[[], None]] = {
        "abort": link.abort,
        "close time limit": link.close,
        "end of the peer": peer.sock.close,
    }
    ends[way]()
