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
from mb_core.session import (
    AnswerNow,
    Initialized,
    PendingRequest,
    RequestFailed,
    Session,
    SessionState,
    SubscriptionEntry,
)
from mb_core.session.states import LIVE, Move, after

MakeSession = Callable[..., Session]
Picture = Callable[[Session], object]

OFFLINE = SessionState.OFFLINE
GREETING = SessionState.GREETING
RESTORING = SessionState.RESTORING
READY = SessionState.READY
LOST = SessionState.LOST
CLOSED = SessionState.CLOSED

MOVES: dict[Move, Callable[[Session], object]] = {
    Move.LINK_UP: lambda session: session.link_up(),
    Move.INITIALIZED: lambda session: session.receive([b"publish:system.initialize:1.0.0\n{}"]),
    Move.RESTORED: lambda session: session.restored(0.0),
    Move.LINK_LOST: lambda session: session.link_lost(None),
    Move.CLOSE: lambda session: session.close(),
}

ALLOWED: dict[tuple[SessionState, Move], SessionState] = {
    (OFFLINE, Move.LINK_UP): GREETING,
    (LOST, Move.LINK_UP): GREETING,
    (GREETING, Move.INITIALIZED): RESTORING,
    (RESTORING, Move.RESTORED): READY,
    (GREETING, Move.LINK_LOST): LOST,
    (RESTORING, Move.LINK_LOST): LOST,
    (READY, Move.LINK_LOST): LOST,
    (CLOSED, Move.LINK_LOST): CLOSED,
    (OFFLINE, Move.CLOSE): CLOSED,
    (GREETING, Move.CLOSE): CLOSED,
    (RESTORING, Move.CLOSE): CLOSED,
    (READY, Move.CLOSE): CLOSED,
    (LOST, Move.CLOSE): CLOSED,
    (CLOSED, Move.CLOSE): CLOSED,
}

REFUSED = [(state, move) for state in SessionState for move in Move if (state, move) not in ALLOWED]
# What arrives is never refused: a greeting where none is due is ignored.
CALLS_REFUSED = [(state, move) for state, move in REFUSED if move is not Move.INITIALIZED]


def name(value: object) -> str | None:
    return value.name if isinstance(value, SessionState | Move) else None


def sending_calls(session: Session) -> dict[str, Callable[[], object]]:
    """Each call that gives something to send."""
    asked = parse_message("request:a.b:1.0.0:7a0c7a6e-0000-4000-8000-000000000001\n{}")
    entry = SubscriptionEntry("a.b", Action.PUBLISH, 1, None)
    limits: dict[str, Any] = {"now": 0.0, "timeout": 1000}
    return {
        "publish": lambda: session.publish("a.b", {}),
        "publish_confirmed": lambda: session.publish_confirmed("a.b", {}, **limits),
        "request": lambda: session.request("a.b", {}, **limits),
        "request with retry": lambda: session.request("a.b", {}, retry=True, **limits),
        "respond": lambda: session.respond(asked, {}),
        "register": lambda: session.register("name", "description", **limits),
        "subscribe": lambda: session.subscribe(entry, **limits),
        "unsubscribe": lambda: session.unsubscribe(entry, **limits),
    }


SENDING = list(sending_calls(Session()))
# What was asked may be answered from the greeting on, so RESTORING refuses one call less.
BEFORE_READY = [
    (state, call)
    for state in (OFFLINE, LOST, GREETING, RESTORING)
    for call in SENDING
    if (state, call) != (RESTORING, "respond")
]
# What waits for the next connection where one is lost; the rest fails at once.
WAITING = ["publish", "publish_confirmed", "request with retry", "register", "subscribe"]


# Moves


@pytest.mark.parametrize(("state", "move"), ALLOWED, ids=name)
def test_a_move_of_the_table_leads_where_it_says(
    in_state: MakeSession, state: SessionState, move: Move
) -> None:
    assert after(state, move) is ALLOWED[state, move]
    session = in_state(state)
    MOVES[move](session)
    assert session.state is ALLOWED[state, move]


@pytest.mark.parametrize(("state", "move"), REFUSED, ids=name)
def test_no_other_move_is_in_the_table(state: SessionState, move: Move) -> None:
    with pytest.raises(
        LocalProtocolError, match=f"^{move.value} while the session is: {state.value}$"
    ):
        after(state, move)


@pytest.mark.parametrize(("state", "move"), CALLS_REFUSED, ids=name)
def test_any_other_move_raises_and_changes_nothing(
    in_state: MakeSession, picture: Picture, state: SessionState, move: Move
) -> None:
    session = in_state(state)
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=f"while the session is: {state.value}"):
        MOVES[move](session)
    assert picture(session) == before
    assert session.state is state


