"""The states of a Session: every move of its table, and every move that is not in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mb_core.errors import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MBError,
    RemoteProtocolError,
)
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import Failed, Initialized, Reply, Session, SessionState, Subscribed

MakeSession = Callable[..., Session]

OFFLINE = SessionState.OFFLINE
GREETING = SessionState.GREETING
READY = SessionState.READY
LOST = SessionState.LOST
CLOSED = SessionState.CLOSED

MOVES: dict[str, Callable[[Session], object]] = {
    "link_up": lambda session: session.link_up(),
    "link_lost": lambda session: session.link_lost(None),
    "close": lambda session: session.close(),
}

ALLOWED: dict[tuple[SessionState, str], SessionState] = {
    (OFFLINE, "link_up"): GREETING,
    (GREETING, "link_lost"): LOST,
    (READY, "link_lost"): LOST,
    (CLOSED, "link_lost"): CLOSED,
    (OFFLINE, "close"): CLOSED,
    (GREETING, "close"): CLOSED,
    (READY, "close"): CLOSED,
    (LOST, "close"): CLOSED,
    (CLOSED, "close"): CLOSED,
}

REFUSED = [
    (state, move) for state in SessionState for move in MOVES if (state, move) not in ALLOWED
]


def name(value: object) -> str | None:
    return value.name if isinstance(value, SessionState) else None


def sending_calls(session: Session) -> dict[str, Callable[[], object]]:
    """Each call that gives something to send."""
    asked = parse_message("request:a.b:1.0.0:7a0c7a6e-0000-4000-8000-000000000001\n{}")
    entry = Subscribed("a.b", Action.PUBLISH, 1, None)
    limits: dict[str, Any] = {"now": 0.0, "timeout": 1000}
    return {
        "publish": lambda: session.publish("a.b", {}),
        "publish_confirmed": lambda: session.publish_confirmed("a.b", {}, **limits),
        "request": lambda: session.request("a.b", {}, **limits),
        "respond": lambda: session.respond(asked, {}),
        "register": lambda: session.register("name", "description", **limits),
        "subscribe": lambda: session.subscribe(entry, **limits),
    }


SENDING = list(sending_calls(Session()))


# Moves


@pytest.mark.parametrize(("state", "move"), ALLOWED, ids=name)
def test_a_move_of_the_table_leads_where_it_says(
    in_state: MakeSession, state: SessionState, move: str
) -> None:
    session = in_state(state)
    MOVES[move](session)
    assert session.state is ALLOWED[state, move]


@pytest.mark.parametrize(("state", "move"), REFUSED, ids=name)
def test_any_other_move_raises_and_changes_nothing(
    in_state: MakeSession, state: SessionState, move: str
) -> None:
    session = in_state(state)
    with pytest.raises(LocalProtocolError, match=f"while the session is: {state.value}"):
        MOVES[move](session)
    assert session.state is state


def test_a_new_session_is_offline_and_waits_for_nothing() -> None:
    session = Session()
    assert session.state is OFFLINE
    assert session.pending == 0
    assert session.next_deadline() is None
    assert session.registration is None
    assert list(session.subscriptions) == []


# The greeting


def test_the_greeting_makes_the_session_ready(in_state: MakeSession, greeting: bytes) -> None:
    session = in_state(GREETING)
    assert session.receive([greeting]) == [Initialized()]
    assert session.state is READY


@pytest.mark.parametrize(
    "message",
    [
        b"publish:System.Initialize:1.0.0\n{}",
        b"PUBLISH:system.initialize:1.0.0\n{}",
        b"publish:system.initialize:2.1.0:7a0c7a6e-0000-4000-8000-000000000001\n{}",
        b"publish:system.initialize:1.0.0\n",
        b"publish:system.initialize:1.0.0\nno JSON",
    ],
    ids=["topic in other case", "action in other case", "with an id", "no payload", "no JSON"],
)
def test_the_greeting_is_known_by_action_and_topic_alone(
    in_state: MakeSession, message: bytes
) -> None:
    session = in_state(GREETING)
    assert session.receive([message]) == [Initialized()]


@pytest.mark.parametrize("action", [b"request", b"response"])
def test_only_a_publication_greets(in_state: MakeSession, action: bytes) -> None:
    session = in_state(GREETING)
    events = session.receive([action + b":system.initialize:1.0.0\n{}"])
    assert Initialized() not in events
    assert session.state is GREETING


def test_a_broker_may_greet_again(session: Session, greeting: bytes) -> None:
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    assert session.receive([greeting]) == [Initialized()]
    assert session.state is READY
    assert session.pending == 1
    session.cancel(request)


def test_what_comes_with_the_greeting_is_read_after_it(
    in_state: MakeSession, greeting: bytes
) -> None:
    session = in_state(GREETING)
    heartbeat = b"request:system.heartbeat:1.0.0\n{}"
    assert session.receive([greeting, heartbeat]) == [
        Initialized(),
        Reply(b"response:system.heartbeat:1.0.0\n{}"),
    ]


def test_a_heartbeat_is_answered_before_the_greeting_too(in_state: MakeSession) -> None:
    session = in_state(GREETING)
    events = session.receive([b"request:system.heartbeat:1.0.0\n{}"])
    assert events == [Reply(b"response:system.heartbeat:1.0.0\n{}")]
    assert session.state is GREETING


@pytest.mark.parametrize("state", [OFFLINE, LOST, CLOSED], ids=name)
def test_without_a_live_link_whatever_arrives_is_ignored(
    in_state: MakeSession, greeting: bytes, state: SessionState
) -> None:
    session = in_state(state)
    assert session.receive([greeting, b"request:system.heartbeat:1.0.0\n{}", b"garbage"]) == []
    assert session.state is state


# Sending in each state


@pytest.mark.parametrize("state", [OFFLINE, GREETING], ids=name)
@pytest.mark.parametrize("call", SENDING)
def test_sending_before_the_greeting_is_the_callers_fault(
    in_state: MakeSession,
    picture: Callable[[Session], object],
    state: SessionState,
    call: str,
) -> None:
    session = in_state(state)
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=r"connect\(\.\.\.\) first"):
        sending_calls(session)[call]()
    assert picture(session) == before


@pytest.mark.parametrize("state", [LOST, CLOSED], ids=name)
@pytest.mark.parametrize("call", SENDING)
def test_sending_after_the_end_says_that_nothing_was_sent(
    in_state: MakeSession,
    picture: Callable[[Session], object],
    state: SessionState,
    call: str,
) -> None:
    session = in_state(state)
    before = picture(session)
    with pytest.raises(ConnectionLost, match=f"not sent: {state.value}") as lost:
        sending_calls(session)[call]()
    assert not lost.value.sent
    assert picture(session) == before


@pytest.mark.parametrize("call", SENDING)
def test_a_ready_session_sends(session: Session, call: str) -> None:
    assert sending_calls(session)[call]()


# The end: what waits fails


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "the connection was closed"),
        (RemoteProtocolError("a frame without end"), "a frame without end"),
        (ConnectError("reset by peer"), "reset by peer"),
    ],
    ids=["in order", "protocol", "reset"],
)
def test_a_lost_link_fails_all_that_wait_and_says_why(
    session: Session, error: MBError | None, reason: str
) -> None:
    requests = [
        session.request("a.b", {}, now=0.0, timeout=1000),
        session.publish_confirmed("c.d", {}, now=0.0, timeout=1000),
        session.register("name", "description", now=0.0, timeout=1000),
    ]
    events = session.link_lost(error)
    assert [event.request for event in events if isinstance(event, Failed)] == requests
    for event, request in zip(events, requests, strict=True):
        assert isinstance(event, Failed)
        assert isinstance(event.error, ConnectionLost)
        assert event.error.sent
        assert request.topic in str(event.error)
        assert reason in str(event.error)
    assert session.pending == 0
    assert session.next_deadline() is None


def test_closing_fails_all_that_wait_once(session: Session) -> None:
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    (event,) = session.close()
    assert isinstance(event, Failed)
    assert event.request is request
    assert isinstance(event.error, ConnectionLost)
    assert event.error.sent
    assert session.close() == []
    assert session.link_lost(None) == []
    assert session.handle_deadline(1e9) == []
    assert session.pending == 0
    assert session.next_deadline() is None


def test_an_answer_after_the_end_completes_nothing_again(
    session: Session, answer: Callable[..., bytes]
) -> None:
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    assert len(session.link_lost(None)) == 1
    assert session.receive([answer(request)]) == []


def test_what_was_registered_and_subscribed_outlives_the_link(
    session: Session, subscribe: Callable[..., Subscribed]
) -> None:
    entry = subscribe(session, "a.b")
    session.register("name", "description", now=0.0, timeout=1000)
    session.link_lost(None)
    assert list(session.subscriptions) == [entry]
    assert session.registration == ("name", "description")


@pytest.mark.parametrize("state", [LOST, CLOSED], ids=name)
def test_unsubscribing_after_the_end_forgets_the_entry_and_tells_nobody(
    session: Session, subscribe: Callable[..., Subscribed], state: SessionState
) -> None:
    entry = subscribe(session, "a.b")
    if state is LOST:
        session.link_lost(None)
    else:
        session.close()
    assert session.unsubscribe(entry, now=0.0, timeout=1000) is None
    assert list(session.subscriptions) == []
    assert session.pending == 0
