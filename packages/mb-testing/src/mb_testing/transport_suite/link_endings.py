"""Links over the real transport: closing and aborting, and what each side is notified of."""

from __future__ import annotations

import anyio
import pytest

from mb_core.errors import ConnectionLost
from mb_core.link import Link

from ..links import LinkEnd
from .check_runner import on_loops
from .link_checks import expect_end
from .link_messages import BLOCK
from .links_under_test import Network
from .requirements import (
    ABORTED,
    CANCELLED,
    NOT_SENT,
    ORDERLY,
    UNSENT,
    expect,
    violation,
)
from .settings import Settings
from .wires import SIDES, shortened

__all__ = ["LinkEndings"]

from_each_side = pytest.mark.parametrize("side", SIDES)


class LinkEndings(Settings):
    """Closing and aborting, from either side."""

    @from_each_side
    @on_loops
    async def test_close_is_behind_all_that_was_sent_and_in_order(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        one.link.send(b"last words")
        one.link.close("bye")
        for end in (other, one):
            await expect_end(net, ORDERLY, end, in_order=True)
        came = list(other.messages)
        expect(ORDERLY, came == [b"last words"], f"before the end, {came} came")

    @from_each_side
    @on_loops
    async def test_close_keeps_what_is_in_flight_though_both_have_much(
        self, net: Network, side: str
    ) -> None:
        one, other = await net.sides(side)
        sent = [b"%d" % number + BLOCK for number in range(300)]
        other.link.send_many(sent)
        one.link.send_many(sent)
        one.link.close()
        for end in (other, one):
            await expect_end(net, ORDERLY, end, in_order=True)
        found = f"of 300 messages, {len(other.messages)} came before the end"
        expect(ORDERLY, list(other.messages) == sent, found)

    @on_loops
    async def test_both_sides_may_close_at_once(self, net: Network) -> None:
        client, server = await net.pair()
        client.link.close()
        server.link.close()
        for end in (client, server):
            await expect_end(net, ORDERLY, end, in_order=True)

    @from_each_side
    @on_loops
    async def test_close_and_abort_are_safe_at_any_time(self, net: Network, side: str) -> None:
        one, other = await net.sides(side)
        one.link.close()
        one.link.close("again")
        for end in (one, other):
            await expect_end(net, ORDERLY, end, in_order=True)
        one.link.abort()
        other.link.close()
        await anyio.wait_all_tasks_blocked()

    @from_each_side
    @on_loops
    async def test_abort_ends_both_sides(self, net: Network, side: str) -> None:
        one, other = await net.sides(side)
        one.link.abort()
        one.link.abort()
        one.link.close()
        await expect_end(net, ABORTED, one, in_order=True)
        await expect_end(net, ABORTED, other)

    @from_each_side
    @pytest.mark.parametrize("way", ["close", "abort"])
    @on_loops
    async def test_a_link_may_be_ended_from_within_its_handler(
        self, net: Network, side: str, way: str
    ) -> None:
        class Ending(LinkEnd):
            def messages_received(self, messages: list[bytes]) -> None:
                super().messages_received(messages)
                getattr(self.link, way)()

        server = await net.listen(Ending if side == "server" else LinkEnd)
        client = await net.connect(server.url, Ending if side == "client" else LinkEnd)
        accepted = await server.accepted()
        one, other = (client, accepted) if side == "client" else (accepted, client)
        other.link.send_many([b"one", b"two"])
        await expect_end(net, ORDERLY if way == "close" else ABORTED, one, in_order=True)
        await other.ended()

    @from_each_side
    @on_loops
    async def test_nothing_is_sent_on_a_link_that_is_over(self, net: Network, side: str) -> None:
        one, other = await net.sides(side)
        one.link.close()
        _expect_refusal(one.link, "closing")
        for end in (one, other):
            await end.ended()
            _expect_refusal(end.link, "closed")
            await end.link.drain()
            unsent = end.link.unsent
            expect(UNSENT, unsent == 0, f"of a link that is over, unsent is {unsent}")
            taken = end.link.take_unsent()
            expect(UNSENT, not taken, f"take_unsent gave {shortened(taken)}; none was taken")
        came = list(other.messages)
        expect(NOT_SENT, not came, f"{came} came")

    @from_each_side
    @on_loops
    async def test_of_several_that_wait_for_the_end_one_may_be_cancelled(
        self, net: Network, side: str
    ) -> None:
        one, _ = await net.sides(side)
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await one.link.wait_closed()
        expect(CANCELLED, cancelled.cancelled_caught, "wait_closed could not be cancelled")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.link.wait_closed)
            tasks.start_soon(one.link.wait_closed)
            await anyio.wait_all_tasks_blocked()
            one.link.close()
        expect(ORDERLY, one.lost, "wait_closed did not wait for link_lost")


def _expect_refusal(link: Link, state: str) -> None:
    __tracebackhide__ = True
    for many in (False, True):
        try:
            if many:
                link.send_many([b"late"])
            else:
                link.send(b"late")
        except ConnectionLost as error:
            found = f"on a link that is {state}, it was raised with sent={error.sent}"
            expect(NOT_SENT, not error.sent, found)
        else:
            raise violation(NOT_SENT, f"on a link that is {state}, nothing was raised")
