"""The Session at work: publishing, responding, heartbeats, requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mb_core.codec import error_in
from mb_core.errors import (
    ForbiddenError,
    LocalProtocolError,
    MalformedMessageError,
    MessageTooLarge,
    NoRouteFoundError,
    ResponseError,
)
from mb_core.message import parse_message
from mb_core.session import (
    AnswerNow,
    PublicationUnheard,
    RequestsReceived,
    ResponseReceived,
    Session,
    Unmatched,
)
from mb_core.wire import Limits

from .session_input import ID, Subscribe, asked

Ready = Callable[..., Session]
PARENT = "7a0c7a6e-0000-4000-8000-000000000001"


# Publishing


def test_a_publication_has_neither_id_nor_time_limit(session: Session) -> None:
    assert session.publish("a.b", {"n": 1}) == b'publish:a.b:1.0.0\n{"n":1}'
    assert session.pending == 0
    assert session.next_deadline() is None


def test_a_publication_may_have_a_version_and_a_parent(session: Session) -> None:
    expected = f"publish:a.b:2.0.0::{PARENT}\nnull".encode()
    assert session.publish("a.b", None, version="2.0.0", parent_id=PARENT) == expected
    assert session.publish("a.b", None, version="2.0.0") == b"publish:a.b:2.0.0\nnull"
    assert session.publish("a.b", None) == b"publish:a.b:1.0.0\nnull"


def test_the_spelling_of_a_topic_is_the_callers(session: Session) -> None:
    for topic in ("Weather.Oslo", "weather.oslo", "Weather.Oslo"):
        assert session.publish(topic, 1) == f"publish:{topic}:1.0.0\n1".encode()
        sent = session.request(topic, 1, now=0.0, timeout=1).message
        assert sent.startswith(f"request:{topic}:1.0.0:".encode())


def test_json_that_is_ready_is_passed_on_as_it_is(session: Session) -> None:
    assert session.publish("a.b", msgspec.Raw(b'{ "n" : 1 }')) == b'publish:a.b:1.0.0\n{ "n" : 1 }'
    with pytest.raises(LocalProtocolError, match="line break"):
        session.publish("a.b", msgspec.Raw(b'{\n"n":1}'))


def unroutable(topic: str, version: str = "1.0.0", details: str = '{"topic":"A.b"}') -> bytes:
    """The broker's report, under an id that nobody has seen."""
    error = (
        '{"code":"NO_ROUTE_FOUND","message":"nobody","timestamp":"2026-01-01T00:00:00.000Z",'
        f'"details":{details}}}'
    )
    return f'response:{topic}:{version}:{ID.decode()}\n{{"error":{error}}}'.encode()


def test_a_publication_that_reached_nobody_is_reported_by_its_topic(session: Session) -> None:
    session.publish("A.b", {})
    for _ in range(2):
        (event,) = session.receive([unroutable("A.b")])
        assert isinstance(event, PublicationUnheard)
        assert event.topic == "A.b"
        assert isinstance(event.error, NoRouteFoundError)
        assert (event.error.message, event.error.details) == ("nobody", {"topic": "A.b"})
        assert event.error.timestamp == "2026-01-01T00:00:00.000Z"


def test_a_report_without_details_is_given_the_topic(session: Session) -> None:
    session.publish("a.b", {})
    (event,) = session.receive([unroutable("a.b", details="null")])
    assert isinstance(event, PublicationUnheard)
    assert event.error.details == {"topic": "a.b"}


@pytest.mark.parametrize(
    "options",
    [{"version": "2.0.0"}, {"parent_id": PARENT}, {"version": "2.0.0", "parent_id": PARENT}],
    ids=str,
)
def test_a_publication_with_more_in_its_header_is_reported_by_its_topic_too(
    session: Session, options: dict[str, str]
) -> None:
    session.publish("a.b", {}, **options)
    (event,) = session.receive([unroutable("a.b", options.get("version", "1.0.0"))])
    assert isinstance(event, PublicationUnheard)
    assert event.topic == "a.b"


def test_a_publication_that_waited_for_its_connection_is_reported_by_its_topic_too(
    session: Session, reconnect: Callable[..., object]
) -> None:
    session.link_lost(None)
    session.publish("a.b", {})
    reconnect(session)
    (event,) = session.receive([unroutable("a.b")])
    assert isinstance(event, PublicationUnheard)


def test_a_report_of_what_was_never_published_is_unmatched(session: Session) -> None:
    session.publish("a.b", {})
    session.request("c.d", {}, now=0.0, timeout=1000)
    for topic in ("c.d", "A.B"):
        (event,) = session.receive([unroutable(topic)])
        assert isinstance(event, Unmatched)
        assert isinstance(event.error, NoRouteFoundError)
        assert event.message is not None
        assert event.message.topic == topic
    assert session.pending == 1


