"""Subscriptions: who gets a message, and what the broker is told."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import LocalProtocolError, MBError, MessageTooLarge
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    Event,
    PendingRequest,
    PublicationsReceived,
    RequestFailed,
    RequestsReceived,
    SendNow,
    Session,
    SubscriptionEntry,
)
from mb_core.topic import matches
from mb_core.wire import Limits

Ready = Callable[..., Session]
Answer = Callable[..., bytes]
Subscribe = Callable[..., SubscriptionEntry]
Picture = Callable[[Session], object]

ID = b"7a0c7a6e-0000-4000-8000-00000000beef"


def published(topic: str, payload: str = "{}") -> bytes:
    return f"publish:{topic}:1.0.0\n{payload}".encode()


def requested(topic: str, payload: str = "{}") -> bytes:
    return f"request:{topic}:1.0.0:{ID.decode()}\n{payload}".encode()


def receivers(events: list[Event]) -> list[SubscriptionEntry]:
    """Who gets a copy, one for each message and subscription."""
    return [
        entry
        for event in events
        if isinstance(event, PublicationsReceived)
        for _ in event.messages
        for entry in event.subscriptions
    ]


def responder(session: Session, topic: str) -> SubscriptionEntry | None:
    (event,) = session.receive([requested(topic)])
    return event.subscription if isinstance(event, RequestsReceived) else None


def told(request: PendingRequest) -> tuple[str, Any]:
    """What the broker is told: the last part of the system topic, and the payload."""
    message = parse_message(request.message)
    return message.topic.removeprefix("system.topic."), message.payload


# What the broker is told


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
    # Each is told: the broker's word is awaited, and for it again means the same.
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
    with pytest.raises(LocalProtocolError, match="in force already"):
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


# Publications


def test_a_subscription_is_in_force_before_the_broker_confirms_it(session: Session) -> None:
    entry = SubscriptionEntry("a.b", Action.PUBLISH, 1, None)
    session.subscribe(entry, now=0.0, timeout=1)
    assert receivers(session.receive([published("a.b")])) == [entry]


def test_each_subscription_that_matches_gets_one_copy(
    session: Session, subscribe: Subscribe
) -> None:
    entries = [subscribe(session, pattern) for pattern in ("a.b", "a.+", "a.#", "#", "+.b")]
    subscribe(session, "a.c")
    got = receivers(session.receive([published("A.b")]))
    assert sorted(entry.pattern for entry in got) == sorted(entry.pattern for entry in entries)


def test_a_publication_that_nobody_is_subscribed_to_is_dropped(
    session: Session, subscribe: Subscribe
) -> None:
    subscribe(session, "a.b", "request")
    assert session.receive([published("a.b"), published("c.d")]) == []


@pytest.mark.parametrize("topic", ["system.message", "System.Message"])
def test_patterns_do_not_match_the_brokers_own_topics(
    session: Session, subscribe: Subscribe, topic: str
) -> None:
    for pattern in ("#", "+.+", "+.message"):
        subscribe(session, pattern)
        subscribe(session, pattern, "request")
    named = subscribe(session, "system.message")
    assert receivers(session.receive([published(topic)])) == [named]
    assert responder(session, topic) is None
    assert len(receivers(session.receive([published("system")]))) == 1  # an ordinary topic


def test_messages_of_one_kind_that_arrive_together_are_one_event_in_order(
    session: Session, subscribe: Subscribe
) -> None:
    first, second = subscribe(session, "a.b"), subscribe(session, "a.#")
    events = session.receive([published("a.b", str(n)) for n in range(100)])
    (event,) = events
    assert isinstance(event, PublicationsReceived)
    assert event.subscriptions == (first, second)
    assert [message.payload for message in event.messages] == list(range(100))


def test_what_is_between_publications_keeps_its_place(
    session: Session, subscribe: Subscribe, answer: Answer
) -> None:
    subscribe(session, "a.b")
    request = session.request("c.d", {}, now=0.0, timeout=1000)
    events = session.receive(
        [
            published("a.b", "1"),
            published("a.b", "2"),
            answer(request),
            published("a.b", "3"),
            published("other.topic"),
            published("a.b", "4"),
        ]
    )
    assert [type(event).__name__ for event in events] == [
        "PublicationsReceived",
        "ResponseReceived",
        "PublicationsReceived",
        "PublicationsReceived",
    ]
    assert [
        [message.payload for message in event.messages]
        for event in events
        if isinstance(event, PublicationsReceived)
    ] == [[1, 2], [3], [4]]


def test_spellings_and_versions_of_a_topic_go_to_the_same_subscriptions_in_order(
    session: Session, subscribe: Subscribe
) -> None:
    entry = subscribe(session, "a.b")
    events = session.receive(
        [
            published("a.b", "1"),
            published("A.b", "2"),
            b"publish:a.b:2.0.0\n3",
            published("a.b", "4"),
        ]
    )
    assert receivers(events) == [entry] * 4
    messages = [
        m for event in events if isinstance(event, PublicationsReceived) for m in event.messages
    ]
    assert [message.payload for message in messages] == [1, 2, 3, 4]
    assert [message.topic for message in messages] == ["a.b", "A.b", "a.b", "a.b"]


def test_batches_are_apart(session: Session, subscribe: Subscribe) -> None:
    subscribe(session, "a.b")
    (first,) = session.receive([published("a.b", "1")])
    (second,) = session.receive([published("a.b", "2")])
    assert isinstance(first, PublicationsReceived)
    assert isinstance(second, PublicationsReceived)
    assert [message.payload for message in first.messages] == [1]
    assert [message.payload for message in second.messages] == [2]


# Requests


def test_a_request_goes_to_the_highest_priority_that_matches(
    session: Session, subscribe: Subscribe
) -> None:
    low = subscribe(session, "a.b", "request", priority=1)
    high = subscribe(session, "a.+", "request", priority=2)
    lowest = subscribe(session, "#", "request", priority=-1)
    assert responder(session, "a.b") is high
    assert responder(session, "a.c") is high
    assert responder(session, "c") is lowest
    session.remove(high)
    assert responder(session, "a.b") is low
    assert responder(session, "a.c") is lowest


def test_among_equals_the_exact_topic_answers(session: Session, subscribe: Subscribe) -> None:
    subscribe(session, "#", "request", priority=1)
    subscribe(session, "a.+", "request", priority=1)
    exact = subscribe(session, "a.b", "request", priority=1)
    assert responder(session, "A.B") is exact


def test_requests_of_one_topic_that_come_together_are_one_event(
    session: Session, subscribe: Subscribe
) -> None:
    first, second = subscribe(session, "a.b", "request"), subscribe(session, "c.d", "request")
    events = session.receive(
        [requested("a.b", "1"), requested("a.b", "2"), requested("c.d", "3"), requested("a.b", "4")]
    )
    assert [
        (event.subscription, [message.payload for message in event.messages])
        for event in events
        if isinstance(event, RequestsReceived)
    ] == [(first, [1, 2]), (second, [3]), (first, [4])]


def test_publications_and_requests_of_a_topic_are_subscribed_to_apart(
    session: Session, subscribe: Subscribe
) -> None:
    listens = subscribe(session, "a.b")
    responds = subscribe(session, "a.b", "request")
    assert receivers(session.receive([published("a.b")])) == [listens]
    assert responder(session, "a.b") is responds
    session.remove(listens)
    assert receivers(session.receive([published("a.b")])) == []
    assert responder(session, "a.b") is responds


def test_a_request_that_crossed_unsubscribing_is_answered_at_once(
    session: Session, subscribe: Subscribe
) -> None:
    entry = subscribe(session, "a.b", "request")
    assert responder(session, "a.b") is entry
    session.remove(entry)
    (event,) = session.receive([requested("a.b")])
    assert isinstance(event, SendNow)
    head, _, payload = event.message.partition(b"\n")
    assert head == b"response:a.b:1.0.0:" + ID
    assert payload.startswith(b'{"error":{"code":"SERVICE_UNAVAILABLE"')


# What is remembered of a topic follows the table


@pytest.mark.parametrize("topic", ["a.b", "A.B", "a.B"])
def test_a_topic_met_before_is_looked_up_again_when_subscriptions_change(
    session: Session, subscribe: Subscribe, topic: str
) -> None:
    every_spelling = [published("a.b"), published("A.B"), published("a.B")]
    assert session.receive(every_spelling) == []
    first = subscribe(session, topic)
    assert receivers(session.receive(every_spelling)) == [first] * 3
    second = subscribe(session, "+.b")
    assert receivers(session.receive(every_spelling)) == [first, second] * 3
    session.remove(first)
    assert receivers(session.receive(every_spelling)) == [second] * 3
    session.remove(second)
    assert session.receive(every_spelling) == []


def test_a_responder_met_before_is_looked_up_again_when_subscriptions_change(
    session: Session, subscribe: Subscribe
) -> None:
    assert responder(session, "a.b") is None
    first = subscribe(session, "A.b", "request")
    assert responder(session, "a.b") is first
    session.remove(first)
    assert responder(session, "a.b") is None
    again = subscribe(session, "a.B", "request")
    assert responder(session, "a.b") is again


@pytest.mark.parametrize("action", ["publish", "request"])
def test_a_consumer_that_is_unsubscribed_is_let_go(
    session: Session, answer: Answer, action: str
) -> None:
    class Consumer:
        pass

    consumer = Consumer()
    entry = SubscriptionEntry("a.b", Action(action), 1, consumer)
    session.receive([answer(session.subscribe(entry, now=0.0, timeout=1))])
    assert session.handle_deadline(60.0) == []  # whose heap may remember the request
    assert session.receive([f"{action}:a.b:1.0.0:{ID.decode()}\n{{}}".encode()])
    alive = weakref.ref(consumer)
    session.remove(entry)
    del consumer, entry
    gc.collect()
    assert alive() is None


def test_subscriptions_that_ended_leave_nothing_behind(
    session: Session, subscribe: Subscribe
) -> None:
    def come_and_go(count: int) -> None:
        for number in range(count):
            for pattern in (f"topic.n{number}", f"topic.n{number}.#"):
                for action in ("publish", "request"):
                    entry = subscribe(session, pattern, action)
                    session.cancel(session.unsubscribe(entry, now=0.0, timeout=1))
                    session.remove(entry)

    come_and_go(10)
    gc.collect()
    tracemalloc.start()
    try:
        come_and_go(1000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


_SEGMENTS = st.sampled_from(["a", "b", "B"])
_TOPICS = st.lists(_SEGMENTS, min_size=1, max_size=3).map(".".join)
_PATTERNS = st.one_of(
    _TOPICS,
    st.lists(_SEGMENTS | st.just("+"), min_size=1, max_size=3).map(".".join),
    st.lists(_SEGMENTS | st.just("+"), max_size=2).map(lambda places: ".".join([*places, "#"])),
)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("subscribe"), _PATTERNS, st.integers(0, 3)),
            st.tuples(st.just("unsubscribe"), st.just(""), st.integers(0, 9)),
            st.tuples(st.just("message"), _TOPICS, st.just(0)),
        ),
        max_size=25,
    )
)
def test_routing_agrees_with_the_rule_for_one_pattern_and_topic(
    plan: list[tuple[str, str, int]],
) -> None:
    session = Session()
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    listeners: list[SubscriptionEntry] = []
    responders: list[SubscriptionEntry] = []
    for step, topic, number in plan:
        if step == "subscribe":
            listener = SubscriptionEntry(topic, Action.PUBLISH, number, None)
            session.subscribe(listener, now=0.0, timeout=1)
            listeners.append(listener)
            if all(other.pattern.lower() != topic.lower() for other in responders):
                answers = SubscriptionEntry(topic, Action.REQUEST, number, None)
                session.subscribe(answers, now=0.0, timeout=1)
                responders.append(answers)
        elif step == "unsubscribe":
            for entries in (listeners, responders):
                if entries:
                    session.remove(entries.pop(number % len(entries)))
        else:
            got = receivers(session.receive([published(topic)]))
            assert len(got) == len(set(got))
            assert set(got) == {entry for entry in listeners if matches(entry.pattern, topic)}
            candidates = [entry for entry in responders if matches(entry.pattern, topic)]
            chosen = responder(session, topic)
            if candidates:
                assert chosen in candidates
                assert chosen is not None
                assert chosen.priority == max(entry.priority for entry in candidates)
            else:
                assert chosen is None
