"""What is measured for growth: Router, Session and Encoder, without event loop and sockets.

Each function prepares the state of one point, and returns the work that is repeated on it.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mb_broker import Router, RouterOptions
from mb_broker.registry import Service
from mb_core.header import Action
from mb_core.session import Event, Outbox, PublicationsReceived, Session, SubscriptionEntry
from mb_core.session.encoder import Encoder
from mb_core.wire import Limits

from .workload import DOCUMENT, encode

__all__ = [
    "PAYLOAD",
    "Pattern",
    "Work",
    "empty_outboxes",
    "encoder_writes",
    "full_router_asks",
    "ready_session",
    "router_asks",
    "router_connects",
    "router_fans_out",
    "router_looks_up",
    "router_passes",
    "router_receives",
    "router_serves",
    "router_subscribes",
    "session_asks",
    "session_drops",
    "session_reads",
    "session_receives",
    "session_subscribes",
    "topic",
    "wildcard",
]

ID = b"123e4567-e89b-42d3-a456-426614174000"
PAYLOAD = encode(DOCUMENT)
BATCH = 64
_MEBIBYTE = 1024 * 1024

Pattern = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured at one point; the time that `run` takes is divided by `parts`."""

    run: Callable[[], object]
    parts: int


def topic(number: int) -> str:
    return f"bench.t{number}.value"


def wildcard(number: int) -> str:
    """Return a pattern that matches the topic of this number and no other, of each kind in turn."""
    return (f"bench.t{number}.+", f"bench.t{number}.#", f"+.t{number}.value")[number % 3]


# Subscriptions


def router_receives(pattern: Pattern, *, spread: bool) -> Callable[[int], Work]:
    """Publications to one subscribed topic, or to all of them in random order."""

    def prepare(size: int) -> Work:
        router, sender = _router_with(size, pattern)
        batches = _batches(size if spread else 1, passed_on=False)
        return Work(lambda: _route(router, sender, next(batches)), BATCH)

    return prepare


def router_looks_up(size: int) -> Work:
    """A change to the subscriptions, and a publication after it."""
    router, sender = _router_with(size, wildcard)
    batch = [publication(topic(0))]
    toggled = itertools.cycle((True, False))

    def run() -> None:
        _toggle(router, sender, next(toggled))
        _route(router, sender, batch)

    return Work(run, 1)


def session_receives(pattern: Pattern, *, spread: bool) -> Callable[[int], Work]:
    def prepare(size: int) -> Work:
        session = ready_session()
        for number in range(size):
            session.subscriptions.add(SubscriptionEntry(pattern(number), Action.PUBLISH, 1, None))
        batches = _batches(size if spread else 1, passed_on=True)
        return Work(lambda: session.receive(next(batches)), BATCH)

    return prepare


def router_subscribes(size: int) -> Work:
    """A client's messages: subscribe and unsubscribe."""
    router, client = _router_with(size, topic)
    asked = [
        b'request:system.topic.%b:1.0.0:%b\n{"action":"publish","topic":"bench.more"}' % (verb, ID)
        for verb in (b"subscribe", b"unsubscribe")
    ]
    return Work(lambda: _route(router, client, asked), 1)


def session_subscribes(size: int) -> Work:
    """Subscribe, receive the confirmation, and unsubscribe."""
    session = ready_session()
    for number in range(size):
        session.subscriptions.add(SubscriptionEntry(topic(number), Action.PUBLISH, 1, None))

    def run() -> None:
        entry = SubscriptionEntry("bench.more", Action.PUBLISH, 1, None)
        request = session.subscribe(entry, now=0.0, timeout=1000)
        session.ask_for_timeouts()
        session.receive([_response(request.request_id, request.topic)])
        session.remove(entry)

    return Work(run, 1)


# Pending requests


def session_asks(*, oldest: bool) -> Callable[[int], Work]:
    """A request, and the response to the oldest pending one, or to itself."""

    def prepare(size: int) -> Work:
        session = ready_session()
        times = itertools.count()
        waiting = deque(_ask(session, next(times)) for _ in range(size - 1))

        def run() -> None:
            waiting.append(_ask(session, next(times)))
            request_id = waiting.popleft() if oldest else waiting.pop()
            session.receive([_response(request_id, "bench.ask")])
            session.next_deadline()

        return Work(run, 1)

    return prepare


def router_asks(size: int) -> Work:
    """Pass on a request, and the response to the oldest pending one."""
    router, requester, responder = _router_that_answers(size + 1)
    times = (number / 1e5 for number in itertools.count())
    request = [b"request:bench.ask:1.0.0:%b\n%b" % (ID, PAYLOAD)]
    waiting: deque[bytes] = deque()

    def ask() -> None:
        router.receive(requester, request, next(times))
        (message,) = responder.outbox
        waiting.append(message[: message.index(b"\n")].rpartition(b":")[2])
        empty_outboxes(router)

    def run() -> None:
        ask()
        router.receive(responder, [_response(waiting.popleft(), "bench.ask")], next(times))
        empty_outboxes(router)
        router.next_deadline()

    for _ in range(size - 1):
        ask()
    return Work(run, 1)


def full_router_asks(size: int) -> Work:
    """A request that displaces the oldest, because `max_outstanding` are pending."""
    router, requester, _ = _router_that_answers(size)
    batch = [b"request:bench.ask:1.0.0:%b\n%b" % (ID, PAYLOAD)]
    for _ in range(size):
        _route(router, requester, batch)
    return Work(lambda: _route(router, requester, batch), 1)


