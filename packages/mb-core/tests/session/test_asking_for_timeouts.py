"""A Session asks the broker for the time limits of requests before it answers any."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mb_core.header import Action
from mb_core.session import SendNow, Session, SessionState, SubscriptionEntry


def subscribed(session: Session, action: str) -> SubscriptionEntry:
    """An entry whose request was made, and is not answered yet."""
    entry = SubscriptionEntry("a.b", Action(action), 1, None)
    session.subscribe(entry, now=0.0, timeout=1000)
    return entry


def test_who_answers_requests_says_so_once_in_a_heartbeat(session: Session) -> None:
    subscribed(session, "request")
    (event,) = session.ask_for_timeouts()
    assert isinstance(event, SendNow)
    assert event.message.startswith(b"request:system.heartbeat:1.0.0:")
    assert event.message.endswith(b'\n{"timeouts":true}')
    assert session.ask_for_timeouts() == []


def test_who_answers_none_says_nothing(session: Session) -> None:
    assert session.ask_for_timeouts() == []
    subscribed(session, "publish")
    assert session.ask_for_timeouts() == []


def test_who_answers_none_any_more_says_nothing(
    session: Session, subscribe: Callable[..., SubscriptionEntry]
) -> None:
    answers = [subscribe(session, topic, "request") for topic in ("a.b", "a.c")]
    subscribe(session, "a.b")
    session.remove(answers[0])
    assert session.subscriptions.answers_requests
    session.remove(answers[1])
    session.remove(answers[1])
    assert session.ask_for_timeouts() == []


def test_nobody_waits_for_its_answer(session: Session) -> None:
    pending = session.pending
    subscribed(session, "request")
    session.ask_for_timeouts()
    assert session.pending == pending + 1  # the subscription's


def test_the_next_connection_is_told_again_before_the_subscriptions(
    session: Session, subscribe: Callable[..., SubscriptionEntry], greeting: bytes
) -> None:
    subscribe(session, "a.b", "request")
    session.ask_for_timeouts()
    session.link_lost(None)
    session.link_up()
    assert session.ask_for_timeouts() == []  # not before the broker has greeted
    session.receive([greeting])
    session.restore(now=1.0, timeout=1000)
    assert len(session.ask_for_timeouts()) == 1
    session.restored(1.0)
    assert session.ask_for_timeouts() == []


@pytest.mark.parametrize("state", [SessionState.LOST, SessionState.CLOSED])
def test_without_a_connection_nothing_is_said(
    in_state: Callable[..., Session], session: Session, state: SessionState
) -> None:
    subscribed(session, "request")
    if state is SessionState.LOST:
        session.link_lost(None)
    else:
        session.close()
    assert session.ask_for_timeouts() == []
