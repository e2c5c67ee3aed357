"""What is known about a broker. No I/O: answers, events and the time go in, rows come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from mb_client import matches

from ..audit import read_event
from .time_window import Window
from .traffic import ErrorRow, TopicKey, Traffic

__all__ = [
    "FEED",
    "METRICS",
    "POLLED",
    "SERVICES",
    "SUBSCRIPTIONS",
    "Audit",
    "Head",
    "Model",
    "Rate",
    "ServiceRow",
    "TopicRow",
]

METRICS = "system.metrics"
SERVICES = "system.service.list"
SUBSCRIPTIONS = "system.topic.subscriptions"
FEED = "system.message"

POLLED = (METRICS, SERVICES, SUBSCRIPTIONS)
"""The system topics whose answers the model uses."""

# The totals on the screen, and the names of their metrics.
_TOTALS = {
    "messages": "router.message.rate",
    "publish": "router.publish.rate",
    "request": "router.request.rate",
}
_ERROR_RATE = "registry.service.{{serviceid:{}}}.error.rate"

# How many past values of a total are kept for its sparkline.
_HISTORY = 120


class Audit(Enum):
    """The audit feed: off, on, or refused by the broker."""

    OFF = "off"
    ON = "on"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Rate:
    """One of the broker's totals, per second, and its history; `now` is None if unknown."""

    name: str
    now: float | None
    past: Sequence[float]


@dataclass(frozen=True, slots=True)
class Head:
    """The broker as a whole; None means unknown.

    `uptime` in seconds, `cpu` as a share (0..1) of a core, `memory` in bytes.
    """

    uptime: float | None
    connections: float | None
    cpu: float | None
    memory: float | None
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A connected client; `topics` are those it answers, `user` is who it has authenticated as.

    Answers per second, latencies in milliseconds, errors of the last minute: None if unknown.
    """

    id: str
    name: str
    user: str
    description: str
    topics: tuple[str, ...]
    rate: float | None
    p50: int | None
    p99: int | None
    errors: int | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic with traffic, or a pattern with subscribers; latencies of requests.

    `subscribers` are ids of services; `unheard` counts the publications of the last minute that
    reached nobody.
    """

    action: str
    topic: str
    subscribers: tuple[str, ...]
    rate: float | None
    p50: int | None
    p99: int | None
    errors: int | None
    unheard: int | None

    @property
    def id(self) -> str:
        return f"{self.action}:{self.topic}"

    @property
    def subscriber_count(self) -> int:
        return len(self.subscribers)


