"""Pending requests: what is sent, and every path on which one leaves the table."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import (
    InternalError,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    NoRouteFoundError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.header import MAX_HEADER
from mb_core.message import parse_message
from mb_core.session import (
    PendingRequest,
    RequestFailed,
    ResponseReceived,
    Session,
    Unmatched,
)
from mb_core.wire import Limits

Ready = Callable[..., Session]
Answer = Callable[..., bytes]
Begin = Callable[..., PendingRequest]

PARENT = "7a0c7a6e-0000-4000-8000-000000000001"
FOREIGN = b"7a0c7a6e-0000-4000-8000-00000000beef"


@pytest.fixture(params=["request", "publish_confirmed"])
def begin(request: pytest.FixtureRequest) -> Begin:
    """Begin something that waits for an answer: a request, a confirmed publication."""
    call: str = request.param

    def make(
        session: Session, topic: str = "a.b", *, now: float = 0.0, timeout: int = 1000
    ) -> PendingRequest:
        pending: PendingRequest = getattr(session, call)(topic, {}, now=now, timeout=timeout)
        return pending

    return make


# What is sent


def test_a_request_carries_id_and_time_limit(session: Session) -> None:
    request = session.request("a.b", {"city": "Oslo"}, now=0.0, timeout=2000)
    assert request.message == b'request:a.b:1.0.0:%b::2000\n{"city":"Oslo"}' % request.request_id
    assert (request.topic, request.timeout, request.waiter) == ("a.b", 2000, None)


def test_a_request_may_have_a_version_and_a_parent(session: Session) -> None:
    request = session.request("a.b", 1, now=0.0, timeout=1, version="2.0.0-rc.1", parent_id=PARENT)
    expected = f"request:a.b:2.0.0-rc.1:{request.request_id.decode()}:{PARENT}:1\n1"
    assert request.message == expected.encode()


def test_a_confirmed_publication_carries_an_id_and_no_time_limit(session: Session) -> None:
    request = session.publish_confirmed("a.b", {}, now=0.0, timeout=2000)
    assert request.message == b"publish:a.b:1.0.0:%b\n{}" % request.request_id
    assert request.timeout == 2000


def test_a_confirmed_publication_may_have_a_version_and_a_parent(session: Session) -> None:
    request = session.publish_confirmed(
        "a.b", {}, now=0.0, timeout=1, version="v2.0.0", parent_id=PARENT
    )
    expected = f"publish:a.b:v2.0.0:{request.request_id.decode()}:{PARENT}\n{{}}"
    assert request.message == expected.encode()


@given(
    topic=st.from_regex(
        r"[A-Za-z][A-Za-z0-9]{0,9}(\.[A-Za-z][A-Za-z0-9]{0,9}){0,4}", fullmatch=True
    ),
    payload=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    timeout=st.integers(1, 3_600_000),
    version=st.sampled_from(["1.0.0", "v1.2.3", "0.0.1-a.b+c"]),
    parent=st.sampled_from([None, PARENT]),
)
def test_what_is_sent_is_what_was_asked_for(
    topic: str, payload: Any, timeout: int, version: str, parent: str | None
) -> None:
    session = Session()
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    for _ in range(2):  # the second comes from what is remembered of the first
        request = session.request(
            topic, payload, now=0.0, timeout=timeout, version=version, parent_id=parent
        )
        message = parse_message(request.message)
        header = message.header
        assert (header.action, header.topic, header.version) == ("request", topic, version)
        assert header.request_id == request.request_id.decode()
        assert (header.parent_id, header.timeout) == (parent, timeout)
        assert message.payload == payload
        data = session.publish(topic, payload, version=version, parent_id=parent)
        assert data is not None
        published = parse_message(data)
        header = published.header
        assert (header.action, header.topic, header.version) == ("publish", topic, version)
        assert (header.request_id, header.parent_id, header.timeout) == (None, parent, None)
        assert published.payload == payload


def test_ids_are_uuids_and_all_different(session: Session) -> None:
    other = Session()
    other.link_up()
    other.receive([b"publish:system.initialize:1.0.0\n{}"])
    other.restored(0.0)
    ids = set()
    for _ in range(500):
        for each in (session, other):
            ids.add(each.request("a.b", {}, now=0.0, timeout=1).request_id)
            ids.add(each.publish_confirmed("a.b", {}, now=0.0, timeout=1).request_id)
    assert len(ids) == 2000
    for text in ids:
        assert len(text) == 36
        assert str(uuid.UUID(text.decode())).encode() == text


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"topic": "a..b"}, "invalid topic"),
        ({"topic": "a.+"}, "wildcards are for subscriptions"),
        ({"topic": ""}, "invalid topic"),
        ({"topic": None}, "invalid topic"),
        ({"topic": b"a.b"}, "invalid topic"),
        ({"topic": "a" * 256}, "invalid topic"),
        ({"payload": object}, "can't be written as JSON"),
        ({"payload": "\ud800"}, "can't be written as JSON"),
        ({"timeout": 0}, "invalid timeout"),
        ({"timeout": -1}, "invalid timeout"),
        ({"timeout": 3_600_001}, "invalid timeout"),
        ({"timeout": 1.5}, "invalid timeout"),
        ({"timeout": True}, "invalid timeout"),
        ({"timeout": None}, "invalid timeout"),
        ({"version": "1.0"}, "invalid version"),
        ({"version": None}, "invalid version"),
        ({"parent_id": "x"}, "invalid parent id"),
        ({"parent_id": ""}, "invalid parent id"),
        ({"parent_id": PARENT.upper()}, "invalid parent id"),
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_refused_and_changes_nothing(
    session: Session,
    picture: Callable[[Session], object],
    options: dict[str, Any],
    fault: str,
) -> None:
    waiting = session.request("a.b", {}, now=5.0, timeout=1000)
    before = picture(session)
    given_options: dict[str, Any] = {"topic": "a.b", "payload": {}, "timeout": 1000, **options}
    with pytest.raises(LocalProtocolError, match=fault):
        session.request(now=0.0, **given_options)
    with pytest.raises(LocalProtocolError, match=fault):
        session.publish_confirmed(now=0.0, **given_options)
    if "timeout" not in options:
        del given_options["timeout"]
        with pytest.raises(LocalProtocolError, match=fault):
            session.publish(**given_options)
    assert picture(session) == before
    session.cancel(waiting)


def test_a_payload_at_the_limit_is_sent_and_one_above_is_not(ready: Ready) -> None:
    session = ready(limits=Limits(max_payload=100))
    fits, over = "x" * 98, "x" * 99
    assert session.request("a.b", fits, now=0.0, timeout=1).message.endswith(
        b'"' + b"x" * 98 + b'"'
    )
    session.publish_confirmed("a.b", fits, now=0.0, timeout=1)
    session.publish("a.b", fits)
    for call in (session.request, session.publish_confirmed):
        with pytest.raises(MessageTooLarge) as caught:
            call("a.b", over, now=0.0, timeout=1)
        assert (caught.value.size, caught.value.limit) == (101, 100)
    with pytest.raises(MessageTooLarge):
        session.publish("a.b", over)
    assert session.pending == 2


def test_the_longest_topic_with_all_its_fields_fits_into_a_header(session: Session) -> None:
    topic = "a" * 255
    request = session.request(topic, {}, now=0.0, timeout=3_600_000)
    assert request.message.index(b"\n") < MAX_HEADER
    assert parse_message(request.message).topic == topic


def test_a_header_over_its_limit_is_refused_and_changes_nothing(session: Session) -> None:
    topic, version = "a" * 255, "1.0.0-" + "b" * 40
    for call in (session.request, session.publish_confirmed):
        with pytest.raises(MessageTooLarge, match="shorten the"):
            call(topic, {}, now=0.0, timeout=1, version=version, parent_id=PARENT)
    assert session.pending == 0
    assert session.next_deadline() is None


# Paths out of the table


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"",
        b"null",
        b"no JSON",
        b'{"error":null}',
        b'{"error":"text"}',
        b'{"error":{"code":"X"}}',
        b'{"error":{"code":"X","message":"m"},"more":1}',
        b'[{"error":{"code":"X","message":"m"}}]',
        b'{"error":',
        b"\xff\xfe",
        b'"error:"',
    ],
    ids=repr,
)
def test_an_answer_completes_its_request_whatever_its_payload(
    session: Session, begin: Begin, answer: Answer, payload: bytes
) -> None:
    request = begin(session)
    assert session.pending == 1
    (event,) = session.receive([answer(request, payload)])
    assert isinstance(event, ResponseReceived)
    assert event.request is request
    assert event.message.raw_payload == payload
    assert event.message.request_key == request.request_id
    assert session.pending == 0
    assert session.next_deadline() is None


@pytest.mark.parametrize("shape", ['{"error":%s}', "error:%s"], ids=["broker's", "service's"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NO_ROUTE_FOUND", NoRouteFoundError),
        ("TIMEOUT", RequestTimeoutError),
        ("SERVICE_UNAVAILABLE", ServiceUnavailableError),
        ("OUT_OF_RANGE", ResponseError),
    ],
)
def test_an_error_in_either_shape_fails_its_request(
    session: Session,
    begin: Begin,
    answer: Answer,
    shape: str,
    code: str,
    kind: type[ResponseError],
) -> None:
    request = begin(session)
    error = (
        f'{{"code":"{code}","message":"why","timestamp":"2026-01-01T00:00:00.000Z",'
        '"details":{"at":1}}'
    )
    (event,) = session.receive([answer(request, (shape % error).encode())])
    assert isinstance(event, RequestFailed)
    assert event.request is request
    assert type(event.error) is kind
    assert isinstance(event.error, ResponseError)
    assert (event.error.code, event.error.message) == (code, "why")
    assert event.error.timestamp == "2026-01-01T00:00:00.000Z"
    assert event.error.details == {"at": 1}
    assert session.pending == 0
    assert session.next_deadline() is None


@pytest.mark.parametrize("rest", [b"", b"text", b"{}", b"[1]", b"{", b"\xff", b'{"code":1}'])
def test_the_prefix_of_a_services_error_is_never_taken_for_data(
    session: Session, begin: Begin, answer: Answer, rest: bytes
) -> None:
    request = begin(session)
    (event,) = session.receive([answer(request, b"error:" + rest)])
    assert isinstance(event, RequestFailed)
    assert isinstance(event.error, InternalError)


@pytest.mark.parametrize("depth", [100, 5_000])
@pytest.mark.parametrize("start", [b'{"error":', b"error:"], ids=["broker's", "service's"])
def test_an_answer_nested_without_measure_completes_its_request(
    session: Session, begin: Begin, answer: Answer, start: bytes, depth: int
) -> None:
    request = begin(session)
    other = begin(session)
    closing = b"}" if start.startswith(b"{") else b""
    nested = answer(request, start + b"[" * depth + b"]" * depth + closing)
    events = session.receive([nested, answer(other)])
    assert [
        event.request for event in events if isinstance(event, ResponseReceived | RequestFailed)
    ] == [
        request,
        other,
    ]


def test_an_error_whose_class_is_made_in_its_own_way_fails_its_request(
    session: Session, answer: Answer
) -> None:
    class OutOfReachError(ResponseError):
        code = "OUT_OF_REACH"

        def __init__(self, distance: int) -> None:
            super().__init__(f"{distance} km are too far")

    request = session.request("a.b", {}, now=0.0, timeout=1000)
    payload = b'error:{"code":"OUT_OF_REACH","message":"5 km are too far"}'
    (event,) = session.receive([answer(request, payload)])
    assert isinstance(event, RequestFailed)
    assert isinstance(event.error, ResponseError)
    assert (event.error.code, event.error.message) == ("OUT_OF_REACH", "5 km are too far")


def test_a_response_is_matched_by_its_id_alone(session: Session) -> None:
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    (event,) = session.receive([b"response:other.topic:9.9.9:%b\n{}" % request.request_id])
    assert isinstance(event, ResponseReceived)
    assert event.request is request


@pytest.mark.parametrize("action", [b"publish", b"request"])
def test_only_a_response_completes_a_request(session: Session, begin: Begin, action: bytes) -> None:
    request = begin(session)
    events = session.receive([action + b":a.b:1.0.0:" + request.request_id + b"\n{}"])
    assert not any(isinstance(event, ResponseReceived | RequestFailed) for event in events)
    assert session.pending == 1


def test_answers_in_any_order_find_their_requests(session: Session, answer: Answer) -> None:
    requests = [session.request("a.b", n, now=0.0, timeout=1000) for n in range(50)]
    shuffled = requests[::3] + requests[1::3] + requests[2::3]
    events = session.receive([answer(request) for request in shuffled])
    assert [event.request for event in events if isinstance(event, ResponseReceived)] == shuffled
    assert session.pending == 0


def test_a_cancelled_request_leaves_at_once_and_its_answer_is_ignored(
    session: Session, begin: Begin, answer: Answer
) -> None:
    request = begin(session)
    session.cancel(request)
    assert session.pending == 0
    assert session.next_deadline() is None
    session.cancel(request)
    (event,) = session.receive([answer(request)])
    assert isinstance(event, Unmatched)
    assert event.error is None
    assert event.message is not None
    assert event.message.request_key == request.request_id


def test_cancelling_what_is_complete_does_nothing(
    session: Session, begin: Begin, answer: Answer
) -> None:
    request, other = begin(session), begin(session)
    session.receive([answer(request)])
    session.cancel(request)
    assert session.pending == 1
    session.cancel(other)


def test_cancelling_a_request_of_another_session_does_nothing(
    ready: Ready, session: Session
) -> None:
    session.request("a.b", {}, now=0.0, timeout=1000)
    session.cancel(ready().request("a.b", {}, now=0.0, timeout=1000))
    assert session.pending == 1


# Responses to nothing


def test_a_second_answer_is_unmatched(session: Session, begin: Begin, answer: Answer) -> None:
    request = begin(session)
    first, second = session.receive([answer(request, b"1"), answer(request, b"2")])
    assert isinstance(first, ResponseReceived)
    assert isinstance(second, Unmatched)
    assert first.message.payload == 1
    assert second.message is not None
    assert second.message.payload == 2
    assert second.error is None


@pytest.mark.parametrize("request_id", [b":" + FOREIGN, b""], ids=["foreign id", "no id"])
@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"{}", type(None)),
        (b'{"error":{"code":"NO_ROUTE_FOUND","message":"nobody"}}', NoRouteFoundError),
        (b'error:{"code":"INTERNAL_ERROR","message":"failed"}', InternalError),
    ],
    ids=["data", "unroutable", "service's error"],
)
def test_a_response_to_nothing_is_unmatched_and_says_what_it_reports(
    session: Session, begin: Begin, request_id: bytes, payload: bytes, kind: type[object]
) -> None:
    begin(session)
    (event,) = session.receive([b"response:a.b:1.0.0" + request_id + b"\n" + payload])
    assert isinstance(event, Unmatched)
    assert type(event.error) is kind
    assert event.message is not None
    assert event.message.raw_payload == payload
    assert session.pending == 1


# Time


@pytest.mark.parametrize("margin", [0.0, 0.25, 1.0])
def test_a_request_is_waited_for_its_limit_and_the_margin(
    ready: Ready, begin: Begin, margin: float
) -> None:
    session = ready(margin=margin)
    request = begin(session, now=100.0, timeout=1500)
    due = 100.0 + 1.5 + margin
    assert session.next_deadline() == due
    assert session.handle_deadline(due - 0.001) == []
    assert session.pending == 1
    (event,) = session.handle_deadline(due)
    assert isinstance(event, RequestFailed)
    assert event.request is request
    assert isinstance(event.error, RequestTimeoutError)
    assert re.search("'a.b' within 1500 ms", str(event.error))
    assert session.pending == 0
    assert session.next_deadline() is None
    assert session.handle_deadline(due + 1) == []


def test_the_next_deadline_is_the_earliest_of_those_that_wait(ready: Ready, answer: Answer) -> None:
    session = ready(margin=0.0)
    slow = session.request("a.b", {}, now=0.0, timeout=3000)
    fast = session.request("a.b", {}, now=0.0, timeout=1000)
    medium = session.publish_confirmed("a.b", {}, now=0.0, timeout=2000)
    assert session.next_deadline() == 1.0
    session.receive([answer(fast)])
    assert session.next_deadline() == 2.0
    session.cancel(medium)
    assert session.next_deadline() == 3.0
    assert [
        event.request for event in session.handle_deadline(3.0) if isinstance(event, RequestFailed)
    ] == [slow]


def test_a_late_call_fails_all_that_is_due_the_earliest_first(ready: Ready) -> None:
    session = ready(margin=0.0)
    requests = {
        timeout: session.request("a.b", {}, now=0.0, timeout=timeout)
        for timeout in (3000, 1000, 9000, 2000)
    }
    events = session.handle_deadline(5.0)
    assert [event.request for event in events if isinstance(event, RequestFailed)] == [
        requests[timeout] for timeout in (1000, 2000, 3000)
    ]
    assert session.pending == 1
    assert session.next_deadline() == 9.0


def test_an_answer_after_the_time_limit_is_unmatched(
    session: Session, begin: Begin, answer: Answer
) -> None:
    request = begin(session)
    session.handle_deadline(1e9)
    (event,) = session.receive([answer(request)])
    assert isinstance(event, Unmatched)
    assert event.error is None


def test_an_answer_within_the_margin_is_in_time(
    session: Session, begin: Begin, answer: Answer
) -> None:
    request = begin(session, now=0.0, timeout=1000)
    assert session.handle_deadline(1.5) == []
    (event,) = session.receive([answer(request, b'error:{"code":"TIMEOUT","message":"m"}')])
    assert isinstance(event, RequestFailed)
    assert isinstance(event.error, RequestTimeoutError)
    assert event.error.message == "m"


@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.sampled_from(["answer", "cancel", "time"])), max_size=200
    )
)
def test_deadlines_are_right_whatever_leaves_first(plan: list[tuple[int, str]]) -> None:
    session = Session(margin=0.0)
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    begun = [
        (timeout, fate, session.request("a.b", {}, now=0.0, timeout=timeout))
        for timeout, fate in plan
    ]
    for _, fate, request in begun:
        if fate == "answer":
            session.receive([b"response:a.b:1.0.0:%b\n{}" % request.request_id])
        elif fate == "cancel":
            session.cancel(request)
    left = [(timeout / 1000, request) for timeout, fate, request in begun if fate == "time"]
    assert session.pending == len(left)
    failed: list[PendingRequest] = []
    while (due := session.next_deadline()) is not None:
        assert due == min(time for time, request in left if request not in failed)
        events = session.handle_deadline(due)
        assert events
        failed += [event.request for event in events if isinstance(event, RequestFailed)]
    assert failed == [request for _, request in sorted(left, key=lambda pair: pair[0])]
    assert session.pending == 0


# Registration


def test_registering_tells_the_broker_and_is_remembered_by_the_driver_when_it_was_accepted(
    session: Session, answer: Answer
) -> None:
    request = session.register("name", "description", now=0.0, timeout=1000)
    message = parse_message(request.message)
    assert message.topic == "system.service.register"
    assert message.payload == {"name": "name", "description": "description"}
    assert message.header.timeout == 1000
    session.receive([answer(request, b'{"status":"success"}')])
    assert session.registration is None


def test_the_longest_texts_are_registered(session: Session) -> None:
    name, description = "ñ" * 36, "雪" * 1024
    payload = parse_message(session.register(name, description, now=0.0, timeout=1).message).payload
    assert payload == {"name": name, "description": description}


@pytest.mark.parametrize(
    ("name", "description", "fault"),
    [
        ("", "text", "service name of 0 characters"),
        ("n" * 37, "text", "service name of 37 characters: expected 1 to 36"),
        (None, "text", "service name None"),
        (b"name", "text", "service name b'name'"),
        ("name", "", "service description of 0 characters"),
        ("name", "d" * 1025, "description of 1025 characters: expected 1 to 1024"),
        ("name", None, "service description None"),
        ("name", "\ud800", "can't be written as JSON"),
    ],
    ids=[
        "empty name",
        "long name",
        "no name",
        "name in bytes",
        "empty description",
        "long description",
        "no description",
        "no text",
    ],
)
def test_other_texts_are_refused_and_change_nothing(
    session: Session,
    picture: Callable[[Session], object],
    name: Any,
    description: Any,
    fault: str,
) -> None:
    session.registration = ("old", "old text")
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=fault):
        session.register(name, description, now=0.0, timeout=1000)
    assert picture(session) == before


@pytest.mark.parametrize(
    ("limits", "timeout", "kind"),
    [(Limits(), 0, LocalProtocolError), (Limits(max_payload=20), 1000, MessageTooLarge)],
    ids=["timeout", "size"],
)
def test_a_registration_that_is_not_sent_waits_for_nothing(
    ready: Ready, limits: Limits, timeout: int, kind: type[MBError]
) -> None:
    session = ready(limits=limits)
    with pytest.raises(kind):
        session.register("name", "description", now=0.0, timeout=timeout)
    assert session.pending == 0
