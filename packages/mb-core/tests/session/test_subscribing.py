"""Subscribing and unsubscribing: what is sent to the broker, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mb_core.errors import LocalProtocolError, MBError, MessageTooLarge
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    PendingRequest,
    RequestFailed,
    Session,
    SubscriptionEntry,
    SubscriptionsEnded,
    Unmatched,
)
from mb_core.wire import Limits

from .subscribing import Answer, Subscribe, published, receivers, responder

Ready = Callable[..., Session]
Picture = Callable[[Session], object]


def told(request: PendingRequest) -> tuple[str, Any]:
    """What is sent to the broker: the last part of the system topic, and the payload."""
    message = parse_message(request.message)
    return message.topic.removeprefix("system.topic."), message.payload


# What is sent to the broker


def test_subscribing_to_publications_names_no_priority(session: Session) -> None:
    entry = SubscriptionEntry("weather.#", Action.PUBLISH, 5, None)
    request = session.subscribe(entry, now=10.0, timeout=2000)
    assert told(request) == ("subscribe", {"action": "publish", "topic": "weather.#"})
    assert parse_message(request.message).header.timeout == 2000
    assert session.pending == 1


@pytest.mark.parametrize("priority", [0, 1, -3, 2.5])
def test_subscribing_to_requests_names_its_priority(session: Session, priority: float) -> None:
    entry = SubscriptionEntry("weather.current", Action.REQUEST, priority, None)
    assert told(session.subscribe(entry, now=0.0, timeout=1)) == (
        "subscribe",
        {"action": "request", "topic": "weather.current", "priority": priority},
    )


@pytest.mark.parametrize("action", ["publish", "request"])
def test_unsubscribing_names_its_action(
    session: Session, subscribe: Subscribe, action: str
) -> None:
    entry = subscribe(session, "Weather.Current", action)
    assert told(session.unsubscribe(entry, now=0.0, timeout=1)) == (
        "unsubscribe",
        {"action": action, "topic": "Weather.Current"},
    )


def test_a_subscription_is_in_force_until_it_is_forgotten(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    entry = subscribe(session, "a.b")
    request = session.unsubscribe(entry, now=0.0, timeout=1)
    assert receivers(session.receive([published("a.b"), answer(request)])) == [entry]
    assert list(session.subscriptions) == [entry]
    session.remove(entry)
    assert session.receive([published("a.b")]) == []
    assert list(session.subscriptions) == []


def test_several_share_a_pattern_and_leave_it_one_by_one(
    session: Session, subscribe: Subscribe
) -> None:
    first = subscribe(session, "a.b")
    second = SubscriptionEntry("A.B", Action.PUBLISH, 1, "second")
    # Each is sent: the broker's confirmation is awaited, and repeating changes nothing.
    assert told(session.subscribe(second, now=0.0, timeout=1)) == (
        "subscribe",
        {"action": "publish", "topic": "A.B"},
    )
    assert receivers(session.receive([published("a.b")])) == [first, second]
    assert session.subscriptions.of(Action.PUBLISH, "a.b") == [first, second]
    session.remove(first)
    assert receivers(session.receive([published("a.b")])) == [second]
    assert session.subscriptions.of(Action.PUBLISH, "a.b") == [second]
    session.remove(second)
    assert session.receive([published("a.b")]) == []
    assert session.subscriptions.of(Action.PUBLISH, "a.b") == []


def test_a_refused_subscription_does_not_end_the_one_that_shares_its_pattern(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    first = subscribe(session, "a.b")
    second = SubscriptionEntry("a.b", Action.PUBLISH, 1, "second")
    request = session.subscribe(second, now=0.0, timeout=1)
    (event,) = session.receive([answer(request, b'error:{"code":"FORBIDDEN","message":"no"}')])
    assert isinstance(event, RequestFailed)
    assert event.request.about is second
    # The driver's part of the contract: on RequestFailed it removes the entry.
    session.remove(second)
    assert receivers(session.receive([published("a.b")])) == [first]


def test_forgetting_twice_touches_no_other(session: Session, subscribe: Subscribe) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "a.b")
    session.remove(first)
    session.remove(first)
    assert list(session.subscriptions) == [second]


def test_forgetting_what_was_never_subscribed_touches_no_other(
    session: Session, subscribe: Subscribe
) -> None:
    entry = subscribe(session, "a.b")
    session.remove(SubscriptionEntry("a.b", Action.PUBLISH, 1, "stranger"))
    session.remove(SubscriptionEntry("c.d", Action.REQUEST, 1, "stranger"))
    assert list(session.subscriptions) == [entry]
    assert receivers(session.receive([published("a.b")])) == [entry]


def test_a_table_contains_the_entries_that_are_filed_and_no_others(
    session: Session, subscribe: Subscribe
) -> None:
    entry = subscribe(session, "a.b")
    assert entry in session.subscriptions
    assert SubscriptionEntry("a.b", Action.PUBLISH, 1, entry.consumer) not in session.subscriptions
    session.remove(entry)
    assert entry not in session.subscriptions


def test_the_subscriptions_of_exactly_one_pattern_are_found_in_any_case(
    session: Session, subscribe: Subscribe
) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "A.b")
    responds = subscribe(session, "a.b", "request")
    subscribe(session, "a.+")
    table = session.subscriptions
    assert table.of(Action.PUBLISH, "a.B") == [first, second]
    assert table.of(Action.REQUEST, "a.b") == [responds]
    assert table.of(Action.REQUEST, "a.+") == []
    assert len(list(table)) == 4


# What can't be subscribed to


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (SubscriptionEntry("a..b", Action.PUBLISH, 1, None), "invalid topic pattern"),
        (SubscriptionEntry("", Action.PUBLISH, 1, None), "invalid topic pattern"),
        (SubscriptionEntry("#.a", Action.REQUEST, 1, None), "invalid topic pattern"),
        (SubscriptionEntry("a.b.c.d.e.f", Action.PUBLISH, 1, None), "invalid topic pattern"),
        (SubscriptionEntry(None, Action.PUBLISH, 1, None), "invalid topic pattern"),  # type: ignore[arg-type]
        (SubscriptionEntry("a.b", Action.RESPONSE, 1, None), "responses can't be subscribed to"),
        (
            SubscriptionEntry("a.b", Action.REQUEST, object(), None),  # type: ignore[arg-type]
            "can't be written as JSON",
        ),
        (
            SubscriptionEntry("Taken.Topic", Action.REQUEST, 1, None),
            "answered by another subscription",
        ),
    ],
    ids=["gap", "empty", "early #", "six", "no text", "response", "priority", "second responder"],
)
def test_a_subscription_that_is_refused_changes_nothing(
    session: Session, subscribe: Subscribe, picture: Picture, entry: SubscriptionEntry, fault: str
) -> None:
    subscribe(session, "a.b")
    taken = subscribe(session, "taken.topic", "request")
    before = picture(session)
    with pytest.raises(LocalProtocolError, match=fault):
        session.subscribe(entry, now=0.0, timeout=1000)
    assert picture(session) == before
    assert responder(session, "taken.topic") is taken
    assert responder(session, "a.b") is None


@pytest.mark.parametrize("action", ["publish", "request"])
def test_an_entry_is_in_force_once(
    session: Session, subscribe: Subscribe, picture: Picture, action: str
) -> None:
    entry = subscribe(session, "a.b", action)
    before = picture(session)
    with pytest.raises(LocalProtocolError, match="already active"):
        session.subscribe(entry, now=0.0, timeout=1000)
    assert picture(session) == before


@pytest.mark.parametrize("action", ["publish", "request"])
@pytest.mark.parametrize(
    ("limits", "timeout", "kind"),
    [(Limits(), 0, LocalProtocolError), (Limits(max_payload=20), 1000, MessageTooLarge)],
    ids=["timeout", "size"],
)
def test_a_subscription_that_is_not_sent_is_not_in_force(
    ready: Ready,
    picture: Picture,
    action: str,
    limits: Limits,
    timeout: int,
    kind: type[MBError],
) -> None:
    session = ready(limits=limits)
    before = picture(session)
    with pytest.raises(kind):
        session.subscribe(
            SubscriptionEntry("a.b", Action(action), 1, None), now=0.0, timeout=timeout
        )
    assert picture(session) == before
    assert receivers(session.receive([published("a.b")])) == []
    assert responder(session, "a.b") is None


def test_an_unsubscribing_that_is_not_sent_leaves_the_subscription_in_force(
    session: Session, subscribe: Subscribe, picture: Picture
) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "a.+")
    before = picture(session)
    with pytest.raises(LocalProtocolError, match="invalid timeout"):
        session.unsubscribe(first, now=0.0, timeout=0)
    assert picture(session) == before
    assert receivers(session.receive([published("a.b")])) == [first, second]


# A broker that ends a subscription


def ended(details: str, topic: str = "system.topic.subscribe") -> bytes:
    error = f'{{"error":{{"code":"FORBIDDEN","message":"no","timestamp":"","details":{details}}}}}'
    return f"response:{topic}:1.0.0:123e4567-e89b-42d3-a456-426614174000\n{error}".encode()


def test_what_the_broker_has_ended_is_removed(session: Session) -> None:
    entries = [SubscriptionEntry(each, Action.PUBLISH, 0, None) for each in ("A.#", "a.#", "b")]
    entries.append(SubscriptionEntry("a.#", Action.REQUEST, 0, None))
    for entry in entries:
        session.subscribe(entry, now=0.0, timeout=1000)
    details = '{"action":"subscribe","topic":"a.#","user":"station"}'
    (event,) = session.receive([ended(details)])
    assert isinstance(event, SubscriptionsEnded)
    assert event.subscriptions == entries[:2]
    assert event.error.details["user"] == "station"
    assert list(session.subscriptions) == entries[2:]
    details = '{"action":"respond","topic":"A.#","user":null}'
    (event,) = session.receive([ended(details)])
    assert isinstance(event, SubscriptionsEnded)
    assert event.subscriptions == entries[3:]
    assert list(session.subscriptions) == entries[2:3]


@pytest.mark.parametrize(
    "message",
    [
        ended('{"action":"subscribe","topic":"other","user":null}'),
        ended('{"action":"respond","topic":"a","user":null}'),
        ended('{"action":"publish","topic":"a","user":null}'),
        ended('{"action":["subscribe"],"topic":"a"}'),
        ended('{"action":"subscribe","topic":["a"]}'),
        ended('{"topic":"a"}'),
        ended("[]"),
        ended("null"),
        ended('{"action":"subscribe","topic":"a","user":null}', "a"),
    ],
)
def test_another_error_ends_nothing(message: bytes, session: Session) -> None:
    entry = SubscriptionEntry("a", Action.PUBLISH, 0, None)
    session.subscribe(entry, now=0.0, timeout=1000)
    (event,) = session.receive([message])
    assert isinstance(event, Unmatched)
    assert list(session.subscriptions) == [entry]