@pytest.mark.parametrize(
    "state", [each for each in SessionState if each is not RESTORING], ids=name
)
def test_there_is_something_to_restore_only_when_the_broker_has_greeted(
    in_state: MakeSession, picture: Picture, state: SessionState
) -> None:
    session = in_state(state)
    session.registration = ("name", "description")
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=f"while {state.value}"):
        session.restore(now=0.0, timeout=1000)
    assert picture(session) == before


def test_a_link_can_be_lost_in_the_live_states_and_where_it_was_closed() -> None:
    lossy = {state for state, move in ALLOWED if move is Move.LINK_LOST}
    assert lossy == LIVE | {CLOSED}


def test_a_new_session_is_offline_and_waits_for_nothing() -> None:
    session = Session()
    assert session.state is OFFLINE
    assert session.pending == 0
    assert session.next_deadline() is None
    assert session.registration is None
    assert list(session.subscriptions) == []
    assert (len(session.outbox), session.outbox.used, session.outbox.requests) == (0, 0, [])


# The greeting


def test_the_greeting_is_for_restoring_and_what_is_restored_makes_the_session_ready(
    in_state: MakeSession, greeting: bytes
) -> None:
    session = in_state(GREETING)
    assert session.receive([greeting]) == [Initialized()]
    assert session.state is RESTORING
    assert session.restore(now=0.0, timeout=1000) == []
    assert session.restored(0.0) == []
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


@pytest.mark.parametrize("state", [RESTORING, READY], ids=name)
def test_a_broker_may_greet_again_and_nothing_comes_of_it(
    in_state: MakeSession, picture: Picture, greeting: bytes, state: SessionState
) -> None:
    session = in_state(state)
    before = picture(session)
    assert session.receive([greeting, greeting]) == []
    assert picture(session) == before


def test_each_connection_is_greeted_once(in_state: MakeSession, greeting: bytes) -> None:
    session = in_state(GREETING)
    assert session.receive([greeting, greeting]) == [Initialized()]
    session.link_lost(None)
    session.link_up()
    assert session.state is GREETING
    assert session.receive([greeting]) == [Initialized()]


def test_what_comes_with_the_greeting_is_read_after_it(
    in_state: MakeSession, greeting: bytes
) -> None:
    session = in_state(GREETING)
    heartbeat = b"request:system.heartbeat:1.0.0\n{}"
    assert session.receive([greeting, heartbeat]) == [
        Initialized(),
        AnswerNow(b"response:system.heartbeat:1.0.0\n{}"),
    ]


@pytest.mark.parametrize("state", [GREETING, RESTORING, READY], ids=name)
def test_a_heartbeat_is_answered_whenever_there_is_a_link(
    in_state: MakeSession, state: SessionState
) -> None:
    session = in_state(state)
    events = session.receive([b"request:system.heartbeat:1.0.0\n{}"])
    assert events == [AnswerNow(b"response:system.heartbeat:1.0.0\n{}")]
    assert session.state is state


@pytest.mark.parametrize("state", [OFFLINE, LOST, CLOSED], ids=name)
def test_without_a_live_link_whatever_arrives_is_ignored(
    in_state: MakeSession, greeting: bytes, state: SessionState
) -> None:
    session = in_state(state)
    assert session.receive([greeting, b"request:system.heartbeat:1.0.0\n{}", b"garbage"]) == []
    assert session.state is state


# Sending in each state


@pytest.mark.parametrize(
    ("state", "call"), [pair for pair in BEFORE_READY if pair[0] is not LOST], ids=name
)
def test_sending_before_the_first_connection_is_ready_is_the_callers_fault(
    in_state: MakeSession, picture: Picture, state: SessionState, call: str
) -> None:
    session = in_state(state)
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=r"connect\(\.\.\.\) first"):
        sending_calls(session)[call]()
    assert picture(session) == before


@pytest.mark.parametrize(
    ("state", "call"), [pair for pair in BEFORE_READY if pair[0] is not OFFLINE], ids=name
)
def test_sending_after_a_first_connection_that_was_never_ready_is_the_callers_fault(
    in_state: MakeSession, picture: Picture, state: SessionState, call: str
) -> None:
    session = in_state(GREETING)
    session.link_lost(None)
    if state is not LOST:
        session.link_up()
    if state is RESTORING:
        MOVES[Move.INITIALIZED](session)
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=r"connect\(\.\.\.\) first"):
        sending_calls(session)[call]()
    assert picture(session) == before


@pytest.mark.parametrize("again", [False, True], ids=["never connected", "connected once"])
@pytest.mark.parametrize("call", SENDING)
def test_sending_after_the_end_says_that_nothing_was_sent(
    in_state: MakeSession, picture: Picture, again: bool, call: str
) -> None:
    session = in_state(CLOSED, again=again)
    before = picture(session)
    with pytest.raises(ConnectionLost, match=r"not sent: .*closed") as lost:
        sending_calls(session)[call]()
    assert not lost.value.sent
    assert picture(session) == before


