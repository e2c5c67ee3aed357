"""What `mb top` makes of an audit feed: the events of docs/protocol.md, without a broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mb_tools.audit import error_of, read_event
from mb_tools.top import traffic as module
from mb_tools.top.traffic import Traffic

START = datetime(2026, 1, 1, tzinfo=UTC)

ERROR = {"code": "BROKEN", "message": "it is broken", "timestamp": "2026-01-01T00:00:00.000Z"}


class Feed:
    """Writes audit messages as a broker does, and gives them to a Traffic."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.now = 100.0
        self.wall = START

    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000
        self.wall += timedelta(milliseconds=milliseconds)

    def event(
        self, action: str, topic: str, request_id: str | None, payload: Any = None, **extra: Any
    ) -> None:
        header = {"action": action, "topic": topic, "version": "1.0.0"}
        if request_id is not None:
            header["requestId"] = request_id
        raw = json.dumps(
            {
                "timestamp": self.wall.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                **extra,
                "message": {"header": header, "payload": payload},
            }
        ).encode()
        event = read_event(raw)
        assert event is not None
        self.traffic.take(event, self.now)

    def got(
        self, sender: str, action: str, topic: str, request_id: str | None = None, **more: Any
    ) -> None:
        self.event(action, topic, request_id, **{"from": sender}, **more)

    def sent(
        self, to: str, action: str, topic: str, request_id: str | None = None, **more: Any
    ) -> None:
        self.event(action, topic, request_id, to=to, **more)

    def ask(self, topic: str = "a.b", number: int = 1) -> None:
        """A request of `client` that is passed on to `service`."""
        self.got("client", "request", topic, f"c{number}", timeout=5000)
        self.sent("service", "request", topic, f"b{number}", maskedId=f"c{number}")

    def answer(self, topic: str = "a.b", number: int = 1, payload: Any = None) -> None:
        """Its answer, which is passed back."""
        self.got("service", "response", topic, f"b{number}", payload=payload)
        self.sent("client", "response", topic, f"c{number}", payload=payload)


@pytest.fixture
def feed() -> Feed:
    return Feed()


def latencies(feed: Feed, action: str = "request", topic: str = "a.b") -> Any:
    window = feed.traffic.topic((action, topic))
    assert window is not None
    return window.percentiles(feed.now, 0.5, 0.99)


def errors(feed: Feed, action: str = "request", topic: str = "a.b") -> int:
    window = feed.traffic.topic((action, topic))
    return window.count(feed.now, "error") if window is not None else 0


def unheard(feed: Feed, action: str, topic: str = "a.b") -> int:
    window = feed.traffic.topic((action, topic))
    return window.count(feed.now, "unheard") if window is not None else 0


def service_errors(feed: Feed, service: str = "service") -> int:
    window = feed.traffic.service(service)
    return window.count(feed.now, "error") if window is not None else 0


def test_latencies_are_those_of_the_service_and_of_the_whole_way(feed: Feed) -> None:
    feed.got("client", "request", "a.b", "c1")
    feed.wait(2)
    feed.sent("service", "request", "a.b", "b1", maskedId="c1")
    feed.wait(30)
    feed.got("service", "response", "a.b", "b1")
    feed.wait(1)
    feed.sent("client", "response", "a.b", "c1")
    service = feed.traffic.service("service")
    assert service is not None
    assert service.percentiles(feed.now, 0.5) == (30,)
    assert latencies(feed) == (33, 33)


def test_requests_that_overlap_are_told_apart_by_their_ids(feed: Feed) -> None:
    for number in range(10):
        feed.ask(number=number)
        feed.wait(10)
    for number in reversed(range(10)):
        feed.answer(number=number)
    assert latencies(feed) == (50, 100)


def test_topics_are_counted_without_regard_to_case(feed: Feed) -> None:
    feed.got("client", "publish", "A.b")
    feed.got("client", "publish", "a.B")
    window = feed.traffic.topic(("publish", "a.b"))
    assert window is not None
    assert window.rate(feed.now) == 2.0
    assert feed.traffic.topics(feed.now) == [("publish", "a.b")]


def test_publications_to_many_are_counted_once(feed: Feed) -> None:
    feed.got("client", "publish", "a.b", "c1")
    for service in ("x", "y", "z"):
        feed.sent(service, "publish", "a.b", "b1", maskedId="c1")
    feed.sent("client", "response", "a.b", "c1", payload={"status": "success"})
    window = feed.traffic.topic(("publish", "a.b"))
    assert window is not None
    assert window.rate(feed.now) == 1.0
    assert latencies(feed, "publish") is None


def test_the_brokers_own_topics_are_no_traffic(feed: Feed) -> None:
    feed.got("client", "request", "System.service.list", "c1", payload={})
    feed.sent("client", "response", "System.service.list", "c1", payload={"services": []})
    feed.sent("client", "publish", "system.initialize", payload={})
    feed.sent("client", "request", "system.heartbeat", payload={})
    feed.got("client", "response", "system.heartbeat", payload={})
    assert feed.traffic.topics(feed.now) == []
    assert feed.traffic.service("client") is None


