"""What is restored after the broker's greeting, and what is sent then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    Event,
    Initialized,
    PendingRequest,
    PublicationsReceived,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    Session,
    SessionState,
    SubscriptionEntry,
)

from .losses import empty, fates, lost, sent

Ready = Callable[..., Session]
Answer = Callable[..., bytes]
Subscribe = Callable[..., SubscriptionEntry]
Reconnect = Callable[..., list[Event]]
Picture = Callable[[Session], object]

GREETING = b"publish:system.initialize:1.0.0\n{}"
LIMITS: dict[str, Any] = {"now": 0.0, "timeout": 1000}


def greeted(session: Session) -> None:
    """Another Link, and the broker's greeting."""
    session.link_up()
    assert session.receive([GREETING]) == [Initialized()]


def told(request: PendingRequest) -> tuple[str, Any]:
    """What is sent to the broker: topic and payload."""
    message = parse_message(request.message)
    return message.topic, message.payload


def subscribing(pattern: str, action: str = "publish", **rest: Any) -> tuple[str, Any]:
    return "system.topic.subscribe", {"action": action, "topic": pattern, **rest}


# What is sent to the broker


def test_a_broker_met_for_the_first_time_is_told_nothing() -> None:
    session = Session()
    greeted(session)
    assert session.restore(**LIMITS) == []
    assert session.restored(0.0) == []


def test_the_registration_comes_first_and_the_subscriptions_as_they_were_made(
    session: Session, subscribe: Subscribe
) -> None:
    session.registration = ("name", "what it does")
    second = subscribe(session, "Weather.#")
    third = subscribe(session, "a.b", "request", priority=2.5)
    session.link_lost(None)
    greeted(session)
    asked = session.restore(now=0.0, timeout=2000)
    assert [told(request) for request in asked] == [
        ("system.service.register", {"name": "name", "description": "what it does"}),
        subscribing("Weather.#"),
        subscribing("a.b", "request", priority=2.5),
    ]
    assert [request.about for request in asked] == [session.registration, second, third]
    assert {parse_message(request.message).header.timeout for request in asked} == {2000}
    assert session.pending == 3
    assert not any(request.in_outbox for request in asked)


def test_each_pattern_is_told_once_in_whatever_spelling_and_for_each_action(
    session: Session, subscribe: Subscribe
) -> None:
    for pattern in ("a.b", "A.B", "a.b", "a.+"):
        subscribe(session, pattern)
    subscribe(session, "a.B", "request")
    session.link_lost(None)
    greeted(session)
    assert [told(request) for request in session.restore(**LIMITS)] == [
        subscribing("a.b"),
        subscribing("a.+"),
        subscribing("a.B", "request", priority=1),
    ]


def test_what_was_forgotten_is_not_told(session: Session, subscribe: Subscribe) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "c.d")
    session.remove(first)
    session.link_lost(None)
    session.remove(second)
    greeted(session)
    assert session.restore(**LIMITS) == []


