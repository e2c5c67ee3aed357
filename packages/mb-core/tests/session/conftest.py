"""What the tests of the Session share: Sessions in each state, answers as a broker sends them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mb_core.header import Action
from mb_core.session import Event, PendingRequest, Session, SessionState, SubscriptionEntry

GREETING = b"publish:system.initialize:1.0.0\n{}"


@pytest.fixture
def greeting() -> bytes:
    """The broker's first message."""
    return GREETING


@pytest.fixture
def in_state() -> Callable[..., Session]:
    """Make a Session in the given state; options are the Session's.

    With `again`, its first connection was lost when it was ready.
    """

    def make(state: SessionState, *, again: bool = False, **options: Any) -> Session:
        session = Session(**options)
        if again:
            _lead(session, SessionState.LOST)
        _lead(session, state)
        assert session.state is state
        return session

    return make


def _lead(session: Session, state: SessionState) -> None:
    if state is SessionState.CLOSED:
        session.close()
    elif state not in (SessionState.OFFLINE, session.state):
        session.link_up()
        if state is not SessionState.GREETING:
            session.receive([GREETING])
        if state in (SessionState.READY, SessionState.LOST):
            session.restored(0.0)
        if state is SessionState.LOST:
            session.link_lost(None)


@pytest.fixture
def ready(in_state: Callable[..., Session]) -> Callable[..., Session]:
    """Make a connected Session; options are the Session's."""

    def make(**options: Any) -> Session:
        return in_state(SessionState.READY, **options)

    return make


@pytest.fixture
def session(ready: Callable[..., Session]) -> Session:
    """A connected Session."""
    return ready()


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """The response to a request, as a broker sends it: under the requester's id and topic."""

    def make(request: PendingRequest, payload: bytes = b"{}") -> bytes:
        return b"response:%b:1.0.0:%b\n%b" % (request.topic.encode(), request.request_id, payload)

    return make


@pytest.fixture
def reconnect(answer: Callable[..., bytes]) -> Callable[..., list[Event]]:
    """Bring a Session that has lost its connection to another; gives the events of that.

    The broker accepts everything.
    """

    def again(session: Session, now: float = 0.0) -> list[Event]:
        session.link_up()
        session.receive([GREETING])
        asked = session.restore(now=now, timeout=1000)
        session.receive([answer(request, b'{"status":"success"}') for request in asked])
        return session.restored(now)

    return again


@pytest.fixture
def subscribe(answer: Callable[..., bytes]) -> Callable[..., SubscriptionEntry]:
    """Subscribe and let the broker confirm it; the consumer is a label to tell entries apart."""
    labels = itertools.count()

    def make(
        session: Session, pattern: str, action: str = "publish", *, priority: float = 1
    ) -> SubscriptionEntry:
        entry = SubscriptionEntry(pattern, Action(action), priority, f"{pattern}#{next(labels)}")
        request = session.subscribe(entry, now=0.0, timeout=1000)
        session.receive([answer(request, b'{"status":"success"}')])
        return entry

    return make


@pytest.fixture
def picture() -> Callable[[Session], object]:
    """All that a caller can see of a Session, to compare before and after."""

    def draw(session: Session) -> object:
        return (
            session.state,
            session.pending,
            session.next_deadline(),
            session.registration,
            len(session.outbox),
            session.outbox.used,
            session.outbox.dropped,
            [request.request_id for request in session.outbox.requests],
            [(entry.action, entry.pattern, entry.consumer) for entry in session.subscriptions],
        )

    return draw
