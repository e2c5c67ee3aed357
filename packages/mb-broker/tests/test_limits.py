"""What a client may take: going over a limit is answered, logged, and affects no other."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme

from mb_broker import Broker
from mb_core import ConnectError
from mb_core.hookspecs import hookimpl
from mb_core.link import Link, LinkHandler
from mb_core.plugins import Plugins
from mb_core.url import URL
from mb_core.wire import Limits
from mb_testing import until

pytestmark = pytest.mark.anyio

Connect = Callable[..., Awaitable[Any]]

ID = "123e4567-e89b-42d3-a456-426614174000"
LEAST_UNREAD = 256 * 1024
BLOCK = "x" * 16_000
LARGE = Limits(max_message=16_000_000)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

kinds = pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
streams = pytest.mark.parametrize("scheme", ["tcp", "ws"])


def urls() -> list[str]:
    return ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"]


def port_of(broker: Broker, scheme: str) -> int:
    return int(broker.url_of(scheme).strip("/").rpartition(":")[2])


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4) + message for message in messages)


def subscription(topic: str, request_id: str = ID) -> bytes:
    payload = json.dumps({"action": "publish", "topic": topic})
    return f"request:system.topic.subscribe:1.0.0:{request_id}\n{payload}".encode()


async def read_to_end(stream: anyio.abc.ByteStream) -> bytes:
    """All that comes until the broker ends it, in order or not."""
    received = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            received += await stream.receive()
    return received


async def send_until_refused(stream: anyio.abc.ByteStream) -> None:
    """Send on a stream whose other end is gone: the system says so soon."""
    with contextlib.suppress(anyio.BrokenResourceError):
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.001)


async def metric(client: Any, name: str) -> float:
    value: float = (await client.ask("metrics", {}))["metrics"][name]
    return value


# max_connections


async def what_is_said(connect: Connect, url: str) -> str:
    """What a client is told that is turned away."""
    try:
        client = await connect(url, greeted=False)
    except ConnectError as error:
        # Over WebSocket it may come in one piece: then there never was a connection.
        return str(error)
    header, _, payload = (await client.receive()).partition(b"\n")
    assert header == b"response:error:1.0.0"
    error = json.loads(payload)["error"]
    assert error["code"] == "SERVICE_UNAVAILABLE"
    await client.lost.wait()
    return str(error["message"])


@kinds
async def test_one_too_many_is_turned_away_with_the_limit_and_the_others_stay(
    scheme: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=2) as broker:
            first, second = [await connect(broker.url_of(scheme)) for _ in range(2)]
            limit = "the broker is full: max_connections is 2"
            words = await what_is_said(connect, broker.url_of(scheme))
            assert words.endswith(limit)
            assert broker.connections == 2
            (text,) = caplog.messages
            assert text.endswith(f" refused: {limit}")
            await first.is_served()
            assert await metric(first, "connection.rejected.total") == 1
            # A place that becomes free can be taken.
            await second.close()
            await until(lambda: broker.connections == 1)
            await (await connect(broker.url_of(scheme))).is_served()


async def test_what_a_client_says_that_was_turned_away_is_ignored(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=1) as broker:
            client = await connect(broker.url_of("memory"))
            await client.subscribe("a.b")
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as stranger:
                await stranger.send(framed(b"publish:a.b:1.0.0\n{}", subscription("a.b")))
                assert (await read_to_end(stranger)).count(b"response:") == 1
            await client.is_served()


@streams
async def test_who_was_turned_away_and_stays_is_gone_when_the_broker_ends(
    scheme: str, connect: Connect
) -> None:
    async with AsyncExitStack() as stack:
        with anyio.fail_after(3):  # and not after the close time limit
            async with Broker(*urls(), max_connections=1, close_timeout=60_000) as broker:
                await connect(broker.url_of("memory"))
                stranger = await stack.enter_async_context(
                    await anyio.connect_tcp("127.0.0.1", port_of(broker, scheme))
                )
                await stranger.send(UPGRADE if scheme == "ws" else b"\0\0\0\1")
                while b"max_connections" not in await stranger.receive():
                    pass
            await send_until_refused(stranger)


async def test_who_was_turned_away_and_stays_is_cut_off_at_the_close_time_limit(
    connect: Connect,
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_connections=1, close_timeout=50) as broker:
            client = await connect(broker.url_of("memory"))
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as stranger:
                assert b"max_connections" in await read_to_end(stranger)
                await send_until_refused(stranger)
            await client.is_served()


# max_unread


class Deaf:
    """A client that subscribes over TCP and then reads nothing."""

    def __init__(self, broker: Broker) -> None:
        self.socket = socket.socket()
        # A small buffer: what the kernel takes is not counted as unread.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port_of(broker, "tcp")))

    def say(self, *messages: bytes) -> None:
        self.socket.sendall(framed(*messages))


@pytest.fixture
async def deaf() -> AsyncIterator[Callable[[Broker], Deaf]]:
    made: list[Deaf] = []

    def make(broker: Broker) -> Deaf:
        made.append(Deaf(broker))
        return made[-1]

    yield make
    for each in made:
        each.socket.close()


async def subscribers(client: Any) -> int:
    topics = (await client.ask("topic.list", {}))["topics"]
    return sum(len(topic["subscribers"]) for topic in topics)


async def flood(publisher: Any, topic: str, until_fact: Callable[[], bool]) -> int:
    """Publish until something is the case; how many messages that took."""
    sent = 0
    while not until_fact():
        publisher.send(f"publish:{topic}:1.0.0\n{BLOCK}")
        sent += 1
        await publisher.link.drain()
        await anyio.lowlevel.checkpoint()
        assert sent < 20_000
    return sent


async def test_a_subscriber_that_does_not_read_is_cut_off_and_its_neighbour_gets_all(
    connect: Connect, deaf: Callable[[Broker], Deaf], caplog: pytest.LogCaptureFixture
) -> None:
    unread = 1_000_000
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=unread) as broker:
            publisher = await connect(broker.url_of("memory"))
            neighbour = await connect(broker.url_of("tcp"))
            await neighbour.subscribe("a.b")
            deaf(broker).say(subscription("a.b"))
            while await subscribers(publisher) < 2:
                pass
            assert broker.connections == 3
            sent = await flood(publisher, "a.b", lambda: broker.connections == 2)
            for _ in range(sent):
                assert (await neighbour.receive()).endswith(BLOCK.encode())
            await neighbour.is_served()
            (text,) = caplog.messages
            found = re.fullmatch(
                r"127\.0\.0\.1:\d+ does not read: (\d+) bytes wait for it, "
                r"the limit is 1000000 \(max_unread\); it is cut off",
                text,
            )
            assert found is not None
            # Not many more than one turn of the loop adds.
            assert unread < int(found[1]) < unread + 500_000
            assert await metric(neighbour, "connection.cutoff.total") == 1
            assert await metric(neighbour, "connection.active") == 2


async def test_an_auditor_that_does_not_read_is_cut_off(
    connect: Connect, deaf: Callable[[Broker], Deaf], caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            client = await connect(broker.url_of("memory"))
            deaf(broker).say(subscription("system.message"))
            while await subscribers(client) < 1:
                pass
            while broker.connections == 2:
                await client.is_served()
            assert "it is cut off" in caplog.text
            assert await subscribers(client) == 0
            await client.is_served()


async def test_a_follower_of_the_log_that_does_not_read_is_cut_off_and_others_are_told(
    connect: Connect, deaf: Callable[[Broker], Deaf]
) -> None:
    follow = f'request:system.log.subscribe:1.0.0:{ID}\n{{"levels":["info","warn"]}}'.encode()
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            follower, client = [await connect(broker.url_of("memory")) for _ in range(2)]
            follower.send(follow)
            await follower.receive()
            deaf(broker).say(follow)
            while await subscribers(client) < 2:
                pass
            register = b'request:system.service.register:1.0.0\n{"name":"%b","description":"x"}'
            while broker.connections == 3:
                client.send(*[register % (b"\xe2\x98\x83" * 36)] * 100)
                while len(client.inbox) < 100:
                    await anyio.lowlevel.checkpoint()
                client.inbox.clear()
            while b"it is cut off" not in await follower.receive():
                pass
            await client.is_served()


async def test_an_entry_about_a_cut_off_needs_no_other_traffic(
    connect: Connect, deaf: Callable[[Broker], Deaf]
) -> None:
    with anyio.fail_after(15):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            publisher, follower = [await connect(broker.url_of("memory")) for _ in range(2)]
            await follower.ask("log.subscribe", {"levels": ["warn"]})
            deaf(broker).say(subscription("a.b"))
            while await subscribers(publisher) < 2:
                pass
            await flood(publisher, "a.b", lambda: bool(follower.inbox))
            assert b"(max_unread); it is cut off" in await follower.receive()


async def test_who_reads_slowly_is_not_cut_off_for_what_it_has_read(connect: Connect) -> None:
    with anyio.fail_after(20):
        async with Broker(*urls(), max_unread=LEAST_UNREAD) as broker:
            publisher = await connect(broker.url_of("memory"))
            reader = await connect(broker.url_of("tcp"))
            await reader.subscribe("a.b")
            # Never without something on its way, and never with much of it.
            for _ in range(8):
                publisher.send(f"publish:a.b:1.0.0\n{BLOCK}")
            for _ in range(400):
                publisher.send(f"publish:a.b:1.0.0\n{BLOCK}")
                await reader.receive()
            for _ in range(8):
                await reader.receive()
            await reader.is_served()
            assert await metric(reader, "connection.cutoff.total") == 0


# Time limits of connections


async def test_a_handshake_that_takes_too_long_is_a_failed_connection(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), handshake_timeout=50) as broker:
            client = await connect(broker.url_of("memory"))
            await client.ask("log.subscribe", {"levels": ["warn"]})
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "ws")) as stranger:
                await stranger.send(UPGRADE[:50])
                entry = json.loads((await client.receive()).partition(b"\n")[2])
                assert re.fullmatch(
                    r"127\.0\.0\.1:\d+ refused: did not complete its handshake in 0\.05 s",
                    entry["message"],
                )
                await read_to_end(stranger)
            assert await metric(client, "connection.failed.total") == 1


async def test_who_comes_and_goes_without_a_word_is_no_news(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls()) as broker:
            client = await connect(broker.url_of("memory"))
            for _ in range(3):
                async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as probe:
                    assert b"initialize" in await probe.receive()
                await until(lambda: broker.connections == 1)
            assert await metric(client, "connection.failed.total") == 0
            assert await metric(client, "connection.disconnected.total") == 3
            assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_client_that_does_not_end_is_given_up_at_the_close_time_limit(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    options: Any = {"heartbeat_after": 20, "drop_after": 40, "close_timeout": 50}
    with anyio.fail_after(5):
        async with (
            Broker("tcp://127.0.0.1:0", **options) as broker,
            await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as stream,
        ):
            await stream.send(framed(b"response:system.heartbeat:1.0.0\n{}"))
            await until(lambda: broker.connections == 1)
            await until(lambda: broker.connections == 0)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert re.fullmatch(
        r"the connection to 127\.0\.0\.1:\d+ broke: the other side did not close it within 0\.05 s",
        warning,
    )


# max_subscriptions


@pytest.mark.parametrize("registered", [True, False])
async def test_one_subscription_too_many_is_refused_with_the_limit(
    registered: bool, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(max_subscriptions=2) as broker:
            client, other = [await connect(broker.url) for _ in range(2)]
            if registered:
                await client.ask("service.register", {"name": "Greedy", "description": "x"})
            await client.subscribe("a.b")
            # Both at once would be three: neither is made.
            answers = [
                await client.ask("topic.subscribe", {"action": action, "topic": "c.d"})
                for action in ("both", "publish", "request")
            ]
            refused, taken, refused_again = answers
            assert taken == {"status": "success"}
            for answer in (refused, refused_again):
                error = answer["error"]
                assert error["code"] == "SERVICE_UNAVAILABLE"
                assert error["message"] == (
                    "a client has at most 2 subscriptions (max_subscriptions)"
                )
                assert error["details"] == {"topic": "c.d"}
            text = next(text for text in caplog.messages if "max_subscriptions" in text)
            name = "Greedy" if registered else r"[0-9a-f-]{36}"
            assert re.fullmatch(f"{name} has 1 subscriptions, max_subscriptions is 2", text)
            # Again is an update; the limit is each client's own; one that ends makes room.
            await client.subscribe("a.b")
            await other.subscribe("a.b")
            await client.ask("topic.unsubscribe", {"action": "publish", "topic": "a.b"})
            await client.subscribe("e.f")


async def test_where_all_have_many_subscriptions_only_those_with_few_get_more(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(max_subscriptions_total=6) as broker:
            greedy, modest = [await connect(broker.url) for _ in range(2)]
            for number in range(6):
                await greedy.subscribe(f"a.t{number}")
            refused = await greedy.ask("topic.subscribe", {"action": "publish", "topic": "a.b"})
            assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
            assert refused["error"]["message"] == (
                "all clients together have 6 subscriptions (max_subscriptions_total), and this "
                "one would have more than an equal share of them (3)"
            )
            text = next(text for text in caplog.messages if "max_subscriptions_total" in text)
            assert text.startswith("all clients have 6 subscriptions, ")
            # Again is an update.  Others have their share, and no more.
            await greedy.subscribe("a.t0")
            for number in range(3):
                await modest.subscribe(f"b.t{number}")
            refused = await modest.ask("topic.subscribe", {"action": "publish", "topic": "b.c"})
            assert "equal share of them (3)" in refused["error"]["message"]
            # One that leaves makes room, one by one or all at once.
            for number in range(5):
                body = {"action": "publish", "topic": f"a.t{number}"}
                await greedy.ask("topic.unsubscribe", body)
            await modest.subscribe("b.c")
            await modest.subscribe("b.d")
            await greedy.close()
            while (await modest.ask("service.list", {}))["services"][1:]:
                pass
            await modest.subscribe("b.e")


# max_outstanding


async def test_one_request_too_many_fails_the_oldest_at_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with anyio.fail_after(5):
        async with Broker(*urls(), max_outstanding=1) as broker:
            responder = await connect(broker.url_of("memory"))
            await responder.subscribe("a.b", "request")
            one, other = [await connect(broker.url_of("tcp")) for _ in range(2)]
            one.send(f"request:a.b:1.0.0:{ID}\n1")
            await responder.receive()
            other.send(f"request:a.b:1.0.0:{ID}\n2")
            header, _, payload = (await one.receive()).partition(b"\n")
            assert header == f"response:a.b:1.0.0:{ID}".encode()
            assert json.loads(payload)["error"]["code"] == "SERVICE_UNAVAILABLE"
            passed_on = (await responder.receive()).partition(b"\n")[0]
            responder.send(b"response" + passed_on.removeprefix(b"request") + b"\n3")
            assert await other.receive() == f"response:a.b:1.0.0:{ID}\n3".encode()
            text = (
                "a request to a.b failed: more than 1 requests are outstanding (max_outstanding); "
            )
            assert any(message.startswith(text) for message in caplog.messages)


# Accepting


@contextmanager
def no_file_left() -> Iterator[None]:
    """Every file that this process may open is open."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_files_a_client_waits_to_be_accepted_and_others_are_served(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def greeted(sock: socket.socket) -> bool:
        try:
            return b"system.initialize" in sock.recv(1000)
        except BlockingIOError:
            return False

    with anyio.fail_after(10), socket.socket() as waiting:
        async with Broker("tcp://127.0.0.1:0") as broker:
            client = await connect(broker.url)
            with no_file_left():
                waiting.connect(("127.0.0.1", int(broker.url.rpartition(":")[2])))
                waiting.setblocking(False)
                await until(lambda: bool(caplog.messages))
                await client.is_served()
                await client.ask("metrics", {})
                assert not greeted(waiting)
            await until(lambda: greeted(waiting))
            waiting.close()
    text = broker.url.removeprefix("tcp://")
    assert caplog.messages == [
        f"can't accept connections on {text}: Too many open files (raise the limit: ulimit -n)"
    ]


