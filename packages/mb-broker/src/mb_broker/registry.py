"""The connected clients and their subscriptions: the Router's tables."""

from __future__ import annotations

import itertools
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.header import Action
from mb_core.topic import TopicTable

from .access import ANYBODY, Grants, User
from .counter import Counter
from .rate_limit import Allowance, RateLimit

__all__ = ["AUDIT_TOPIC", "Registry", "Service", "Subscription", "is_system"]

AUDIT_TOPIC = "system.message"


@dataclass(eq=False, slots=True)
class Subscription:
    """A service's subscription; `priority` is None for publications."""

    service: Service
    action: Action
    pattern: str
    priority: float | None

    @property
    def rank(self) -> float:
        return self.priority if self.priority is not None else 0


@dataclass(eq=False, slots=True)
class Service:
    """A connected client, as the `Router` knows it.

    Times are on the clock of the Router's driver.

    Attributes:
        connected_at: When it connected.
        number: Grows with each client that connects.
        link: For the driver: the client's connection.
        id: Its id, a UUID.
        name: The name under which it registered; empty if it did not.
        description: Its description.
        last_seen: When it last sent anything.
        moved_at: When its connection last made progress without a message.
        progress: The progress of its connection when the Router last checked.
        outbox: Messages to send to it.
        subscriptions: What it is subscribed to.
        asked: Requests of this client that wait for their answer.
        answering: Requests that this client has to answer.
        errors: Counts the errors sent to it in answers.
        wants_timeouts: Whether the requests that it gets include their time limit, which a client
            asks for in a heartbeat.
        user: Who it has authenticated as.
        credentials: What says that it is this user.
        rate_limit: Limits its messages; None if they are not limited.
        grants: What it may do.
        read: For the Router: reads headers, and remembers the routes that these grants allow.
        wrong_tokens: How many tokens of no user it has sent.
    """

    connected_at: float
    number: int = 0
    link: Any = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = ""
    description: str = ""
    last_seen: float = 0.0
    moved_at: float = 0.0
    progress: int = 0
    outbox: list[bytes] = field(default_factory=list)
    subscriptions: dict[tuple[Action, str], Subscription] = field(default_factory=dict)
    # Not a dict, which has to skip removed items to find the first one.
    asked: OrderedDict[Any, None] = field(default_factory=OrderedDict)
    answering: dict[Any, None] = field(default_factory=dict)
    errors: Counter = field(default_factory=Counter)
    wants_timeouts: bool = False
    user: User | None = None
    credentials: Credentials = NO_CREDENTIALS
    rate_limit: RateLimit | Allowance | None = None
    grants: Grants = ANYBODY
    read: Any = None
    wrong_tokens: int = 0


class Registry:
    """Services by id, and their subscriptions by topic.

    `generation` changes with every subscription, so that routes can be cached. `auditors` are the
    services that follow the feed `system.message`. `changed` is called with each subscription that
    is added or removed or gets another priority. `total` is the number of subscriptions.
    """

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.changed: Callable[[Subscription], object] = lambda subscription: None
        self._numbers = itertools.count(1)
        self._tables: dict[Action, TopicTable[Subscription]] = {
            Action.PUBLISH: TopicTable(),
            Action.REQUEST: TopicTable(),
        }
        self.auditors: tuple[Service, ...] = ()
        self.generation = 0
        self.total = 0

    def add(self, service: Service) -> None:
        service.number = next(self._numbers)
        self.services[service.id] = service

    def remove(self, service: Service) -> None:
        del self.services[service.id]
        subscriptions = list(service.subscriptions.values())
        service.subscriptions.clear()
        self.total -= len(subscriptions)
        for subscription in subscriptions:
            self._tables[subscription.action].remove(subscription.pattern, subscription)
            self.changed(subscription)
        if subscriptions:
            self._reroute()

    def subscribe(
        self, service: Service, action: Action, pattern: str, priority: float | None
    ) -> None:
        """Subscribe; subscribing again replaces the priority."""
        key = (action, pattern.lower())
        known = service.subscriptions.get(key)
        if known is not None:
            known.priority = priority
        else:
            known = Subscription(service, action, key[1], priority)
            service.subscriptions[key] = known
            self.total += 1
            self._tables[action].add(key[1], known)
        self.changed(known)
        self._reroute()

    def unsubscribe(self, service: Service, action: Action, pattern: str) -> bool:
        """Unsubscribe; return False if there was no such subscription."""
        subscription = service.subscriptions.pop((action, pattern.lower()), None)
        if subscription is None:
            return False
        self.total -= 1
        self._tables[action].remove(subscription.pattern, subscription)
        self.changed(subscription)
        self._reroute()
        return True

    def receivers(self, topic: str) -> tuple[Service, ...]:
        """Return the receivers of a publication; each service once, even if several patterns
        match."""
        found = self._tables[Action.PUBLISH].match(topic)
        return tuple(dict.fromkeys(subscription.service for subscription in found))

    def responders(self, topic: str) -> tuple[Service, ...]:
        """Return the candidates for a request: those with the highest priority."""
        found = list(self._tables[Action.REQUEST].match(topic))
        top = max((subscription.rank for subscription in found), default=0)
        return tuple(dict.fromkeys(entry.service for entry in found if entry.rank == top))

    def subscriptions(self) -> Iterator[Subscription]:
        """Yield all subscriptions in no particular order."""
        for service in self.services.values():
            yield from service.subscriptions.values()

    def subscribers(self, action: Action, pattern: str) -> list[Subscription]:
        """Return the subscriptions to exactly this pattern, highest priority first."""
        found = self._tables[action].filed(pattern)
        return sorted(found, key=lambda entry: (-entry.rank, entry.service.number))

    def _reroute(self) -> None:
        self.generation += 1
        self.auditors = self.receivers(AUDIT_TOPIC)


def is_system(topic: str) -> bool:
    """Return whether a topic, in lower case, is the broker's own."""
    return topic.startswith("system.")
