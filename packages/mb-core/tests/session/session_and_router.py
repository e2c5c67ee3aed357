"""A Session and a Router in memory, wired together, under their own clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mb_broker import Router
from mb_broker.registry import Service
from mb_core.errors import (
    MBError,
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
    """A client: a Session, its connection, and its events.

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


def subscriptions_of(peer: Peer) -> list[tuple[str, str]]:
    """What the broker knows."""
    listed = peer.answer(peer.ask("system.service.subscriptions", {}))["subscriptions"]
    return [(each["action"], each["topic"]) for each in listed]
