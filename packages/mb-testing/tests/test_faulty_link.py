"""The Link that Faults puts around a Link keeps the contract of Links, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from mb_core import ConnectionLost, MBError
from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.link import FLUSH_AT, Link, LinkHandler, current_backend
from mb_core.wire import credentials_of
from mb_testing import Faults, LinkEnd, memory_link_pair

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


class Pair:
    """Two ends, `near` behind Faults; `run` is what a broker, whose end it is, runs meanwhile."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.near: LinkEnd
        accept = self.faults.wrap_accept(self._accept, current_backend(), self._spawn)
        _, self.far = memory_link_pair(accept, LinkEnd)

    def _spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.run = run

    def _accept(self, link: Link) -> LinkHandler:
        self.near = LinkEnd(link)
        return self.near


@pytest.fixture
async def pair() -> Pair:
    return Pair()


async def settle() -> None:
    await anyio.sleep(0.001)


async def test_without_faults_it_is_as_if_it_were_not_there(pair: Pair) -> None:
    pair.far.link.send_many([b"a", b"b"])
    pair.near.link.send(b"c")
    assert await pair.near.receive_many(2) == [b"a", b"b"]
    assert await pair.far.receive() == b"c"
    assert pair.near.batches == 1
    await settle()
    assert (pair.near.link.messages_sent, pair.near.link.bytes_sent) == (1, 1)
    pair.far.link.close()
    assert await pair.near.ended() is None
    assert pair.near.faults == pair.far.faults == []
    assert pair.faults.connections == 0


async def test_a_client_has_the_credentials_of_its_connection(pair: Pair) -> None:
    assert credentials_of(pair.near.link) == NO_CREDENTIALS
    known = Credentials(certificate=("CN=billing",))
    seen: list[Credentials] = []

    def accept(link: Link) -> LinkHandler:
        seen.append(credentials_of(link))
        return LinkEnd(link)

    wrapped = pair.faults.wrap_accept(accept, current_backend(), lambda run: None)

    def accept_known(link: Link) -> LinkHandler:
        vars(link)["credentials"] = known
        return wrapped(link)

    memory_link_pair(accept_known, LinkEnd)
    assert seen == [known]


async def test_what_is_held_counts_as_unsent_and_congests(pair: Pair) -> None:
    link = pair.near.link
    pair.faults.stall()
    link.send_many([b"." * (FLUSH_AT // 8)] * 8)
    assert link.congested
    assert link.unsent == FLUSH_AT
    with anyio.move_on_after(60) as scope:
        await link.drain()
    assert scope.cancelled_caught
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link.drain)
        await settle()
        pair.faults.resume()
    await pair.far.receive_many(8)
    await settle()
    assert not link.congested
    assert link.unsent == 0


async def test_a_drain_ends_with_the_connection(pair: Pair) -> None:
    pair.faults.stall()
    pair.near.link.send(b"." * FLUSH_AT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pair.near.link.drain)
        await settle()
        pair.faults.cut()
    assert await pair.near.ended() is None


async def test_what_is_held_can_be_taken_back(pair: Pair) -> None:
    pair.faults.stall()
    sent = [b"a", b"b", b"c"]
    pair.near.link.send_many(sent)
    pair.near.link.abort()
    await pair.near.ended()
    taken = pair.near.link.take_unsent()
    assert taken == sent
    assert all(one is other for one, other in zip(taken, sent, strict=True))
    assert pair.near.link.take_unsent() == []


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_after_its_end_nothing_can_be_sent(pair: Pair, end: str) -> None:
    getattr(pair.near.link, end)()
    getattr(pair.near.link, end)()
    with pytest.raises(ConnectionLost) as lost:
        pair.near.link.send(b"late")
    assert not lost.value.sent
    assert await pair.near.ended() is None
    await pair.far.ended()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_end_while_it_is_stalled_is_heard_on_one_side_only(pair: Pair, end: str) -> None:
    pair.faults.stall()
    getattr(pair.near.link, end)()
    assert not pair.near.lost  # not from within the call
    await pair.near.ended()
    await anyio.sleep(60)
    assert not pair.far.lost
    assert pair.faults.connections == 1
    pair.far.link.send(b"to nobody")
    pair.faults.resume()
    await pair.far.ended()
    assert pair.faults.connections == 0
    assert not pair.near.messages
    assert pair.near.faults == []


async def test_the_other_sides_end_is_heard_when_it_goes_on(pair: Pair) -> None:
    pair.faults.stall()
    pair.far.link.send(b"last")
    await settle()
    pair.far.link.close()
    await pair.far.ended()
    await anyio.sleep(60)
    assert not pair.near.lost
    pair.faults.resume()
    await pair.near.ended()
    assert list(pair.near.messages) == [b"last"]
    assert pair.near.faults == []


async def test_an_end_is_delayed_like_the_messages_before_it(pair: Pair) -> None:
    pair.faults.delay(1_000)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pair.run)
        pair.near.link.send(b"last")
        pair.near.link.close()
        assert await pair.far.receive() == b"last"
        await pair.far.ended()
        assert anyio.current_time() == pytest.approx(1)
        await pair.near.ended()
        tasks.cancel_scope.cancel()


async def test_garbage_comes_as_it_is_and_is_not_dropped(pair: Pair) -> None:
    pair.faults.drop("#")
    pair.faults.garbage(b"\xff\x00")
    assert await pair.far.receive() == b"\xff\x00"
    pair.near.link.send(b"publish:a:1.0.0\n1")
    pair.near.link.send(b"no header")
    assert await pair.far.receive() == b"no header"
    assert pair.faults.dropped == 1


async def test_a_handler_that_fails_on_what_was_held_costs_its_connection_alone(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(messages: list[bytes]) -> None:
        raise KeyError("mine")

    pair.faults.stall()
    pair.far.link.send(b"a")
    await settle()
    pair.near.messages_received = fail  # type: ignore[method-assign]
    pair.faults.resume()
    await pair.near.ended()
    await pair.far.ended()
    assert "internal error" in caplog.text
    assert "mine" in caplog.text


async def test_the_broker_that_ends_ends_what_it_does_not_know_any_more(pair: Pair) -> None:
    pair.faults.stall()
    pair.near.link.abort()
    await pair.near.ended()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pair.run)
        await settle()
        tasks.cancel_scope.cancel()
    error: MBError | None = await pair.far.ended()
    assert error is None
    assert pair.faults.connections == 0
