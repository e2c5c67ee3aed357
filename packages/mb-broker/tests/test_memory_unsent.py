"""memory://: messages that have not arrived are taken back, and back-pressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import ConnectionLost
from mb_core.link import FLUSH_AT, Link

from .memory_ends import Ends, Reports, assert_given, ends, settled

__all__ = ["ends"]

# Taking back


@pytest.mark.anyio
async def test_an_abort_keeps_what_the_other_end_has_not_taken(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"taken")
    await settled()
    sent = [b"%d" % number for number in range(3)]
    near.link.send_many(sent[:2])
    near.link.send(sent[2])
    near.link.abort()
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()
    assert_given(near.link.take_unsent(), sent)
    assert near.link.take_unsent() == []
    await settled()
    assert list(far.inbox) == [b"taken"]
    assert far.link.take_unsent() == []


@pytest.mark.anyio
async def test_it_can_be_taken_back_from_within_link_lost(ends: Ends) -> None:
    def take(error: object) -> None:
        taken.append(near.link.take_unsent())

    near, far = await ends.pair()
    taken: list[list[bytes]] = []
    near.link_lost = take
    near.link.send(b"1")
    near.link.abort()
    with anyio.fail_after(5):
        await near.link.wait_closed()
        await far.lost.wait()
    assert taken == [[b"1"]]


@pytest.mark.anyio
async def test_nothing_comes_back_after_an_orderly_end(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"1")
    near.link.close()
    near.link.abort()
    assert near.link.take_unsent() == []
    with anyio.fail_after(5):
        await far.lost.wait()
        await near.lost.wait()
    await settled()
    assert near.link.take_unsent() == []
    assert list(far.inbox) == [b"1"]
    assert near.link.unsent == 0
    assert near.link.messages_sent == 1


@pytest.mark.anyio
async def test_the_other_end_hears_of_the_end_though_all_was_taken_back_before(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"1")
    near.link.abort()
    assert near.link.take_unsent() == [b"1"]
    with anyio.fail_after(5):
        await far.lost.wait()
        await near.lost.wait()
    assert not far.inbox


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_what_the_other_end_has_not_taken_when_it_ended_comes_back(
    way: str, ends: Ends
) -> None:
    near, far = await ends.pair()
    getattr(far.link, way)()
    late = [b"late", b"too late"]
    near.link.send_many(late)
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()
    await settled()
    assert_given(near.link.take_unsent(), late)
    assert not far.inbox


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_what_was_sent_to_an_end_that_is_over_comes_back(way: str, ends: Ends) -> None:
    near, far = await ends.pair()
    sent = [b"1", b"2"]

    def lost(error: object) -> None:
        near.link.send_many(sent)  # it has not noticed the end yet
        far.lost.set()

    # Its news to the other end is held up.
    posts: list[Callable[[], None]] = []
    near.link.post, post = lambda function: posts.append(function) or True, near.link.post
    far.link_lost = lost
    getattr(far.link, way)()
    with anyio.fail_after(5):
        await far.lost.wait()
        await settled()
        for function in posts:
            post(function)
        near.link.post = post
        await near.lost.wait()
    assert_given(near.link.take_unsent(), sent)
    assert not far.inbox


@pytest.mark.anyio
async def test_what_was_behind_a_message_over_the_limit_comes_back(ends: Ends) -> None:
    near, far = await ends.pair()
    sent = [b"1", b"x" * 1368, b"2", b"3"]
    near.link.send_many(sent)
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()
    assert list(far.inbox) == sent[:1]
    assert_given(near.link.take_unsent(), sent[2:])


@pytest.mark.anyio
async def test_what_was_sent_to_a_listener_that_refuses_comes_back(ends: Ends) -> None:
    near = ends.end()
    listener = await ends.listen(accept=lambda link: pytest.fail("nobody listens any more"))
    await ends.connect(listener, near.accept)
    near.link.send(b"1")
    await listener.close()
    near.link.send(b"2")
    with anyio.fail_after(5):
        await near.lost.wait()
    assert near.link.take_unsent() == [b"1", b"2"]


@pytest.mark.anyio
async def test_what_was_sent_to_a_handler_that_can_not_be_made_comes_back(
    ends: Ends, reports: Reports
) -> None:
    def fail(link: Link) -> Any:
        raise KeyError("mine")

    near = ends.end()
    await ends.connect(await ends.listen(accept=fail), near.accept)
    near.link.send(b"1")
    with anyio.fail_after(5):
        await near.lost.wait()
    assert near.link.take_unsent() == [b"1"]
    assert len(reports()) == 1


@pytest.mark.anyio
async def test_what_a_handler_fails_on_is_not_given_to_the_next_one(
    ends: Ends, reports: Reports
) -> None:
    def fail(messages: list[bytes]) -> None:
        raise KeyError("mine")

    near, far = await ends.pair()
    far.messages_received = fail
    near.link.send(b"poison")
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()
    assert near.link.take_unsent() == []
    assert len(reports()) == 1


@pytest.mark.anyio
async def test_a_batch_is_taken_whole_or_not_at_all(ends: Ends) -> None:
    near, far = await ends.pair()
    batch = [b"1", b"2"]
    near.link.send_many(batch)
    near.link.send_many([])
    batch.append(b"3")  # the caller's list is the caller's
    near.link.close()
    with pytest.raises(ConnectionLost):
        near.link.send_many([b"4", b"5"])
    with anyio.fail_after(5):
        await far.lost.wait()
    assert list(far.inbox) == [b"1", b"2"]


@pytest.mark.anyio
async def test_what_the_other_end_has_taken_is_counted(ends: Ends) -> None:
    near, far = await ends.pair()
    link = near.link
    link.send(b"four")
    link.send_many([b"", b"seven!!"])
    assert (link.messages_sent, link.bytes_sent) == (0, 0)
    await settled()
    assert (link.messages_sent, link.bytes_sent) == (3, 11)
    assert (far.link.messages_sent, far.link.bytes_sent) == (0, 0)
    link.send(b"never taken")
    link.abort()
    with anyio.fail_after(5):
        await near.lost.wait()
    await settled()
    assert (link.messages_sent, link.bytes_sent) == (3, 11)
    assert link.unsent == 0


# Back-pressure


@pytest.mark.anyio
async def test_a_link_is_congested_until_the_other_end_has_taken(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send_many([b"x" * 1024] * (FLUSH_AT // 1024 - 1))
    assert not near.link.congested
    await near.link.drain()
    assert not far.inbox  # there was nothing to wait for
    near.link.send(b"x" * 1024)
    assert near.link.congested
    with anyio.fail_after(5):
        await near.link.drain()
    assert not near.link.congested
    assert len(far.inbox) == FLUSH_AT // 1024


@pytest.mark.anyio
async def test_many_may_drain_and_one_be_cancelled(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send_many([b"x" * 1024] * (FLUSH_AT // 1024))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await near.link.drain()
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(near.link.drain)
    assert len(far.inbox) == FLUSH_AT // 1024


@pytest.mark.anyio
@pytest.mark.parametrize("ender", ["near", "far"])
async def test_the_end_ends_the_wait(ender: str, ends: Ends) -> None:
    near, far = await ends.pair()
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(5):
            near.link.send_many([b"x" * 1024] * 100)
            tasks.start_soon(near.link.drain)
            {"near": near, "far": far}[ender].link.close()
            await near.lost.wait()
    await near.link.drain()
