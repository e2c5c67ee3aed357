"""Pending requests: every way in which one ends, and when."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import (
    InternalError,
    NoRouteFoundError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.session import (
    PendingRequest,
    RequestFailed,
    ResponseReceived,
    Session,
    Unmatched,
)

from .asking import Answer, Begin, Ready, begin

__all__ = ["begin"]

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
