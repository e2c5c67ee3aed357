"""All that a broker may send in one connection, at random, against a simple model of a Session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
)

from mb_core.errors import (
    ConnectionLost,
    LocalProtocolError,
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

from .receiving_model import (
    ARRIVALS,
    INDEX,
    PATTERNS,
    PAYLOADS,
    SELDOM,
    TIMEOUTS,
    TOPICS,
    ReceivingModel,
)


class ReceivingMachine(ReceivingModel):
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

    @precondition(ReceivingModel.is_up)
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

    @precondition(ReceivingModel.is_over)
    @rule()
    def the_link_of_a_closed_session_ends(self) -> None:
        assert self.session.link_lost(None) == []

    @precondition(ReceivingModel.is_over)
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

    @precondition(ReceivingModel.is_ready)
    @rule(topic=TOPICS, timeout=TIMEOUTS)
    def request(self, topic: str, timeout: int) -> None:
        self.begun_at_now(self.session.request(topic, None, now=self.now, timeout=timeout))

    @precondition(ReceivingModel.is_ready)
    @rule(topic=TOPICS)
    def publish(self, topic: str) -> None:
        assert self.session.publish(topic, None) == f"publish:{topic}:1.0.0\nnull".encode()
        self.published.add(topic)

    @precondition(ReceivingModel.is_ready)
    @rule(topic=TOPICS, timeout=TIMEOUTS)
    def publish_confirmed(self, topic: str, timeout: int) -> None:
        self.begun_at_now(
            self.session.publish_confirmed(topic, None, now=self.now, timeout=timeout)
        )

    @precondition(ReceivingModel.is_ready)
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

    @precondition(ReceivingModel.is_ready)
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

    @precondition(ReceivingModel.is_up)
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
