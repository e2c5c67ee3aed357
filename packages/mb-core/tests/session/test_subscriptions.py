"""Subscriptions: who gets a publication or a request."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.header import Action
from mb_core.session import (
    PublicationsReceived,
    RequestsReceived,
    SendNow,
    Session,
    SubscriptionEntry,
)
from mb_core.topic import matches

from .subscribing import ID, Answer, Subscribe, published, receivers, requested, responder

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
