"""The poller of `mb top` against the real broker: what it learns, and what it survives."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from mb_client import (
    Broker,
    ConnectError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    parse_message,
    running,
)
from mb_testing import until
from mb_tools.connect import Endpoint
from mb_tools.top import poller as module
from mb_tools.top.model import Audit, Head, Model, ServiceRow, TopicRow
from mb_tools.top.poller import Poller
from mb_tools.top.traffic import ErrorRow

pytestmark = pytest.mark.anyio


class View:
    """What a Model knows at one moment."""

    def __init__(self, model: Model) -> None:
        now = time.monotonic()
        self.trouble, self.missing, self.audit = model.trouble, dict(model.missing), model.audit
        self.skipped, self.unreadable = model.skipped, model.unreadable
        self.head: Head = model.head()
        self.services: list[ServiceRow] = list(model.services(now))
        self.topics: list[TopicRow] = list(model.topics(now))
        self.errors: list[ErrorRow] = list(model.errors())


class Watch:
    """A Poller that runs, and the Model that it keeps up to date."""

    def __init__(self, url: str, *, audit: bool = True) -> None:
        self.model = Model()
        self.poller = Poller(Endpoint(url), self.model, audit=audit, interval=0.02)

    def view(self) -> View:
        return View(self.model)

    async def until(self, reached: Callable[[View], object]) -> View:
        """The first view for which `reached` holds."""

        def found() -> View | None:
            view = self.view()
            return view if reached(view) else None

        return await until(found)


@asynccontextmanager
async def watching(url: str, *, audit: bool = True) -> AsyncIterator[Watch]:
    watch = Watch(url, audit=audit)
    async with watch.poller.client, anyio.create_task_group() as tasks:
        tasks.start_soon(watch.poller.run)
        yield watch
        tasks.cancel_scope.cancel()


@pytest.fixture
async def service(mb_broker: Broker) -> AsyncIterator[MessageBrokerClient]:
    """Answers a.b, and fails at a.c."""

    def fail(message: Message) -> None:
        raise NoRouteFoundError("where to?")

    async with MessageBrokerClient(mb_broker.url) as client:
        await client.register_service("Maker", "Makes things")
        await client.subscribe("a.b", action="request", handler=lambda message: {})
        await client.subscribe("a.c", action="request", handler=fail)
        yield client


async def request(client: MessageBrokerClient, topic: str) -> None:
    with contextlib.suppress(NoRouteFoundError):
        await client.request(topic, {})


async def test_it_learns_of_services_topics_and_totals(
    mb_broker: Broker, service: MessageBrokerClient
) -> None:
    async with watching(mb_broker.url_of("tcp")) as watch:
        view = await watch.until(lambda view: len(view.topics) == 2 and view.head.uptime)
    assert {row.name: row.topics for row in view.services} == {
        "Maker": ("a.b", "a.c"),
        "mb top": (),
    }
    assert [row.topic for row in view.topics] == ["a.b", "a.c"]
    assert (view.head.connections, view.missing, view.trouble) == (2, {}, "")


async def test_it_learns_of_rates_latencies_and_errors_from_the_audit_feed(
    mb_broker: Broker, service: MessageBrokerClient
) -> None:
    async with (
        watching(mb_broker.url_of("ws")) as watch,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        await client.register_service("Asker", "Asks")
        await watch.until(lambda view: view.audit is Audit.ON and len(view.topics) == 2)
        for topic in ("a.b", "a.b", "a.c", "nobody.there"):
            await request(client, topic)
        await client.publish("nobody.listens", {})
        view = await watch.until(
            lambda view: len(view.services) == 3 and any(row.unheard for row in view.topics)
        )
    topics = {row.topic: row for row in view.topics}
    assert topics["a.b"].errors == 0
    assert topics["a.b"].p50 is not None
    assert [topics[each].errors for each in ("a.c", "nobody.there", "nobody.listens")] == [1, 1, 0]
    assert topics["nobody.listens"].unheard == 1
    assert topics["nobody.listens"].action == "publish"
    assert {(row.topic, row.who) for row in view.errors} == {
        ("a.c", "Maker"),
        ("nobody.there", "Asker"),
    }
    maker = next(row for row in view.services if row.name == "Maker")
    assert (maker.errors, maker.p50 is None) == (1, False)


async def test_the_audit_feed_can_be_switched_off_and_on(
    mb_broker: Broker, service: MessageBrokerClient
) -> None:
    async with watching(mb_broker.url) as watch:
        await watch.until(lambda view: view.audit is Audit.ON)
        assert await audited(mb_broker)
        watch.poller.audit = False
        view = await watch.until(lambda view: view.audit is Audit.OFF)
        assert [row.rate for row in view.topics] == [None, None]
        await until(lambda: unaudited(mb_broker))
        assert watch.poller.audit is False
        watch.poller.audit = True
        await watch.until(lambda view: view.audit is Audit.ON)
        assert await audited(mb_broker)


async def test_without_the_audit_feed_it_subscribes_to_nothing(mb_broker: Broker) -> None:
    async with watching(mb_broker.url, audit=False) as watch:
        view = await watch.until(lambda view: view.services)
        assert view.audit is Audit.OFF
        assert not await audited(mb_broker)


async def test_a_first_connection_that_fails_is_the_callers_matter() -> None:
    async with Broker("tcp://127.0.0.1:0") as broker:
        url = broker.url
    with pytest.raises(ConnectError):
        await Watch(url).poller.client.connect()


@asynccontextmanager
async def broker_at(url: str) -> AsyncIterator[str]:
    """A broker in a thread, ended in another: while it ends, it waits for its clients here."""
    broker = running(url)
    try:
        yield broker.__enter__().url
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(broker.__exit__, None, None, None)


async def test_it_says_that_the_broker_is_gone_and_connects_again() -> None:
    troubles = []
    async with AsyncExitStack() as stack:
        async with broker_at("tcp://127.0.0.1:0") as url:
            watch = await stack.enter_async_context(watching(url))
            watch.poller.on_change = lambda: troubles.append(watch.view().trouble)
            before = await watch.until(lambda view: view.services)
        view = await watch.until(lambda view: view.trouble)
        assert view.services == before.services
        async with broker_at(url):
            await watch.until(lambda view: not view.trouble)
            view = await watch.until(lambda view: view.services[0].id != before.services[0].id)
            assert [row.name for row in view.services] == ["mb top"]
            await watch.until(lambda view: view.audit is Audit.ON and not view.missing)
    # The screen was notified at once, each time; there may be several attempts in between.
    assert set(map(bool, troubles)) == {False, True}


async def audited(broker: Broker) -> bool:
    """Whether somebody is subscribed to the audit feed."""
    async with MessageBrokerClient(broker.url) as client:
        answer = await client.request("system.topic.subscriptions", {})
    return any(each["topic"] == "system.message" for each in answer.payload["subscriptions"])


async def unaudited(broker: Broker) -> bool:
    return not await audited(broker)


# Brokers that are not as ours


class OtherBroker:
    """Speaks MB over TCP, and answers what it is told to: an error, nonsense, or nothing at all.

    `answers` has the payload by topic, None for silence; the rest is success.
    """

    def __init__(self, **answers: str | None) -> None:
        self.answers = {topic.replace("_", "."): text for topic, text in answers.items()}
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.url = ""
        self.stream: anyio.abc.SocketStream
        self.sending = anyio.Lock()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self.connections += 1
        gone = (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError)
        async with stream:
            with contextlib.suppress(*gone):
                await self.talk(BufferedByteReceiveStream(stream))

    async def talk(self, received: BufferedByteReceiveStream) -> None:
        await self.send("publish:system.initialize:1.0.0\n{}")
        while True:
            size = int.from_bytes(await received.receive_exactly(4), "big")
            message = parse_message(await received.receive_exactly(size))
            self.asked[message.topic] += 1
            answer = self.answers.get(message.topic, '{"status":"success"}')
            if answer is not None:
                text = f"response:{message.topic}:1.0.0:{message.request_id}\n{answer}"
                await self.send(text)

    async def send(self, *texts: str) -> None:
        data = b"".join(len(text).to_bytes(4, "big") + text.encode() for text in texts)
        async with self.sending:
            await self.stream.send(data)


@asynccontextmanager
async def other_broker(**answers: str | None) -> AsyncIterator[OtherBroker]:
    broker = OtherBroker(**answers)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    broker.url = f"tcp://127.0.0.1:{port}"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, broker.serve)
        yield broker
        tasks.cancel_scope.cancel()


def refusal(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": "no", "timestamp": "now"}})


SERVICE = '{"services":[{"id":"x","name":"Maker"}]}'


async def test_what_the_broker_does_not_support_is_said_and_the_rest_works() -> None:
    async with (
        other_broker(
            system_metrics=refusal("TOPIC_NOT_SUPPORTED"),
            system_service_list=SERVICE,
            system_topic_subscribe=refusal("FORBIDDEN"),
        ) as broker,
        watching(broker.url) as watch,
    ):
        view = await watch.until(lambda view: view.services and len(view.missing) == 2)
        assert view.missing == {
            "system.metrics": "TOPIC_NOT_SUPPORTED",
            "system.message": "FORBIDDEN",
        }
        assert view.audit is Audit.REFUSED
        polls = broker.asked["system.service.list"]
        await until(lambda: broker.asked["system.service.list"] >= polls + 3)
        # It will not change its mind from one second to the next.
        assert broker.asked["system.metrics"] == broker.asked["system.topic.subscribe"] == 1
        # Who switches the feed on again wants it tried again.
        watch.poller.audit = False
        await watch.until(lambda view: view.audit is Audit.OFF)
        broker.answers.clear()
        watch.poller.audit = True
        await watch.until(lambda view: view.audit is Audit.ON)


async def test_a_broker_where_nobody_may_register_can_be_watched() -> None:
    async with (
        other_broker(
            system_service_register=refusal("UNAUTHORIZED"), system_service_list=SERVICE
        ) as broker,
        watching(broker.url) as watch,
    ):
        await watch.until(lambda view: view.services)


async def test_an_audit_feed_that_was_granted_and_says_nothing_is_missing() -> None:
    async with other_broker() as broker, watching(broker.url) as watch:
        view = await watch.until(lambda view: view.missing)
        assert view.missing == {"system.message": "is silent"}
        await broker.send("publish:system.message:1.0.0\n{}")
        view = await watch.until(lambda view: view.audit is Audit.ON)
        assert (view.missing, view.unreadable) == ({}, 1)


async def test_an_answer_that_is_no_json_is_missing() -> None:
    async with (
        other_broker(system_service_list="nonsense") as broker,
        watching(broker.url, audit=False) as watch,
    ):
        view = await watch.until(lambda view: view.missing)
        assert "is not valid JSON" in view.missing["system.service.list"]


async def test_a_system_topic_that_is_not_answered_in_time_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ANSWER_LIMIT", 0.05)
    async with (
        other_broker(system_service_list=None) as broker,
        watching(broker.url, audit=False) as watch,
    ):
        view = await watch.until(lambda view: view.missing)
        assert view.missing == {"system.service.list": "no answer within 0.05 s"}
        broker.answers["system.service.list"] = SERVICE
        view = await watch.until(lambda view: view.services)
        assert view.missing == {}


async def test_a_broker_that_answers_nothing_any_more_is_connected_to_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_INTERVAL", 50)
    async with (
        other_broker(system_service_list=SERVICE) as broker,
        watching(broker.url, audit=False) as watch,
    ):
        await watch.until(lambda view: view.services)
        broker.answers = {
            "system.heartbeat": None,
            "system.metrics": None,
            "system.service.list": None,
            "system.topic.subscriptions": None,
        }
        view = await watch.until(lambda view: view.trouble)
        assert view.trouble == "the connection is lost"
        broker.answers = {}
        await watch.until(lambda view: not view.trouble)
        assert broker.connections == 2


async def test_audit_messages_that_come_too_fast_are_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_QUEUE", 10)
    async with other_broker() as broker, watching(broker.url) as watch:
        await watch.until(lambda view: view.audit is Audit.ON)
        await broker.send(*["publish:system.message:1.0.0\n{}"] * 100)
        view = await watch.until(lambda view: view.skipped)
        assert 0 < view.skipped <= 90
