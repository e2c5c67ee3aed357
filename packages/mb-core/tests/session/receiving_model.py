"""What a Session makes of what it receives, as a model that is too simple to be wrong."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
)

from mb_core.errors import (
    ConnectionLost,
    ForbiddenError,
    NoRouteFoundError,
    RemoteProtocolError,
)
from mb_core.header import Action
from mb_core.session import (
    Event,
    PendingRequest,
    RequestFailed,
    ResponseReceived,
    SessionState,
    SubscriptionEntry,
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


class ReceivingModel(RuleBasedStateMachine):
    """A Session in one connection, and what a test expects of it; a subclass has the rules."""

    def is_ready(self) -> bool:
        return self.state is SessionState.READY

    def is_up(self) -> bool:
        return self.state in (SessionState.GREETING, SessionState.RESTORING, SessionState.READY)

    def is_over(self) -> bool:
        return self.state is SessionState.CLOSED

    def begun_at_now(self, request: PendingRequest) -> None:
        assert request not in self.waiting
        self.waiting[request] = self.now + request.timeout / 1000 + 0.5
        self.begun += 1

    def sharing(self, entry: SubscriptionEntry) -> list[SubscriptionEntry]:
        key = (entry.action, entry.pattern.lower())
        return [other for other in self.entries if (other.action, other.pattern.lower()) == key]

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

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.all_fail(self.session.close())
            self.check_ends()
            assert self.session.next_deadline() is None

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