@pytest.mark.parametrize(
    "payload",
    [
        "error:" + json.dumps(ERROR),
        {"type": "Buffer", "data": list(b"error:" + json.dumps(ERROR).encode())},
        {"error": ERROR},
    ],
    ids=["text", "bytes", "object"],
)
def test_an_error_of_a_service_is_counted_once_in_each_of_its_shapes(
    feed: Feed, payload: Any
) -> None:
    feed.ask()
    feed.wait(7)
    feed.answer(payload=payload)
    assert (errors(feed), service_errors(feed)) == (1, 1)
    (failure,) = feed.traffic.errors
    assert (failure.topic, failure.code, failure.message) == ("a.b", "BROKEN", "it is broken")
    assert failure.who == "service"
    assert failure.time == START + timedelta(milliseconds=7)
    # It took its time, error or not.
    assert latencies(feed) == (7, 7)


@pytest.mark.parametrize(
    "payload",
    [
        {"error": "a mere key"},
        {"type": "Buffer", "data": "none"},
        {"type": "Buffer", "data": [1000]},
        "no error: at all",
        None,
        17,
    ],
)
def test_what_is_no_error_is_data(feed: Feed, payload: Any) -> None:
    feed.ask()
    feed.answer(payload=payload)
    assert not feed.traffic.errors


def test_a_request_that_nobody_answers_is_an_error_of_its_topic(feed: Feed) -> None:
    feed.got("client", "request", "a.b", "c1")
    refusal = {"error": {**ERROR, "code": "NO_ROUTE_FOUND"}}
    feed.sent("client", "response", "a.b", "c1", payload=refusal)
    assert errors(feed) == 1
    (failure,) = feed.traffic.errors
    assert (failure.code, failure.who) == ("NO_ROUTE_FOUND", "client")
    assert latencies(feed) is None


def test_a_time_out_is_an_error_of_the_service_that_did_not_answer(feed: Feed) -> None:
    feed.ask()
    feed.wait(5000)
    late = {"error": {**ERROR, "code": "TIMEOUT"}}
    feed.sent("client", "response", "a.b", "c1", payload=late)
    assert (errors(feed), service_errors(feed)) == (1, 1)
    assert feed.traffic.errors[0].who == "service"
    # How long nobody answered is not the latency of an answer.
    assert latencies(feed) is None


def test_an_answer_that_comes_too_late_is_its_services_error(feed: Feed) -> None:
    feed.ask()
    late = {"error": {**ERROR, "code": "TIMEOUT"}}
    feed.sent("client", "response", "a.b", "c1", payload=late)
    feed.got("service", "response", "a.b", "b1", payload={})
    refusal = {"error": {**ERROR, "code": "INVALID_REQUEST_ID"}}
    feed.sent("service", "response", "a.b", "b1", payload=refusal)
    assert [(each.code, each.who) for each in feed.traffic.errors] == [
        ("TIMEOUT", "service"),
        ("INVALID_REQUEST_ID", "service"),
    ]
    service = feed.traffic.service("service")
    assert service is not None
    assert service.rate(feed.now) == 0.0


def test_a_publication_without_an_id_that_nobody_gets_is_told_from_a_request(feed: Feed) -> None:
    feed.ask()  # on its way meanwhile, and to the same topic
    feed.got("client", "publish", "a.b")
    refusal = {"error": {**ERROR, "code": "NO_ROUTE_FOUND"}}
    feed.sent("client", "response", "a.b", "random", payload=refusal)
    assert unheard(feed, "publish") == 1
    assert unheard(feed, "request") == 0
    assert errors(feed, "publish") == errors(feed, "request") == 0
    assert not feed.traffic.errors


def test_a_publication_that_nobody_gets_is_unheard_and_no_error_if_it_was_to_be_confirmed(
    feed: Feed,
) -> None:
    feed.got("client", "publish", "a.b", "c1")
    refusal = {"error": {**ERROR, "code": "NO_ROUTE_FOUND"}}
    feed.sent("client", "response", "a.b", "c1", payload=refusal)
    assert (unheard(feed, "publish"), errors(feed, "publish")) == (1, 0)
    feed.wait(61_000)
    assert unheard(feed, "publish") == 0


def test_a_publication_that_is_refused_is_an_error(feed: Feed) -> None:
    feed.got("client", "publish", "a.b", "c1")
    feed.sent("client", "response", "a.b", "c1", payload={"error": ERROR})
    assert (unheard(feed, "publish"), errors(feed, "publish")) == (0, 1)


def test_an_error_in_answer_to_a_request_without_an_id_is_counted_once(feed: Feed) -> None:
    feed.got("client", "request", "a.b")
    feed.sent("service", "request", "a.b", "b1")
    feed.wait(4)
    text = "error:" + json.dumps(ERROR)
    feed.got("service", "response", "a.b", "b1", payload=text)
    feed.sent("client", "response", "a.b", "random", payload=text)
    assert (errors(feed), service_errors(feed)) == (1, 1)
    assert len(feed.traffic.errors) == 1


