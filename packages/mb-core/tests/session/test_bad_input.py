"""A Session that gets bad input, or more than it remembers, or a call that raises."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import (
    LocalProtocolError,
    MessageTooLarge,
    RemoteProtocolError,
)
from mb_core.header import HeaderPrefix
from mb_core.session import (
    PendingRequest,
    PublicationsReceived,
    RequestsReceived,
    ResponseReceived,
    Session,
    Unmatched,
)

from .session_input import ID, Subscribe, asked

Respond = Callable[..., bytes]
Picture = Callable[[Session], object]


# Bad input


BAD = {
    "empty": b"",
    "no newline": b"publish:a.b:1.0.0",
    "only a newline": b"\n",
    "one field": b"publish\n{}",
    "two fields": b"publish:a.b\n{}",
    "unknown action": b"shout:a.b:1.0.0\n{}",
    "empty action": b":a.b:1.0.0\n{}",
    "empty topic": b"publish::1.0.0\n{}",
    "wildcard": b"publish:a.+:1.0.0\n{}",
    "six segments": b"publish:a.b.c.d.e.f:1.0.0\n{}",
    "bad version": b"publish:a.b:1.0\n{}",
    "leading zero": b"publish:a.b:1.0.0-01\n{}",
    "short id": b"publish:a.b:1.0.0:7a0c7a6e\n{}",
    "id in upper case": b"response:a.b:1.0.0:7A0C7A6E-0000-4000-8000-00000000BEEF\n{}",
    "id of other letters": b"response:a.b:1.0.0:7a0c7a6e-0000-4000-8000-00000000beeg\n{}",
    "bad parent id": b"publish:a.b:1.0.0::x\n{}",
    "time limit on a publication": b"publish:a.b:1.0.0:::5000\n{}",
    "time limit on a response": b"response:a.b:1.0.0:%b::5000\n{}" % ID,
    "time limit of zero": b"request:a.b:1.0.0:%b::0\n{}" % ID,
    "huge time limit": b"request:a.b:1.0.0:%b::%b\n{}" % (ID, b"9" * 200),
    "signed time limit": b"request:a.b:1.0.0:%b::-5\n{}" % ID,
    "header too long": b"publish:" + b"a" * 400 + b":1.0.0\n{}",
    "no text": b"\xff\xfe\x00\n\xff",
    "topic in other letters": "publish:a.ü:1.0.0\n{}".encode(),
    "a newline first": b"\npublish:a.b:1.0.0\n{}",
    "leading space": b" publish:a.b:1.0.0\n{}",
    "NUL": b"publish:a.b\x00:1.0.0\n{}",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_input_that_can_not_be_read_is_unmatched_and_harms_no_other_message(
    session: Session, subscribe: Subscribe, answer: Respond, bad: bytes
) -> None:
    subscribe(session, "a.b")
    responds = subscribe(session, "c.d", "request")
    request = session.request("e.f", {}, now=0.0, timeout=1000)
    events = session.receive(
        [
            bad,
            b"publish:a.b:1.0.0\n1",
            bad,
            b"publish:a.b:1.0.0\n2",
            bad,
            answer(request),
            bad,
            b"request:c.d:1.0.0:%b\n{}" % ID,
            bad,
        ]
    )
    unread = [event for event in events if isinstance(event, Unmatched)]
    assert len(unread) == 5
    for event in unread:
        assert isinstance(event.error, RemoteProtocolError)
        assert event.message is None
    rest = [event for event in events if not isinstance(event, Unmatched)]
    delivered = [m.payload for e in rest if isinstance(e, PublicationsReceived) for m in e.messages]
    assert delivered == [1, 2]
    assert [event.request for event in rest if isinstance(event, ResponseReceived)] == [request]
    assert [event.subscription for event in rest if isinstance(event, RequestsReceived)] == [
        responds
    ]
    assert session.pending == 0


def test_a_payload_that_is_no_text_is_delivered_as_it_is(
    session: Session, subscribe: Subscribe
) -> None:
    subscribe(session, "a.b")
    (event,) = session.receive([b"publish:a.b:1.0.0\n\xff\xfe\n\n"])
    assert isinstance(event, PublicationsReceived)
    (message,) = event.messages
    assert message.raw_payload == b"\xff\xfe\n\n"
    with pytest.raises(RemoteProtocolError):
        _ = message.payload


_PIECES = st.sampled_from(
    [
        *(b"publish", b"request", b"response", b"REQUEST", b":", b":", b":", b"\n", b"\n", b"."),
        *(b"a.b", b"a", b"system.heartbeat", b"system.initialize", b"error", b"#", b"+"),
        *(b"1.0.0", b"1.0", b"v1.0.0-a", ID, ID.upper(), b"5000", b"0", b" ", b"\r", b"\xff"),
        *(b"{}", b'{"error":{"code":"X","message":"m"}}', b"error:", b'{"error":', b"[" * 50),
    ]
)
_JUNK = st.binary(max_size=60) | st.lists(_PIECES, max_size=14).map(b"".join)


@given(st.lists(_JUNK, max_size=8))
def test_nothing_that_is_received_raises_or_hides_what_comes_after_it(junk: list[bytes]) -> None:
    session = Session()
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    last = b"response:a.b:1.0.0:%b\n{}" % request.request_id
    events = session.receive([*junk, last])
    assert isinstance(events[-1], ResponseReceived)
    assert events[-1].request is request
    assert len(events) <= len(junk) + 1
    assert session.pending == 0


def test_an_empty_batch_is_no_event(session: Session) -> None:
    assert session.receive([]) == []


# What is remembered stays bounded


def alive(kind: type[object]) -> int:
    """How many objects of this class there are."""
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


class Topic(str):
    """A topic whose life can be watched."""


@pytest.mark.parametrize("call", ["publish", "request"])
def test_the_topics_that_are_remembered_for_sending_are_bounded(
    session: Session, call: str
) -> None:
    topics: weakref.WeakSet[Topic] = weakref.WeakSet()
    for number in range(20_000):
        topic = Topic(f"topic.n{number}")
        topics.add(topic)
        if call == "publish":
            assert session.publish(topic, 1) == f"publish:topic.n{number}:1.0.0\n1".encode()
        else:
            request = session.request(topic, 1, now=0.0, timeout=1)
            assert request.message.startswith(f"request:topic.n{number}:1.0.0:".encode())
            session.cancel(request)
            session.next_deadline()
        del topic
    gc.collect()
    assert len(topics) <= 5_000


def test_the_headers_that_are_remembered_for_reading_are_bounded(
    session: Session, subscribe: Subscribe
) -> None:
    subscribe(session, "#")
    seen = 0
    before = alive(HeaderPrefix)
    for number in range(200):
        batch = [f"publish:topic.n{number}x{n}:1.0.0\n{{}}".encode() for n in range(100)]
        seen += sum(
            len(event.messages)
            for event in session.receive(batch)
            if isinstance(event, PublicationsReceived)
        )
    assert seen == 20_000
    assert alive(HeaderPrefix) - before <= 5_000


@pytest.mark.parametrize("end", ["answered", "cancelled"])
def test_requests_that_are_complete_are_let_go_while_an_older_one_waits(
    session: Session, answer: Respond, end: str
) -> None:
    before = alive(PendingRequest)
    slow = session.request("slow", {}, now=0.0, timeout=1_000)
    for _ in range(5_000):
        request = session.request("a.b", {}, now=0.0, timeout=30_000)
        if end == "answered":
            session.receive([answer(request)])
        else:
            session.cancel(request)
    assert session.pending == 1
    assert alive(PendingRequest) - before <= 200
    session.cancel(slow)
    assert session.next_deadline() is None


# Nothing changes when a call raises


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.publish("a.+", {}),
        lambda session: session.publish("a.b", "x" * 20_000),
        lambda session: session.request("a.b", "x" * 20_000, now=0.0, timeout=1),
        lambda session: session.request("a.b", {}, now=0.0, timeout=0),
        lambda session: session.publish_confirmed("a.b", "x" * 20_000, now=0.0, timeout=1),
        lambda session: session.publish_confirmed("a.b", {}, now=0.0, timeout=0),
        lambda session: session.register("", "text", now=0.0, timeout=1),
        lambda session: session.register("name", "text", now=0.0, timeout=0),
        lambda session: session.respond(asked(), "x" * 20_000),
        lambda session: session.respond(asked(), object()),
        lambda session: session.link_up(),
    ],
    ids=[
        "publish to a pattern",
        "publish too much",
        "request too much",
        "request without time",
        "confirm too much",
        "confirm without time",
        "register nothing",
        "register without time",
        "respond too much",
        "respond with no JSON",
        "link up again",
    ],
)
def test_a_call_that_raises_leaves_the_session_as_it_was(
    session: Session,
    subscribe: Subscribe,
    picture: Picture,
    answer: Respond,
    call: Callable[[Session], object],
) -> None:
    subscribe(session, "a.b")
    subscribe(session, "a.b", "request")
    session.registration = ("old", "old text")
    request = session.request("c.d", {}, now=1.0, timeout=5000)
    before = picture(session)
    with pytest.raises((LocalProtocolError, MessageTooLarge)):
        call(session)
    assert picture(session) == before
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
