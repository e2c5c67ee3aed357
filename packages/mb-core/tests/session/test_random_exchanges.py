"""Session and Router wired together: random exchanges, and what a broker can not read."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mb_broker import Router, RouterOptions
from mb_core.errors import (
    ConnectionLost,
    ForbiddenError,
    MalformedMessageError,
    NoRouteFoundError,
)
from mb_core.message import Message
from mb_core.session import (
    PendingRequest,
)

from .session_and_router import Unanswered, World, world

__all__ = ["world"]

# What the broker can't read


def test_the_brokers_word_on_a_malformed_message_reaches_the_driver(world: World) -> None:
    peer = world.connect()
    request = peer.session.request("a.b", {}, now=world.now, timeout=1000)
    peer.send(b"nonsense", request.message)
    (unmatched,) = peer.unmatched
    assert isinstance(unmatched.error, MalformedMessageError)
    assert isinstance(peer.outcome(request), NoRouteFoundError)


@given(text=st.text(max_size=50), topic=st.sampled_from(["a", "A.b", "a.b.c.d.e", "a" * 255]))
def test_payloads_arrive_as_they_were_sent(text: str, topic: str) -> None:
    world = World()
    service, client = world.connect(), world.connect()
    service.subscribe("#", lambda message: message.payload)
    entry = service.subscribe("#")
    assert client.answer(client.ask(topic, {"text": text})) == {"text": text}
    client.confirm(topic, text)
    assert service.delivered == [(entry, text)]


# All together


_FATES = st.sampled_from(["at once", "error", "late", "never", "cancel", "leave", "twice"])


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(st.tuples(_FATES, st.integers(1, 3000), st.integers(0, 1)), max_size=20),
    pauses=st.lists(st.integers(0, 1500), max_size=10),
    broken=st.booleans(),
)
def test_every_request_ends_once_whatever_becomes_of_it(
    plan: list[tuple[str, int, int]], pauses: list[int], broken: bool
) -> None:
    world = World(Router(RouterOptions(request_timeout=1)))
    client = world.connect()
    services = [world.connect(), world.connect()]
    for number, service in enumerate(services):
        service.subscribe(
            f"to.service{'AB'[number]}",
            lambda message: {"at once": 1, "error": ForbiddenError("no")}.get(
                message.payload, Unanswered
            ),
        )
    client.mute = broken
    cancelled: list[PendingRequest] = []
    begun: list[PendingRequest] = []
    for fate, timeout, number in plan:
        service = services[number]
        asked_before = len(service.asked)
        request = client.ask(f"to.service{'AB'[number]}", fate, timeout)
        begun.append(request)
        if fate == "cancel":
            client.session.cancel(request)
            # Where its error has come already, there was nothing left to cancel.
            if not client.outcomes[request]:
                cancelled.append(request)
        elif fate == "leave" and service in world.peers:
            service.lose()
        elif fate in ("late", "twice") and len(service.asked) > asked_before:
            if fate == "late":
                world.pass_time(timeout / 1000)
            for _ in range(2):
                service.respond(service.asked[-1], fate)
            world.settle()
        if pauses:
            world.pass_time(pauses.pop() / 1000)
    world.pass_time(10)
    for request in begun:
        assert len(client.outcomes[request]) == (request not in cancelled)
    assert client.session.pending == 0
    assert client.session.next_deadline() is None
    assert world.router.outstanding == 0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "publish", "confirm", "ask", "retry", "flush", "lose", "come back", "time"]
        ),
        st.integers(0, 5),
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(_STEPS)
def test_every_message_arrives_but_what_was_on_its_way_when_a_connection_broke(
    steps: list[tuple[str, int]],
) -> None:
    world = World()
    service, client = world.connect(), world.connect()
    service.subscribe("a.b")
    service.subscribe("a.b", lambda message: message.payload)
    client.slow = True
    published: dict[int, bytes] = {}  # by number, with the message where it is known
    requests: dict[int, tuple[str, PendingRequest]] = {}
    on_their_way: set[int] = set()
    for number, (step, count) in enumerate(steps):
        connected = client in world.peers
        if step == "publish":
            client.publish("a.b", number)
            published[number] = b"publish:a.b:1.0.0\n%d" % number
        elif step == "confirm":
            request = client.confirm("a.b", number, timeout=3_600_000)
            published[number] = request.message
            requests[number] = step, request
        elif step == "retry" or (step == "ask" and connected):
            asked = client.ask("a.b", number, timeout=3_600_000, retry=step == "retry")
            requests[number] = step, asked
        elif step == "flush":
            client.flush(count)
        elif step == "lose" and connected:
            taken = client.link[:count]
            on_their_way |= {n for n, message in published.items() if message in taken}
            client.lose(count)
        elif step == "come back" and not connected:
            client.come_back()
        elif step == "time":
            world.pass_time(count)
    if client not in world.peers:
        client.come_back()
    client.flush()
    arrived = [payload for _, payload in service.delivered]
    assert arrived == [number for number in published if number not in on_their_way]
    seen = {message.payload for message in service.asked}
    for number, (kind, request) in requests.items():
        outcome = client.outcome(request)
        if isinstance(outcome, Message):
            assert outcome.payload == (number if kind != "confirm" else {"status": "success"})
            assert number in (arrived if kind == "confirm" else seen)
        else:
            assert kind != "retry"
            assert isinstance(outcome, ConnectionLost)
            assert outcome.sent or number not in seen | set(arrived)
    assert client.session.pending == 0
    assert (len(client.session.outbox), client.session.outbox.used) == (0, 0)
    assert client.session.next_deadline() is None
    assert client.unmatched == service.unmatched == []
