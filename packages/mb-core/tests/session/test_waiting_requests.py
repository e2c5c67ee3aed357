"""Requests that wait for a connection: their deadlines, and the end of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mb_core.errors import LocalProtocolError
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    Initialized,
    PublicationsDiscarded,
    RequestFailed,
    Session,
    SessionState,
    SubscriptionEntry,
)

from .losing import GREETING, LIMITS, Ready, Reconnect
from .losses import empty, fates, lost, sent

Subscribe = Callable[..., SubscriptionEntry]


def greeted(session: Session) -> None:
    """Another Link, and the broker's greeting."""
    session.link_up()
    assert session.receive([GREETING]) == [Initialized()]


# Time


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("request", True),
        ("request", False),
        ("request", None),
        ("publish_confirmed", False),
        ("publish_confirmed", None),
    ],
    ids=lambda value: {True: "left", False: "never left", None: "held at once"}.get(value, value),
)
def test_what_waits_for_a_connection_fails_at_its_deadline_without_a_margin(
    ready: Ready, call: str, left: bool | None
) -> None:
    session = ready(margin=5.0)
    options: dict[str, Any] = {"retry": True} if call == "request" else {}
    if left is None:
        session.link_lost(None)
    request = getattr(session, call)("a.b", 1, now=10.0, timeout=2000, **options)
    if left is not None:
        assert session.next_deadline() == 17.0
        session.link_lost(None, [] if left else [request.message])
    assert session.next_deadline() == 12.0
    assert session.handle_deadline(11.999) == []
    (event,) = session.handle_deadline(12.0)
    assert fates([event]) == {request: left is True}
    assert "no connection within 2000 ms" in str(lost(event))
    assert empty(session)


def test_one_whose_time_is_over_when_the_link_is_lost_fails_at_the_next_look(
    ready: Ready,
) -> None:
    session = ready(margin=5.0)
    request = session.request("a.b", 1, retry=True, now=0.0, timeout=1000)
    assert session.handle_deadline(2.0) == []  # within the margin
    assert session.link_lost(None) == []
    assert session.next_deadline() == 1.0
    assert fates(session.handle_deadline(2.0)) == {request: True}
    assert empty(session)


def test_publications_that_nobody_waits_for_have_no_deadline(
    session: Session, reconnect: Reconnect
) -> None:
    session.link_lost(None)
    session.publish("a.b", 1)
    assert session.next_deadline() is None
    assert session.handle_deadline(1e9) == []
    assert len(sent(reconnect(session, now=1e9))) == 1


def test_the_time_that_is_left_is_the_limit_on_the_wire_and_the_margin_is_back(
    ready: Ready, reconnect: Reconnect
) -> None:
    session = ready(margin=0.5)
    request = session.request("a.b", {"n": 1}, retry=True, now=10.0, timeout=2000)
    session.link_lost(None)
    (again,) = sent(reconnect(session, now=10.75))
    assert again == b'request:a.b:1.0.0:%b::1250\n{"n":1}' % request.request_id
    assert request.timeout == 2000
    assert session.next_deadline() == 12.5
    (event,) = session.handle_deadline(12.5)
    assert isinstance(event, RequestFailed)
    assert "within 2000 ms" in str(event.error)


@pytest.mark.parametrize("call", ["register", "subscribe"])
def test_the_time_limit_of_what_the_broker_is_asked_shrinks_as_well(
    session: Session, reconnect: Reconnect, call: str
) -> None:
    session.link_lost(None)
    if call == "register":
        session.register("name", "text", now=0.0, timeout=1000)
    else:
        session.subscribe(SubscriptionEntry("a.b", Action.PUBLISH, 1, None), now=0.0, timeout=1000)
    (again,) = sent(reconnect(session, now=0.25))
    assert parse_message(again).header.timeout == 750


def test_a_confirmed_publication_has_no_time_limit_on_the_wire_and_gets_its_margin_back(
    ready: Ready, reconnect: Reconnect
) -> None:
    session = ready(margin=0.5)
    session.link_lost(None)
    request = session.publish_confirmed("a.b", 1, now=10.0, timeout=2000)
    assert session.next_deadline() == 12.0
    assert sent(reconnect(session, now=11.0)) == [b"publish:a.b:1.0.0:%b\n1" % request.request_id]
    assert session.next_deadline() == 12.5


