"""A Session led at random from connection to connection, against a model of what it promises."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule

from mb_core.errors import (
    ConnectionLost,
    LocalProtocolError,
)
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    Initialized,
    Outbox,
    PendingRequest,
    RequestFailed,
    SendNow,
    Session,
    SessionState,
    SubscriptionEntry,
    Unmatched,
)

from .session_model import (
    ACTIONS,
    GREETING,
    INDEX,
    MARGIN,
    PARTS,
    PATTERNS,
    PAYLOADS,
    REFUSAL,
    SELDOM,
    SUCCESS,
    TIMEOUTS,
    Item,
    Key,
    SessionModel,
    key_of,
)


class SessionMachine(SessionModel):
    """The model is the driver as well: it does what `session.py` says that a driver owes."""

    @initialize(
        size=st.sampled_from([0, 150, 400, 100_000]),
        policy=st.sampled_from(["error", "drop_oldest"]),
        heartbeat=st.sampled_from([None, 2.0]),
        state=st.sampled_from([SessionState.READY] * 5 + [SessionState.LOST, SessionState.OFFLINE]),
    )
    def start(self, size: int, policy: str, heartbeat: float | None, state: SessionState) -> None:
        self.session = Session(margin=MARGIN, heartbeat=heartbeat, outbox=Outbox(size, policy))
        self.size, self.policy, self.heartbeat = size, policy, heartbeat
        self.state = SessionState.OFFLINE
        self.was_ready = False
        self.now = 1000.0
        self.items: list[Item] = []
        self.entries: list[SubscriptionEntry] = []
        self.registration: tuple[str, str] | None = None
        self.dropped = self.discarded = 0
        self.arrived: list[int] = []
        self.ends: Counter[PendingRequest] = Counter()
        self.cancelled: set[PendingRequest] = set()
        self.look_at: float | None = None
        self.heard = self.asked = False
        self.new_link()
        if state is not SessionState.OFFLINE:
            self.connect()
            self.greet()
            self.finish_restoring()
        if state is SessionState.LOST:
            self.lose(0.0)

    @precondition(lambda self: self.state in (SessionState.OFFLINE, SessionState.LOST))
    @rule()
    def connect(self) -> None:
        self.session.link_up()
        self.state = SessionState.GREETING
        self.new_link()

    @precondition(lambda self: self.state is SessionState.GREETING)
    @rule()
    def greet(self) -> None:
        assert self.receive(GREETING) == [Initialized()]
        self.state = SessionState.RESTORING
        asked = self.session.restore(now=self.now, timeout=4000)
        expected: dict[Key, SubscriptionEntry] = {}
        for entry in self.entries:
            if not self.waits(entry):
                expected.setdefault(key_of(entry), entry)
        subjects: list[object] = [self.registration] if self.registration is not None else []
        # One of those that share a pattern stands for all of them.
        told = [self.subject(request, expected) for request in asked]
        assert told[: len(subjects)] == subjects
        assert len(told) == len(subjects) + len(expected)
        assert set(told[len(subjects) :]) == set(expected.values())
        for request in asked:
            self.restoring.append(self.begin("restore", request, request.about))

    @precondition(lambda self: self.state is SessionState.RESTORING)
    @rule()
    def the_broker_accepts_all(self) -> None:
        for item in self.restoring:
            if item.awaited:
                self.answer(item, SUCCESS)
        self.finish_restoring()

    @precondition(lambda self: self.state is SessionState.LOST)
    @rule(index=INDEX, unsubscribed=st.booleans())
    def come_back(self, index: int, unsubscribed: bool) -> None:
        self.connect()
        self.greet()
        if unsubscribed and self.entries:
            self.leave(self.entries[index % len(self.entries)])
        self.the_broker_accepts_all()

    @precondition(lambda self: self.is_restorable())
    @rule()
    def finish_restoring(self) -> None:
        held = self.held()
        events = self.session.restored(self.now)
        self.state = SessionState.READY
        self.was_ready = True
        if self.heartbeat is not None:
            self.look_at = self.now + self.heartbeat
            self.heard = self.asked = False
        gone = [item for item in held if item.entry is not None and item.entry not in self.entries]
        late = [item for item in held if not item.published and item.left(self.now) < 1]
        given = [item for item in held if item not in gone and item not in late]
        taken_back: list[bytes] = []
        for event in events:
            if isinstance(event, RequestFailed):
                item = self.item_of(event.request)
                assert item in gone
                self.lost(item, event)
                continue
            assert isinstance(event, SendNow)
            item_or_none = next((i for i in given if self.is_message(i, event.message)), None)
            if item_or_none is None:
                taken_back.append(event.message)
            elif not item_or_none.published:
                limit = parse_message(event.message).header.timeout
                assert limit == item_or_none.left(self.now)
            self.give(event.message, item_or_none)
        assert not any(item.awaited for item in gone)
        order = [item for _, item in self.link if item in given]
        for published in (True, False):
            assert [item for item in order if item.published is published] == sorted(
                (item for item in given if item.published is published),
                key=lambda item: item.number,
            )
        for message in taken_back:
            assert parse_message(message).topic == "system.topic.unsubscribe"

    @precondition(SessionModel.is_live)
    @rule(part=PARTS)
    def link_lost(self, part: float) -> None:
        self.lose(part)

    @precondition(lambda self: self.state is not SessionState.CLOSED)
    @rule(now=SELDOM)
    def close(self, now: bool) -> None:
        if now:
            self.end_session()

    @precondition(lambda self: self.state is SessionState.CLOSED)
    @rule(part=PARTS)
    def the_link_of_a_closed_session_ends(self, part: float) -> None:
        if self.link:
            self.lose(part)
        assert self.session.link_lost(None) == []

    @precondition(lambda self: self.state is SessionState.CLOSED and not self.link)
    @rule()
    def another_session(self) -> None:
        self.check_ends()
        self.start(self.size, self.policy, self.heartbeat, SessionState.READY)

    @precondition(lambda self: not self.can_send())
    @rule()
    def sending_is_refused(self) -> None:
        closed = self.state is SessionState.CLOSED
        kind = ConnectionLost if closed else LocalProtocolError
        for call in (
            lambda: self.session.request("a", None, retry=True, now=self.now, timeout=1),
            lambda: self.session.publish("a", None),
            lambda: self.session.publish_confirmed("a", None, now=self.now, timeout=1),
        ):
            with pytest.raises(kind):
                call()

    @precondition(SessionModel.can_send)
    @rule(
        plan=st.lists(
            st.tuples(
                st.sampled_from(
                    ["publish", "confirm", "request", "retry", "register", "subscribe"]
                ),
                PAYLOADS,
                TIMEOUTS,
            ),
            min_size=1,
            max_size=8,
        )
    )
    def much_is_asked(self, plan: list[tuple[str, str, int]]) -> None:
        for number, (what, payload, timeout) in enumerate(plan):
            if what == "publish":
                self.publish(payload)
            elif what == "confirm":
                self.publish_confirmed(payload, timeout)
            elif what == "register":
                self.register(timeout)
            elif what == "subscribe":
                self.subscribe("ab"[number % 2], Action.PUBLISH, timeout)
            else:
                self.request(timeout, what == "retry")

    @precondition(SessionModel.can_send)
    @rule(payload=PAYLOADS)
    def publish(self, payload: str) -> None:
        text = f"{len(self.items)}{payload}"
        message = b'publish:a:1.0.0\n"%b"' % text.encode()
        if self.is_held():
            if self.fits(len(message)):
                assert self.session.publish("a", text) is None
                self.wait("publish", message)
            else:
                self.refused(lambda: self.session.publish("a", text))
            return
        given = self.session.publish("a", text)
        assert given == message
        self.give(given, self.add(Item("publish", len(self.items), given)))

    @precondition(SessionModel.can_send)
    @rule(payload=PAYLOADS, timeout=TIMEOUTS)
    def publish_confirmed(self, payload: str, timeout: int) -> None:
        length = len(b'publish:a:1.0.0:%b\n""' % (b"x" * 36)) + len(payload)

        def call() -> PendingRequest:
            return self.session.publish_confirmed("a", payload, now=self.now, timeout=timeout)

        if self.is_held() and not self.fits(length):
            self.refused(call)
        else:
            self.begin("confirm", call())

    @precondition(SessionModel.can_send)
    @rule(timeout=TIMEOUTS, retry=st.booleans())
    def request(self, timeout: int, retry: bool) -> None:
        def call() -> PendingRequest:
            return self.session.request("a", None, retry=retry, now=self.now, timeout=timeout)

        if self.is_held() and not retry:
            self.refused(call)
        else:
            self.begin("retry" if retry else "request", call())

    @precondition(SessionModel.can_send)
    @rule(timeout=TIMEOUTS)
    def register(self, timeout: int) -> None:
        name = f"name{len(self.items)}"
        self.begin("register", self.session.register(name, "text", now=self.now, timeout=timeout))

    @precondition(SessionModel.can_send)
    @rule(pattern=PATTERNS, action=ACTIONS, timeout=TIMEOUTS)
    def subscribe(self, pattern: str, action: Action, timeout: int) -> None:
        entry = SubscriptionEntry(pattern, action, 1, None)
        if action is Action.REQUEST and key_of(entry) in map(key_of, self.entries):
            with pytest.raises(LocalProtocolError):
                self.session.subscribe(entry, now=self.now, timeout=timeout)
            return
        request = self.session.subscribe(entry, now=self.now, timeout=timeout)
        self.entries.append(entry)
        self.begin("subscribe", request, entry)

    @precondition(lambda self: self.entries)
    @rule(index=INDEX, wait=st.booleans())
    def unsubscribe(self, index: int, wait: bool) -> None:
        self.leave(self.entries[index % len(self.entries)], wait=wait)

    @precondition(lambda self: any(item.awaited for item in self.items))
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        self.cancel_item(self.pick(index))

    @precondition(lambda self: any(item.request and item.over for item in self.items))
    @rule(index=INDEX)
    def cancel_what_is_over(self, index: int) -> None:
        requests = [item.request for item in self.items if item.request and item.over]
        self.session.cancel(requests[index % len(requests)])

    @precondition(lambda self: self.is_live() and any(item.awaited for item in self.items))
    @rule(index=INDEX, refused=st.booleans())
    def an_answer_arrives(self, index: int, refused: bool) -> None:
        """It may be to what waits to be sent again: the broker has seen it before."""
        item = self.pick(index)
        if item.place == "link" or item.kind == "retry":
            self.answer(item, REFUSAL if refused else SUCCESS)

    @precondition(SessionModel.is_ready)
    @rule()
    def all_is_answered(self) -> None:
        for _, item in list(self.link):
            if item is not None and item.awaited:
                self.answer(item, SUCCESS)

    @precondition(lambda self: self.is_live() and any(i.request and i.over for i in self.items))
    @rule(index=INDEX)
    def an_answer_to_what_is_over_arrives(self, index: int) -> None:
        requests = [item.request for item in self.items if item.request and item.over]
        request_id = requests[index % len(requests)].request_id
        (event,) = self.receive(b"response:a:1.0.0:%b\n{}" % request_id)
        assert isinstance(event, Unmatched)
        assert event.error is None

    @precondition(SessionModel.is_live)
    @rule()
    def a_heartbeat_arrives(self) -> None:
        (event,) = self.receive(b"request:system.heartbeat:1.0.0\n{}")
        assert isinstance(event, SendNow)
        self.give(event.message, None)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.3, 1.0, 2.0, 5.0]), part=PARTS)
    def time_passes(self, seconds: float, part: float) -> None:
        """Deadlines are handled when they come, as a driver does that is not busy."""
        end = self.now + seconds
        while (due := self.session.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.handle_deadline(part)
        self.now = end

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 5.0]), part=PARTS)
    def time_passes_and_deadlines_are_handled_late(self, seconds: float, part: float) -> None:
        self.now += seconds
        self.handle_deadline(part)

    @rule(seconds=st.sampled_from([0.0005, 0.3, 1.0]))
    def time_passes_and_nobody_calls(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_table_holds_what_waits(self) -> None:
        waiting = [item for item in self.items if item.awaited]
        assert self.session.pending == len(waiting)
        for item in waiting:
            assert item.request is not None
            assert item.request.in_outbox == (item.place == "outbox")

    @invariant()
    def the_outbox_holds_what_waits_for_a_connection(self) -> None:
        outbox, held = self.session.outbox, self.held()
        publications = [item for item in held if item.published]
        assert len(outbox) == len(publications)
        assert outbox.used == sum(len(item.message) for item in publications)
        assert outbox.dropped == self.dropped
        assert set(outbox.requests) == {item.request for item in held if not item.published}

    @invariant()
    def the_next_deadline_is_the_earliest_of_what_waits(self) -> None:
        times = [item.until for item in self.items if item.awaited]
        if self.look_at is not None:
            times.append(self.look_at)
        assert self.session.next_deadline() == min(times, default=None)

    @invariant()
    def state_and_subscriptions_are_those_of_the_model(self) -> None:
        assert self.session.state is self.state
        assert set(self.session.subscriptions) == set(self.entries)

    @invariant()
    def the_broker_knows_what_is_in_force(self) -> None:
        if self.is_ready():
            in_force = {key_of(entry) for entry in self.entries if not self.waits(entry)}
            known = {key for key, ids in self.known.items() if ids}
            # One that waits, for its deadline only, may share a pattern that it has kept known.
            assert in_force <= known <= set(map(key_of, self.entries))


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
