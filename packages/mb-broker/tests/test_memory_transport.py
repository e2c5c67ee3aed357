"""memory://: names, messages, and how a Link ends."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import ConnectError, ConnectionLost, MessageTooLarge
from mb_core.link import Link, Listener

from .memory_ends import BACKENDS, Ends, Reports, ends, in_thread, settled

__all__ = ["ends"]

# Names


@pytest.mark.anyio
async def test_a_listener_has_the_name_that_it_asked_for(ends: Ends) -> None:
    assert (await ends.listen("Here")).address == ("here", 0)


@pytest.mark.anyio
async def test_a_listener_without_a_name_gets_a_new_one(ends: Ends) -> None:
    names = {(await ends.listen()).address[0] for _ in range(10)}
    assert len(names) == 10
    assert "" not in names


@pytest.mark.anyio
async def test_a_new_name_is_none_that_is_taken(ends: Ends) -> None:
    probe = await ends.listen()
    base = probe.address[0].rstrip("0123456789")
    for number in range(20):
        name = f"{base}{number}"
        if name != probe.address[0]:
            await ends.listen(name)
    assert (await ends.listen()).address[0] not in {f"{base}{number}" for number in range(20)}


@pytest.mark.anyio
async def test_a_name_is_taken_until_its_listener_is_closed(ends: Ends) -> None:
    listener = await ends.listen("here")
    with pytest.raises(ConnectError, match="can't listen on memory://here: another broker does"):
        await ends.listen("here")
    await listener.close()
    await ends.listen("here")


@pytest.mark.anyio
async def test_closing_twice_leaves_the_next_listener_of_the_name_alone(ends: Ends) -> None:
    listener = await ends.listen("here")
    await listener.close()
    successor = await ends.listen("here")
    await listener.close()
    client = ends.end()
    assert await ends.connect(successor, client.accept)


@pytest.mark.anyio
async def test_who_asks_for_a_wrong_name_is_told_the_right_ones(ends: Ends) -> None:
    listener = await ends.listen("gone")
    await listener.close()
    with pytest.raises(ConnectError, match=r"listens on memory://gone \(listening: none\)"):
        await ends.connect(listener, ends.end().accept)
    await ends.listen("one")
    await ends.listen("two")
    with pytest.raises(ConnectError, match=r"\(listening: memory://one, memory://two\)"):
        await ends.connect(listener, ends.end().accept)


@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("before", ["nobody", "a listener whose loop has ended"])
def test_of_many_threads_that_want_a_name_one_gets_it(before: str, other: str, ends: Ends) -> None:
    start, tried = threading.Barrier(8), threading.Barrier(8)

    async def listen() -> bool:
        start.wait()
        try:
            await ends.listen("here")
        except ConnectError:
            return False
        finally:
            tried.wait()  # the name is taken for as long as the loop of its listener lives
        return True

    if before != "nobody":
        in_thread(other, lambda: ends.listen("here"))
    got: list[bool] = []
    threads = [
        threading.Thread(target=lambda: got.append(anyio.run(listen, backend=other)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_name_is_free_when_the_loop_of_its_listener_has_ended(
    other: str, ends: Ends
) -> None:
    listeners: list[Listener] = []

    async def listen() -> None:
        listeners.append(await ends.listen("here"))

    await anyio.to_thread.run_sync(in_thread, other, listen)
    far, near = ends.end(), ends.end()
    successor = await ends.listen("here", far.accept)
    await listeners[0].close()  # too late to have a say about the name
    await ends.connect(successor, near.accept)
    near.link.send(b"1")
    await settled()
    assert list(far.inbox) == [b"1"]
    with pytest.raises(ConnectError, match="another broker does"):
        await ends.listen("here")


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_name_whose_loop_has_ended_refuses_at_once_and_is_not_offered_again(
    other: str, ends: Ends
) -> None:
    listeners: list[Listener] = []

    async def listen() -> None:
        listeners.append(await ends.listen("here"))

    await anyio.to_thread.run_sync(in_thread, other, listen)
    with pytest.raises(ConnectError, match="the broker at memory://here has ended"):
        await ends.connect(listeners[0], ends.end().accept)
    with pytest.raises(ConnectError, match=r"listens on memory://here \(listening: none\)"):
        await ends.connect(listeners[0], ends.end().accept)


# Messages


@pytest.mark.anyio
async def test_what_is_sent_in_one_turn_arrives_in_one_batch(ends: Ends) -> None:
    near, far = await ends.pair()
    batches: list[list[bytes]] = []
    far.messages_received = batches.append
    near.link.send_many([b"1", b"2"])
    near.link.send(b"3")
    await settled()
    assert batches == [[b"1", b"2", b"3"]]


@pytest.mark.anyio
async def test_a_link_says_who_its_peer_is(ends: Ends) -> None:
    near, far = await ends.pair()
    assert near.link.peer.startswith("memory://")
    assert far.link.peer == f"client of {near.link.peer}"


@pytest.mark.anyio
async def test_a_message_over_the_limit_ends_the_connection(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send_many([b"x" * 1367, b"y" * 1368, b"z"])
    with anyio.fail_after(5):
        await far.lost.wait()
        await near.lost.wait()
    assert list(far.inbox) == [b"x" * 1367]
    assert isinstance(far.error, MessageTooLarge)
    assert (far.error.size, far.error.limit) == (1368, 1367)
    assert near.error is None
    with pytest.raises(ConnectionLost):
        far.link.send(b"")


# Ending


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_both_ends_hear_of_the_end_once(way: str, ends: Ends) -> None:
    near, far = await ends.pair()
    getattr(near.link, way)()
    getattr(near.link, way)()
    with anyio.fail_after(5):
        await near.link.wait_closed()
        await far.link.wait_closed()
        await far.link.wait_closed()
    assert near.lost.is_set()
    assert far.lost.is_set()
    assert near.error is far.error is None
    near.link.close()
    near.link.abort()
    far.link.close()
    await settled()  # RawClient minds a second link_lost


@pytest.mark.anyio
async def test_a_closed_link_sends_nothing(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.close()
    for end in (near, far):
        with pytest.raises(ConnectionLost) as lost:
            end.link.send_many([b"1", b"2"])
        assert not lost.value.sent
        await settled()


@pytest.mark.anyio
async def test_a_handler_may_close_while_it_is_made(ends: Ends) -> None:
    near, far = ends.end(), ends.end()

    def accept(link: Link) -> Any:
        link.close()
        return far.accept(link)

    await ends.connect(await ends.listen(accept=accept), near.accept)
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()


@pytest.mark.anyio
async def test_what_a_handler_raises_is_logged_and_ends_the_connection(
    ends: Ends, reports: Reports
) -> None:
    def fail(messages: list[bytes]) -> None:
        raise KeyError("mine")

    near, far = await ends.pair()
    far.messages_received = fail
    near.link.send(b"1")
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.lost.wait()
    assert isinstance(far.error, ConnectionLost)
    assert "KeyError" in str(far.error)
    assert near.error is None
    assert reports() == [f"internal error: dropping the link to {far.link.peer}"]


@pytest.mark.anyio
async def test_what_it_raises_about_the_end_is_logged(ends: Ends, reports: Reports) -> None:
    def fail(error: object) -> None:
        raise KeyError("mine")

    near, far = await ends.pair()
    far.link_lost = fail
    near.link.close()
    with anyio.fail_after(5):
        await near.lost.wait()
        await far.link.wait_closed()
    assert reports() == [f"internal error: dropping the link to {far.link.peer}"]


@pytest.mark.anyio
async def test_a_handler_that_can_not_be_made_ends_the_connection(
    ends: Ends, reports: Reports
) -> None:
    links: list[Link] = []

    def fail(link: Link) -> Any:
        links.append(link)
        raise KeyError("mine")

    near, far = ends.end(), ends.end()
    await ends.connect(await ends.listen(accept=fail), near.accept)
    with anyio.fail_after(5):
        await near.lost.wait()
        await links[0].wait_closed()
    assert reports() == [f"internal error: dropping the link to {links[0].peer}"]

    with pytest.raises(KeyError, match="mine"):
        await ends.connect(await ends.listen(accept=far.accept), fail)
    with anyio.fail_after(5):
        await far.lost.wait()
        await links[1].wait_closed()
