"""What the audit feed shows: how busy and how fast each service is, and what went wrong.

The feed shows each message twice: as it came from a client, and as the broker sent it on.  So a
request makes four events, which are put together here by their ids:

    1  from the requester, under its id            asked
    2  to the responder, under the broker's id     passed on    maskedId is the id of 1
    3  from the responder, under the broker's id   answered     the responder's latency: 3 - 2
    4  to the requester, under its id              delivered    the topic's latency: 4 - 1

An error is counted once: where a service answers with it, or where the broker reports it.  That
nobody is subscribed to a publication is not an error; those are counted apart.
Whatever is missing (the feed began in between, events were skipped) is left out of the figures.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from mb_client import ResponseError, matches

from ..audit import AuditEvent, error_of, is_unheard
from .window import Window

__all__ = ["Failure", "Traffic"]

# What is remembered, at most: topics or services; requests without an answer; errors.
_MAX_SERIES = 1_000
_MAX_OPEN = 20_000
_MAX_FAILURES = 200
_MAX_TEXT = 500

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TopicKey = tuple[str, str]
"""An action, and a topic or a pattern in lower case."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that somebody was answered with.

    `who` is the id of the service that answered with it, or that did not answer; where the
    broker refused a message, the id of its sender.  `number` tells one failure from the other.
    """

    number: int
    time: datetime
    topic: str
    code: str
    message: str
    who: str


@dataclass(eq=False, slots=True)
class _Topic:
    """One topic's traffic; `wild` are the windows of the wildcard patterns that match it."""

    key: TopicKey
    window: Window = field(default_factory=Window)
    wild: tuple[Window, ...] = ()
    generation: int = -1


@dataclass(eq=False, slots=True)
class _Exchange:
    """A message of a client's, and what became of it; times in the broker's milliseconds."""

    action: str
    topic: str
    windows: tuple[Window, ...]
    requester_id: str | None
    asked: int | None = None
    broker_id: str | None = None
    responder: str | None = None
    passed_on: int = 0
    answered: bool = False
    failed: bool = False


