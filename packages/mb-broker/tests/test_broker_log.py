"""What a Broker writes to its log, of connections and of messages."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_broker.log_feed import LOGGED_MESSAGE_ID
from mb_core import Message, MessageBrokerClient
from mb_testing import until

from .log_entries import SUCCESS, entry_of, nothing_is_reported

__all__ = ["nothing_is_reported"]

Connect = Callable[..., Awaitable[Any]]


# As a broker has it: an entry needs no other traffic to arrive


async def follow(connect: Connect, broker: Broker, *levels: str, regex: Any = None) -> Any:
    """A client that follows the broker's log."""
    client = await connect(broker.url_of("memory"))
    wishes = {"levels": [*levels], "regex": regex}
    assert await client.ask("log.subscribe", wishes) == SUCCESS
    return client


@pytest.mark.anyio
async def test_a_timeout_is_told_at_once(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker(request_timeout=20) as broker:
            follower = await follow(connect, broker, "warn")
            client = await connect(broker.url)
            await client.subscribe("a.b", "request")
            client.send("request:a.b:1.0.0:123e4567-e89b-42d3-a456-426614174000\n{}")
            entry = entry_of(await follower.receive())
            assert entry["message"] == "a request to a.b timed out"
            assert entry["targetServiceId"]


class Passing(logging.Handler):
    """Passes each record on."""

    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__(logging.DEBUG)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


@pytest.fixture
def handling_each_record() -> Iterator[Callable[[Callable[[str], object]], None]]:
    """Have a function called with each record of the router's, from level DEBUG on."""
    log = logging.getLogger("mb_broker.router")
    level, handlers = log.level, []

    def handle(take: Callable[[str], object]) -> None:
        handlers.append(Passing(take))
        log.addHandler(handlers[-1])
        log.setLevel(logging.DEBUG)

    yield handle
    log.setLevel(level)
    for handler in handlers:
        log.removeHandler(handler)


def test_messages_about_entries_get_no_entry(
    bench: Any, handling_each_record: Callable[[Callable[[str], object]], None]
) -> None:
    texts: list[str] = []
    peer, other = bench.join(), bench.join()
    other.subscribe("a.b", "both")
    handling_each_record(texts.append)
    parents = [LOGGED_MESSAGE_ID.decode(), "123e4567-e89b-42d3-a456-426614174000"]
    for action, topic in ("publish", "a.b"), ("publish", "a.c"), ("request", "a.b"):
        for parent in parents:
            peer.send(f"{action}:{topic}:1.0.0::{parent}\n{{}}")
    assert texts == [
        "published a.b, receivers: 1",
        "nobody is subscribed to publish a.c",
        f"forwarding request a.b to {other.service.id}",
    ]
    assert len(other.take()) == 4


@pytest.mark.anyio
async def test_tasks_that_publish_each_record_come_to_an_end(
    handling_each_record: Callable[[Callable[[str], object]], None],
) -> None:
    """The broker writes entries about messages, which a task each publishes over that broker."""
    got: list[str] = []
    enough = anyio.Event()

    def take(message: Message) -> None:
        got.append(message.payload)
        if len(got) >= 10:
            enough.set()

    with anyio.fail_after(10):
        async with (
            Broker() as broker,
            MessageBrokerClient(broker.url) as client,
            anyio.create_task_group() as tasks,
        ):
            await client.subscribe("log.record", handler=take)
            handling_each_record(lambda text: tasks.start_soon(client.publish, "log.record", text))
            for number in range(10):
                await client.publish(f"nobodys.topic{number}", number)
            await enough.wait()
            for _ in range(10):  # in which further entries would be published
                await client.request("system.heartbeat", {})
    assert sorted(got) == [f"nobody is subscribed to publish nobodys.topic{n}" for n in range(10)]


@pytest.mark.anyio
async def test_a_client_that_is_turned_away_is_told_of_at_once(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://", "tcp://127.0.0.1:0", max_connections=1) as broker:
            follower = await follow(connect, broker, "warn")
            client = await connect(broker.url_of("tcp"), greeted=False)
            text = entry_of(await follower.receive())["message"]
            assert text.startswith("127.0.0.1:")
            assert text.endswith(" refused: the broker is full: max_connections is 1")
            await client.close()


@pytest.mark.anyio
async def test_a_silent_client_is_told_of_when_it_is_dropped(connect: Connect) -> None:
    options = {"heartbeat_after": 300, "drop_after": 600}
    with anyio.fail_after(10):
        async with Broker("memory://", "tcp://127.0.0.1:0", **options) as broker:  # type: ignore[arg-type]
            follower = await follow(connect, broker, "info")
            port = int(broker.url_of("tcp").rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port):
                text = ""
                while not text:
                    message = await follower.receive()
                    if message.startswith(b"request:system.heartbeat"):
                        follower.send("response:system.heartbeat:1.0.0\n{}")
                    elif not entry_of(message)["message"].endswith(" connected"):
                        text = entry_of(message)["message"]
                assert re.fullmatch(r"127\.0\.0\.1:\d+ was silent for too long: dropped", text)
                # It has not ended its half: the connection is still there.
                assert broker.connections == 2


@pytest.mark.anyio
async def test_requests_that_are_given_up_at_the_end_are_told_of(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://", drain_timeout=20) as broker:
            follower = await follow(connect, broker, "warn")
            client = await connect(broker.url)
            await client.subscribe("a.b", "request")
            client.send("request:a.b:1.0.0:123e4567-e89b-42d3-a456-426614174000\n{}")
            assert (await client.receive()).startswith(b"request:a.b:")
        assert entry_of(await follower.receive())["message"] == (
            "gave up on 1 request in flight (drain_timeout)"
        )


@pytest.mark.anyio
async def test_a_broken_connection_is_told_of_but_not_to_itself(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://", "tcp://127.0.0.1:0") as broker:
            follower = await follow(connect, broker, "warn")
            port = int(broker.url_of("tcp").rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                ask = b'request:system.log.subscribe:1.0.0\n{"levels":["warn"]}'
                await stream.send(len(ask).to_bytes(4) + ask)
                while b"success" not in await stream.receive():
                    pass
                await stream.send(b"\0\0\0\5ab")
            entry = entry_of(await follower.receive())
            assert "ended within a message: 6 of 9 bytes came" in entry["message"]
            assert entry["serviceId"]
            await until(lambda: broker.connections == 1)
            await follower.is_served()


@pytest.mark.anyio
async def test_a_pathological_regex_does_not_stall_the_broker(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://", "tcp://127.0.0.1:0") as broker:
            follower = await follow(connect, broker, "info", regex="(.*)*(.+)+x(a+)+$")
            client = await connect(broker.url_of("tcp"))
            started = time.monotonic()
            for n in range(20):
                name = f"{'a' * 34}{n:02}"
                payload = {"name": name, "description": "long"}
                assert await client.ask("service.register", payload) == SUCCESS
            assert time.monotonic() - started < 2
            await follower.is_served()


# What becomes of messages


ID = "123e4567-e89b-42d3-a456-426614174000"


def followed(bench: Any, *levels: str) -> tuple[Any, Any]:
    """A client that follows the log, and another one."""
    follower = bench.join()
    assert follower.ask("log.subscribe", {"levels": [*levels]}) == SUCCESS
    return follower, bench.join()


def texts(follower: Any) -> list[str]:
    return [entry_of(message)["message"] for message in follower.take()]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (f"request:a.b:1.0.0:{ID}\n{{}}", "NO_ROUTE_FOUND"),
        ("nonsense", "MALFORMED_MESSAGE"),
        (f"publish:a.{'b' * 150}:1.0.0-{'x' * 180}\n", "MALFORMED_MESSAGE"),
        (f"response:a.b:1.0.0:{ID}\n{{}}", "INVALID_REQUEST_ID"),
        (f"publish:system.heartbeat:1.0.0:{ID}\n{{}}", "INVALID_REQUEST"),
        (f"request:system.unknown:1.0.0:{ID}\n{{}}", "TOPIC_NOT_SUPPORTED"),
        (f"request:system.topic.subscribe:1.0.0:{ID}\n{{bad", "MALFORMED_MESSAGE"),
        (
            f'request:system.service.subscriptions:1.0.0\n{{"serviceId":"{ID}"}}',
            "SERVICE_UNAVAILABLE",
        ),
    ],
)
def test_a_refusal_is_an_entry_of_level_error(message: str, code: str, bench: Any) -> None:
    follower, peer = followed(bench, "error")
    peer.send(message)
    error = peer.take_error()
    assert error["code"] == code
    entry = entry_of(follower.take_one())
    assert entry["level"] == "error"
    assert entry["message"] == f"[{code}] {error['message']}"
    assert entry["serviceId"] == peer.id
    del error["details" if "details" in error else "timestamp"]
    assert error.items() <= entry["error"].items()


def test_the_log_gets_one_refusal_of_a_code_in_a_second(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    follower, peer = followed(bench, "error")
    for _ in range(2):
        peer.send(*["nonsense"] * 1000, *[f"request:a.b:1.0.0:{ID}\n{{}}"] * 1000)
        bench.advance(1)
    assert len(follower.take()) == 4000
    found = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(found) == 4
    assert [text.endswith(" (and 999 more like this)") for text in found] == [False] * 2 + [
        True
    ] * 2


def test_that_a_client_unsubscribes_is_not_more_like_its_subscribing(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mb_broker")
    peer = bench.join()
    for topic in ("a.b", "a.c"):
        peer.subscribe(topic, "publish")
        peer.ask("topic.unsubscribe", {"action": "publish", "topic": topic})
    assert caplog.messages == [
        f"{peer.id} subscribed to publish a.b",
        f"{peer.id} unsubscribed publish a.b",
    ]


def test_subscriptions_and_error_answers_are_entries_of_level_info(bench: Any) -> None:
    follower, peer = followed(bench, "info")
    peer.ask("service.register", {"name": "Echo", "description": "d"})
    peer.subscribe("a.b", "both")
    peer.ask("topic.unsubscribe", {"action": "publish", "topic": "a.b"})
    bench.join().send(f"request:a.b:1.0.0:{ID}\n{{}}")
    broker_id = peer.take_one().partition(b"\n")[0].decode().split(":")[3]
    peer.send(f'response:a.b:1.0.0:{broker_id}\n{{"error":{{"code":"FULL","message":"no"}}}}')
    assert texts(follower) == [
        "Echo registered",
        "Echo subscribed to publish a.b",
        "Echo subscribed to request a.b",
        "Echo unsubscribed publish a.b",
        "Echo answered a.b with FULL: no",
    ]


def test_what_a_service_says_is_escaped_where_it_can_not_be_written(bench: Any) -> None:
    follower, peer = followed(bench, "info")
    peer.subscribe("a.b", "request")
    bench.join().send(f"request:a.b:1.0.0:{ID}\n{{}}")
    broker_id = peer.take_one().partition(b"\n")[0].decode().split(":")[3]
    peer.send(f'response:a.b:1.0.0:{broker_id}\nerror:{{"code":"A","message":"\\ud800"}}')
    assert texts(follower)[-1] == f"{peer.id} answered a.b with A: \\ud800"


def test_what_is_passed_on_is_an_entry_of_level_debug(bench: Any) -> None:
    follower, peer = followed(bench, "debug")
    responder = bench.join().subscribe("a.b", "both")
    peer.send("publish:x.y:1.0.0\n{}", "publish:a.b:1.0.0\n{}", f"request:a.b:1.0.0:{ID}\n{{}}")
    broker_id = responder.take()[-1].partition(b"\n")[0].decode().split(":")[3]
    responder.send(f"response:a.b:1.0.0:{broker_id}\n{{}}")
    assert texts(follower) == [
        "nobody is subscribed to publish x.y",
        "published a.b, receivers: 1",
        f"forwarding request a.b to {responder.id}",
        "answered a.b",
    ]
    follower.ask("log.unsubscribe", {})
    peer.send("publish:a.b:1.0.0\n{}")
    assert follower.take() == []


def test_the_log_gets_them_where_its_level_is_debug(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = bench.join().subscribe("a.b")
    for level in (logging.INFO, logging.DEBUG):
        with caplog.at_level(level, logger="mb_broker.router"):
            peer.send("publish:a.b:1.0.0\n{}")
    assert caplog.messages.count("published a.b, receivers: 1") == 1


@pytest.mark.anyio
async def test_connections_are_entries_of_level_info(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://") as broker:
            follower = await follow(connect, broker, "info")
            client = await connect(broker.url)
            await client.subscribe("a.b")
            connected = entry_of(await follower.receive())
            subscribed = entry_of(await follower.receive())
            await client.close()
            gone = entry_of(await follower.receive())
            assert connected["message"].endswith(" connected")
            assert subscribed["message"].endswith(" subscribed to publish a.b")
            assert gone["message"].endswith(" disconnected")
            assert connected["serviceId"] == subscribed["serviceId"] == gone["serviceId"]


@pytest.mark.anyio
async def test_a_client_that_leaves_without_a_message_is_an_entry_of_level_debug(
    connect: Connect,
) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://") as broker:
            follower = await follow(connect, broker, "debug", "info", "warn")
            client = await connect(broker.url)
            await client.close()
            entry = entry_of(await follower.receive())
            assert entry["level"] == "debug"
            assert entry["message"].endswith(" left without a message: a probe")
            await follower.is_served()  # there was no other entry


@pytest.mark.anyio
@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "within a message"])
async def test_a_client_that_stays_without_a_message_is_announced_after_a_while(
    trickles: bool, connect: Connect
) -> None:
    with anyio.fail_after(10):
        async with Broker(
            "memory://", "tcp://127.0.0.1:0", heartbeat_after=200, drop_after=60_000
        ) as broker:
            follower = await follow(connect, broker, "debug", "info", "warn")
            port = int(broker.url_of("tcp").rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                if trickles:
                    await stream.send(b"\0\0\0\x64r")
                while (message := await follower.receive()).startswith(b"request:"):
                    follower.send("response:system.heartbeat:1.0.0\n{}")
                entry = entry_of(message)
                assert entry["level"] == "info"
                name = "{}:{}".format(*stream.extra(anyio.abc.SocketAttribute.local_address))
                assert entry["message"] == f"{name} connected"


@pytest.mark.anyio
async def test_a_client_that_speaks_another_protocol_is_not_a_probe(connect: Connect) -> None:
    with anyio.fail_after(5):
        async with Broker("memory://", "tcp://127.0.0.1:0") as broker:
            follower = await follow(connect, broker, "debug", "info", "warn")
            port = int(broker.url_of("tcp").rpartition(":")[2])
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"GET /health HTTP/1.1\r\n\r\n")
            entry = entry_of(await follower.receive())
            assert entry["level"] == "warn"
            assert "the other side speaks HTTP" in entry["message"]
