"""Two machines, the Session and the broker's Router, in memory, under a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_broker import Router, RouterOptions
from mb_broker.registry import Service
from mb_core.errors import (
    ConnectionLost,
    ForbiddenError,
    InvalidRequestError,
    InvalidRequestIdError,
    MalformedMessageError,
    MBError,
    NoRouteFoundError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from mb_core.header import Action
from mb_core.message import Message
from mb_core.session import (
    Event,
    Initialized,
    PeerSilent,
    PendingRequest,
    PublicationsReceived,
    PublicationUnheard,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    SendNow,
    Session,
    SessionState,
    SubscriptionEntry,
    Unmatched,
)

Handler = Callable[[Message], Any]


class Peer:
    """A client: a Session, its connection, and what it was told.

    A consumer is a function that answers, or None; a handler that returns Unanswered leaves its
    request so.  What a `slow` peer sends waits in its Link until `flush`.
    """

    def __init__(self, world: World, margin: float, heartbeat: float | None) -> None:
        self.world = world
        self.session = Session(margin=margin, heartbeat=heartbeat)
        self.service: Service
        self.outcomes: dict[PendingRequest, list[Message | MBError]] = {}
        self.delivered: list[tuple[SubscriptionEntry, Any]] = []
        self.unmatched: list[Unmatched] = []
        self.unroutable: list[PublicationUnheard] = []
        self.asked: list[Message] = []
        self.link: list[bytes] = []
        self.slow = False
        self.mute = False  # nothing that the broker sends arrives
        self.silent = 0  # how often the broker was given up
        self.restoring: set[PendingRequest] = set()
        self.link_up()

    # The connection

    def link_up(self) -> None:
        self.session.link_up()
        self.service = self.world.router.connect(self.world.now)
        self.world.peers.append(self)

    def come_back(self) -> None:
        """Another connection, on which all is restored."""
        self.link_up()
        self.world.settle()
        self.flush()
        assert self.session.state is SessionState.READY

    def lose(self, taken: int = 0) -> None:
        """The connection breaks; of what waits in the Link, the first `taken` are on their way."""
        self.world.peers.remove(self)
        self.world.router.disconnect(self.service, self.world.now)
        unsent, self.link = self.link[taken:], []
        self.restoring.clear()
        self.act(self.session.link_lost(None, unsent))
        self.world.settle()

    def transmit(self, *messages: bytes) -> None:
        if self.slow:
            self.link += messages
        else:
            self.world.router.receive(self.service, list(messages), self.world.now)

    def flush(self, count: int | None = None) -> None:
        """Carry what waits in the Link to the broker, all of it or the first `count`."""
        while self.link:
            batch = len(self.link) if count is None else count
            messages, self.link = self.link[:batch], self.link[batch:]
            self.world.router.receive(self.service, messages, self.world.now)
            self.world.settle()
            if count is not None:
                return

    # What is asked

    def send(self, *messages: bytes | None) -> None:
        """Send what the Session has given; None waits in its outbox."""
        self.transmit(*(message for message in messages if message is not None))
        self.world.settle()

    def begin(self, request: PendingRequest) -> PendingRequest:
        self.outcomes[request] = []
        self.send(request.message if not request.in_outbox else None)
        return request

    def ask(
        self, topic: str, payload: Any = None, timeout: int = 1000, *, retry: bool = False
    ) -> PendingRequest:
        now = self.world.now
        return self.begin(
            self.session.request(topic, payload, now=now, timeout=timeout, retry=retry)
        )

    def confirm(self, topic: str, payload: Any = None, timeout: int = 1000) -> PendingRequest:
        now = self.world.now
        return self.begin(self.session.publish_confirmed(topic, payload, now=now, timeout=timeout))

    def publish(self, topic: str, payload: Any = None) -> None:
        self.send(self.session.publish(topic, payload))

    def register(self, name: str, description: str) -> PendingRequest:
        """Register, and remember it, as a driver does."""
        request = self.session.register(name, description, now=self.world.now, timeout=1000)
        assert self.answer(self.begin(request)) == {"status": "success"}
        self.session.registration = (name, description)
        return request

    def subscribe(
        self, pattern: str, handler: Handler | None = None, priority: float = 1
    ) -> SubscriptionEntry:
        """Subscribe to requests with a handler, to publications without."""
        action = Action.PUBLISH if handler is None else Action.REQUEST
        entry = SubscriptionEntry(pattern, action, priority, handler)
        request = self.begin(self.session.subscribe(entry, now=self.world.now, timeout=1000))
        if not request.in_outbox and not self.slow:
            assert self.answer(request) == {"status": "success"}
        return entry

    def unsubscribe(self, entry: SubscriptionEntry) -> Any:
        """What a driver does: the last of a pattern tells the broker, where there is one."""
        session = self.session
        alone = session.subscriptions.of(entry.action, entry.pattern) == [entry]
        request = None
        if alone and session.state is SessionState.READY:
            request = session.unsubscribe(entry, now=self.world.now, timeout=1000)
        session.remove(entry)
        return self.answer(self.begin(request)) if request is not None else None

    # What came of it

    def outcome(self, request: PendingRequest) -> Message | MBError:
        """What came of it, once and no more."""
        (outcome,) = self.outcomes[request]
        return outcome

    def answer(self, request: PendingRequest) -> Any:
        outcome = self.outcome(request)
        assert isinstance(outcome, Message)
        return outcome.payload

    def act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Initialized):
                asked = self.session.restore(now=self.world.now, timeout=1000)
                self.restoring.update(asked)
                self.transmit(*(request.message for request in asked))
            elif isinstance(event, ResponseReceived):
                self.complete(event.request, event.message)
            elif isinstance(event, RequestFailed):
                self.complete(event.request, event.error)
            elif isinstance(event, PublicationsReceived):
                self.delivered += [
                    (entry, message.payload)
                    for entry in event.subscriptions
                    for message in event.messages
                ]
            elif isinstance(event, RequestsReceived):
                for message in event.messages:
                    self.asked.append(message)
                    result = event.subscription.consumer(message)
                    if result is not Unanswered:
                        self.respond(message, result)
            elif isinstance(event, SendNow):
                self.transmit(event.message)
            elif isinstance(event, PeerSilent):
                self.silent += 1
                self.lose(len(self.link))
            elif isinstance(event, PublicationUnheard):
                self.unroutable.append(event)
            elif isinstance(event, Unmatched):
                self.unmatched.append(event)
        if self.session.state is SessionState.RESTORING and not self.restoring:
            self.act(self.session.restored(self.world.now))

    def complete(self, request: PendingRequest, outcome: Message | MBError) -> None:
        if request in self.restoring:
            assert isinstance(outcome, Message)
            assert outcome.payload == {"status": "success"}
            self.restoring.remove(request)
        else:
            self.outcomes.setdefault(request, []).append(outcome)

    def respond(self, message: Message, payload: Any) -> None:
        self.transmit(self.session.respond(message, payload))


Unanswered = object()


@dataclass
class World:
    """A Router, its clients, and the time."""

    router: Router = field(default_factory=Router)
    now: float = 1000.0
    peers: list[Peer] = field(default_factory=list)  # those that are connected
    everyone: list[Peer] = field(default_factory=list)

    def connect(self, *, margin: float = 1.0, heartbeat: float | None = None) -> Peer:
        peer = Peer(self, margin, heartbeat)
        self.everyone.append(peer)
        self.settle()
        return peer

    def restart(self) -> None:
        """The broker ends with all its connections; another takes its place."""
        peers = list(self.peers)
        for peer in peers:
            peer.lose(len(peer.link))
        self.router = Router(self.router.options)
        for peer in peers:
            peer.come_back()

    def settle(self) -> None:
        """Carry messages to and fro until nobody has more to say."""
        for _ in range(1000):
            if not self.router.take_output():
                return
            for peer in list(self.peers):
                batch = list(peer.service.outbox)
                peer.service.outbox.clear()
                if not peer.mute:
                    peer.act(peer.session.receive(batch))
        pytest.fail("the machines talk without end")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from each deadline to the next."""
        end = self.now + seconds
        while True:
            deadlines = [self.router.next_deadline()]
            deadlines += [peer.session.next_deadline() for peer in self.everyone]
            due = min((when for when in deadlines if when is not None), default=end)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.router.handle_deadline(self.now)
            self.settle()
            for peer in self.everyone:
                peer.act(peer.session.handle_deadline(self.now))
            self.settle()
            if self.now >= end:
                return


