"""What becomes of each publication when the connection is lost."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import anyio
import pytest

from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    MessageTooLarge,
    NoRouteFoundError,
)
from mb_testing import until

from .gone_broker import QUICK, Outcome, gone
from .scripted import GREETING, VIRTUAL_TIME, ScriptedBroker
from .watching import Watch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("leaves_nothing"),
    VIRTUAL_TIME,
]


async def test_publications_are_sent_in_order_after_the_restore(broker: Any) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        async with client.subscribe("a") as events:
            with anyio.fail_after(10):
                await broker.kill()
                await watch.disconnects(1)
                for number in range(500):
                    await client.publish("a", number)
                stats = client.stats()
                assert stats.buffered == 500
                assert stats.buffered_bytes == sum(
                    len(f"publish:a:1.0.0\n{number}") for number in range(500)
                )
                await broker.start()
                await watch.connects(1)
                await client.publish("a", 500)
                assert [(await anext(events)).payload for _ in range(501)] == list(range(501))
                assert (client.stats().buffered, client.stats().buffered_bytes) == (0, 0)


async def test_publications_and_requests_that_waited_are_sent_in_the_order_of_their_calls(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        await it.client.publish("one", 1)
        Outcome(tasks, lambda: it.client.request("two", 2, retry=True))
        await anyio.wait_all_tasks_blocked()
        await it.client.publish("three", 3)
        Outcome(tasks, lambda: it.client.publish("four", 4, confirm=True))
        await anyio.wait_all_tasks_blocked()
        await it.client.publish("five", 5)
        sent = await it.come_back()
        tasks.cancel_scope.cancel()
    assert [each.split(b":")[1] for each in sent] == [b"one", b"two", b"three", b"four", b"five"]


async def test_what_waits_is_held_across_tries_that_fail_in_the_restore(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK, connect_timeout=100) as client:
            watch = Watch(client)
            await client.subscribe("s")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            await watch.disconnects(1)
            await client.publish("a", 1)
            await watch.error(ConnectError, 2)
            await client.publish("a", 2)
            scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
            await watch.connects(1)
            await scripted.connections[-1].wait_for(b"publish:a:", 2)
            sent = [each for every in scripted.connections for each in every.starting(b"publish:")]
    assert sent == [b"publish:a:1.0.0\n1", b"publish:a:1.0.0\n2"]


async def test_a_full_buffer_refuses_what_does_not_fit(scripted: ScriptedBroker) -> None:
    one = len(b"publish:a:1.0.0\n1")
    async with gone(scripted, publish_buffer=3 * one) as it:
        for number in range(3):
            await it.client.publish("a", number)
        for confirm in (False, True):
            with pytest.raises(ConnectionLost, match=r"buffer of 51 bytes.*full") as lost:
                await it.client.publish("a", 9, confirm=confirm)
            assert not lost.value.sent
        assert it.client.stats().buffered == 3
        assert it.client.stats().dropped_publishes == 0
        sent = await it.come_back()
        assert sent == [b"publish:a:1.0.0\n%d" % number for number in range(3)]
        # There is room again.
        await it.scripted.stop()
        await it.watch.disconnects(2)
        await it.client.publish("a", 4)


async def test_without_a_buffer_nothing_waits(scripted: ScriptedBroker) -> None:
    async with gone(scripted, publish_buffer=0) as it:
        for confirm in (False, True):
            with pytest.raises(ConnectionLost, match="publish_buffer=0") as lost:
                await it.client.publish("a", {}, confirm=confirm)
            assert not lost.value.sent
        assert await it.come_back() == []
        await it.client.publish("a", {})


async def test_drop_oldest_makes_room_counts_and_tells_at_most_once_a_second(
    scripted: ScriptedBroker,
) -> None:
    one = len(b"publish:a:1.0.0\n10")
    options: dict[str, Any] = {"publish_buffer": 5 * one, "buffer_overflow": "drop_oldest"}
    async with gone(scripted, **options) as it:
        for number in range(10, 100):
            await it.client.publish("a", number)
        assert it.client.stats().dropped_publishes == 85
        assert it.client.stats().buffered == 5
        told = await it.watch.error(ConnectionLost)
        assert not told.sent
        assert "1 publication was dropped" in str(told)
        sent = await it.come_back()
        assert sent == [b"publish:a:1.0.0\n%d" % number for number in range(95, 100)]
        assert len([each for each in it.watch.errors if isinstance(each, ConnectionLost)]) == 1


async def test_each_report_of_dropped_publications_counts_those_since_the_last(
    scripted: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(b"publish:a:1.0.0\n10")
    options: dict[str, Any] = {"publish_buffer": 5 * one, "buffer_overflow": "drop_oldest"}
    async with gone(scripted, **options) as it:
        for number in range(10, 30):
            await it.client.publish("a", number)
        monkeypatch.setattr("mb_core.throttle._EVERY", 0.0)
        await it.client.publish("a", 30)
        counts = [str(await it.watch.error(ConnectionLost, number)) for number in (1, 2)]
    assert [int(text.split()[0]) for text in counts] == [1, 15]


async def test_what_somebody_waits_for_is_not_dropped_for_others(
    scripted: ScriptedBroker,
) -> None:
    options: dict[str, Any] = {"publish_buffer": 250, "buffer_overflow": "drop_oldest"}
    async with gone(scripted, **options) as it, anyio.create_task_group() as tasks:
        confirmed = Outcome(tasks, lambda: it.client.publish("sure", "x" * 100, confirm=True))
        await anyio.wait_all_tasks_blocked()
        scripted.answers["sure"] = b'{"status":"success"}'
        for number in range(50):
            await it.client.publish("a", number)
        before = it.client.stats()
        with pytest.raises(ConnectionLost, match="full"):
            await it.client.publish("a", "y" * 200)  # not even alone beside it
        assert it.client.stats() == before  # nothing was dropped for nothing
        sent = await it.come_back()
        assert sent[0].startswith(b"publish:sure:")
        await confirmed.succeeds()


async def test_a_confirmed_publication_that_takes_the_place_of_others_is_told_as_well(
    scripted: ScriptedBroker,
) -> None:
    options: dict[str, Any] = {"publish_buffer": 200, "buffer_overflow": "drop_oldest"}
    async with gone(scripted, **options) as it, anyio.create_task_group() as tasks:
        await it.client.publish("a", "x" * 100)
        confirmed = Outcome(tasks, lambda: it.client.publish("a", "y" * 100, confirm=True))
        assert "1 publication was dropped" in str(await it.watch.error(ConnectionLost))
        confirmed.scope.cancel()


async def test_what_is_wrong_with_a_publication_is_raised_while_disconnected_as_well(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it:
        with pytest.raises(LocalProtocolError, match="topic"):
            await it.client.publish("a..b", {})
        with pytest.raises(LocalProtocolError, match="invalid timeout"):
            await it.client.publish("a", {}, confirm=True, timeout=0)
        with pytest.raises(MessageTooLarge):
            await it.client.publish("a", "x" * 20_000)
        with pytest.raises(LocalProtocolError):
            await it.client.request("a..b", {}, retry=True)
        assert await it.come_back() == []


# Publications that are confirmed


async def test_a_confirmed_publication_waits_for_the_connection_and_then_for_the_brokers_word(
    broker: Any,
) -> None:
    async with MessageBrokerClient(broker.url, **QUICK) as client:
        watch = Watch(client)
        async with client.subscribe("a") as events, anyio.create_task_group() as tasks:
            with anyio.fail_after(10):
                await broker.kill()
                await watch.disconnects(1)
                there = Outcome(tasks, lambda: client.publish("a", 1, confirm=True))
                nobody = Outcome(tasks, lambda: client.publish("nobody", 2, confirm=True))
                await anyio.wait_all_tasks_blocked()
                assert (client.stats().buffered, client.stats().pending) == (2, 2)
                await broker.start()
                await there.succeeds()
                assert events.queued == 1
                await until(lambda: nobody.over)
                assert isinstance(nobody.error, NoRouteFoundError)
                assert (client.stats().buffered, client.stats().pending) == (0, 0)


async def test_a_confirmed_publication_waits_within_its_timeout(scripted: ScriptedBroker) -> None:
    async with gone(scripted) as it:
        with pytest.raises(ConnectionLost, match="no connection within 50 ms") as lost:
            await it.client.publish("a", 1, confirm=True, timeout=50)
        assert not lost.value.sent
        assert it.client.stats().buffered_bytes == 0
        assert await it.come_back() == []


async def test_a_confirmed_publication_cancelled_in_the_buffer_is_never_sent(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        confirmed = Outcome(tasks, lambda: it.client.publish("a", 1, confirm=True))
        await anyio.wait_all_tasks_blocked()
        confirmed.scope.cancel()
        await until(lambda: confirmed.over)
        stats = it.client.stats()
        assert (stats.pending, stats.buffered, stats.buffered_bytes) == (0, 0, 0)
        assert await it.come_back() == []


async def test_a_confirmed_publication_in_flight_is_lost_and_not_sent_again(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(scripted.url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            confirmed = Outcome(tasks, lambda: client.publish("a", 1, confirm=True))
            await scripted.connections[0].wait_for(b"publish:a:")
            await scripted.connections[0].drop()
            assert (await confirmed.lost()).sent
            await until(lambda: client.connected)
            await client.request("system.heartbeat", {})
            assert scripted.connections[1].starting(b"publish:") == []


async def test_a_confirmed_publication_from_the_buffer_is_sent_once_only(
    scripted: ScriptedBroker,
) -> None:
    """On the first new connection; when that is lost as well, it may have arrived."""
    async with gone(scripted) as it, anyio.create_task_group() as tasks:
        confirmed = Outcome(tasks, lambda: it.client.publish("a", 1, confirm=True))
        await anyio.wait_all_tasks_blocked()
        await scripted.listen()
        await (await scripted.connection(2)).wait_for(b"publish:a:")
        await scripted.connections[1].drop()
        assert (await confirmed.lost()).sent
        await it.watch.connects(2)
        await it.client.request("system.heartbeat", {})
        assert scripted.connections[2].starting(b"publish:") == []


# What never left the process


class DeafPeer:
    """One end of a TCP connection, that greets and reads no more than it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._messages: list[bytes] = []
        self._rest = b""
        sock.sendall(len(GREETING).to_bytes(4) + GREETING)
        sock.setblocking(False)

    async def read(self, count: int) -> list[bytes]:
        """The first `count` whole messages."""
        while len(self._messages) < count:
            await anyio.wait_readable(self._sock)
            received = self._sock.recv(65_536)
            assert received
            self._rest += received
            while len(self._rest) >= 4 and len(self._rest) >= (
                end := 4 + int.from_bytes(self._rest[:4])
            ):
                self._messages.append(self._rest[4:end])
                self._rest = self._rest[end:]
        return self._messages[:count]

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


