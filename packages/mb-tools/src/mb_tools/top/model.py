"""What a broker says of itself, put together.  No I/O: answers and the time in, a View out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mb_client import matches

from ..audit import read_event
from .traffic import TopicKey, Traffic
from .view import Audit, ErrorRow, Head, Rate, ServiceRow, TopicRow, View
from .window import Window

__all__ = ["FEED", "METRICS", "POLLED", "SERVICES", "SUBSCRIPTIONS", "Model"]

METRICS = "system.metrics"
SERVICES = "system.service.list"
SUBSCRIPTIONS = "system.topic.subscriptions"
FEED = "system.message"

POLLED = (METRICS, SERVICES, SUBSCRIPTIONS)
"""The system topics whose answers the model takes."""

# The totals on the screen, and the broker's names for them.
_TOTALS = {
    "messages": "router.message.rate",
    "publish": "router.publish.rate",
    "request": "router.request.rate",
}
_ERROR_RATE = "registry.service.{{serviceid:{}}}.error.rate"

# How many past values of a total are kept for its curve.
_HISTORY = 120


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    description: str
    since: datetime | None


class Model:
    """Takes what a broker answers and feeds; `now` is the caller's monotonic clock, in seconds.

    It takes it from any broker: what does not have the expected form is left out.
    """

    def __init__(self) -> None:
        self.audit = Audit.OFF
        self.skipped = 0
        self.heard = 0
        """Messages of the audit feed so far."""
        self._trouble = "not connected yet"
        self._missing: dict[str, str] = {}
        self._unreadable = 0
        self._traffic = Traffic()
        self._metrics: dict[str, float] = {}
        self._past: dict[str, deque[float]] = {name: deque(maxlen=_HISTORY) for name in _TOTALS}
        self._services: dict[str, _Service] = {}
        self._subscribers: dict[TopicKey, tuple[str, ...]] = {}
        # Found out of the subscriptions, and valid as long as they do not change.
        self._answered: dict[str, list[str]] = {}
        self._listeners: dict[TopicKey, tuple[str, ...]] = {}

    # The connection

    def up(self) -> None:
        """There is a connection; nothing is missing so far."""
        self._trouble = ""
        self._missing.clear()

    def down(self, trouble: str) -> None:
        """There is none, for this reason; the last known figures stay."""
        self._trouble = trouble
        self._traffic.forget_open()

    def refused(self, topic: str, reason: str) -> None:
        """The broker does not answer this system topic, or does not give this feed."""
        self._missing[topic] = reason
        if topic == FEED:
            self.audit = Audit.REFUSED
        elif topic == METRICS:
            self._metrics = {}

    def set_audit(self, audit: Audit) -> None:
        """The audit feed begins or ends."""
        self.audit = audit
        self._missing.pop(FEED, None)
        self._traffic.forget_open()

    # What the broker says

    def take(self, topic: str, answer: Any, now: float) -> None:
        """The answer to a request to one of POLLED."""
        self._missing.pop(topic, None)
        answer = answer if isinstance(answer, dict) else {}
        if topic == METRICS:
            self._take_metrics(answer, now)
        elif topic == SERVICES:
            self._take_services(answer)
        else:
            self._take_subscriptions(answer)

    def take_event(self, raw: bytes, now: float) -> None:
        """The payload of a message of the audit feed."""
        self.heard += 1
        if self.audit is Audit.REFUSED:
            self.set_audit(Audit.ON)  # it is no longer silent
        event = read_event(raw)
        if event is None:
            self._unreadable += 1
        else:
            self._traffic.take(event, now)

    def _take_metrics(self, answer: dict[str, Any], now: float) -> None:
        self._metrics = dict(_numbers(answer.get("metrics")))
        for name, past in self._past.items():
            value = self._metrics.get(_TOTALS[name])
            if value is not None:
                past.append(value)
        if self.audit is not Audit.ON:
            # The feed has each error; without it there is their rate.
            for service_id in self._services:
                rate = self._metrics.get(_ERROR_RATE.format(service_id), 0.0)
                if round(rate):
                    self._traffic.count_service_errors(service_id, round(rate), now)

    def _take_services(self, answer: dict[str, Any]) -> None:
        self._services = {
            entry["id"]: _Service(
                _text(entry.get("name")),
                _text(entry.get("description")),
                _time(entry.get("connectedAt")),
            )
            for entry in _objects(answer.get("services"))
            if isinstance(entry.get("id"), str)
        }

    def _take_subscriptions(self, answer: dict[str, Any]) -> None:
        subscribers = {
            (_text(entry.get("action")), _text(entry.get("topic")).lower()): tuple(
                each["serviceId"]
                for each in _objects(entry.get("subscribers"))
                if isinstance(each.get("serviceId"), str)
            )
            for entry in _objects(answer.get("subscriptions"))
        }
        if subscribers == self._subscribers:
            return
        self._subscribers = subscribers
        self._traffic.set_patterns(key for key in subscribers if _is_wild(key[1]))
        self._listeners.clear()
        self._answered.clear()
        for (action, topic), ids in sorted(subscribers.items()):
            if action == "request":
                for service_id in ids:
                    self._answered.setdefault(service_id, []).append(topic)

    # What the screen shows

    def view(self, now: float) -> View:
        """All of it, as of now."""
        return View(
            trouble=self._trouble,
            audit=self.audit,
            missing=dict(self._missing),
            skipped=self.skipped,
            unreadable=self._unreadable,
            head=self._head(),
            services=tuple(self._service_rows(now)),
            topics=tuple(self._topic_rows(now)),
            errors=tuple(self._error_rows()),
        )

    def _head(self) -> Head:
        value = self._metrics.get
        connections = value("connection.active")
        if connections is None and self._services:
            connections = len(self._services)
        return Head(
            uptime=value("process.uptime"),
            connections=connections,
            cpu=value("process.cpu.percent"),
            memory=value("process.memory.bytes"),
            rates=tuple(
                Rate(name, value(_TOTALS[name]), tuple(past)) for name, past in self._past.items()
            ),
        )

    def _service_rows(self, now: float) -> Iterator[ServiceRow]:
        audited = self.audit is Audit.ON
        counted = audited or METRICS not in self._missing
        for service_id, service in self._services.items():
            window = self._traffic.service(service_id) or Window()
            p50, p99 = _latencies(window, now) if audited else (None, None)
            yield ServiceRow(
                id=service_id,
                name=service.name,
                description=service.description,
                topics=tuple(self._answered.get(service_id, ())),
                rate=window.rate(now) if audited else None,
                p50=p50,
                p99=p99,
                errors=window.errors(now) if counted else None,
                since=service.since,
            )

    def _topic_rows(self, now: float) -> Iterator[TopicRow]:
        audited = self.audit is Audit.ON
        keys = dict.fromkeys(key for key in self._subscribers if not key[1].startswith("system."))
        if audited:
            keys.update(dict.fromkeys(self._traffic.topics(now)))
        for key in keys:
            window = self._traffic.topic(key) or Window()
            p50, p99 = _latencies(window, now) if audited else (None, None)
            yield TopicRow(
                action=key[0],
                topic=key[1],
                subscribers=self._listeners_of(key),
                rate=window.rate(now) if audited else None,
                p50=p50,
                p99=p99,
                errors=window.errors(now) if audited else None,
                unheard=window.unheard(now) if audited else None,
            )

    def _error_rows(self) -> Iterator[ErrorRow]:
        for failure in self._traffic.failures:
            service = self._services.get(failure.who)
            yield ErrorRow(
                number=failure.number,
                time=failure.time,
                topic=failure.topic,
                code=failure.code,
                message=failure.message,
                who=(service.name if service is not None else "") or failure.who,
            )

    def _listeners_of(self, key: TopicKey) -> tuple[str, ...]:
        """The subscribers of this topic: by its name, or by a pattern that matches."""
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


def _latencies(window: Window, now: float) -> tuple[int, int] | tuple[None, None]:
    found = window.percentiles(now, 0.5, 0.99)
    return (found[0], found[1]) if found is not None else (None, None)


def _is_wild(topic: str) -> bool:
    return "+" in topic or "#" in topic


def _numbers(metrics: object) -> Iterator[tuple[str, float]]:
    """Metrics by name, in either form: a value, or an object that has one."""
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
