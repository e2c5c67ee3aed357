"""All that a broker may send in one connection, at random, against a simple model of a Session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mb_core.errors import (
    ConnectionLost,
    ForbiddenError,
    LocalProtocolError,
    NoRouteFoundError,
    RemoteProtocolError,
    RequestTimeoutError,
)
from mb_core.header import Action
from mb_core.session import (
    AnswerNow,
    Event,
    Initialized,
    PendingRequest,
    PublicationsReceived,
    PublicationUnheard,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    Session,
    SessionState,
    SubscriptionEntry,
    Unmatched,
)
from mb_core.topic import matches

GREETING = b"publish:system.initialize:1.0.0\n{}"
FOREIGN = b"7a0c7a6e-0000-4000-8000-00000000beef"

# Payloads of responses, and what completes their request.
OUTCOMES: dict[bytes, type[object]] = {
    b"{}": ResponseReceived,
    b"no JSON": ResponseReceived,
    b'{"error":"data"}': ResponseReceived,
    b'{"error":{"code":"NO_ROUTE_FOUND","message":"nobody"}}': NoRouteFoundError,
    b'error:{"code":"FORBIDDEN","message":"no"}': ForbiddenError,
}

GARBAGE = st.sampled_from(
    [b"", b"\n", b"nonsense", b"publish:a:1.0\n{}", b"response:a:1.0.0:::5\n{}", b"\xff" * 500]
) | st.binary(max_size=30).filter(lambda data: b"\n" not in data)

TOPICS = st.sampled_from(["a", "A", "a.b", "A.b", "a.c", "b"])
PATTERNS = st.sampled_from(["a", "A", "a.b", "a.B", "a.+", "a.#", "#", "+", "b.#"])
PAYLOADS = st.sampled_from(list(OUTCOMES))
TIMEOUTS = st.sampled_from([1, 500, 1000, 1500, 60_000])
INDEX = st.integers(0, 30)

# What the other side may send, in one batch.
ARRIVALS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), INDEX, PAYLOADS),
        st.tuples(st.just("answer again"), INDEX, PAYLOADS),
        st.tuples(st.just("foreign answer"), st.booleans(), PAYLOADS),
        st.tuples(st.just("publication"), TOPICS, st.none()),
        st.tuples(st.just("request"), TOPICS, st.booleans()),
        st.tuples(st.just("heartbeat"), st.booleans(), st.none()),
        st.tuples(st.just("greeting"), st.none(), st.none()),
        st.tuples(st.just("garbage"), GARBAGE, st.none()),
    ),
    min_size=1,
    max_size=12,
)

# What ends a run's connection comes seldom, so that there is something to end.
SELDOM = st.sampled_from([False] * 24 + [True])


class ReceivingMachine(RuleBasedStateMachine):
    """The model: what waits until when, what is complete, who is subscribed in which order."""

    @initialize(state=st.sampled_from([SessionState.READY] * 9 + list(SessionState)))
    def start(self, state: SessionState) -> None:
        self.session = Session(margin=0.5)
        self.state = SessionState.OFFLINE
        self.now = 1000.0
        self.numbers = 0
        self.waiting: dict[PendingRequest, float] = {}
        self.complete: list[PendingRequest] = []
        self.ends: Counter[PendingRequest] = Counter()
        self.entries: list[SubscriptionEntry] = []
        self.published: set[str] = set()
        self.cancelled = 0
        self.begun = 0
        if state is not SessionState.OFFLINE:
            self.link_up()
        if state not in (SessionState.OFFLINE, SessionState.GREETING):
            self.arrive([("greeting", None, None)])
        if state is SessionState.READY:
            self.restored()
        elif state in (SessionState.LOST, SessionState.CLOSED):
            self.close(True)

    # Moves

    def is_ready(self) -> bool:
        return self.state is SessionState.READY

    def is_up(self) -> bool:
        return self.state in (SessionState.GREETING, SessionState.RESTORING, SessionState.READY)

    def is_over(self) -> bool:
        return self.state is SessionState.CLOSED

    @precondition(lambda self: self.state is SessionState.OFFLINE)
    @rule()
    def link_up(self) -> None:
        self.session.link_up()
        self.state = SessionState.GREETING

    @precondition(lambda self: self.state is SessionState.RESTORING)
    @rule()
    def restored(self) -> None:
        assert self.session.restore(now=self.now, timeout=1000) == []
        assert self.session.restored(self.now) == []
        self.state = SessionState.READY

    @precondition(is_up)
    @rule(now=SELDOM)
    def link_lost(self, now: bool) -> None:
        if now:
            self.all_fail([*self.session.link_lost(None), *self.session.close()])
            self.state = SessionState.CLOSED

    @rule(now=SELDOM)
    def close(self, now: bool) -> None:
        if now:
            self.all_fail(self.session.close())
            self.state = SessionState.CLOSED

    @precondition(is_over)
    @rule()
    def the_link_of_a_closed_session_ends(self) -> None:
        assert self.session.link_lost(None) == []

    @precondition(is_over)
    @rule()
    def another_session(self) -> None:
        self.check_ends()
        self.start(SessionState.READY)

    @precondition(lambda self: not self.is_ready())
    @rule()
    def sending_is_refused(self) -> None:
        kind = ConnectionLost if self.is_over() else LocalProtocolError
        with pytest.raises(kind):
            self.session.request("b", None, now=self.now, timeout=1)
        with pytest.raises(kind):
            self.session.publish("b", None)

    # Sending

    def begun_at_now(self, request: PendingRequest) -> None:
        assert request not in self.waiting
        self.waiting[request] = self.now + request.timeout / 1000 + 0.5
        self.begun += 1

    @precondition(is_ready)
    @rule(topic=TOPICS, timeout=TIMEOUTS)
    def request(self, topic: str, timeout: int) -> None:
        self.begun_at_now(self.session.request(topic, None, now=self.now, timeout=timeout))

    @precondition(is_ready)
    @rule(topic=TOPICS)
    def publish(self, topic: str) -> None:
        assert self.session.publish(topic, None) == f"publish:{topic}:1.0.0\nnull".encode()
        self.published.add(topic)

    @precondition(is_ready)
    @rule(topic=TOPICS, timeout=TIMEOUTS)
    def publish_confirmed(self, topic: str, timeout: int) -> None:
        self.begun_at_now(
            self.session.publish_confirmed(topic, None, now=self.now, timeout=timeout)
        )

    @precondition(is_ready)
    @rule(fault=st.sampled_from([("a..b", None, 1), ("a", object(), 1), ("a", None, 0)]))
    def a_bad_request_is_refused(self, fault: tuple[str, object, int]) -> None:
        topic, payload, timeout = fault
        for call in (self.session.request, self.session.publish_confirmed):
            with pytest.raises(LocalProtocolError):
                call(topic, payload, now=self.now, timeout=timeout)

    @precondition(lambda self: self.waiting)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        request = self.pick_waiting(index)
        self.session.cancel(request)
        del self.waiting[request]
        self.complete.append(request)
        self.cancelled += 1

    @precondition(lambda self: self.complete)
    @rule(index=INDEX)
    def cancel_what_is_complete(self, index: int) -> None:
        self.session.cancel(self.complete[index % len(self.complete)])

    # Subscriptions

    @precondition(is_ready)
    @rule(pattern=PATTERNS, action=st.sampled_from([Action.PUBLISH, Action.REQUEST]), rank=INDEX)
    def subscribe(self, pattern: str, action: Action, rank: int) -> None:
        entry = SubscriptionEntry(pattern, action, rank % 3, None)
        if action is Action.REQUEST and self.sharing(entry):
            with pytest.raises(LocalProtocolError):
                self.session.subscribe(entry, now=self.now, timeout=1000)
        else:
            self.begun_at_now(self.session.subscribe(entry, now=self.now, timeout=1000))
            self.entries.append(entry)

    @precondition(lambda self: self.entries)
    @rule(index=INDEX)
    def unsubscribe(self, index: int) -> None:
        entry = self.entries.pop(index % len(self.entries))
        if self.is_ready() and not self.sharing(entry):
            self.begun_at_now(self.session.unsubscribe(entry, now=self.now, timeout=1000))
        self.session.remove(entry)

    @precondition(lambda self: self.is_ready() and self.entries)
    @rule(index=INDEX)
    def a_bad_unsubscribing_is_refused(self, index: int) -> None:
        entry = self.entries[index % len(self.entries)]
        with pytest.raises(LocalProtocolError):
            self.session.unsubscribe(entry, now=self.now, timeout=0)

    def sharing(self, entry: SubscriptionEntry) -> list[SubscriptionEntry]:
        key = (entry.action, entry.pattern.lower())
        return [other for other in self.entries if (other.action, other.pattern.lower()) == key]

    # Time

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.5, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        events = self.session.handle_deadline(self.now)
        due = [request for request, when in self.waiting.items() if when <= self.now]
        due.sort(key=lambda request: self.waiting[request])
        assert [event.request for event in events if isinstance(event, RequestFailed)] == due
        for event in events:
            assert isinstance(event, RequestFailed)
            assert isinstance(event.error, RequestTimeoutError)
            self.end(event.request)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes_and_nobody_calls(self, seconds: float) -> None:
        """A driver may be late: what is overdue may still be answered."""
        self.now += seconds

    # The other side

    @precondition(lambda self: self.waiting)
    @rule(index=INDEX, payload=PAYLOADS)
    def an_answer_arrives(self, index: int, payload: bytes) -> None:
        self.arrive([("answer", index, payload)])

    @precondition(lambda self: self.entries)
    @rule(topic=TOPICS, with_id=st.booleans())
    def a_publication_and_a_request_arrive(self, topic: str, with_id: bool) -> None:
        self.arrive([("publication", topic, None), ("request", topic, with_id)])

    @precondition(lambda self: not self.is_up())
    @rule(arrivals=ARRIVALS)
    def nothing_is_heard_without_a_link(self, arrivals: list[tuple[str, object, object]]) -> None:
        self.arrive(arrivals)

    @precondition(is_up)
    @rule(arrivals=ARRIVALS)
    def arrive(self, arrivals: list[tuple[str, object, object]]) -> None:
        batch: list[bytes] = []
        expected: list[tuple[object, ...]] = []  # of all events but deliveries, in order
        inboxes: dict[SubscriptionEntry, list[int]] = {}
        heard = self.is_up()
        for what, first, second in arrivals:
            message, events = getattr(self, f"_{what.replace(' ', '_')}")(first, second, inboxes)
            batch.append(message)
            expected += events
            if heard:
                for event in events:
                    if event[0] in ("answered", "failed"):
                        assert isinstance(event[1], PendingRequest)
                        self.end(event[1])
        events = self.session.receive(batch)
        if not heard:
            assert events == []
            return
        assert [each for event in events for each in told(event)] == expected
        got: dict[SubscriptionEntry, list[int]] = {}
        for event in events:
            if isinstance(event, PublicationsReceived):
                assert event.messages
                for entry in event.subscriptions:
                    got.setdefault(entry, []).extend(m.payload for m in event.messages)
        assert got == inboxes

    # Each gives a message and the events that it leads to; deliveries go to the inboxes.

    def _answer(
        self, index: int, payload: bytes, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        if not self.waiting:
            return self._foreign_answer(True, payload, inboxes)
        request = self.pick_waiting(index)
        kind = OUTCOMES[payload]
        event = ("answered", request) if kind is ResponseReceived else ("failed", request, kind)
        return response(request.request_id, payload), [event]

    def _answer_again(
        self, index: int, payload: bytes, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        if not self.complete:
            return self._foreign_answer(True, payload, inboxes)
        request = self.complete[index % len(self.complete)]
        return response(request.request_id, payload), [("unmatched", None)]

    def _foreign_answer(
        self, with_id: bool, payload: bytes, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        event = unmatched(payload)
        if OUTCOMES[payload] is NoRouteFoundError and "a" in self.published:
            event = ("unroutable", "a")
        return response(FOREIGN if with_id else None, payload), [event]

    def _publication(
        self, topic: str, _: None, inboxes: dict[SubscriptionEntry, list[int]]
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        self.numbers += 1
        for entry in self.entries:
            if entry.action is Action.PUBLISH and matches(entry.pattern, topic):
                inboxes.setdefault(entry, []).append(self.numbers)
        return f"publish:{topic}:1.0.0\n{self.numbers}".encode(), []

    def _request(
        self, topic: str, with_id: bool, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        tail = b":" + FOREIGN if with_id else b""
        message = b"request:%b:1.0.0%b\n{}" % (topic.encode(), tail)
        matching = [
            entry
            for entry in self.entries
            if entry.action is Action.REQUEST and matches(entry.pattern, topic)
        ]
        if matching:
            return message, [("requested", max(entry.priority for entry in matching))]
        head = b"response:%b:1.0.0%b" % (topic.encode(), tail)
        return message, [("reply", head) if with_id else ("unmatched", None)]

    def _heartbeat(
        self, response: bool, _: None, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        if response:
            return b"response:system.heartbeat:1.0.0\n{}", [("unmatched", None)]
        reply = ("reply", b"response:system.heartbeat:1.0.0")
        return b"request:system.heartbeat:1.0.0\n{}", [reply]

    def _greeting(
        self, _: None, __: None, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        if self.state is not SessionState.GREETING:
            return GREETING, []
        self.state = SessionState.RESTORING
        return GREETING, [("initialized",)]

    def _garbage(
        self, data: bytes, _: None, inboxes: object
    ) -> tuple[bytes, list[tuple[object, ...]]]:
        return data, [("unmatched", RemoteProtocolError)]

    # What holds always

    @invariant()
    def the_table_holds_what_waits(self) -> None:
        assert self.session.pending == len(self.waiting)

    @invariant()
    def the_next_deadline_is_the_earliest_of_what_waits(self) -> None:
        assert self.session.next_deadline() == min(self.waiting.values(), default=None)

    @invariant()
    def the_state_is_that_of_the_model(self) -> None:
        assert self.session.state is self.state

    @invariant()
    def the_subscriptions_are_those_of_the_model(self) -> None:
        assert set(self.session.subscriptions) == set(self.entries)

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.all_fail(self.session.close())
            self.check_ends()
            assert self.session.next_deadline() is None

    # Within

    def pick_waiting(self, index: int) -> PendingRequest:
        return list(self.waiting)[index % len(self.waiting)]

    def end(self, request: PendingRequest) -> None:
        del self.waiting[request]
        self.complete.append(request)
        self.ends[request] += 1

    def all_fail(self, events: list[Event]) -> None:
        for event in events:
            assert isinstance(event, RequestFailed)
            self.end(event.request)
            assert isinstance(event.error, ConnectionLost)
            assert event.error.sent
        assert not self.waiting

    def check_ends(self) -> None:
        """Each was completed once, or cancelled, and none was forgotten."""
        assert not self.waiting
        assert set(self.ends.values()) <= {1}
        assert len(self.ends) + self.cancelled == self.begun


def response(request_id: bytes | None, payload: bytes) -> bytes:
    tail = b":" + request_id if request_id is not None else b""
    return b"response:a:1.0.0" + tail + b"\n" + payload


def unmatched(payload: bytes) -> tuple[object, ...]:
    kind = OUTCOMES[payload]
    return ("unmatched", None if kind is ResponseReceived else kind)


TELLERS: dict[type[object], Callable[..., tuple[object, ...]]] = {
    Initialized: lambda event: ("initialized",),
    ResponseReceived: lambda event: ("answered", event.request),
    RequestFailed: lambda event: ("failed", event.request, type(event.error)),
    RequestsReceived: lambda event: ("requested", event.subscription.priority),
    AnswerNow: lambda event: ("reply", event.message.partition(b"\n")[0]),
    PublicationUnheard: lambda event: ("unroutable", event.topic),
    Unmatched: lambda event: (
        "unmatched",
        type(event.error) if event.error is not None else None,
    ),
}


def told(event: Event) -> list[tuple[object, ...]]:
    """An event in the words of the model, which has one for each message but publications."""
    if isinstance(event, PublicationsReceived):
        return []
    count = len(event.messages) if isinstance(event, RequestsReceived) else 1
    return [TELLERS[type(event)](event)] * count


TestReceivingMachine = ReceivingMachine.TestCase
TestReceivingMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