async def test_a_broker_that_waits_for_files_can_end(caplog: pytest.LogCaptureFixture) -> None:
    with anyio.fail_after(10), socket.socket() as waiting:
        async with Broker("tcp://127.0.0.1:0") as broker:
            with no_file_left():
                waiting.connect(("127.0.0.1", int(broker.url.rpartition(":")[2])))
                await until(lambda: bool(caplog.messages))
                await broker.abort()


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A broker's context, and that of clients which trust it."""
    ca = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    return server, trusting


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_handshakes_that_stall_make_room_for_others(
    scheme: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server, trusting = tls_contexts()
    secure = {"ssl_context": trusting} if scheme == "wss" else {}
    limit = 2
    with anyio.fail_after(10):
        async with Broker(
            f"{scheme}://127.0.0.1:0", ssl_context=server, max_handshakes=limit, max_connections=1
        ) as broker:
            host, _, port = broker.url.removeprefix(f"{scheme}://").rstrip("/").rpartition(":")
            stalled = [await anyio.connect_tcp(host, int(port)) for _ in range(limit)]
            client = await connect(broker.url, **secure)
            # The oldest was ended for it, the other has its time still.
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stalled[0].receive()
            await until(lambda: bool(caplog.messages))
            assert re.fullmatch(
                r"127.0.0.1:\d+ refused: had not completed its handshake when 2 others had "
                r"begun theirs \(max_handshakes\)",
                caplog.messages[0],
            )
            await client.is_served()
            for stream in stalled:
                await stream.aclose()


# A transport of somebody else's


class FaultyLink:
    """A Link that accepts everything and says that nothing of it was taken."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.congested = True
        self.unsent = 0
        self.messages_sent = 0
        self.bytes_sent = 0
        self.aborted = 0
        self.handler: LinkHandler
        self.relieved = anyio.Event()
        self._closed = anyio.Event()

    def send(self, message: bytes) -> None:
        self.unsent += len(message)

    def send_many(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    def take_unsent(self) -> list[bytes]:
        raise NotImplementedError

    async def drain(self) -> None:
        await self.relieved.wait()

    def close(self, reason: str = "") -> None:
        self.abort()

    def abort(self) -> None:
        # From within, which no Link of ours does.
        self.aborted += 1
        if not self._closed.is_set():
            self._closed.set()
            self.relieved.set()
            self.handler.link_lost(None)

    async def wait_closed(self) -> None:
        await self._closed.wait()


class FaultyTransport:
    """A LinkTransport that gives the broker FaultyLinks."""

    scheme = "faulty"

    def __init__(self) -> None:
        self.accept: Callable[[Link], LinkHandler]

    async def connect(self, url: URL, accept: Any, **_: Any) -> Link:
        raise NotImplementedError

    async def listen(self, url: URL, accept: Any, **_: Any) -> Any:
        self.accept = accept

        class Listener:
            address = ("here", 0)

            async def close(self) -> None:
                pass

        return Listener()

    def join(self, peer: str) -> FaultyLink:
        link = FaultyLink(peer)
        link.handler = self.accept(link)
        return link


class FaultyPlugin:
    def __init__(self, transport: FaultyTransport) -> None:
        self._transport = transport

    @hookimpl
    def mb_register_transports(self) -> list[FaultyTransport]:
        return [self._transport]


async def test_a_link_that_ends_within_its_abort_is_cut_off_once_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread=LEAST_UNREAD) as broker:
            stalled = [transport.join(f"stalled {n}") for n in range(3)]
            reader = transport.join("reader")
            for link in (*stalled, reader):
                link.handler.messages_received([subscription("a.b")])
            reader.congested = False
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            reader.handler.messages_received([publish] * 17)
            assert [link.aborted for link in stalled] == [1, 1, 1]
            assert reader.aborted == 0
            assert broker.connections == 1
            texts = [text for text in caplog.messages if "does not read" in text]
            assert [text.partition(" does")[0] for text in texts] == [
                f"stalled {n}" for n in range(3)
            ]


async def test_a_link_that_can_not_pause_is_cut_off_for_what_it_sends_without_reading(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread=LEAST_UNREAD) as broker:
            link = transport.join("sender")
            link.handler.messages_received([subscription("a.b")])
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            link.handler.messages_received([publish] * 5)
            unread = link.unsent
            assert LEAST_UNREAD // 4 < unread < LEAST_UNREAD // 2
            link.handler.messages_received([publish] * 5)
            assert link.unsent == unread  # it has to read first
            link.congested, link.unsent = False, 0
            link.relieved.set()
            while not link.unsent:
                await anyio.lowlevel.checkpoint()
            assert link.unsent > 5 * len(BLOCK)
            link.congested, link.relieved = True, anyio.Event()
            link.handler.messages_received([publish])
            while not link.aborted:
                link.handler.messages_received([publish] * 10)
            assert re.search(r"sender sends too fast: \d+ bytes of it wait", caplog.text)
            assert broker.connections == 0


async def test_tiny_messages_that_wait_count_with_the_memory_that_they_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count, limit = 100_000, 1_000_000
    assert 2 * count < limit
    with anyio.fail_after(30):
        async with Broker("faulty://", plugins=plugins, max_unread_total=limit) as broker:
            link, reader = transport.join("sender"), transport.join("reader")
            link.congested = reader.congested = False
            link.handler.messages_received([b"xx"] * count)
            assert broker.connections == 1
            assert re.search(
                r"sender sends too fast: \d+ bytes of it wait to be handled, of ", caplog.text
            )
            assert not reader.aborted


async def test_what_a_client_sent_before_it_left_takes_its_turn() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count = 20_000  # more than is handled as it comes
    with anyio.fail_after(30):
        async with Broker("faulty://", plugins=plugins) as broker:
            reader, leaving = transport.join("reader"), transport.join("leaving")
            reader.congested = leaving.congested = False
            reader.handler.messages_received([subscription("a.b")])
            greeting = reader.unsent
            leaving.handler.messages_received([b"publish:a.b:1.0.0\n"] * count)
            before = reader.unsent
            leaving.abort()
            assert reader.unsent == before
            assert broker.connections == 2
            await until(lambda: broker.connections == 1)
            assert reader.unsent - greeting == count * len(f"publish:a.b:1.0.0:{ID}\n")


async def test_a_broker_ends_though_clients_that_left_have_messages_waiting() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins) as broker:
            for number in range(20):
                link = transport.join(f"client {number}")
                link.congested = False
                link.handler.messages_received([b"publish:a.b:1.0.0\n"] * 20_000)
                link.abort()
    assert broker.connections == 0


@pytest.mark.parametrize("feed", ["", "system.message", "system.log"])
async def test_messages_are_handled_one_at_a_time_where_each_is_an_event_for_a_follower(
    feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    count = 64
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins):
            reader, sender = transport.join("reader"), transport.join("sender")
            reader.congested = sender.congested = False
            reader.handler.messages_received([subscription("a.b")])
            if feed == "system.message":
                follower = transport.join("follower")
                follower.handler.messages_received([subscription(feed)])
            elif feed:
                follower = transport.join("follower")
                follow = b'request:system.log.subscribe:1.0.0\n{"levels":["debug"]}'
                follower.handler.messages_received([follow])
            # The time is over at the second look at it.
            looks = itertools.count(step=0.0015)
            with monkeypatch.context() as patch:
                patch.setattr("mb_broker.connections.time.perf_counter", looks.__next__)
                before = reader.unsent
                sender.handler.messages_received([b"publish:a.b:1.0.0\n"] * count)
                size = len(f"publish:a.b:1.0.0:{ID}\n")
                assert reader.unsent - before == (size if feed else count * size)
            await until(lambda: reader.unsent - before == count * size)


async def test_the_sum_of_what_is_unread_has_a_limit_and_the_worst_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    with anyio.fail_after(5):
        async with Broker("faulty://", plugins=plugins, max_unread_total=1_000_000) as broker:
            links = [transport.join(f"client {n}") for n in range(10)]
            for number, link in enumerate(links):
                for topic in range(number + 1):
                    link.handler.messages_received([subscription(f"t{topic}")])
            publisher = transport.join("publisher")
            publisher.congested = False
            round_ = [f"publish:t{n}:1.0.0\n{BLOCK}".encode() for n in range(10)]
            # Of each round, the client N gets N + 1 messages: 55 of 16 kB in all.
            publisher.handler.messages_received(round_)
            assert not [link for link in links if link.aborted]
            publisher.handler.messages_received(round_)
            aborted = [link.peer for link in links if link.aborted]
            assert "client 9" in aborted
            assert not {"client 0", "client 1", "client 2", "client 3"} & {*aborted}
            assert sum(link.unsent for link in links if not link.aborted) < 1_100_000
            assert re.search(
                r"client 9 does not read: \d+ bytes wait for it, of \d+ for all clients, "
                r"the limit is 1000000 \(max_unread_total\); it is cut off",
                caplog.text,
            )
            assert broker.connections == 11 - len(aborted)


# Questions whose answers are not read; and more of them than fit into one go


async def test_who_does_not_read_the_answers_is_not_read_from_until_it_does(
    connect: Connect,
) -> None:
    topics = {f"t{number}x{'a' * 200}" for number in range(600)}
    question = b"request:system.topic.list:1.0.0:%b\n{}" % ID.encode()
    with anyio.fail_after(30):
        async with Broker(*urls()) as broker:
            client = await connect(broker.url_of("tcp"), limits=LARGE)
            for topic in topics:
                await client.subscribe(topic)
            async with await anyio.connect_tcp("127.0.0.1", port_of(broker, "tcp")) as greedy:
                await greedy.send(framed(*[question] * 400))
                # 80 MB are asked for, and the broker holds a little of that for it.
                for _ in range(200):
                    await client.is_served()
                connections = broker._connections.by_service.values()
                (held,) = [each.buffered for each in connections if each.stalled]
                assert held < 5_000_000
                # It reads, and gets them all.
                read, answers = b"", 0
                while answers < 401:
                    read += await greedy.receive(1 << 20)
                    while len(read) >= 4 and len(read) >= (end := 4 + int.from_bytes(read[:4])):
                        answers += 1
                        read = read[end:]
                await greedy.send(framed(b"request:system.heartbeat:1.0.0:%b\n{}" % ID.encode()))
                assert b"success" in await greedy.receive()


@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
async def test_many_messages_at_once_are_handled_in_order_up_to_the_end(
    scheme: str, connect: Connect
) -> None:
    count = 1_000
    with anyio.fail_after(10):
        async with Broker(*urls()) as broker:
            subscriber = await connect(broker.url_of("memory"))
            await subscriber.subscribe("a.b")
            client = await connect(broker.url_of(scheme))
            lists = f"request:system.service.list:1.0.0:{ID}\n{{}}"
            for number in range(count):
                client.send(f"publish:a.b:1.0.0\n{number}")
                if number % 100 == 0:
                    client.send(lists)
            await client.close()
            for number in range(count):
                assert (await subscriber.receive()).endswith(b"\n%d" % number)


async def test_a_slow_reader_is_spared_as_long_as_it_reads() -> None:
    plugins, transport = Plugins(), FaultyTransport()
    plugins.register(FaultyPlugin(transport), "faulty")
    limits: Any = {"max_unread": LEAST_UNREAD, "heartbeat_after": 20, "drop_after": 40}
    with anyio.fail_after(10):
        async with Broker("faulty://", plugins=plugins, **limits) as broker:
            reader, publisher = transport.join("reader"), transport.join("publisher")
            publisher.congested = False
            reader.handler.messages_received([subscription("a.b")])
            publish = f"publish:a.b:1.0.0\n{BLOCK}".encode()
            publisher.handler.messages_received([publish] * 10)
            connections = broker._connections.by_service.values()
            (connection,) = [each for each in connections if each.stalled]
            for _ in range(3):
                seen = connection.unread
                reader.unsent -= 5_000
                await until(lambda seen=seen: connection.unread != seen)  # type: ignore[misc]
                assert not reader.aborted
            await until(lambda: bool(reader.aborted))


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("pause", [False, True], ids=["reads", "reads later"])
async def test_a_flood_of_pings_is_answered_whole_and_what_follows_is_handled(
    scheme: str, pause: bool
) -> None:
    server, trusting = tls_contexts()
    count = 20_000
    question = f"request:system.heartbeat:1.0.0:{ID}\n{{}}".encode()
    with anyio.fail_after(30):
        async with (
            Broker(f"{scheme}://127.0.0.1:0", ssl_context=server) as broker,
            await anyio.connect_tcp(
                "127.0.0.1",
                port_of(broker, scheme),
                ssl_context=trusting if scheme == "wss" else None,
                tls_standard_compatible=False,
            ) as stream,
            anyio.create_task_group() as tasks,
        ):
            received = b""

            async def read_until(text: bytes) -> None:
                nonlocal received
                while text not in received:
                    received += await stream.receive()

            await stream.send(UPGRADE)
            await read_until(b"system.initialize:1.0.0\n{}")
            received = b""
            flood = b"\x89\x80\0\0\0\0" * count
            head = bytes((0x81, 0x80 | len(question))) + bytes(4)
            tasks.start_soon(stream.send, flood + head + question)
            if pause:
                [connection] = broker._connections.by_service.values()
                connection.link.pause_reading()
                for _ in range(100):
                    await anyio.lowlevel.checkpoint()
                connection.link.resume_reading()
            await read_until(b"success")
            assert received.count(b"\x8a\x00") == count
            assert received.startswith(b"\x8a\x00" * count)


async def test_pings_count_as_output_that_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    ping = b"\x89\xfd\0\0\0\0" + b"x" * 125
    with anyio.fail_after(20), socket.socket() as flooder:
        async with Broker("ws://127.0.0.1:0", max_unread=LEAST_UNREAD) as broker:
            flooder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flooder.connect(("127.0.0.1", port_of(broker, "ws")))
            flooder.sendall(UPGRADE)
            await until(lambda: broker.connections == 1)
            flooder.setblocking(False)
            while broker.connections:
                try:
                    flooder.send(ping * 500)
                except (BlockingIOError, ConnectionError):
                    await anyio.lowlevel.checkpoint()
            assert re.search(r"does not read: \d+ bytes wait for it", caplog.text)
