"""Requests: what is sent, responses that nobody waits for, and registration."""

from __future__ import annotations

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
)
from mb_core.header import MAX_HEADER
from mb_core.message import parse_message
from mb_core.session import (
    ResponseReceived,
    Session,
    Unmatched,
)
from mb_core.wire import Limits

from .asking import Answer, Begin, Ready, begin

__all__ = ["begin"]

PARENT = "7a0c7a6e-0000-4000-8000-000000000001"
FOREIGN = b"7a0c7a6e-0000-4000-8000-00000000beef"


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
