"""What a program does with a broker, the same on every front end and over every transport."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mb_core import (
    ConnectError,
    ConnectionLost,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    Message,
    MessageTooLarge,
    NoRouteFoundError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
)

from .clients import Connect
from .conftest import SECURE, OneMore, Served

# Seconds after which what was to come is not coming any more.
PATIENCE = 20


def test_requests_are_answered(connect: OneMore) -> None:
    service, client = connect(), connect()
    service.register_service("Echo", "answers with what it is asked")
    service.answer("echo", lambda m: m.payload)
    for payload in [{"text": "grüße 😀", "none": None, "numbers": [1, -2.5]}, "", 0, "x" * 16_000]:
        answer = client.request("echo", payload)
        assert (answer.topic, answer.payload) == ("echo", payload)
    services = client.request("system.service.list", {}).payload["services"]
    assert "Echo" in [each["name"] for each in services]
    numbers = client.request("echo", [1, 2], result=tuple[int, ...])
    assert numbers == (1, 2)
    with pytest.raises(RemoteProtocolError, match="Expected `int`, got `str`") as wrong:
        client.request("echo", [1, "x"], result=list[int])
    assert wrong.value.path == "$[1]"
    with pytest.raises(LocalProtocolError, match="can't decode to 'int'"):
        client.request("echo", [1], result="int")
    # Who answers may ask, and may ask itself.
    assert service.request("echo", "me").payload == "me"


def test_answers_find_their_requests_in_any_order(connect: OneMore) -> None:
    service, client = connect(), connect()
    first_is_asked, second_is_answered = threading.Event(), threading.Event()

    def wait(message: Message) -> Any:
        first_is_asked.set()
        assert second_is_answered.wait(PATIENCE)
        return message.payload

    service.answer("at.once", lambda m: m.payload)
    service.answer("later", wait)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(client.request, "later", 1)
        assert first_is_asked.wait(PATIENCE)
        assert client.request("at.once", 2).payload == 2
        second_is_answered.set()
        assert first.result(PATIENCE).payload == 1


@pytest.mark.usefixtures("needs_re2")
def test_the_brokers_log_is_followed(connect: OneMore) -> None:
    client = connect()
    with client.following(["error"], "no.such") as receive:
        for topic in ("no.other", "no.such"):
            with pytest.raises(NoRouteFoundError):
                client.request(topic, {})
        entry = receive().payload
    assert entry["level"] == "error"
    assert "no.such" in entry["message"]
    with pytest.raises(InvalidRequestError), client.following(["error"], "("):
        pass


def test_publications_reach_whose_pattern_matches_in_their_order(connect: OneMore) -> None:
    subscriber, publisher = connect(), connect()
    handled: queue.Queue[str] = queue.Queue()
    subscriber.handle("order.+.paid", lambda m: handled.put(m.topic))
    with subscriber.listening("order.#") as receive:
        publisher.publish("stock.low", 0)
        publisher.publish("order.bread.paid", 1)
        publisher.publish("order.bread.paid.twice", 2)
        publisher.publish("order.cake.paid", 3, confirm=True)
        received = [receive() for _ in range(3)]
    assert [(m.topic, m.payload) for m in received] == [
        ("order.bread.paid", 1),
        ("order.bread.paid.twice", 2),
        ("order.cake.paid", 3),
    ]
    assert [handled.get(timeout=PATIENCE) for _ in range(2)] == [
        "order.bread.paid",
        "order.cake.paid",
    ]
    assert handled.empty()
    # Subscribed no longer: nobody is there for a publication that is to be confirmed.
    subscriber.unsubscribe("order.+.paid")
    with pytest.raises(NoRouteFoundError):
        publisher.publish("order.pie.paid", 4, confirm=True)


def test_each_consumer_of_a_message_may_change_its_payload(connect: OneMore) -> None:
    client = connect()
    masked: queue.Queue[str] = queue.Queue()
    client.handle("order.#", lambda m: masked.put(m.payload.pop("card")))
    client.handle("order.paid", lambda m: masked.put(m.payload.pop("card")))
    with client.listening("order.paid") as receive:
        client.publish("order.paid", {"card": "4242"})
        assert [masked.get(timeout=PATIENCE) for _ in range(2)] == ["4242"] * 2
        assert receive().payload == {"card": "4242"}


def test_errors_come_as_what_they_are(connect: OneMore) -> None:
    service, client = connect(), connect()
    never = threading.Event()

    def refuse(message: Message) -> None:
        raise ResponseError("no flour", code="NO_FLOUR", details={"kg": 0})

    service.answer("refuse", refuse)
    service.answer("fail", lambda m: 1 / 0)
    service.answer("hang", lambda m: never.wait(PATIENCE))
    service.answer("count", lambda m: m.decode(dict[str, list[int]]))
    with pytest.raises(ResponseError, match="no flour") as refused:
        client.request("refuse", {})
    assert (refused.value.code, refused.value.details) == ("NO_FLOUR", {"kg": 0})
    with pytest.raises(InternalError):
        client.request("fail", {})
    with pytest.raises(InvalidRequestError, match="Expected `int`, got `str`") as unreadable:
        client.request("count", {"a": [1, "x"]})
    assert unreadable.value.details == {"path": "$[...][1]"}
    with pytest.raises(NoRouteFoundError):
        client.request("nobody.answers", {})
    with pytest.raises(RequestTimeoutError):
        client.request("hang", {}, timeout=50)
    never.set()
    with pytest.raises(MessageTooLarge):
        client.request("refuse", "x" * 20_000)
    with pytest.raises(LocalProtocolError):
        client.request("not a topic", {})


def test_closing_answers_what_was_asked_and_ends_the_rest(connect: OneMore) -> None:
    service, client = connect(), connect(reconnect=False)
    asked, answer = threading.Event(), threading.Event()

    def slow(message: Message) -> str:
        asked.set()
        assert answer.wait(PATIENCE)
        return "done"

    service.answer("slow", slow)
    with ThreadPoolExecutor() as threads:
        request = threads.submit(client.request, "slow", {})
        assert asked.wait(PATIENCE)
        closing = threads.submit(service.close)
        answer.set()
        assert request.result(PATIENCE).payload == "done"
        closing.result(PATIENCE)
    with pytest.raises(NoRouteFoundError):
        client.request("slow", {})
    client.close()
    client.close()
    for closed in (client, service):
        with pytest.raises(ConnectionLost, match="the client was closed"):
            closed.request("slow", {})


def test_a_broker_that_is_started_again_finds_its_clients_back(
    connect: OneMore, broker: Served
) -> None:
    clients = service, client = connect(), connect()
    gone, back = threading.Semaphore(0), threading.Semaphore(0)
    for each in clients:
        each.on_disconnect(gone.release)
        each.on_connect(back.release)
    service.register_service("Echo", "comes back by itself")
    service.answer("echo", lambda m: m.payload)
    with service.listening("news.#") as receive:
        assert client.request("echo", 1).payload == 1
        broker.stop()
        for _ in clients:
            assert gone.acquire(timeout=PATIENCE)
        broker.start()
        for _ in clients:
            assert back.acquire(timeout=PATIENCE)
        assert client.request("echo", 2).payload == 2
        client.publish("news.local", 3, confirm=True)
        assert receive().payload == 3
    services = client.request("system.service.list", {}).payload["services"]
    assert [each["name"] for each in services].count("Echo") == 1


def test_a_client_is_shared_before_its_first_connection(connect: OneMore, broker: Served) -> None:
    broker.stop()
    client = connect(connected=False, retry_connect=True)
    tried = threading.Semaphore(0)
    client.on_error(lambda error: tried.release())
    with ThreadPoolExecutor() as threads:
        connecting = threads.submit(client.connect)
        assert tried.acquire(timeout=PATIENCE)
        client.publish("news", "waits")
        waits = [
            threads.submit(client.wait_connected),
            threads.submit(client.request, "system.heartbeat", {}, retry=True),
            threads.submit(client.register_service, "Early", "registers before there is a broker"),
        ]
        with pytest.raises(TimeoutError, match="within 20 ms"):
            client.wait_connected(timeout=20)
        with pytest.raises(LocalProtocolError, match="wait_connected"):
            client.connect()
        assert not any(each.done() for each in [connecting, *waits])
        broker.start()
        for each in [connecting, *waits]:
            each.result(PATIENCE)
    services = client.request("system.service.list", {}).payload["services"]
    assert "Early" in [each["name"] for each in services]


def test_who_is_not_there_is_named(frontend: Connect, broker: Served) -> None:
    broker.stop()
    with pytest.raises(ConnectError) as refused, frontend(broker.url, **broker.client_options):
        pass
    assert broker.url.partition("://")[2] in str(refused.value)


@pytest.mark.parametrize("broker", sorted(SECURE), indirect=True)
def test_a_certificate_that_is_not_trusted_is_refused(frontend: Connect, broker: Served) -> None:
    with pytest.raises(ConnectError, match="certificate") as refused, frontend(broker.url):
        pass
    assert refused.value.final
