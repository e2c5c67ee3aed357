"""What a Session promises, as a model that is too simple to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine

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
    PeerSilent,
    PendingRequest,
    PublicationsDiscarded,
    RequestFailed,
    ResponseReceived,
    SendNow,
    SessionState,
    SubscriptionEntry,
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


class SessionModel(RuleBasedStateMachine):
    """A Session, and what a test expects of it; a subclass has the rules that drive both."""

    def new_link(self) -> None:
        # What was given to it, in order, and what each message is of: None for a reply.
        self.link: list[tuple[bytes, Item | None]] = []
        # What its broker knows: requests to subscribe, by what they are for.
        self.known: dict[Key, set[bytes | None]] = {}
        self.restoring: list[Item] = []

    def is_live(self) -> bool:
        return self.state in (SessionState.GREETING, SessionState.RESTORING, SessionState.READY)

    def is_ready(self) -> bool:
        return self.state is SessionState.READY

    def is_held(self) -> bool:
        """Whether what is asked waits for a connection."""
        return self.was_ready and self.state not in (SessionState.READY, SessionState.CLOSED)

    def can_send(self) -> bool:
        return self.is_ready() or self.is_held()

    def subject(self, request: PendingRequest, expected: dict[Key, SubscriptionEntry]) -> object:
        subject = request.about
        return expected[key_of(subject)] if isinstance(subject, SubscriptionEntry) else subject

    def is_restorable(self) -> bool:
        restoring = self.state is SessionState.RESTORING
        return restoring and not any(item.awaited for item in self.restoring)

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

    def leave(self, entry: SubscriptionEntry, *, wait: bool = False) -> None:
        """What a driver does: notify the broker if necessary, for the last entry of a pattern."""
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

    def cancel_item(self, item: Item) -> None:
        assert item.request is not None
        self.session.cancel(item.request)
        self.cancelled.add(item.request)
        self.over(item)
        if item.kind == "subscribe":
            assert item.entry is not None
            self.leave(item.entry)

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

    def receive(self, message: bytes) -> list[Event]:
        self.heard = True
        return self.session.receive([message])

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
