"""Rates, latencies and errors of each topic and service in the last minute.

A service's latency is the time from event 2 to 3 of an exchange, a topic's from 1 to 4 (see
`exchanges`). An error is counted once: when a service answers with it, or when the broker reports
it. If events are missing from the feed, so are their figures.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from mb_core import ResponseError, matches

from ..audit import AuditEvent, error_of
from ..exchanges import Exchange, Exchanges, Outcome, Step
from .time_window import Window

__all__ = ["ErrorRow", "TopicKey", "Traffic"]

# The most topics or services, ids of open exchanges, and errors that are kept.
_MAX_SERIES = 1_000
_MAX_IDS = 40_000
_MAX_ERRORS = 200
_MAX_TEXT = 500


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

TopicKey = tuple[str, str]
"""An action, and a topic or a pattern in lower case."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """An error that a client received as the answer.

    `who` is the service that answered with it or did not answer or, if the broker refused a
    message, its sender: by id, or by name. `number` identifies the error.
    """

    number: int
    time: datetime
    topic: str
    code: str
    message: str
    who: str

    @property
    def id(self) -> str:
        return str(self.number)


@dataclass(eq=False, slots=True)
class _Topic:
    """The traffic of one topic; `wild` are the windows of wildcard patterns that match it."""

    window: Window = field(default_factory=Window)
    wild: tuple[Window, ...] = ()
    generation: int = -1


class Traffic:
    """Sums up the exchanges of an audit feed; `now` is a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.errors: deque[ErrorRow] = deque(maxlen=_MAX_ERRORS)
        self._exchanges = Exchanges()
        self._topics: OrderedDict[TopicKey, _Topic] = OrderedDict()
        self._patterns: dict[TopicKey, Window] = {}
        self._generation = 0
        self._services: OrderedDict[str, Window] = OrderedDict()
        self._number = 0

    def topic(self, key: TopicKey) -> Window | None:
        """Return the traffic of a topic, or the sum for all topics that a wildcard pattern
        matches."""
        if key in self._patterns:
            return self._patterns[key]
        topic = self._topics.get(key)
        return topic.window if topic is not None else None

    def topics(self, now: float) -> list[TopicKey]:
        """Return the topics with traffic in the last minute."""
        return [key for key, topic in self._topics.items() if not topic.window.is_idle(now)]

    def service(self, service_id: str) -> Window | None:
        """Return the window of a service's answers."""
        return self._services.get(service_id)

    def count_service_errors(self, service_id: str, count: int, now: float) -> None:
        """Add errors that are known from other sources than the feed."""
        self._service(service_id).add(now, "error", count)

    def set_patterns(self, keys: Iterable[TopicKey]) -> None:
        """Set the wildcard patterns with subscribers, whose traffic is summed."""
        keys = set(keys)
        if keys != self._patterns.keys():
            self._patterns = {key: self._patterns.get(key, Window()) for key in keys}
            self._generation += 1

    def forget_open(self) -> None:
        """Forget open exchanges, because the feed has ended."""
        self._exchanges.clear()

    def take(self, event: AuditEvent, now: float) -> None:
        """Take the next event of the feed."""
        step, exchange = self._exchanges.take(event)
        while len(self._exchanges) > _MAX_IDS:
            self._exchanges.forget(self._exchanges.oldest())
        if exchange is None:
            error = error_of(event) if step is Step.RETURNED else None
            if error is not None and event.to is not None:
                self._add_error(event, error, event.to)
        elif step is Step.SENT:
            for window in self._windows(exchange):
                window.add(now, "message")
        elif step is Step.PASSED_ON:
            if exchange.action == "publish":  # delivered: no more events follow
                self._exchanges.forget(exchange)
        elif step is Step.RESPONDED:
            self._responded(exchange, event, now)
        else:
            self._returned(exchange, event, now)

    def _responded(self, exchange: Exchange, event: AuditEvent, now: float) -> None:
        assert exchange.passed_on is not None
        service = self._service(exchange.receivers[0])
        service.add(now, "message")
        service.add_latency(now, _milliseconds(event.seconds - exchange.passed_on))
        if exchange.error is not None:
            self._fail(exchange, event, exchange.error, now)
        if exchange.began is None:
            self._exchanges.forget(exchange)  # its sender is not known

    def _returned(self, exchange: Exchange, event: AuditEvent, now: float) -> None:
        if exchange.responded is not None:
            if exchange.began is not None:
                for window in self._windows(exchange):
                    window.add_latency(now, _milliseconds(event.seconds - exchange.began))
        elif exchange.outcome is Outcome.UNHEARD:
            for window in self._windows(exchange):
                window.add(now, "unheard")
        elif exchange.error is not None:
            self._fail(exchange, event, exchange.error, now)
        self._exchanges.forget(exchange)

    def _fail(
        self, exchange: Exchange, event: AuditEvent, error: ResponseError, now: float
    ) -> None:
        for window in self._windows(exchange):
            window.add(now, "error")
        for service_id in exchange.receivers:
            self._service(service_id).add(now, "error")
        self._add_error(event, error, (exchange.receivers or [exchange.sender])[0])

    def _add_error(self, event: AuditEvent, error: ResponseError, who: str) -> None:
        self._number += 1
        topic = event.message.header.topic
        message = error.message[:_MAX_TEXT]
        self.errors.append(ErrorRow(self._number, event.timestamp, topic, error.code, message, who))

    def _windows(self, exchange: Exchange) -> tuple[Window, ...]:
        key = (exchange.action, exchange.topic.lower())
        topic = self._topics.get(key)
        if topic is None:
            topic = _put(self._topics, key, _Topic())
        else:
            self._topics.move_to_end(key)
        if topic.generation != self._generation:
            topic.generation = self._generation
            topic.wild = tuple(
                window
                for (action, pattern), window in self._patterns.items()
                if action == exchange.action and matches(pattern, key[1])
            )
        return (topic.window, *topic.wild)

    def _service(self, service_id: str) -> Window:
        window = self._services.get(service_id)
        if window is None:
            return _put(self._services, service_id, Window())
        self._services.move_to_end(service_id)
        return window


def _milliseconds(seconds: float) -> int:
    """Return a duration in whole milliseconds, the resolution of the broker's clock."""
    return round(seconds * 1000)


def _put(mapping: OrderedDict[K, V], key: K, value: V) -> V:
    """Add the newest entry; beyond the limit, drop the least recently used one."""
    mapping[key] = value
    if len(mapping) > _MAX_SERIES:
        mapping.popitem(last=False)
    return value