class Traffic:
    """Puts the events of an audit feed together; `now` is the caller's monotonic clock."""

    def __init__(self) -> None:
        self.failures: deque[Failure] = deque(maxlen=_MAX_FAILURES)
        self._topics: OrderedDict[TopicKey, _Topic] = OrderedDict()
        self._patterns: dict[TopicKey, Window] = {}
        self._generation = 0
        self._services: OrderedDict[str, Window] = OrderedDict()
        self._by_requester_id: OrderedDict[str, _Exchange] = OrderedDict()
        self._by_broker_id: OrderedDict[str, _Exchange] = OrderedDict()
        # The message whose consequences come next in the feed.
        self._latest: _Exchange | None = None
        self._number = 0

    # What was seen

    def topic(self, key: TopicKey) -> Window | None:
        """The traffic of a topic, or of all topics that a wildcard pattern matches."""
        if key in self._patterns:
            return self._patterns[key]
        topic = self._topics.get(key)
        return topic.window if topic is not None else None

    def topics(self, now: float) -> list[TopicKey]:
        """The topics that had traffic lately."""
        return [key for key, topic in self._topics.items() if not topic.window.is_idle(now)]

    def service(self, service_id: str) -> Window | None:
        """The answers of a service."""
        return self._services.get(service_id)

    def count_service_errors(self, service_id: str, count: int, now: float) -> None:
        """Add errors that did not come from the feed."""
        self._service(service_id).error(now, count)

    # What comes

    def set_patterns(self, keys: Iterable[TopicKey]) -> None:
        """The wildcard patterns that somebody subscribed to, whose traffic is to be summed."""
        keys = set(keys)
        if keys != self._patterns.keys():
            self._patterns = {key: self._patterns.get(key, Window()) for key in keys}
            self._generation += 1

    def forget_open(self) -> None:
        """The feed has ended: what was under way is not followed any more."""
        self._by_requester_id.clear()
        self._by_broker_id.clear()
        self._latest = None

    def take(self, event: AuditEvent, now: float) -> None:
        """Take one event of the feed, in order."""
        header = event.message.header
        action = header.action.lower()
        if event.sender is not None:
            if action == "response":
                self._answered(event, event.sender, now)
            else:
                self._asked(event, action, now)
        elif event.to is not None:
            if action == "response":
                self._delivered(event, event.to, now)
            elif action == "request":
                self._passed_on(event, event.to, now)

    def _asked(self, event: AuditEvent, action: str, now: float) -> None:
        header = event.message.header
        self._latest = None
        if header.topic[:7].lower() == "system.":
            return  # the broker's own: clients that register, subscribe, are alive
        windows = self._windows(action, header.topic)
        for window in windows:
            window.count(now)
        exchange = self._latest = _Exchange(
            action, header.topic, windows, header.request_id, _milliseconds(event)
        )
        if header.request_id is not None:
            _put(self._by_requester_id, header.request_id, exchange, _MAX_OPEN)

    def _passed_on(self, event: AuditEvent, responder: str, now: float) -> None:
        header = event.message.header
        if header.request_id is None:
            return  # a heartbeat, which no request belongs to
        if event.masked_id is not None:
            exchange = self._by_requester_id.get(event.masked_id)
        else:
            exchange = self._latest
        if exchange is None:
            windows = self._windows("request", header.topic)
            exchange = _Exchange("request", header.topic, windows, event.masked_id)
        exchange.broker_id = header.request_id
        exchange.responder = responder
        exchange.passed_on = _milliseconds(event)
        _put(self._by_broker_id, header.request_id, exchange, _MAX_OPEN)

    def _answered(self, event: AuditEvent, responder: str, now: float) -> None:
        exchange = self._latest = self._by_broker_id.pop(
            event.message.header.request_id or "", None
        )
        if exchange is None:
            return  # a sign of life; or too late, which the broker is about to say
        exchange.answered = True
        service = self._service(responder)
        service.count(now)
        service.latency(now, _milliseconds(event) - exchange.passed_on)
        error = error_of(event)
        if error is not None:
            self._fail(event, exchange, error, responder, now)

    def _delivered(self, event: AuditEvent, requester: str, now: float) -> None:
        header = event.message.header
        exchange = self._by_requester_id.pop(header.request_id or "", None)
        latest, self._latest = self._latest, None
        if exchange is None and latest is not None and latest.topic == header.topic:
            exchange = latest  # it had no id: the broker answers under one of its own
        if exchange is not None and exchange.answered:
            if exchange.asked is not None:
                for window in exchange.windows:
                    window.latency(now, _milliseconds(event) - exchange.asked)
            if exchange.failed:
                return
        error = error_of(event)
        if error is None:
            return
        if exchange is None:
            exchange = _Exchange("", header.topic, (), None)
        if exchange.broker_id is not None:
            self._by_broker_id.pop(exchange.broker_id, None)
        if is_unheard(exchange.action, error):
            for window in exchange.windows:
                window.add_unheard(now)
            return
        self._fail(event, exchange, error, exchange.responder or requester, now)

    # Within

    def _fail(
        self, event: AuditEvent, exchange: _Exchange, error: ResponseError, who: str, now: float
    ) -> None:
        exchange.failed = True
        for window in exchange.windows:
            window.error(now)
        if exchange.responder is not None:
            self._service(exchange.responder).error(now)
        self._number += 1
        message = error.message[:_MAX_TEXT]
        self.failures.append(
            Failure(self._number, event.timestamp, exchange.topic, error.code, message, who)
        )

    def _windows(self, action: str, name: str) -> tuple[Window, ...]:
        key = (action, name.lower())
        topic = self._topics.get(key)
        if topic is None:
            topic = _put(self._topics, key, _Topic(key), _MAX_SERIES)
        else:
            self._topics.move_to_end(key)
        if topic.generation != self._generation:
            topic.generation = self._generation
            topic.wild = tuple(
                window
                for (other, pattern), window in self._patterns.items()
                if other == action and matches(pattern, key[1])
            )
        return (topic.window, *topic.wild)

    def _service(self, service_id: str) -> Window:
        window = self._services.get(service_id)
        if window is None:
            return _put(self._services, service_id, Window(), _MAX_SERIES)
        self._services.move_to_end(service_id)
        return window


def _milliseconds(event: AuditEvent) -> int:
    """The broker's clock, which is what latencies are measured with."""
    return round(event.seconds * 1000)


def _put(mapping: OrderedDict[K, V], key: K, value: V, most: int) -> V:
    """File `value` as the newest; of more than `most`, the one that was used longest ago goes."""
    mapping[key] = value
    if len(mapping) > most:
        mapping.popitem(last=False)
    return value