class Model:
    """Processes a broker's answers and its audit feed; `now` is a monotonic clock, in seconds.

    Works with any broker: values that do not have the expected form are left out.
    """

    def __init__(self) -> None:
        self.trouble = "not connected yet"
        """Why there is no connection; empty if there is one."""
        self.missing: dict[str, str] = {}
        """The system topics that the broker does not answer, with the reasons."""
        self.audit = Audit.OFF
        self.heard = 0
        """Audit messages received so far."""
        self.skipped = 0
        """Audit messages that were skipped because they arrived too fast."""
        self.unreadable = 0
        """Audit messages that are not valid JSON."""
        self._traffic = Traffic()
        self._metrics: dict[str, float] = {}
        self._past: dict[str, deque[float]] = {name: deque(maxlen=_HISTORY) for name in _TOTALS}
        self._services: dict[str, dict[str, Any]] = {}
        self._subscribers: dict[TopicKey, tuple[str, ...]] = {}
        # Derived from the subscriptions; valid until they change.
        self._answered: dict[str, list[str]] = {}
        self._listeners: dict[TopicKey, tuple[str, ...]] = {}

    # The connection

    def up(self) -> None:
        """Record that there is a connection, and that nothing is missing so far."""
        self.trouble = ""
        self.missing.clear()

    def down(self, trouble: str) -> None:
        """Record that there is no connection, and why; keep the last known figures."""
        self.trouble = trouble
        self._traffic.forget_open()

    def refused(self, topic: str, reason: str) -> None:
        """Record why the broker does not answer this system topic, or refuses the feed."""
        self.missing[topic] = reason
        if topic == FEED:
            self.audit = Audit.REFUSED
        elif topic == METRICS:
            self._metrics = {}

    def set_audit(self, audit: Audit) -> None:
        """Record that the audit feed begins or ends."""
        self.audit = audit
        self.missing.pop(FEED, None)
        self._traffic.forget_open()

    # Input from the broker

    def take(self, topic: str, answer: Any, now: float) -> None:
        """Process the answer to a request to one of POLLED."""
        self.missing.pop(topic, None)
        answer = answer if isinstance(answer, dict) else {}
        if topic == METRICS:
            self._take_metrics(answer, now)
        elif topic == SERVICES:
            services = _objects(answer.get("services"))
            self._services = {each["id"]: each for each in services if _text(each.get("id"))}
        else:
            self._take_subscriptions(answer)

    def take_event(self, raw: bytes, now: float) -> None:
        """Process the payload of a message of the audit feed."""
        self.heard += 1
        if self.audit is Audit.REFUSED:
            self.set_audit(Audit.ON)  # it is no longer silent
        event = read_event(raw)
        if event is None:
            self.unreadable += 1
        else:
            self._traffic.take(event, now)

    def _take_metrics(self, answer: dict[str, Any], now: float) -> None:
        self._metrics = dict(_numbers(answer.get("metrics")))
        for name, past in self._past.items():
            value = self._metrics.get(_TOTALS[name])
            if value is not None:
                past.append(value)
        if self.audit is not Audit.ON:
            # The feed shows each error; without it, show their rate.
            for service_id in self._services:
                rate = self._metrics.get(_ERROR_RATE.format(service_id), 0.0)
                if round(rate):
                    self._traffic.count_service_errors(service_id, round(rate), now)

    def _take_subscriptions(self, answer: dict[str, Any]) -> None:
        subscribers: dict[TopicKey, tuple[str, ...]] = {}
        for entry in _objects(answer.get("subscriptions")):
            ids = (_text(each.get("serviceId")) for each in _objects(entry.get("subscribers")))
            key = _text(entry.get("action")), _text(entry.get("topic")).lower()
            subscribers[key] = tuple(filter(None, ids))
        if subscribers == self._subscribers:
            return
        self._subscribers = subscribers
        self._traffic.set_patterns(key for key in subscribers if "+" in key[1] or "#" in key[1])
        self._listeners.clear()
        self._answered.clear()
        for (action, topic), services in sorted(subscribers.items()):
            if action == "request":
                for service_id in services:
                    self._answered.setdefault(service_id, []).append(topic)

    # Output for the screen

    @property
    def has_users(self) -> bool:
        """Whether the broker lists which user each client is."""
        return any("user" in service for service in self._services.values())

    def head(self) -> Head:
        """Return the figures of the broker as a whole."""
        value = self._metrics.get
        return Head(
            uptime=value("process.uptime"),
            connections=value("connection.active", len(self._services) or None),
            cpu=value("process.cpu.percent"),
            memory=value("process.memory.bytes"),
            rates=tuple(
                Rate(name, value(_TOTALS[name]), tuple(past)) for name, past in self._past.items()
            ),
        )

    def services(self, now: float) -> Iterator[ServiceRow]:
        """Yield the connected clients."""
        errors_known = self.audit is Audit.ON or METRICS not in self.missing
        for service_id, service in self._services.items():
            window = self._traffic.service(service_id) or Window()
            rate, p50, p99 = self._figures(window, now)
            yield ServiceRow(
                id=service_id,
                name=_text(service.get("name")),
                user=_text(service.get("user")),
                description=_text(service.get("description")),
                topics=tuple(self._answered.get(service_id, ())),
                rate=rate,
                p50=p50,
                p99=p99,
                errors=window.count(now, "error") if errors_known else None,
                since=_time(service.get("connectedAt")),
            )

    def topics(self, now: float) -> Iterator[TopicRow]:
        """Yield the topics with subscribers, and those with traffic."""
        audited = self.audit is Audit.ON
        keys = dict.fromkeys(key for key in self._subscribers if not key[1].startswith("system."))
        if audited:
            keys.update(dict.fromkeys(self._traffic.topics(now)))
        for key in keys:
            window = self._traffic.topic(key) or Window()
            rate, p50, p99 = self._figures(window, now)
            yield TopicRow(
                action=key[0],
                topic=key[1],
                subscribers=self._listeners_of(key),
                rate=rate,
                p50=p50,
                p99=p99,
                errors=window.count(now, "error") if audited else None,
                unheard=window.count(now, "unheard") if audited else None,
            )

    def _figures(self, window: Window, now: float) -> tuple[float | None, int | None, int | None]:
        """Return the rate, and the latencies p50 and p99."""
        if self.audit is not Audit.ON:
            return None, None, None
        latencies = window.percentiles(now, 0.5, 0.99)
        return window.rate(now), *(latencies or (None, None))

    def errors(self) -> Iterator[ErrorRow]:
        """Yield the last errors."""
        for row in self._traffic.errors:
            name = _text(self._services.get(row.who, {}).get("name"))
            yield replace(row, who=name) if name else row

    def _listeners_of(self, key: TopicKey) -> tuple[str, ...]:
        """Return the subscribers to this topic by name or by a matching pattern."""
        found = self._listeners.get(key)
        if found is None:
            found = self._listeners[key] = tuple(
                dict.fromkeys(
                    service_id
                    for (action, pattern), ids in self._subscribers.items()
                    if action == key[0] and (pattern == key[1] or matches(pattern, key[1]))
                    for service_id in ids
                )
            )
        return found


def _numbers(metrics: object) -> Iterator[tuple[str, float]]:
    """Yield metrics by name; each is either a value or an object with a value."""
    for name, given in metrics.items() if isinstance(metrics, dict) else ():
        value = given.get("value") if isinstance(given, dict) else given
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict):
            yield each


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(_text(value)).astimezone()
    except ValueError:
        return None