def test_another_error_about_a_topic_that_was_published_is_unmatched(session: Session) -> None:
    session.publish("a.b", {})
    error = b'{"error":{"code":"FORBIDDEN","message":"not you"}}'
    (event,) = session.receive([b"response:a.b:1.0.0:%b\n%b" % (ID, error)])
    assert isinstance(event, Unmatched)
    assert isinstance(event.error, ForbiddenError)


def test_word_of_a_confirmed_publication_that_was_cancelled_is_nobodys(session: Session) -> None:
    session.publish("a.b", {})
    request = session.publish_confirmed("a.b", {}, now=0.0, timeout=1000)
    session.cancel(request)
    error = b'{"error":{"code":"NO_ROUTE_FOUND","message":"nobody"}}'
    (event,) = session.receive([b"response:a.b:1.0.0:%b\n%b" % (request.request_id, error)])
    assert isinstance(event, Unmatched)
    assert event.error is None


def test_the_brokers_report_of_a_malformed_message_belongs_to_no_request(
    session: Session,
) -> None:
    session.request("a.b", {}, now=0.0, timeout=1000)
    report = (
        b'response:error:1.0.0\n{"error":{"code":"MALFORMED_MESSAGE","message":"Invalid header",'
        b'"timestamp":"2026-01-01T00:00:00.000Z","details":{"header":"x"}}}'
    )
    (event,) = session.receive([report])
    assert isinstance(event, Unmatched)
    assert isinstance(event.error, MalformedMessageError)
    assert event.error.details == {"header": "x"}
    assert session.pending == 1


# Responding


def test_an_answer_goes_under_the_id_topic_and_version_of_its_request(session: Session) -> None:
    answer = session.respond(asked("Weather.Oslo", "2.1.0"), {"c": 3})
    assert answer == b'response:Weather.Oslo:2.1.0:%b\n{"c":3}' % ID


def test_an_answer_carries_neither_parent_nor_time_limit(session: Session) -> None:
    message = parse_message(b"request:a.b:1.0.0:%b:%b:500\n{}" % (ID, PARENT.encode()))
    assert session.respond(message, None) == b"response:a.b:1.0.0:%b\nnull" % ID


def test_an_answer_to_a_request_without_an_id_has_none(session: Session) -> None:
    assert session.respond(asked(request_id=None), 1) == b"response:a.b:1.0.0\n1"


def test_an_error_is_answered_in_the_shape_that_every_client_reads(session: Session) -> None:
    error = ForbiddenError("not you", timestamp="2026-01-01T00:00:00.000Z", details={"who": 1})
    assert session.respond(asked(), error).partition(b"\n")[2] == (
        b'{"error":{"code":"FORBIDDEN","message":"not you",'
        b'"timestamp":"2026-01-01T00:00:00.000Z","details":{"who":1}}}'
    )


@pytest.mark.parametrize("details", [object, "\ud800", {1: {2, object}}], ids=repr)
def test_details_that_are_no_json_do_not_hide_their_error(session: Session, details: Any) -> None:
    answer = session.respond(asked(), ForbiddenError("not you", details=details))
    error = error_in(answer.partition(b"\n")[2])
    assert isinstance(error, ForbiddenError)
    assert (error.message, error.details) == ("not you", None)


def test_an_answer_at_the_limit_is_sent_and_one_above_is_not(ready: Ready) -> None:
    session = ready(limits=Limits(max_payload=100))
    assert len(session.respond(asked(), "x" * 98).partition(b"\n")[2]) == 100
    with pytest.raises(MessageTooLarge) as caught:
        session.respond(asked(), "x" * 99)
    assert (caught.value.size, caught.value.limit) == (101, 100)


@pytest.mark.parametrize(
    "payload", [object, "\ud800", msgspec.Raw(b"[\n]")], ids=["a type", "a surrogate", "two lines"]
)
def test_an_answer_that_is_no_json_is_refused(session: Session, payload: Any) -> None:
    with pytest.raises(LocalProtocolError):
        session.respond(asked(), payload)