async def test_what_the_system_has_not_taken_when_the_connection_breaks_is_sent_on_the_next() -> (
    None
):
    """Most of what was published never left; none of it is sent twice."""
    count = 150
    large: dict[str, Any] = {"max_payload": 200_000, "publish_buffer": 64 * 1024 * 1024}
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        async def accept() -> DeafPeer:
            await anyio.wait_readable(listener)
            return DeafPeer(stack.enter_context(listener.accept()[0]))

        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        client = MessageBrokerClient(
            url, **QUICK, **large, drain_timeout=0, heartbeat_interval=None
        )
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                deaf = await accept()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)

            async def publish() -> None:
                for number in range(count):
                    await client.publish(f"n{number}", "x" * 100_000)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                first = await deaf.read(3)
                await anyio.wait_all_tasks_blocked()
                deaf.reset()
                second_peer = await accept()
            # The numbers of those that are left follow each other up to the last.
            second = await second_peer.read(1)
            left = count - int(second[0].split(b":")[1][1:])
            second = await second_peer.read(left)
            await client.close()
    numbers = [int(each.split(b":")[1][1:]) for each in second]
    assert numbers == list(range(count - left, count))
    assert left > 10
    assert {each.split(b":")[1] for each in first}.isdisjoint(
        each.split(b":")[1] for each in second
    )


# At the end


async def test_what_could_not_be_sent_until_the_end_is_told_in_one_error(
    scripted: ScriptedBroker,
) -> None:
    async with gone(scripted) as it:
        for number in range(7):
            await it.client.publish("a", number)
    told = [each for each in it.watch.errors if isinstance(each, ConnectionLost)]
    assert ["7 publications were never sent" in str(each) for each in told] == [True]
    assert not told[0].sent
    assert (it.client.stats().buffered, it.client.stats().buffered_bytes) == (0, 0)
