"""memory://: names, both ends of a Link, and two event loops in two threads."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from mb_broker import Broker, running
from mb_broker.memory_transport import MemoryTransport
from mb_core import ConnectError, ConnectionLost, MessageTooLarge
from mb_core.link import FLUSH_AT, Link, Listener, current_backend
from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits
from mb_testing import until

Connect = Callable[..., Awaitable[Any]]
Reports = Callable[[], list[str]]

LIMITS = Limits(max_payload=1000, max_message=1367)
BACKENDS = ["asyncio", "trio"]


class Ends:
    """A transport of the test's own, and Links through it."""

    def __init__(self, end: type[Any]) -> None:
        self.transport = MemoryTransport()
        self.end = end

    async def listen(self, name: str = "", accept: Any = None) -> Listener:
        return await self.transport.listen(
            parse_url(f"memory://{name}"),
            accept if accept is not None else self.end().accept,
            backend=current_backend(),
            limits=LIMITS,
        )

    async def connect(self, listener: Listener, accept: Any) -> Link:
        return await self.transport.connect(
            parse_url(f"memory://{listener.address[0]}"),
            accept,
            backend=current_backend(),
            limits=LIMITS,
        )

    async def pair(self) -> tuple[Any, Any]:
        """Two ends that are connected: the client's and the broker's."""
        near, far = self.end(), self.end()
        await self.connect(await self.listen(accept=far.accept), near.accept)
        await anyio.wait_all_tasks_blocked()
        assert far.link is not near.link
        return near, far


@pytest.fixture
def ends(raw_client: type[Any]) -> Ends:
    return Ends(raw_client)


async def settled(*clients: Any) -> None:
    """All that was sent has arrived; what has ended has ended on both sides."""
    for _ in range(5):
        await anyio.wait_all_tasks_blocked()


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
    with pytest.raises(ConnectError, match=r"listens at memory://gone \(there: none\)"):
        await ends.connect(listener, ends.end().accept)
    await ends.listen("one")
    await ends.listen("two")
    with pytest.raises(ConnectError, match=r"\(there: memory://one, memory://two\)"):
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
    with pytest.raises(ConnectError, match=r"listens at memory://here \(there: none\)"):
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
    assert reports() == [f"internal error: the link to {far.link.peer} is given up"]


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
    assert reports() == [f"internal error: the link to {far.link.peer} is given up"]


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
    assert reports() == [f"internal error: the link to {links[0].peer} is given up"]

    with pytest.raises(KeyError, match="mine"):
        await ends.connect(await ends.listen(accept=far.accept), fail)
    with anyio.fail_after(5):
        await far.lost.wait()
        await links[1].wait_closed()


# Taking back


def assert_given(unsent: list[bytes], sent: list[bytes]) -> None:
    """The very objects that were sent, in order."""
    assert len(unsent) == len(sent)
    assert all(one is other for one, other in zip(unsent, sent, strict=True))


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
        near.link.send_many(sent)  # it has not heard of the end yet
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


# A listener that closes


@pytest.mark.anyio
async def test_connections_survive_their_listener(ends: Ends) -> None:
    near, far = ends.end(), ends.end()
    listener = await ends.listen(accept=far.accept)
    await ends.connect(listener, near.accept)
    await settled()
    await listener.close()
    near.link.send(b"1")
    with anyio.fail_after(5):
        assert await far.receive() == b"1"


@pytest.mark.anyio
async def test_a_connection_on_its_way_is_refused(ends: Ends) -> None:
    near = ends.end()

    def accept(link: Link) -> Any:
        raise AssertionError("nobody listens any more")

    listener = await ends.listen(accept=accept)
    await ends.connect(listener, near.accept)
    near.link.send(b"1")
    await listener.close()
    near.link.send(b"2")
    with anyio.fail_after(5):
        await near.lost.wait()
        await near.link.wait_closed()
    assert near.error is None


# Two event loops, two threads


@contextmanager
def broker_on(backend: str) -> Iterator[Broker]:
    """A Broker on an event loop of its own, in a thread of its own."""
    started: Future[Broker] = Future()
    stop = threading.Event()

    async def serve() -> None:
        async with Broker() as broker:
            started.set_result(broker)
            await anyio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=in_thread, args=(backend, serve))
    thread.start()
    try:
        yield started.result(5)
    finally:
        stop.set()
        thread.join()


