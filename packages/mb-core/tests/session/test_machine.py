"""A Session led at random from connection to connection, against a model of what it promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mb_core.errors import (
    ConnectionLost,
    ForbiddenError,
    LocalProtocolError,
    RequestTimeoutError,
)
from mb_core.header import Action
from mb_core.message import parse_message
from mb_core.session import (
    Event,
    Initialized,
    Outbox,
    PeerSilent,
    PendingRequest,
    PublicationsDiscarded,
    RequestFailed,
    ResponseReceived,
    SendNow,
    Session,
    SessionState,
    SubscriptionEntry,
    Unmatched,
)

GREETING = b"publish:system.initialize:1.0.0\n{}"
SUCCESS = b'{"status":"success"}'
REFUSAL = b'{"error":{"code":"FORBIDDEN","message":"no"}}'
MARGIN = 0.5

Key = tuple[str, str]

INDEX = st.integers(0, 1000)
TIMEOUTS = st.sampled_from([1, 300, 1000, 4000, 60_000, 60_000])
PATTERNS = st.sampled_from(["a", "A", "a.b", "a.+", "#"])
ACTIONS = st.sampled_from([Action.PUBLISH, Action.REQUEST])
PAYLOADS = st.sampled_from(["", "x" * 20, "x" * 60])
# How much of what was given to a connection never left: a part of it, from the end.
PARTS = st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.0])
SELDOM = st.sampled_from([False] * 31 + [True])

# Kinds of requests that wait where there is no connection, and go out again where one is lost.
RETRIED = ("retry", "subscribe", "register")


@dataclass(eq=False, slots=True)
class Item:
    """Something that the Session was asked to send; `number` tells the order of asking."""

    kind: str
    number: int
    message: bytes
    request: PendingRequest | None = None
    entry: SubscriptionEntry | None = None
    deadline: float = 0.0
    # Whether it waits in the outbox, was given to the present connection, or neither.
    place: str = "nowhere"
    taken: bool = False  # by a connection that is lost
    over: bool = False  # answered, failed, cancelled

    @property
    def awaited(self) -> bool:
        return self.request is not None and not self.over

    @property
    def published(self) -> bool:
        return self.kind in ("publish", "confirm")

    @property
    def until(self) -> float:
        return self.deadline + (MARGIN if self.place == "link" else 0.0)

    def left(self, now: float) -> int:
        return int((self.deadline - now) * 1000)


def key_of(entry: SubscriptionEntry) -> Key:
    return entry.action.value, entry.pattern.lower()


class SessionMachine(RuleBasedStateMachine):
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

    def new_link(self) -> None:
        # What was given to it, in order, and what each message is of: None for a reply.
        self.link: list[tuple[bytes, Item | None]] = []
        # What its broker knows: requests to subscribe, by what they are for.
        self.known: dict[Key, set[bytes | None]] = {}
        self.restoring: list[Item] = []

    # From connection to connection

    def is_live(self) -> bool:
        return self.state in (SessionState.GREETING, SessionState.RESTORING, SessionState.READY)

    def is_ready(self) -> bool:
        return self.state is SessionState.READY

    def is_held(self) -> bool:
        """Whether what is asked waits for a connection."""
        return self.was_ready and self.state not in (SessionState.READY, SessionState.CLOSED)

    def can_send(self) -> bool:
        return self.is_ready() or self.is_held()

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

    def subject(self, request: PendingRequest, expected: dict[Key, SubscriptionEntry]) -> object:
        subject = request.about
        return expected[key_of(subject)] if isinstance(subject, SubscriptionEntry) else subject

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

    def is_restorable(self) -> bool:
        restoring = self.state is SessionState.RESTORING
        return restoring and not any(item.awaited for item in self.restoring)

    @precondition(is_live)
    @rule(part=PARTS)
    def link_lost(self, part: float) -> None:
        self.lose(part)

    def lose(self, part: float) -> None:
        """The last `part` of what was given to the connection never left."""
        taken = len(self.link) - round(len(self.link) * part)
        unsent = [message for message, _ in self.link[taken:]]
        for _, item in self.link[:taken]:
            if item is not None:
                item.taken = True
                if item.published:
                    self.arrived.append(item.number)
        events = self.session.link_lost(None, unsent)
        self.look_at = None
        if self.state is SessionState.CLOSED:
            count = sum(
                item is not None and item.kind == "publish" for _, item in self.link[taken:]
            )
            assert events == ([PublicationsDiscarded(count)] if count else [])
            self.discarded += count
            self.link = []
            return
        self.state = SessionState.LOST
        failing: list[Item] = []
        for _, item in self.link:
            if item is None or item.place != "link":
                continue
            waits = item.kind in RETRIED or (item.published and not item.taken)
            item.place = "outbox" if waits and not item.over else "nowhere"
            if item.awaited and not waits:
                failing.append(item)
        self.link = []
        assert {event.request for event in events if isinstance(event, RequestFailed)} == {
            item.request for item in failing
        }
        for event in events:
            assert isinstance(event, RequestFailed)
            self.lost(self.item_of(event.request), event)

    @precondition(lambda self: self.state is not SessionState.CLOSED)
    @rule(now=SELDOM)
    def close(self, now: bool) -> None:
        if now:
            self.end_session()

    def end_session(self) -> None:
        was_live = self.is_live()
        waiting = sum(item.kind == "publish" for item in self.held())
        events = self.session.close()
        self.state = SessionState.CLOSED
        self.look_at = None
        failing = [item for item in self.items if item.awaited]
        for event in events:
            if isinstance(event, RequestFailed):
                item = self.item_of(event.request)
                item.taken |= item.place == "link"  # it may have arrived
                self.lost(item, event)
            else:
                assert event == PublicationsDiscarded(waiting)
        assert not any(item.awaited for item in failing)
        for item in self.held():
            item.place = "nowhere"
        self.discarded += waiting
        assert any(isinstance(event, PublicationsDiscarded) for event in events) == (waiting > 0)
        if not was_live:
            self.link = []

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

    # Asking

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

    @precondition(can_send)
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

    @precondition(can_send)
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

    @precondition(can_send)
    @rule(payload=PAYLOADS, timeout=TIMEOUTS)
    def publish_confirmed(self, payload: str, timeout: int) -> None:
        length = len(b'publish:a:1.0.0:%b\n""' % (b"x" * 36)) + len(payload)

        def call() -> PendingRequest:
            return self.session.publish_confirmed("a", payload, now=self.now, timeout=timeout)

        if self.is_held() and not self.fits(length):
            self.refused(call)
        else:
            self.begin("confirm", call())

    @precondition(can_send)
    @rule(timeout=TIMEOUTS, retry=st.booleans())
    def request(self, timeout: int, retry: bool) -> None:
        def call() -> PendingRequest:
            return self.session.request("a", None, retry=retry, now=self.now, timeout=timeout)

        if self.is_held() and not retry:
            self.refused(call)
        else:
            self.begin("retry" if retry else "request", call())

    @precondition(can_send)
    @rule(timeout=TIMEOUTS)
    def register(self, timeout: int) -> None:
        name = f"name{len(self.items)}"
        self.begin("register", self.session.register(name, "text", now=self.now, timeout=timeout))

    @precondition(can_send)
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

    def leave(self, entry: SubscriptionEntry, *, wait: bool = False) -> None:
        """What a driver does: the broker is told where it has to know, by the last of a pattern."""
        alone = self.session.subscriptions.of(entry.action, entry.pattern) == [entry]
        if alone and self.is_ready():
            request = self.session.unsubscribe(entry, now=self.now, timeout=1000)
            item = self.begin("unsubscribe", request)
            if not wait:
                self.cancel_item(item)
        elif not self.is_ready():
            with pytest.raises((ConnectionLost, LocalProtocolError)):
                self.session.unsubscribe(entry, now=self.now, timeout=1000)
        self.session.remove(entry)
        if entry in self.entries:
            self.entries.remove(entry)

    @precondition(lambda self: any(item.awaited for item in self.items))
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        self.cancel_item(self.pick(index))

    @precondition(lambda self: any(item.request and item.over for item in self.items))
    @rule(index=INDEX)
    def cancel_what_is_over(self, index: int) -> None:
        requests = [item.request for item in self.items if item.request and item.over]
        self.session.cancel(requests[index % len(requests)])

    def cancel_item(self, item: Item) -> None:
        assert item.request is not None
        self.session.cancel(item.request)
        self.cancelled.add(item.request)
        self.over(item)
        if item.kind == "subscribe":
            assert item.entry is not None
            self.leave(item.entry)

    # What arrives

    @precondition(lambda self: self.is_live() and any(item.awaited for item in self.items))
    @rule(index=INDEX, refused=st.booleans())
    def an_answer_arrives(self, index: int, refused: bool) -> None:
        """It may be to what waits to be sent again: the broker has seen it before."""
        item = self.pick(index)
        if item.place == "link" or item.kind == "retry":
            self.answer(item, REFUSAL if refused else SUCCESS)

    def answer(self, item: Item, payload: bytes) -> None:
        assert item.request is not None
        (event,) = self.receive(b"response:a:1.0.0:%b\n%b" % (item.request.request_id, payload))
        self.ends[item.request] += 1
        on_its_way = item.place == "link"
        self.over(item)
        if isinstance(event, ResponseReceived):
            assert payload is SUCCESS
            assert event.request is item.request
            if item.kind == "register":
                told = parse_message(item.request.message).payload
                self.registration = (told["name"], told["description"])
                self.session.registration = self.registration
            return
        assert isinstance(event, RequestFailed)
        assert payload is REFUSAL
        assert event.request is item.request
        assert isinstance(event.error, ForbiddenError)
        if item.entry is not None and on_its_way:
            self.known.get(key_of(item.entry), set()).discard(item.request.request_id)
        if item.kind == "subscribe":
            assert item.entry is not None
            self.leave(item.entry)
        elif item.kind == "restore" and item.entry is None:
            self.registration = self.session.registration = None
        elif item.kind == "restore" and item.entry is not None:
            for entry in [e for e in self.entries if key_of(e) == key_of(item.entry)]:
                self.session.remove(entry)
                self.entries.remove(entry)

    @precondition(is_ready)
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

    @precondition(is_live)
    @rule()
    def a_heartbeat_arrives(self) -> None:
        (event,) = self.receive(b"request:system.heartbeat:1.0.0\n{}")
        assert isinstance(event, SendNow)
        self.give(event.message, None)

    def receive(self, message: bytes) -> list[Event]:
        self.heard = True
        return self.session.receive([message])

    # Time

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

    def handle_deadline(self, part: float) -> None:
        due = {item for item in self.items if item.awaited and item.until <= self.now}
        times: list[float] = []
        given_up = False
        events = self.session.handle_deadline(self.now)
        failures = [event for event in events if isinstance(event, RequestFailed)]
        sign = events[len(failures) :]
        expected = self.sign()
        assert {self.item_of(event.request) for event in failures} == due
        for event in failures:
            item = self.item_of(event.request)
            times.append(item.until)
            if item.place == "outbox":
                self.lost(item, event)
            else:
                assert isinstance(event.error, RequestTimeoutError)
                self.ends[event.request] += 1
                self.over(item)
            if item.kind == "subscribe":
                assert item.entry is not None
                self.leave(item.entry)
            given_up |= item.kind == "restore"
        assert times == sorted(times)
        assert [type(event) for event in sign] == expected
        for question in sign:
            if isinstance(question, SendNow):
                assert parse_message(question.message).topic == "system.heartbeat"
                self.give(question.message, None)
        # A driver ends a connection that is silent, and one whose broker does not answer it.
        if expected == [PeerSilent] or given_up:
            self.lose(part)

    def sign(self) -> list[type[Event]]:
        if self.look_at is None or self.heartbeat is None or self.now < self.look_at:
            return []
        late = self.now - self.look_at
        self.look_at = self.now + self.heartbeat
        if self.heard:
            self.heard = self.asked = False
            return []
        if not self.asked:
            self.asked = True
            return [SendNow]
        if late > self.heartbeat / 2:
            return []
        self.look_at = None
        return [PeerSilent]

    # What holds always

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

    def teardown(self) -> None:
        if hasattr(self, "session"):
            if self.state is not SessionState.CLOSED:
                self.end_session()
            if self.link:
                self.lose(0.5)
            self.check_ends()

    def check_ends(self) -> None:
        """Each request has ended once, and each publication is accounted for."""
        for item in self.items:
            if item.request is not None:
                assert self.ends[item.request] + (item.request in self.cancelled) == 1
        assert self.arrived == sorted(set(self.arrived))
        accepted = {item.number for item in self.items if item.kind == "publish"}
        arrived = accepted & set(self.arrived)
        assert len(arrived) + self.dropped + self.discarded == len(accepted)
        assert self.session.pending == 0
        assert (len(self.session.outbox), self.session.outbox.requests) == (0, [])
        assert self.session.next_deadline() is None

    # Within

    def add(self, item: Item) -> Item:
        self.items.append(item)
        return item

    def begin(self, kind: str, request: PendingRequest, subject: object = None) -> Item:
        entry = subject if isinstance(subject, SubscriptionEntry) else None
        deadline = self.now + request.timeout / 1000
        item = Item(kind, len(self.items), request.message, request, entry, deadline)
        self.add(item)
        assert request.in_outbox == self.is_held() or kind == "restore"
        if request.in_outbox:
            item.place = "outbox"
        else:
            self.give(request.message, item)
        return item

    def wait(self, kind: str, message: bytes) -> None:
        self.add(Item(kind, len(self.items), message, place="outbox"))

    def give(self, message: bytes, item: Item | None) -> None:
        """The driver gives a message to the connection."""
        if item is not None:
            assert item.kind in RETRIED or not item.taken
            item.place = "link"
        self.link.append((message, item))
        parsed = parse_message(message)
        if parsed.topic.startswith("system.topic."):
            key = parsed.payload["action"], parsed.payload["topic"].lower()
            if parsed.topic.endswith(".subscribe"):
                self.known.setdefault(key, set()).add(parsed.request_key)
            else:
                self.known.pop(key, None)

    def over(self, item: Item) -> None:
        item.over = True
        if item.place == "outbox":
            item.place = "nowhere"

    def lost(self, item: Item, event: RequestFailed) -> None:
        assert isinstance(event.error, ConnectionLost)
        assert event.error.sent == item.taken
        assert item.awaited
        self.ends[event.request] += 1
        self.over(item)

    def fits(self, length: int) -> bool:
        """Whether a publication finds room, which the oldest may have to make."""
        publications = [item for item in self.held() if item.published]
        room = self.size - sum(len(item.message) for item in publications)
        victims: list[Item] = []
        if self.policy == "drop_oldest":
            for item in publications:
                if room < length and item.kind == "publish":
                    victims.append(item)
                    room += len(item.message)
        if room < length:
            return False
        for item in victims:
            item.place = "nowhere"
        self.dropped += len(victims)
        return True

    def refused(self, call: Callable[[], object]) -> None:
        with pytest.raises(ConnectionLost) as refusal:
            call()
        assert not refusal.value.sent

    def held(self) -> list[Item]:
        return [item for item in self.items if item.place == "outbox"]

    def waits(self, entry: SubscriptionEntry) -> bool:
        return any(item.entry is entry and item.kind == "subscribe" for item in self.held())

    def pick(self, index: int) -> Item:
        waiting = [item for item in self.items if item.awaited]
        return waiting[index % len(waiting)]

    def item_of(self, request: PendingRequest) -> Item:
        (item,) = [item for item in self.items if item.request is request]
        return item

    def is_message(self, item: Item, message: bytes) -> bool:
        if item.request is not None:
            return item.request.message is message
        return item.message == message


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