@pytest.mark.parametrize(
    ("state", "call"),
    [(s, call) for s, call in BEFORE_READY if s is not OFFLINE and call not in WAITING],
    ids=name,
)
def test_what_may_not_wait_for_the_next_connection_fails_at_once(
    in_state: MakeSession, picture: Picture, state: SessionState, call: str
) -> None:
    session = in_state(state, again=True)
    before = picture(session)
    with pytest.raises(ConnectionLost, match=f"not sent: {state.value}") as lost:
        sending_calls(session)[call]()
    assert not lost.value.sent
    assert picture(session) == before


@pytest.mark.parametrize("state", [LOST, GREETING, RESTORING], ids=name)
@pytest.mark.parametrize("call", WAITING)
def test_what_may_wait_for_the_next_connection_is_held(
    in_state: MakeSession, state: SessionState, call: str
) -> None:
    session = in_state(state, again=True)
    given = sending_calls(session)[call]()
    if call == "publish":
        assert given is None
    else:
        assert isinstance(given, PendingRequest)
        assert given.in_outbox
        assert not given.sent
    assert session.pending == (call != "publish")
    assert len(session.outbox) + len(session.outbox.requests) == 1


@pytest.mark.parametrize("again", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("call", SENDING)
def test_a_ready_session_sends(in_state: MakeSession, again: bool, call: str) -> None:
    session = in_state(READY, again=again)
    given = sending_calls(session)[call]()
    assert given
    assert not isinstance(given, PendingRequest) or not given.in_outbox
    assert (len(session.outbox), session.outbox.requests) == (0, [])


@pytest.mark.parametrize("again", [False, True], ids=["first", "second"])
def test_a_request_that_comes_while_restoring_is_answered(
    in_state: MakeSession, again: bool
) -> None:
    assert sending_calls(in_state(RESTORING, again=again))["respond"]()


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
def test_a_lost_link_fails_what_may_not_be_sent_twice_and_says_why(
    in_state: MakeSession, error: MBError | None, reason: str
) -> None:
    session = in_state(READY)
    entry = SubscriptionEntry("e.f", Action.PUBLISH, 1, None)
    requests = [
        session.request("a.b", {}, now=0.0, timeout=1000),
        session.publish_confirmed("c.d", {}, now=0.0, timeout=1000),
        session.unsubscribe(entry, now=0.0, timeout=1000),
    ]
    events = session.link_lost(error)
    assert [event.request for event in events if isinstance(event, RequestFailed)] == requests
    for event, request in zip(events, requests, strict=True):
        assert isinstance(event, RequestFailed)
        assert isinstance(event.error, ConnectionLost)
        assert event.error.sent
        assert request.topic in str(event.error)
        assert reason in str(event.error)
    assert session.pending == 0
    assert session.next_deadline() is None


def test_closing_fails_all_that_wait_once(in_state: MakeSession) -> None:
    session = in_state(READY)
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    (event,) = session.close()
    assert isinstance(event, RequestFailed)
    assert event.request is request
    assert isinstance(event.error, ConnectionLost)
    assert event.error.sent
    assert session.close() == []
    assert session.link_lost(None) == []
    assert session.handle_deadline(1e9) == []
    assert session.pending == 0
    assert session.next_deadline() is None


def test_an_answer_after_the_end_completes_nothing_again(
    in_state: MakeSession, answer: Callable[..., bytes]
) -> None:
    session = in_state(READY)
    request = session.request("a.b", {}, now=0.0, timeout=1000)
    assert len(session.link_lost(None)) == 1
    assert session.receive([answer(request)]) == []


@pytest.mark.parametrize("state", [LOST, CLOSED], ids=name)
def test_what_was_registered_and_subscribed_outlives_the_link(
    in_state: MakeSession, subscribe: Callable[..., SubscriptionEntry], state: SessionState
) -> None:
    session = in_state(READY)
    entry = subscribe(session, "a.b")
    session.registration = ("name", "description")
    if state is LOST:
        session.link_lost(None)
    else:
        session.close()
    assert list(session.subscriptions) == [entry]
    assert session.registration == ("name", "description")


@pytest.mark.parametrize("state", [GREETING, RESTORING, READY, LOST, CLOSED], ids=name)
def test_an_entry_can_be_forgotten_in_any_state_and_twice(
    in_state: MakeSession, subscribe: Callable[..., SubscriptionEntry], state: SessionState
) -> None:
    session = in_state(READY)
    entry = subscribe(session, "a.b")
    steps = {
        READY: [],
        CLOSED: [Move.CLOSE],
        LOST: [Move.LINK_LOST],
        GREETING: [Move.LINK_LOST, Move.LINK_UP],
        RESTORING: [Move.LINK_LOST, Move.LINK_UP, Move.INITIALIZED],
    }
    for move in steps[state]:
        MOVES[move](session)
    assert session.state is state
    for _ in range(2):
        session.remove(entry)
        assert list(session.subscriptions) == []
        assert session.pending == 0