def in_thread(backend: str, function: Callable[[], Awaitable[Any]]) -> None:
    """Run `function` on an event loop of its own that ends with it; this thread waits."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            anyio.run(function, backend=backend)
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert not faults


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_and_a_broker_on_two_loops(other: str, connect: Connect) -> None:
    with broker_on(other) as broker, anyio.fail_after(5):
        clients = [await connect(broker.url) for _ in range(3)]
        for client in clients:
            await client.subscribe("a.b")
        clients[0].send("publish:a.b:1.0.0\n{}")
        for client in clients:
            assert (await client.receive()).startswith(b"publish:a.b:1.0.0:")
        await clients[0].close()
        await clients[1].is_served()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_that_ends_closes_clients_on_other_loops(
    other: str, connect: Connect
) -> None:
    with broker_on(other) as broker:
        client = await connect(broker.url)
    with anyio.fail_after(5):
        await client.lost.wait()
        await client.link.wait_closed()
    assert client.error is None


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_back_pressure_between_two_loops(other: str, connect: Connect) -> None:
    count, size = 2000, 1000
    with broker_on(other) as broker, anyio.fail_after(20):
        receiver, sender = await connect(broker.url), await connect(broker.url)
        await receiver.subscribe("a.b")
        congested = 0
        for number in range(count):
            sender.send(f"publish:a.b:1.0.0\n{number:0{size}}")
            if sender.link.congested:
                congested += 1
                await sender.link.drain()
        await sender.is_served()
        assert congested
        for number in range(count):
            assert int((await receiver.receive()).partition(b"\n")[2]) == number


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_whose_loop_ended_is_noticed_when_something_is_sent_to_it(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()
        await client.subscribe("a.b", "request")
        await client.subscribe("a.b")

    async with Broker() as broker:
        await anyio.to_thread.run_sync(in_thread, other, come_and_go)
        assert broker.connections == 1
        publisher = await connect(broker.url)
        publisher.send("publish:a.b:1.0.0\n1")
        await until(lambda: broker.connections == 1)
        assert await publisher.ask("topic.list", {}) == {"topics": []}
        await publisher.is_served()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_request_to_a_client_whose_loop_ended_fails_at_once(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()
        await client.subscribe("a.b", "request")

    async with Broker() as broker:
        await anyio.to_thread.run_sync(in_thread, other, come_and_go)
        requester = await connect(broker.url)
        with anyio.fail_after(2):  # the time limit of a request is 5 s
            requester.send(f"request:a.b:1.0.0:{uuid4()}\n1")
            assert b"SERVICE_UNAVAILABLE" in await requester.receive()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_whose_loop_ended_while_it_connected_leaves_nothing(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async with Broker() as broker:
        # The broker's loop stands still meanwhile: it opens its end when the client is gone.
        in_thread(other, lambda: connect_raw(raw_client, broker.url))
        await anyio.wait_all_tasks_blocked()
        await until(lambda: broker.connections == 0)
        observer = await connect(broker.url)
        assert len((await observer.ask("service.list", {}))["services"]) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_whose_loop_ended_without_leaving(other: str, ends: Ends) -> None:
    listeners: list[Listener] = []
    opened, finish = threading.Event(), threading.Event()

    async def listen() -> None:
        def accept(link: Link) -> Any:
            opened.set()
            return ends.end().accept(link)

        listeners.append(await ends.listen("here", accept))
        opened.set()
        await anyio.to_thread.run_sync(finish.wait)

    thread = threading.Thread(target=in_thread, args=(other, listen))
    thread.start()
    await anyio.to_thread.run_sync(opened.wait)
    opened.clear()
    near = ends.end()
    await ends.connect(listeners[0], near.accept)
    await anyio.to_thread.run_sync(opened.wait)
    finish.set()
    await anyio.to_thread.run_sync(thread.join)

    near.link.send(b"1")
    with pytest.raises(ConnectionLost):
        near.link.send(b"2")
    with anyio.fail_after(5):
        await near.lost.wait()
        await near.link.wait_closed()
    assert isinstance(near.error, ConnectionLost)
    assert near.error.sent
    assert near.link.take_unsent() == [b"1"]
    with pytest.raises(ConnectError, match="the broker at memory://here has ended"):
        await ends.connect(listeners[0], ends.end().accept)


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("ender", ["near", "far"])
async def test_of_two_threads_one_gets_the_beginning_and_one_gets_the_end_back(
    other: str, ender: str, ends: Ends, restless_threads: None
) -> None:
    """However they meet: every message is in one place, and none has overtaken another."""
    listeners: list[Listener] = []
    received: list[bytes] = []
    opened, finish = threading.Event(), threading.Event()

    def accept(link: Link) -> Any:
        def take(messages: list[bytes]) -> None:
            received.extend(messages)
            if ender == "far" and len(received) > 2000:
                link.close()

        end = ends.end()
        end.messages_received = take
        return end.accept(link)

    async def listen() -> None:
        listeners.append(await ends.listen("here", accept))
        opened.set()
        await anyio.to_thread.run_sync(finish.wait)

    thread = threading.Thread(target=in_thread, args=(other, listen))
    thread.start()
    try:
        await anyio.to_thread.run_sync(opened.wait)
        for round_ in range(30):
            received.clear()
            near, sent = ends.end(), []
            await ends.connect(listeners[0], near.accept)
            with anyio.fail_after(10):
                for number in range(3000 + round_):
                    message = b"%d" % number
                    try:
                        near.link.send(message)
                    except ConnectionLost:
                        break
                    sent.append(message)
                    if number % 300 == 299:
                        await anyio.lowlevel.checkpoint()
                if ender == "near":
                    near.link.abort()
                await near.lost.wait()
            unsent = near.link.take_unsent()
            # What was taken at the same moment is with its handler when another turn is over.
            await in_the_other(listeners[0])
            assert received == sent[: len(received)]
            assert_given(unsent, sent[len(received) :])
    finally:
        finish.set()
        await anyio.to_thread.run_sync(thread.join)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns at every chance."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def in_the_other(listener: Any) -> None:
    """Wait for a turn of the event loop on which a listener is."""
    turned = threading.Event()
    assert listener.post(turned.set)
    assert await anyio.to_thread.run_sync(turned.wait, 5)


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_does_not_wait_for_clients_whose_loop_ended(
    other: str, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()

    with anyio.fail_after(5):
        async with Broker() as broker:
            await anyio.to_thread.run_sync(in_thread, other, come_and_go)
            assert broker.connections == 1
    assert broker.connections == 0


def test_clients_of_many_threads_come_and_go_and_the_broker_goes_first(
    raw_client: type[Any],
) -> None:
    for _ in range(3):
        enough = threading.Semaphore(0)
        faults: list[BaseException] = []
        threads: list[threading.Thread] = []

        async def come_and_go(url: str, enough: threading.Semaphore) -> None:
            with anyio.fail_after(10):
                for number in itertools.count():
                    try:
                        client = await connect_raw(raw_client, url)
                    except ConnectError:
                        return  # the broker is gone
                    try:
                        await client.receive()
                        await client.subscribe(f"a.t{number % 7}")
                        client.send("publish:a.t1:1.0.0\n{}", "request:a.x:1.0.0\n{}")
                    except (AssertionError, ConnectionLost):
                        await client.lost.wait()
                    if number % 3:
                        await client.close()
                    enough.release()

        def run(
            backend: str, url: str, enough: threading.Semaphore, faults: list[BaseException]
        ) -> None:
            try:
                anyio.run(come_and_go, url, enough, backend=backend)
            except BaseException as error:
                faults.append(error)

        with running() as broker:
            for backend in 2 * BACKENDS:
                thread = threading.Thread(target=run, args=(backend, broker.url, enough, faults))
                threads.append(thread)
                thread.start()
            for _ in range(60):
                assert enough.acquire(timeout=10)
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        assert not faults


async def connect_raw(raw_client: type[Any], url: str) -> Any:
    """A RawClient on a memory:// URL; nothing closes it."""
    client = raw_client()
    transport = installed_plugins().transport("memory")
    assert not isinstance(transport, WireTransport)
    await transport.connect(
        parse_url(url), client.accept, backend=current_backend(), limits=Limits()
    )
    return client