def test_what_is_told_goes_out_before_what_waited(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    subscribe(session, "a.b")
    session.link_lost(None)
    session.publish("c.d", 1)
    greeted(session)
    (request,) = session.restore(**LIMITS)
    (event,) = session.receive([answer(request, b'{"status":"success"}')])
    assert isinstance(event, ResponseReceived)
    assert event.request is request
    assert sent(session.restored(0.0)) == [b"publish:c.d:1.0.0\n1"]


def test_what_is_refused_fails_alone(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "c.d")
    session.link_lost(None)
    greeted(session)
    asked = session.restore(**LIMITS)
    refusal = b'{"error":{"code":"FORBIDDEN","message":"no"}}'
    failed, answered = session.receive([answer(asked[0], refusal), answer(asked[1])])
    assert isinstance(failed, RequestFailed)
    assert failed.request.about is first
    assert isinstance(answered, ResponseReceived)
    assert answered.request.about is second
    assert session.restored(0.0) == []


def test_what_is_told_has_a_time_limit_like_any_request(ready: Ready, subscribe: Subscribe) -> None:
    session = ready(margin=0.5)
    subscribe(session, "a.b")
    session.link_lost(None)
    greeted(session)
    (request,) = session.restore(now=10.0, timeout=2000)
    assert session.next_deadline() == 12.5
    (event,) = session.handle_deadline(12.5)
    assert isinstance(event, RequestFailed)
    assert event.request is request
    assert empty(session)


def test_messages_that_come_while_restoring_find_their_subscriptions(
    session: Session, subscribe: Subscribe
) -> None:
    listens, responds = subscribe(session, "a.b"), subscribe(session, "c.d", "request")
    session.link_lost(None)
    greeted(session)
    session.restore(**LIMITS)
    delivered, requested = session.receive(
        [b"publish:a.b:1.0.0\n1", b"request:c.d:1.0.0:7a0c7a6e-0000-4000-8000-00000000beef\n1"]
    )
    assert isinstance(delivered, PublicationsReceived)
    assert delivered.subscriptions == (listens,)
    assert isinstance(requested, RequestsReceived)
    assert requested.subscription is responds
    assert session.respond(requested.messages[0], 2).startswith(b"response:c.d:1.0.0:")


# Subscriptions whose request waits


def test_a_subscription_that_waits_is_told_once_and_after_the_restored_ones(
    session: Session, subscribe: Subscribe, reconnect: Reconnect
) -> None:
    subscribe(session, "a.b")
    session.link_lost(None)
    entry = SubscriptionEntry("c.d", Action.PUBLISH, 1, None)
    request = session.subscribe(entry, **LIMITS)
    greeted(session)
    assert [told(each) for each in session.restore(**LIMITS)] == [subscribing("a.b")]
    assert sent(session.restored(0.0)) == [request.message]
    assert told(request) == subscribing("c.d")
    session.link_lost(None)
    session.cancel(request)
    session.remove(entry)


def test_a_subscription_on_its_way_when_the_link_was_lost_is_told_once(
    session: Session, answer: Answer
) -> None:
    entry = SubscriptionEntry("c.d", Action.PUBLISH, 1, None)
    request = session.subscribe(entry, **LIMITS)
    assert session.link_lost(None) == []
    greeted(session)
    assert session.restore(**LIMITS) == []
    assert sent(session.restored(0.0)) == [request.message]
    (event,) = session.receive([answer(request)])
    assert isinstance(event, ResponseReceived)
    assert event.request is request
    session.link_lost(None)  # now it is one of those that are restored
    greeted(session)
    assert [told(each) for each in session.restore(**LIMITS)] == [subscribing("c.d")]


def test_one_in_force_is_restored_though_another_to_its_pattern_waits(
    session: Session, subscribe: Subscribe
) -> None:
    first = subscribe(session, "a.b")
    session.link_lost(None)
    second = SubscriptionEntry("A.B", Action.PUBLISH, 1, None)
    request = session.subscribe(second, **LIMITS)
    greeted(session)
    (asked,) = session.restore(**LIMITS)
    assert asked.about is first
    assert sent(session.restored(0.0)) == [request.message]


def test_a_registration_that_waits_follows_the_one_that_was_accepted(
    session: Session, answer: Answer
) -> None:
    session.registration = ("old", "text")
    session.link_lost(None)
    request = session.register("new", "text", **LIMITS)
    greeted(session)
    (asked,) = session.restore(**LIMITS)
    assert told(asked)[1]["name"] == "old"
    session.receive([answer(asked)])
    assert sent(session.restored(0.0)) == [request.message]
    assert told(request)[1]["name"] == "new"


def test_a_subscription_that_waits_and_is_forgotten_fails_and_is_not_told(
    session: Session, reconnect: Reconnect
) -> None:
    session.link_lost(None)
    entry = SubscriptionEntry("a.b", Action.PUBLISH, 1, None)
    request = session.subscribe(entry, **LIMITS)
    session.remove(entry)
    (event,) = reconnect(session)
    assert "unsubscribed" in str(lost(event))
    assert fates([event]) == {request: False}
    assert empty(session)


# Unsubscribed during the restore


@pytest.mark.parametrize("action", ["publish", "request"])
@pytest.mark.parametrize("confirmed", [False, True], ids=["on its way", "confirmed"])
def test_what_is_forgotten_after_the_broker_was_told_of_it_is_taken_back(
    session: Session, subscribe: Subscribe, answer: Answer, action: str, confirmed: bool
) -> None:
    """The broker would pass requests on to us for ever, which others could answer."""
    entry, stays = subscribe(session, "a.b", action), subscribe(session, "c.d", action)
    session.link_lost(None)
    greeted(session)
    asked = session.restore(**LIMITS)
    if confirmed:
        session.receive([answer(request) for request in asked])
    session.remove(entry)
    if not confirmed:
        session.receive([answer(request) for request in asked])
    (message,) = sent(session.restored(0.0))
    parsed = parse_message(message)
    assert parsed.topic == "system.topic.unsubscribe"
    assert parsed.payload == {"action": action, "topic": "a.b"}
    assert list(session.subscriptions) == [stays]
    assert empty(session)


def test_one_of_two_to_a_pattern_that_is_forgotten_is_not_taken_back(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    first = subscribe(session, "a.b")
    subscribe(session, "A.B")
    session.link_lost(None)
    greeted(session)
    asked = session.restore(**LIMITS)
    session.remove(first)
    session.receive([answer(request) for request in asked])
    assert session.restored(0.0) == []


def test_what_is_subscribed_to_again_while_the_broker_is_told_stays(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    first = subscribe(session, "a.b")
    session.link_lost(None)
    greeted(session)
    (asked,) = session.restore(**LIMITS)
    session.remove(first)
    second = SubscriptionEntry("a.b", Action.PUBLISH, 1, None)
    request = session.subscribe(second, **LIMITS)
    session.receive([answer(asked)])
    topics = [parse_message(message).topic for message in sent(session.restored(0.0))]
    assert topics[-1] == "system.topic.subscribe"  # whatever is before it
    assert [told(request)] == [subscribing("a.b")]


# A loss during the restore


def test_a_loss_while_restoring_fails_what_was_asked_and_all_is_asked_again(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    session.registration = ("name", "text")
    subscribe(session, "a.b")
    session.link_lost(None)
    greeted(session)
    first = session.restore(**LIMITS)
    session.receive([answer(first[0])])
    events = session.link_lost(None, [first[1].message])
    assert fates(events) == {first[1]: False}
    assert empty(session)
    greeted(session)
    again = session.restore(**LIMITS)
    assert [told(request) for request in again] == [told(request) for request in first]
    assert not {request.request_id for request in again} & {r.request_id for r in first}


@pytest.mark.parametrize("state", [SessionState.GREETING, SessionState.RESTORING])
def test_a_loss_before_all_is_restored_touches_nothing_that_waits(
    in_state: Ready, reconnect: Reconnect, picture: Picture, state: SessionState
) -> None:
    session = in_state(SessionState.LOST, again=True)
    request = session.request("a.b", 0, retry=True, now=0.0, timeout=60_000)
    session.publish("a.b", 1)
    session.link_up()
    if state is SessionState.RESTORING:
        session.receive([GREETING])
        assert session.restore(**LIMITS) == []
    session.publish("a.b", 2)
    confirmed = session.publish_confirmed("a.b", 3, now=0.0, timeout=60_000)
    assert session.link_lost(None) == []
    session.publish("a.b", 4)
    assert sent(reconnect(session)) == [
        request.message,
        b"publish:a.b:1.0.0\n1",
        b"publish:a.b:1.0.0\n2",
        confirmed.message,
        b"publish:a.b:1.0.0\n4",
    ]
    assert not request.sent
    assert not confirmed.sent
