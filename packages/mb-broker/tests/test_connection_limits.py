"""Limits of a connection: its times, its subscriptions and requests, and accepting it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_testing import until

from .limited import ID, UPGRADE, Connect, framed, metric, port_of, read_to_end, tls_contexts, urls

pytestmark = pytest.mark.anyio


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
