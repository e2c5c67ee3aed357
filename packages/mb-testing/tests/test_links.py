"""The in-memory pair of Links, and the ends that keep what they receive."""

from __future__ import annotations

import anyio
import pytest

from mb_core.errors import ConnectionLost, MessageTooLarge
from mb_core.link import FLUSH_AT, Link
from mb_core.wire import Limits
from mb_testing import LinkEnd, memory_link_pair

pytestmark = pytest.mark.anyio


async def test_messages_go_both_ways_in_order() -> None:
    near, far = memory_link_pair()
    for one, other in ((near, far), (far, near)):
        one.link.send(b"one")
        one.link.send_many([b"two", b"three"])
        with anyio.fail_after(5):
            assert await other.receive_many(3) == [b"one", b"two", b"three"]
        assert other.batches == 1


async def test_each_end_says_who_the_other_is() -> None:
    near, far = memory_link_pair()
    assert (near.link.peer, far.link.peer) == ("the far end", "the near end")


async def test_handlers_of_ones_own_are_given_back() -> None:
    class Greeter(LinkEnd):
        def __init__(self, link: Link) -> None:
            super().__init__(link)
            link.send(b"hello")

    near, far = memory_link_pair(Greeter, LinkEnd)
    assert isinstance(near, Greeter)
    with anyio.fail_after(5):
        assert await far.receive() == b"hello"


async def test_receiving_ends_with_the_link_when_all_was_taken() -> None:
    near, far = memory_link_pair()
    near.link.send(b"last words")
    near.link.close()
    with anyio.fail_after(5):
        assert await far.ended() is None
        assert await far.receive() == b"last words"
        with pytest.raises(ConnectionLost, match="closed cleanly"):
            await far.receive()


async def test_receiving_raises_why_the_link_was_lost() -> None:
    near, far = memory_link_pair(limits=Limits(max_message=3))
    near.link.send(b"four")
    with anyio.fail_after(5), pytest.raises(MessageTooLarge):
        await far.receive()


async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = memory_link_pair()
    with anyio.move_on_after(0) as scope:
        await far.receive()
    assert scope.cancelled_caught
    near.link.send(b"hello")
    with anyio.fail_after(5):
        assert await far.receive() == b"hello"


async def test_the_pair_has_back_pressure() -> None:
    near, far = memory_link_pair(limits=Limits(max_message=FLUSH_AT))
    near.link.send(bytes(FLUSH_AT))
    assert near.link.congested
    with anyio.fail_after(5):
        await near.link.drain()
    assert not near.link.congested
    assert len(await far.receive()) == FLUSH_AT


async def test_what_has_not_arrived_can_be_taken_back() -> None:
    near, far = memory_link_pair()
    near.link.send(b"hello")
    near.link.abort()
    assert near.link.take_unsent() == [b"hello"]
    with anyio.fail_after(5):
        assert await far.ended() is None
    assert not far.messages


async def test_a_link_that_breaks_the_order_of_its_calls_is_found_out() -> None:
    near, _ = memory_link_pair()
    near.messages_received([])
    near.link_lost(None)
    near.messages_received([b"late"])
    near.link_lost(None)
    assert near.faults == [
        "messages_received was called without a message",
        "messages_received([b'late']) was called after link_lost",
        "link_lost(None) was called a second time",
    ]


async def test_without_a_running_event_loop_it_says_so() -> None:
    def outside() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            memory_link_pair()

    await anyio.to_thread.run_sync(outside)