@pytest.mark.parametrize("now", [0.9991, 1.0, 1.5, 100.0])
def test_a_request_without_a_millisecond_left_is_not_sent_any_more(
    session: Session, reconnect: Reconnect, now: float
) -> None:
    """The driver is late with the deadline; it will come."""
    session.link_lost(None)
    request = session.request("a.b", 1, retry=True, now=0.0, timeout=1000)
    assert reconnect(session, now=now) == []
    assert session.pending == 1
    assert session.next_deadline() == 1.0
    assert fates(session.handle_deadline(max(now, 1.0))) == {request: False}
    assert empty(session)


@pytest.mark.parametrize("end", ["link_lost", "close", "cancel"])
def test_a_request_without_a_millisecond_left_ends_like_any_other(
    session: Session, reconnect: Reconnect, end: str
) -> None:
    session.link_lost(None)
    request = session.request("a.b", 1, retry=True, now=0.0, timeout=1000)
    reconnect(session, now=0.9995)
    if end == "cancel":
        session.cancel(request)
    elif end == "close":
        assert fates(session.close()) == {request: False}
    else:
        assert session.link_lost(None) == []
        assert fates(session.handle_deadline(1.0)) == {request: False}
    assert empty(session)


# The end


@pytest.mark.parametrize(
    "state", [SessionState.LOST, SessionState.GREETING, SessionState.RESTORING]
)
def test_closing_gives_up_what_waits_and_counts_what_nobody_waits_for(
    ready: Ready, state: SessionState
) -> None:
    session = ready()
    left = session.request("a.b", 0, retry=True, **LIMITS)
    session.link_lost(None)
    waits = session.request("a.b", 0, retry=True, **LIMITS)
    session.publish("a.b", 1)
    confirmed = session.publish_confirmed("a.b", 2, **LIMITS)
    session.publish("a.b", 3)
    if state is not SessionState.LOST:
        session.link_up()
    if state is SessionState.RESTORING:
        session.receive([GREETING])
    events = session.close()
    assert fates(events) == {left: True, waits: False, confirmed: False}
    (discarded,) = [event for event in events if not isinstance(event, RequestFailed)]
    assert isinstance(discarded, PublicationsDiscarded)
    assert discarded.count == 2
    assert empty(session)
    assert session.close() == []


def test_closing_a_ready_session_fails_what_may_have_arrived(session: Session) -> None:
    requests = [
        session.request("a.b", 1, **LIMITS),
        session.request("a.b", 1, retry=True, **LIMITS),
        session.publish_confirmed("a.b", 1, **LIMITS),
    ]
    session.publish("a.b", 1)
    assert fates(session.close()) == dict.fromkeys(requests, True)
    assert empty(session)
    assert session.link_lost(None) == []


def test_publications_that_a_closed_session_could_not_send_are_counted_when_its_link_ends(
    session: Session,
) -> None:
    messages = [session.publish("a.b", number) for number in range(3)]
    unsent = [message for message in messages[1:] if message is not None]
    session.close()
    assert session.link_lost(None, unsent) == [PublicationsDiscarded(2)]
    assert empty(session)


def test_a_publication_whose_failure_was_told_is_not_counted_again(session: Session) -> None:
    confirmed = session.publish_confirmed("a.b", 1, **LIMITS)
    session.publish("a.b", 2)
    request = session.request("a.b", 3, **LIMITS)
    assert set(fates(session.close())) == {confirmed, request}
    assert session.link_lost(None, [confirmed.message, request.message]) == []


def test_closing_while_the_broker_is_told_fails_that(
    session: Session, subscribe: Subscribe
) -> None:
    subscribe(session, "a.b")
    session.link_lost(None)
    greeted(session)
    asked = session.restore(**LIMITS)
    assert fates(session.close()) == dict.fromkeys(asked, True)
    assert empty(session)


def test_nothing_can_be_restored_after_the_end(session: Session) -> None:
    session.link_lost(None)
    greeted(session)
    session.close()
    with pytest.raises(LocalProtocolError):
        session.restored(0.0)
    with pytest.raises(LocalProtocolError):
        session.restore(**LIMITS)