def session_drops(size: int) -> Work:
    """A publication to a full buffer, which drops the oldest without confirmation.

    `size` publications with confirmation wait before it.
    """
    length = len(publication("bench.events"))
    outbox = Outbox(sys.maxsize, "drop_oldest")
    session = ready_session(outbox=outbox)
    session.link_lost(None)
    for _ in range(size):
        session.publish_confirmed("bench.ask", DOCUMENT, now=0.0, timeout=3_600_000)
    outbox.size = outbox.used + 2 * length
    return Work(lambda: session.publish("bench.events", DOCUMENT), 1)


# Connections


def router_serves(size: int) -> Work:
    """A publication from each client in turn."""
    router, _ = _router_with(1, topic)
    clients = itertools.cycle([router.connect(0.0) for _ in range(size)])
    batch = [publication(topic(0))]
    empty_outboxes(router)
    return Work(lambda: _route(router, next(clients), batch), 1)


def router_connects(size: int) -> Work:
    """Connect, greet, subscribe and disconnect."""
    router = Router()
    for _ in range(size):
        router.connect(0.0)
    empty_outboxes(router)

    def run() -> None:
        service = router.connect(0.0)
        router.registry.subscribe(service, Action.PUBLISH, "bench.own", None)
        empty_outboxes(router)
        router.disconnect(service, 0.0)
        router.next_deadline()

    return Work(run, 1)


# Payloads


def encoder_writes(size: int) -> Work:
    encoder, payload = Encoder(2 * _MEBIBYTE), "x" * (size - 2)
    return Work(lambda: encoder.publication("bench.events", payload), 1)


def router_passes(size: int) -> Work:
    router, sender = _router_with(1, topic, max_payload=_MEBIBYTE)
    batch = [publication(topic(0), b'"%b"' % (b"x" * (size - 2)))]
    return Work(lambda: _route(router, sender, batch), 1)


def session_reads(*, decoded: bool) -> Callable[[int], Work]:
    def prepare(size: int) -> Work:
        session = ready_session(limits=Limits(_MEBIBYTE, 2 * _MEBIBYTE))
        session.subscriptions.add(SubscriptionEntry(topic(0), Action.PUBLISH, 1, None))
        payload = b'"%b"' % (b"x" * (size - 2))
        batch = [publication(topic(0), payload, passed_on=True)]

        def run() -> None:
            (event,) = session.receive(batch)
            if decoded:
                _decode(event)

        return Work(run, 1)

    return prepare


# Fan-out


def router_fans_out(*, changed: bool) -> Callable[[int], Work]:
    """A publication to `size` clients; if `changed`, after a change to the subscriptions."""

    def prepare(size: int) -> Work:
        router = Router()
        sender = router.connect(0.0)
        for _ in range(size):
            router.registry.subscribe(router.connect(0.0), Action.PUBLISH, topic(0), None)
        empty_outboxes(router)
        batch = [publication(topic(0))]
        toggled = itertools.cycle((True, False))

        def run() -> None:
            if changed:
                _toggle(router, sender, next(toggled))
            _route(router, sender, batch)

        return Work(run, size)

    return prepare


# Shared


def ready_session(**options: Any) -> Session:
    """Return a Session that has received the greeting."""
    session = Session(**options)
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    return session


def publication(topic: str, payload: bytes = PAYLOAD, *, passed_on: bool = False) -> bytes:
    """Encode a publication as a client sends it, or as the broker passes it on: with an id."""
    request_id = b":" + ID if passed_on else b""
    return b"publish:%b:1.0.0%b\n%b" % (topic.encode(), request_id, payload)


def empty_outboxes(router: Router) -> None:
    """Empty the outboxes as the Broker does, without sending."""
    for service in router.take_output():
        service.outbox = []


def _router_with(
    size: int, pattern: Pattern, *, max_payload: int = 65_536
) -> tuple[Router, Service]:
    """Return a Router where one client has `size` subscriptions, and another client to send."""
    router = Router(RouterOptions(max_subscriptions=size + 1, max_payload=max_payload))
    receiver, sender = router.connect(0.0), router.connect(0.0)
    for number in range(size):
        router.registry.subscribe(receiver, Action.PUBLISH, pattern(number), None)
    empty_outboxes(router)
    return router, sender


def _router_that_answers(max_outstanding: int) -> tuple[Router, Service, Service]:
    router = Router(RouterOptions(max_outstanding=max_outstanding, request_timeout=1e9))
    requester, responder = router.connect(0.0), router.connect(0.0)
    router.registry.subscribe(responder, Action.REQUEST, "bench.ask", 1)
    empty_outboxes(router)
    return router, requester, responder


def _route(router: Router, sender: Service, batch: list[bytes]) -> None:
    router.receive(sender, batch, 0.0)
    empty_outboxes(router)


def _toggle(router: Router, service: Service, subscribe: bool) -> None:
    if subscribe:
        router.registry.subscribe(service, Action.PUBLISH, "bench.other", None)
    else:
        router.registry.unsubscribe(service, Action.PUBLISH, "bench.other")


def _batches(topics: int, *, passed_on: bool) -> Iterator[list[bytes]]:
    """Yield batches of publications to `topics` topics endlessly, in random order."""
    messages = [publication(topic(number), passed_on=passed_on) for number in range(topics)]
    random.Random(topics).shuffle(messages)
    endless = itertools.cycle(messages)
    while True:
        yield list(itertools.islice(endless, BATCH))


def _ask(session: Session, time: int) -> bytes:
    request = session.request("bench.ask", None, now=time / 1e5, timeout=3_600_000)
    return request.request_id


def _response(request_id: bytes, topic: str) -> bytes:
    return b'response:%b:1.0.0:%b\n{"status":"success"}' % (topic.encode(), request_id)


def _decode(event: Event) -> None:
    assert isinstance(event, PublicationsReceived)
    for message in event.messages:
        _ = message.payload