@pytest.fixture
def world() -> World:
    """A broker without clients."""
    return World()


def silent(message: Message) -> Any:
    return Unanswered


# Connecting


def test_the_routers_greeting_makes_a_session_ready(world: World) -> None:
    assert world.connect().session.state is SessionState.READY


def test_an_idle_session_answers_heartbeats_and_stays_connected(world: World) -> None:
    peer = world.connect()
    world.pass_time(3600)
    assert world.router.take_dropped() == []
    assert peer.unmatched == []
    assert world.now - peer.service.last_seen <= 30


def test_a_heartbeat_of_the_sessions_own_is_answered_once(world: World) -> None:
    peer = world.connect()
    assert peer.answer(peer.ask("system.heartbeat", {})) == {"status": "success"}
    assert peer.unmatched == []


def test_what_the_session_allows_in_a_registration_the_broker_accepts(world: World) -> None:
    peer = world.connect()
    for name, description in (("n", "d"), ("雪" * 36, "ñ" * 1024)):
        peer.register(name, description)
        (listed,) = peer.answer(peer.ask("system.service.list", {}))["services"]
        assert (listed["name"], listed["description"]) == (name, description)


# Requests


def test_a_request_and_its_response(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("weather.current", lambda message: {"asked": message.payload})
    request = client.ask("Weather.Current", {"city": "Oslo"})
    outcome = client.outcome(request)
    assert isinstance(outcome, Message)
    assert outcome.payload == {"asked": {"city": "Oslo"}}
    assert outcome.topic == "Weather.Current"
    assert (client.session.pending, world.router.outstanding) == (0, 0)
    (message,) = service.asked
    assert message.request_key != request.request_id


def test_a_session_may_answer_itself(world: World) -> None:
    peer = world.connect()
    peer.subscribe("a.b", lambda message: "me")
    assert peer.answer(peer.ask("a.b")) == "me"


def test_many_requests_in_one_batch_find_their_answers(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("double", lambda message: message.payload * 2)
    requests = [
        client.session.request("double", n, now=world.now, timeout=1000) for n in range(200)
    ]
    client.send(*(request.message for request in requests))
    assert [client.answer(request) for request in requests] == [2 * n for n in range(200)]


def test_a_services_error_arrives_as_it_was_sent(world: World) -> None:
    service, client = world.connect(), world.connect()
    sent = ForbiddenError("not you", details={"who": "you"})
    service.subscribe("a.b", lambda message: sent)
    error = client.outcome(client.ask("a.b"))
    assert isinstance(error, ForbiddenError)
    assert (error.message, error.details, error.timestamp) == (
        "not you",
        {"who": "you"},
        sent.timestamp,
    )


def test_an_error_with_huge_details_arrives_without_them(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: ForbiddenError("\x01" * 9000, details="x" * 90_000))
    error = client.outcome(client.ask("a.b"))
    assert isinstance(error, ForbiddenError)
    assert error.message
    assert set(error.message) == {"\x01"}
    assert error.details is None
    assert service.unmatched == []


def test_a_request_that_nobody_answers_fails_at_once(world: World) -> None:
    client = world.connect()
    assert isinstance(client.outcome(client.ask("a.b")), NoRouteFoundError)
    assert client.session.next_deadline() is None


def test_a_request_goes_to_the_highest_priority_among_services_and_within_one(
    world: World,
) -> None:
    low, high, client = world.connect(), world.connect(), world.connect()
    low.subscribe("a.b", lambda message: "low", priority=1)
    high.subscribe("a.b", lambda message: "high, exact", priority=2)
    high.subscribe("a.#", lambda message: "high, pattern", priority=3)
    assert client.answer(client.ask("a.b")) == "high, pattern"
    high.lose()
    assert client.answer(client.ask("a.b")) == "low"


def test_the_brokers_word_on_a_time_limit_comes_before_the_sessions_own(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=2000)
    world.pass_time(1.999)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details == {"targetServiceId": service.service.id}
    world.pass_time(60)
    assert client.outcome(request) is error


def test_a_broker_that_falls_silent_is_waited_for_the_margin_longer(world: World) -> None:
    client = world.connect(margin=0.5)
    client.mute = True
    request = client.ask("a.b", timeout=2000)
    world.pass_time(2.499)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details is None
    assert client.session.pending == 0


def test_a_late_response_harms_nobody_and_its_responder_is_told(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=1000)
    world.pass_time(1)
    service.respond(service.asked[0], "late")
    world.settle()
    assert isinstance(client.outcome(request), RequestTimeoutError)
    assert client.unmatched == []
    (report,) = service.unmatched
    assert isinstance(report.error, InvalidRequestIdError)


def test_a_second_response_reaches_nobody(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: "first")
    request = client.ask("a.b")
    service.respond(service.asked[0], "second")
    world.settle()
    assert client.answer(request) == "first"
    assert client.unmatched == []


def test_the_answer_to_a_cancelled_request_is_unmatched(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b")
    client.session.cancel(request)
    service.respond(service.asked[0], "nobody waits")
    world.settle()
    assert client.outcomes[request] == []
    (unmatched,) = client.unmatched
    assert unmatched.error is None
    assert unmatched.message is not None
    assert unmatched.message.payload == "nobody waits"


def test_a_request_without_an_id_is_not_answered(world: World) -> None:
    service, client = world.connect(), world.connect()
    results = iter(["data", ForbiddenError("not you")])
    service.subscribe("a.b", lambda message: next(results))
    for count in (1, 2):
        client.send(b"request:a.b:1.0.0\n{}")
        assert len(service.asked) == count
        assert client.unmatched == []


# The end of a connection


def test_a_responder_that_disconnects_fails_its_requests_at_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    requests = [client.ask("a.b", timeout=60_000) for _ in range(3)]
    service.lose()
    for request in requests:
        assert isinstance(client.outcome(request), ServiceUnavailableError)
    assert (client.session.pending, world.router.outstanding) == (0, 0)


def test_a_requester_that_disconnects_leaves_nothing_waiting(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b")
    client.lose()
    error = client.outcome(request)
    assert isinstance(error, ConnectionLost)
    assert error.sent
    service.respond(service.asked[0], "nobody is there")
    world.settle()
    assert world.router.outstanding == 0
    assert service.unmatched == []


# From one connection to the next


def known_as(world: World, peer: Peer) -> tuple[str, str]:
    """Name and description of a peer, as others see them."""
    watcher = world.connect()
    services = watcher.answer(watcher.ask("system.service.list", {}))["services"]
    watcher.lose()
    (listed,) = [each for each in services if each["id"] == peer.service.id]
    return listed["name"], listed["description"]


@pytest.mark.parametrize("restarted", [False, True], ids=["reconnected", "broker restarted"])
def test_a_broker_knows_a_peer_again_that_has_come_back(world: World, restarted: bool) -> None:
    peer, client = world.connect(), world.connect()
    peer.register("name", "what it does")
    listens = [peer.subscribe(pattern) for pattern in ("a.b", "A.B", "#")]
    peer.subscribe("c.d", lambda message: "answer", priority=3)
    before = subscriptions_of(peer)
    service_id = peer.service.id
    if restarted:
        world.restart()
    else:
        peer.lose()
        assert isinstance(client.outcome(client.ask("c.d")), NoRouteFoundError)
        peer.come_back()
    assert peer.service.id != service_id
    assert subscriptions_of(peer) == before
    assert known_as(world, peer) == ("name", "what it does")
    assert client.answer(client.ask("c.d")) == "answer"
    client.publish("a.b", "news")
    assert sorted(peer.delivered, key=lambda pair: listens.index(pair[0])) == [
        (entry, "news") for entry in listens
    ]
    assert peer.unmatched == []


def test_priorities_are_restored(world: World) -> None:
    low, high, client = world.connect(), world.connect(), world.connect()
    low.subscribe("a.b", lambda message: "low", priority=1)
    high.subscribe("a.b", lambda message: "high", priority=2)
    high.lose()
    assert client.answer(client.ask("a.b")) == "low"
    high.come_back()
    assert client.answer(client.ask("a.b")) == "high"


def test_what_was_subscribed_while_lost_is_in_force_after_it(world: World) -> None:
    peer, client = world.connect(), world.connect()
    peer.lose()
    entry = peer.subscribe("a.#")
    gone = peer.subscribe("b.#")
    peer.unsubscribe(gone)
    peer.come_back()
    assert subscriptions_of(peer) == [("publish", "a.#")]
    client.publish("a.b", 1)
    assert peer.delivered == [(entry, 1)]


def test_a_broker_does_not_know_what_was_unsubscribed_while_it_was_told(world: World) -> None:
    peer, client = world.connect(), world.connect()
    other = world.connect()
    entry = peer.subscribe("a.b", lambda message: "gone", priority=2)
    other.subscribe("a.b", lambda message: "here", priority=1)
    peer.lose()
    peer.slow = True
    peer.link_up()
    world.settle()
    assert peer.restoring
    peer.unsubscribe(entry)
    peer.slow = False
    peer.flush()
    assert peer.session.state is SessionState.READY
    assert subscriptions_of(peer) == []
    assert client.answer(client.ask("a.b")) == "here"


def test_a_request_with_retry_that_was_never_sent_is_answered_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", lambda message: message.payload)
    client.slow = True
    unsent = client.ask("a.b", 1, timeout=10_000, retry=True)
    client.lose()
    held = client.ask("a.b", 2, timeout=10_000, retry=True)
    world.pass_time(5)
    client.come_back()
    assert (client.answer(unsent), client.answer(held)) == (1, 2)
    assert [message.payload for message in service.asked] == [1, 2]


def test_the_broker_waits_no_longer_for_a_request_that_was_sent_again(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=10_000, retry=True)
    world.pass_time(3)
    client.lose()
    world.pass_time(3)
    client.come_back()
    world.pass_time(3.999)
    assert client.outcomes[request] == []
    world.pass_time(0.001)
    error = client.outcome(request)
    assert isinstance(error, RequestTimeoutError)
    assert error.details == {"targetServiceId": service.service.id}


def test_a_request_with_retry_whose_answer_was_lost_is_asked_again(world: World) -> None:
    service, client = world.connect(), world.connect()
    service.subscribe("a.b", silent)
    request = client.ask("a.b", timeout=10_000, retry=True)
    client.lose()
    assert client.outcomes[request] == []
    client.come_back()
    first, second = service.asked
    service.respond(first, "to nobody")
    service.respond(second, "answer")
    world.settle()
    assert client.answer(request) == "answer"
    assert client.unmatched == []


def test_requests_that_wait_too_long_for_a_connection_fail(world: World) -> None:
    client = world.connect(margin=5.0)
    client.lose()
    request = client.ask("a.b", timeout=1000, retry=True)
    confirmed = client.confirm("a.b", timeout=1000)
    world.pass_time(0.999)
    assert client.outcomes[request] == client.outcomes[confirmed] == []
    world.pass_time(0.001)
    for each in (request, confirmed):
        error = client.outcome(each)
        assert isinstance(error, ConnectionLost)
        assert not error.sent


def test_publications_made_while_lost_arrive_in_order_and_once(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("a.b")
    client.slow = True
    for number in range(4):
        client.publish("a.b", number)
    client.flush(2)
    client.lose()
    for number in (4, 5):
        client.publish("a.b", number)
    request = client.confirm("a.b", 6)
    client.come_back()
    client.slow = False
    client.publish("a.b", 7)
    assert [payload for _, payload in listener.delivered] == list(range(8))
    assert client.answer(request) == {"status": "success"}


def test_what_was_on_its_way_is_lost_and_nothing_else(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("a.b")
    client.slow = True
    for number in range(6):
        client.publish("a.b", number)
    client.flush(2)
    client.lose(taken=2)
    client.come_back()
    assert [payload for _, payload in listener.delivered] == [0, 1, 4, 5]


# Signs of life


def test_a_broker_that_is_there_is_never_given_up(world: World) -> None:
    peer = world.connect(heartbeat=5.0)
    world.pass_time(3600)
    assert peer.silent == 0
    assert peer.session.state is SessionState.READY
    assert world.router.take_dropped() == []


def test_a_broker_that_is_gone_without_a_word_is_given_up_within_three_intervals(
    world: World,
) -> None:
    peer = world.connect(heartbeat=5.0)
    service = world.connect()
    service.subscribe("a.b", silent)
    world.pass_time(7)
    request = peer.ask("a.b", timeout=60_000)
    peer.mute = True
    world.pass_time(14.9)
    assert peer.silent == 1
    error = peer.outcome(request)
    assert isinstance(error, ConnectionLost)
    assert error.sent
    peer.mute = False
    peer.come_back()
    world.pass_time(60)
    assert peer.silent == 1


# Publications


def test_a_publication_reaches_every_subscription_once(world: World) -> None:
    peers = [world.connect() for _ in range(3)]
    entries = [
        [peer.subscribe(pattern) for pattern in ("a.b", "a.+", "a.b", "#")] for peer in peers
    ]
    peers[0].send(peers[0].session.publish("a.b", 1), peers[0].session.publish("A.B", 2))
    for peer, own in zip(peers, entries, strict=True):
        for entry in own:
            assert [payload for to, payload in peer.delivered if to is entry] == [1, 2]


def test_a_confirmed_publication_succeeds_where_somebody_listens(world: World) -> None:
    listener, client = world.connect(), world.connect()
    entry = listener.subscribe("a.#")
    assert client.answer(client.confirm("a.b", "news")) == {"status": "success"}
    assert listener.delivered == [(entry, "news")]


def test_a_publication_without_listeners_is_an_error_where_it_is_confirmed_and_a_report_where_not(
    world: World,
) -> None:
    client = world.connect()
    assert isinstance(client.outcome(client.confirm("a.b")), NoRouteFoundError)
    assert client.unroutable == []
    client.publish("A.b", {})
    (unroutable,) = client.unroutable
    assert unroutable.topic == "A.b"
    assert unroutable.error.details == {"topic": "A.b"}
    assert client.unmatched == []


def test_the_order_of_publications_is_kept_over_topics(world: World) -> None:
    listener, client = world.connect(), world.connect()
    listener.subscribe("#")
    topics = ["a", "b", "A", "a", "c.d", "b"]
    client.send(*(client.session.publish(topic, n) for n, topic in enumerate(topics)))
    assert [payload for _, payload in listener.delivered] == list(range(len(topics)))


# Subscriptions


def subscriptions_of(peer: Peer) -> list[tuple[str, str]]:
    """What the broker knows."""
    listed = peer.answer(peer.ask("system.service.subscriptions", {}))["subscriptions"]
    return [(each["action"], each["topic"]) for each in listed]


def test_publications_and_requests_of_a_topic_are_two_subscriptions_of_the_broker_too(
    world: World,
) -> None:
    peer = world.connect()
    listens = peer.subscribe("a.b")
    responds = peer.subscribe("a.b", lambda message: "answer")
    assert subscriptions_of(peer) == [("publish", "a.b"), ("request", "a.b")]
    assert peer.unsubscribe(listens) == {"status": "success"}
    assert subscriptions_of(peer) == [("request", "a.b")]
    assert peer.answer(peer.ask("a.b")) == "answer"
    assert isinstance(peer.outcome(peer.confirm("a.b")), NoRouteFoundError)
    assert peer.unsubscribe(responds) == {"status": "success"}
    assert subscriptions_of(peer) == []


def test_the_last_subscription_of_a_pattern_ends_it_at_the_broker(world: World) -> None:
    peer = world.connect()
    first, second = peer.subscribe("a.b"), peer.subscribe("A.b")
    assert subscriptions_of(peer) == [("publish", "a.b")]
    assert peer.unsubscribe(first) is None
    peer.confirm("a.b", 1)
    assert peer.delivered == [(second, 1)]
    assert peer.unsubscribe(second) == {"status": "success"}
    assert subscriptions_of(peer) == []
    assert isinstance(peer.outcome(peer.confirm("a.b")), NoRouteFoundError)


def test_a_request_that_crosses_unsubscribing_is_unavailable_at_once(world: World) -> None:
    service, client = world.connect(), world.connect()
    entry = service.subscribe("a.b", lambda message: "never")
    request = client.session.request("a.b", {}, now=world.now, timeout=60_000)
    # In the broker's outbox for the service while that unsubscribes.
    world.router.receive(client.service, [request.message], world.now)
    assert service.unsubscribe(entry) == {"status": "success"}
    assert isinstance(client.outcome(request), ServiceUnavailableError)
    assert service.asked == []


def test_a_subscription_that_the_broker_refuses_is_failed(world: World) -> None:
    peer = world.connect()
    entry = SubscriptionEntry("system.metrics", Action.PUBLISH, 1, None)
    request = peer.begin(peer.session.subscribe(entry, now=world.now, timeout=1000))
    assert isinstance(peer.outcome(request), InvalidRequestError)


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
