"""The broker's metrics, by their names in the protocol (docs/protocol.md, "Metrics").

The Router and the Broker add to counters; rates and averages are computed on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mb_core.header import Action

from .counter import Counter
from .registry import Registry, Service

__all__ = ["BrokerMetrics", "Metric", "MetricType"]


class MetricType(StrEnum):
    """The meaning of a value."""

    GAUGE = "gauge"
    RATE = "rate"  # per second, over the last whole second
    PERCENT = "percent"  # from 0 to 1
    UPTIME = "uptime"  # in seconds
    AVERAGE = "average"
    MAXIMUM = "maximum"


@dataclass(frozen=True, slots=True)
class Metric:
    """One value at one moment. `parameters` are those in braces in its name."""

    name: str
    type: MetricType
    value: float
    parameters: Mapping[str, str] = field(default_factory=dict)


# The counters and their metrics: the name of the total, then of the rate.
_COUNTERS: dict[str, tuple[str | None, str]] = {
    "message": ("router.message.count", "router.message.rate"),
    "message_error": ("router.message.count.error", "router.message.rate.error"),
    "publish": ("router.publish.count", "router.publish.rate"),
    "publish_dropped": ("router.publish.count.dropped", "router.publish.rate.dropped"),
    "publish_error": ("router.publish.count.error", "router.publish.rate.error"),
    "request": ("router.request.count", "router.request.rate"),
    "request_dropped": ("router.request.count.dropped", "router.request.rate.dropped"),
    "request_error": ("router.request.count.error", "router.request.rate.error"),
    "forbidden": ("router.forbidden.count", "router.forbidden.rate"),
    "request_timeout": ("router.request.count.timeout", "router.request.rate.timeout"),
    "response": ("router.response.count", "router.response.rate"),
    "response_error": ("router.response.count.error", "router.response.rate.error"),
    "discovery": (None, "registry.discovery.rate"),
    "registration": (None, "registry.registration.rate"),
    "unregistration": (None, "registry.unregistration.rate"),
    "connected": ("connection.connected.total", "connection.connected.rate"),
    "disconnected": ("connection.disconnected.total", "connection.disconnected.rate"),
    "failed": ("connection.failed.total", "connection.failed.rate"),
    "unauthorized": ("connection.unauthorized.total", "connection.unauthorized.rate"),
    "rejected": ("connection.rejected.total", "connection.rejected.rate"),
    "cut_off": ("connection.cutoff.total", "connection.cutoff.rate"),
}


class BrokerMetrics:
    """The broker's counters, one attribute each, and all its metrics by name.

    `host` returns the metrics of the process and the machine, if the driver has any.
    """

    def __init__(self, registry: Registry, host: Callable[[], Iterable[Metric]] = tuple) -> None:
        self.message = Counter()
        self.message_error = Counter()
        self.publish = Counter()
        self.publish_dropped = Counter()
        self.publish_error = Counter()
        self.request = Counter()
        self.request_dropped = Counter()
        self.request_error = Counter()
        self.request_timeout = Counter()
        self.forbidden = Counter()
        self.response = Counter()
        self.response_error = Counter()
        self.discovery = Counter()
        self.registration = Counter()
        self.unregistration = Counter()
        self.connected = Counter()
        self.disconnected = Counter()
        self.failed = Counter()
        self.unauthorized = Counter()
        self.rejected = Counter()
        self.cut_off = Counter()
        self.host = host
        self._size_sum = 0
        self._size_max = 0
        self._registry = registry
        self._by_action = {
            Action.PUBLISH: (self.publish, self.publish_error),
            Action.REQUEST: (self.request, self.request_error),
            Action.RESPONSE: (self.response, self.response_error),
        }

    def count_sizes(self, second: int, messages: list[bytes], factor: int = 1) -> None:
        """Count a batch of received messages; with factor -1, undo that for one."""
        self.message.add(second, factor * len(messages))
        size = sum(map(len, messages))
        self._size_sum += factor * size
        if size > self._size_max:  # if one is missing, so are all
            self._size_max = max(self._size_max, *map(len, messages))

    def counter_of(self, action: Action) -> Counter:
        """Return the counter of messages with this action."""
        return self._by_action[action][0]

    def count_error(self, second: int, service: Service, action: Action | None) -> None:
        """Count a message that was answered with an error; None for an unreadable message."""
        self.message_error.add(second)
        service.errors.add(second)
        if action is not None:
            self._by_action[action][1].add(second)

    def snapshot(self, now: float, *, of_services: bool = True) -> Iterator[Metric]:
        """Return all metrics as of `now`, by the clock of the counters.

        Without `of_services`, leave out those of single connections.
        """
        yield from self.host()
        second = int(now)
        for attribute, (total_name, rate_name) in _COUNTERS.items():
            counter: Counter = getattr(self, attribute)
            if total_name is not None:
                yield Metric(total_name, MetricType.GAUGE, counter.total)
            yield Metric(rate_name, MetricType.RATE, counter.rate(second))
        count = self.message.total
        yield Metric(
            "router.message.size.avg", MetricType.AVERAGE, self._size_sum / count if count else 0
        )
        yield Metric("router.message.size.max", MetricType.MAXIMUM, self._size_max)
        services = self._registry.services.values()
        yield Metric("registry.count", MetricType.GAUGE, len(services))
        yield Metric("connection.active", MetricType.GAUGE, len(services))
        for service in services if of_services else ():
            name = f"registry.service.{{serviceid:{service.id}}}"
            parameters = {"serviceid": service.id}
            rate = service.errors.rate(second)
            yield Metric(f"{name}.error.rate", MetricType.RATE, rate, parameters)
            uptime = int(now - service.connected_at)
            yield Metric(f"{name}.uptime", MetricType.UPTIME, uptime, parameters)