class TooFarError(ResponseError):
    """A user's error that is made in a way of its own."""

    code = "TOO_FAR_FOR_RESPOND"

    def __init__(self, distance: int, *, details: Any) -> None:
        super().__init__(f"{distance} km", details=details)


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenError("not you", details="x" * 100_000),
        ForbiddenError("x" * 100_000),
        ForbiddenError("\x01" * 5_000),
        ForbiddenError("雪" * 100_000, details=["x" * 100_000]),
        TooFarError(7, details="x" * 100_000),
        ForbiddenError(["x" * 100_000]),  # type: ignore[arg-type]
    ],
    ids=["details", "text", "escapes", "both", "a class of its own", "no text"],
)
@pytest.mark.parametrize("limit", [200, 1000, 16_384])
def test_an_error_over_the_limit_is_shortened_and_keeps_its_code(
    ready: Ready, error: ResponseError, limit: int
) -> None:
    payload = ready(limits=Limits(limit)).respond(asked(), error).partition(b"\n")[2]
    assert len(payload) <= limit
    sent = error_in(payload)
    assert sent is not None
    assert (sent.code, sent.timestamp) == (error.code, error.timestamp)
    assert sent.details is None
    assert str(error.message).startswith(sent.message)


def test_an_error_at_the_limit_is_sent_whole(ready: Ready) -> None:
    error = ForbiddenError("text", details="x" * 100)
    whole = len(ready().respond(asked(), error).partition(b"\n")[2])
    sent = error_in(ready(limits=Limits(whole)).respond(asked(), error).partition(b"\n")[2])
    assert sent is not None
    assert sent.details == "x" * 100
    sent = error_in(ready(limits=Limits(whole - 1)).respond(asked(), error).partition(b"\n")[2])
    assert sent is not None
    assert (sent.message, sent.details) == ("text", None)


def test_an_error_that_no_shortening_makes_fit_is_refused(session: Session) -> None:
    with pytest.raises(MessageTooLarge, match="without its text"):
        session.respond(asked(), ResponseError("text", code="X" * 20_000))


# Heartbeats


@pytest.mark.parametrize(
    ("heartbeat", "reply"),
    [
        (b"request:system.heartbeat:1.0.0\n{}", b"response:system.heartbeat:1.0.0\n{}"),
        (b"request:system.heartbeat:1.0.0\n", b"response:system.heartbeat:1.0.0\n{}"),
        (b"REQUEST:System.Heartbeat:1.0.0\n{}", b"response:System.Heartbeat:1.0.0\n{}"),
        (
            b"request:system.heartbeat:1.0.0:%b\nno JSON" % ID,
            b"response:system.heartbeat:1.0.0:%b\n{}" % ID,
        ),
    ],
    ids=["plain", "empty", "other case", "with an id"],
)
def test_a_heartbeat_is_answered(session: Session, heartbeat: bytes, reply: bytes) -> None:
    assert session.receive([heartbeat]) == [AnswerNow(reply)]


def test_a_response_to_a_heartbeat_is_never_answered(session: Session) -> None:
    events = session.receive([b'response:system.heartbeat:1.0.0\n{"status":"success"}'])
    assert [type(event) for event in events] == [Unmatched]
    request = session.request("system.heartbeat", {}, now=0.0, timeout=1000)
    response = b'response:system.heartbeat:1.0.0:%b\n{"status":"success"}' % request.request_id
    (event,) = session.receive([response])
    assert isinstance(event, ResponseReceived)


def test_a_published_heartbeat_is_not_answered(session: Session) -> None:
    assert session.receive([b"publish:system.heartbeat:1.0.0\n{}"]) == []


def test_a_heartbeat_goes_to_no_responder(session: Session, subscribe: Subscribe) -> None:
    subscribe(session, "#", "request")
    events = session.receive([b"request:system.heartbeat:1.0.0\n{}"])
    assert [type(event) for event in events] == [AnswerNow]


def test_the_sessions_own_replies_are_sent_whatever_the_limit(ready: Ready) -> None:
    session = ready(limits=Limits(max_payload=1))
    events = session.receive(
        [b"request:system.heartbeat:1.0.0\n{}", b"request:a.b:1.0.0:%b\n{}" % ID]
    )
    assert [type(event) for event in events] == [AnswerNow, AnswerNow]


# Requests


def test_a_request_without_an_id_reaches_its_responder(
    session: Session, subscribe: Subscribe
) -> None:
    entry = subscribe(session, "a.b", "request")
    (event,) = session.receive([b"request:a.b:1.0.0\n{}"])
    assert isinstance(event, RequestsReceived)
    assert event.subscription is entry
    assert [message.request_id for message in event.messages] == [None]


def test_a_request_without_an_id_that_nobody_answers_is_unmatched(session: Session) -> None:
    (event,) = session.receive([b"request:a.b:1.0.0\n{}"])
    assert isinstance(event, Unmatched)
    assert event.error is None
    assert event.message is not None
    assert event.message.topic == "a.b"