def test_a_feed_that_begins_in_between_counts_what_it_can(feed: Feed) -> None:
    feed.sent("service", "request", "a.b", "b1", maskedId="c1")
    feed.wait(3)
    feed.answer()
    service = feed.traffic.service("service")
    assert service is not None
    assert service.percentiles(feed.now, 0.5) == (3,)
    feed.answer(number=2)  # of which the beginning was missed altogether
    assert not feed.traffic.errors


def test_an_error_that_belongs_to_nothing_known_is_listed_all_the_same(feed: Feed) -> None:
    feed.sent("client", "response", "error", payload={"error": ERROR})
    (failure,) = feed.traffic.errors
    assert (failure.topic, failure.who) == ("error", "client")


def test_after_the_feed_has_ended_nothing_is_waited_for(feed: Feed) -> None:
    feed.ask()
    feed.traffic.forget_open()
    feed.wait(60_000)
    feed.answer()
    service = feed.traffic.service("service")
    assert service is None or service.percentiles(feed.now, 0.5) is None


def test_wildcard_patterns_sum_the_topics_that_they_match(feed: Feed) -> None:
    feed.got("client", "publish", "a.b")
    feed.traffic.set_patterns([("publish", "a.#"), ("request", "a.#"), ("publish", "+.c")])
    feed.got("client", "publish", "a.b")
    feed.got("client", "publish", "a.c")
    feed.got("client", "publish", "x.c")

    def rate(action: str, topic: str) -> float:
        window = feed.traffic.topic((action, topic))
        assert window is not None
        return window.rate(feed.now)

    assert rate("publish", "a.#") == 2.0
    assert rate("publish", "+.c") == 2.0
    assert rate("request", "a.#") == 0.0
    assert rate("publish", "a.b") == 2.0
    # What stays keeps its figures; what is gone is gone.
    feed.traffic.set_patterns([("publish", "a.#")])
    assert rate("publish", "a.#") == 2.0
    assert feed.traffic.topic(("publish", "+.c")) is None


def test_topics_without_traffic_are_forgotten(feed: Feed) -> None:
    feed.got("client", "publish", "a.b")
    feed.wait(61_000)
    assert feed.traffic.topics(feed.now) == []


def test_memory_does_not_grow_with_topics_services_errors_and_lost_requests(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_SERIES", 10)
    monkeypatch.setattr(module, "_MAX_IDS", 20)
    feed.got("client", "publish", "hot")
    for number in range(300):
        topic, service = f"topic{number}", f"service{number}"
        feed.got("client", "request", topic, f"c{number}")
        feed.sent(service, "request", topic, f"b{number}", maskedId=f"c{number}")
        feed.got(service, "response", topic, f"b{number}", payload="error:{}")
        feed.ask(topic, 1000 + number)
        feed.got("client", "publish", "hot")
    traffic = feed.traffic
    assert len(traffic._topics) == len(traffic._services) == 10
    assert len(traffic._exchanges) == 20
    assert len(traffic.errors) == 200
    # The ones in use are kept.
    assert ("publish", "hot") in traffic.topics(feed.now)


def test_the_text_of_an_error_is_cut(feed: Feed) -> None:
    feed.ask()
    feed.answer(payload={"error": {**ERROR, "message": "x" * 100_000}})
    assert len(feed.traffic.errors[0].message) == 500


def test_errors_known_from_elsewhere_are_added(feed: Feed) -> None:
    feed.traffic.count_service_errors("service", 3, feed.now)
    assert service_errors(feed) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b'{"timestamp":"yesterday","message":{"header":{"action":"a","topic":"b"}}}',
        b'{"timestamp":"2026-01-01T00:00:00Z","message":{"header":{"action":"a"}}}',
        b'{"timestamp":"2026-01-01T00:00:00Z","message":{"header":{"action":"a","topic":"b"},"payload":$&}}',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=range(8),
)
def test_an_audit_message_that_cannot_be_read_is_none(raw: bytes) -> None:
    assert read_event(raw) is None


def test_an_audit_message_without_sender_and_receiver_is_ignored(feed: Feed) -> None:
    feed.event("publish", "a.b", None)
    assert feed.traffic.topics(feed.now) == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'"\\ud800"', None),
        (b'"error:\\ud800"', "INTERNAL_ERROR"),
        (b'{"error":{"code":"FORBIDDEN","message":"no","details":["\\uDFFF"]}}', "FORBIDDEN"),
    ],
)
def test_an_event_with_half_a_surrogate_pair_is_read(payload: bytes, code: str | None) -> None:
    event = read_event(
        b'{"timestamp":"2026-01-01T00:00:00Z","message":{"header":{"action":"response","topic":"b"},'
        b'"payload":' + payload + b"}}"
    )
    assert event is not None
    error = error_of(event)
    assert (error and error.code) == code
