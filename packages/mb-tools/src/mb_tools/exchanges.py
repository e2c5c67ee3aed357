"""Exchanges: each message that a client sends and its outcome, from the audit feed.

The broker's audit feed, `system.message`, shows a request in four events (docs/protocol.md, "The
audit feed"):

    1  SENT       from its sender, under the sender's id      begins an Exchange
    2  PASSED_ON  to its receiver, under the broker's id      `masked_id` is the id of 1
    3  RESPONDED  from the receiver, under the broker's id
    4  RETURNED   to the sender, under the sender's id        also the broker's own errors

A publication has one event 2 per receiver, no event 3, and event 4 only if the broker refuses it or
has to confirm it. A message without an id is recognized by its position: its events 2, or the
broker's refusal, follow event 1 immediately. No I/O: events go in, exchanges come out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from mb_core import NoRouteFoundError, ResponseError

from .audit import AuditEvent, error_of

__all__ = ["Exchange", "Exchanges", "Outcome", "Step"]

# Receivers whose ids are kept; the rest are only counted.
_RECEIVERS = 50


class Outcome(Enum):
    """The outcome of a message."""

    OPEN = "open"
    DELIVERED = "delivered"
    ANSWERED = "answered"
    FAILED = "failed"
    UNHEARD = "unheard"
    """Nobody was subscribed to the publication.

    This is common when events have no subscribers yet, and not an error. The broker's metrics count
    it as dropped.
    """
    UNSEEN = "unseen"
    """The end of a request was not in the feed."""


class Step(Enum):
    """Which of an exchange's four events this is."""

    SENT = 1
    PASSED_ON = 2
    RESPONDED = 3
    RETURNED = 4


@dataclass(eq=False, slots=True)
class Exchange:
    """A request with its answer, or a publication with its copies.

    Times are from the broker's clock, in seconds; `began` is None if the exchange began before the
    feed. `count` is the number of receivers; `receivers` has the ids of the first ones.
    """

    action: str
    topic: str
    sender: str
    began: float | None
    own_id: str | None = None
    receivers: list[str] = field(default_factory=list)
    count: int = 0
    passed_on: float | None = None
    responded: float | None = None
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN
    error: ResponseError | None = None
    ids: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Seconds until the answer."""
        if self.ended is None or self.began is None:
            return None
        return max(0.0, self.ended - self.began)


class Exchanges:
    """Combines the events of an audit feed into exchanges, and looks them up by id.

    The caller decides how long to keep an exchange, and then calls `forget`. Messages to the
    broker's own topics are ignored unless `system` is set.
    """

    def __init__(self, *, system: bool = False) -> None:
        self._system = system
        self._by_id: OrderedDict[str, Exchange] = OrderedDict()
        # The message whose further events come next in the feed.
        self._current: Exchange | None = None

    def __len__(self) -> int:
        """Return the number of known ids."""
        return len(self._by_id)

    def get(self, message_id: str | None) -> Exchange | None:
        """Return the exchange with this id, either the sender's or the broker's."""
        return self._by_id.get(message_id or "")

    def oldest(self) -> Exchange:
        """Return the exchange whose id was added first."""
        return next(iter(self._by_id.values()))

    def forget(self, exchange: Exchange) -> None:
        """Drop an exchange; its later events are ignored."""
        for message_id in exchange.ids:
            if self._by_id.get(message_id) is exchange:
                del self._by_id[message_id]
        if self._current is exchange:
            self._current = None

    def clear(self) -> None:
        """Forget all exchanges."""
        self._by_id.clear()
        self._current = None

    def take(self, event: AuditEvent) -> tuple[Step, Exchange | None]:
        """Process the next event, and return which step of which exchange it is.

        Return None if it belongs to no known exchange, or is too late to change its outcome.
        """
        is_response = event.message.header.action == "response"
        if event.sender is not None:
            if is_response:
                return Step.RESPONDED, self._responded(event)
            return Step.SENT, self._sent(event, event.sender)
        if is_response:
            return Step.RETURNED, self._returned(event)
        return Step.PASSED_ON, self._passed_on(event)

    def _sent(self, event: AuditEvent, sender: str) -> Exchange | None:
        header = event.message.header
        self._current = None
        if _is_system(header.topic) and not self._system:
            return None
        exchange = Exchange(header.action, header.topic, sender, event.seconds, header.request_id)
        self._index(exchange, header.request_id)
        self._current = exchange
        return exchange

    def _passed_on(self, event: AuditEvent) -> Exchange | None:
        header = event.message.header
        if event.to is None:
            return None
        exchange = self._current if event.masked_id is None else self.get(event.masked_id)
        if exchange is None or not _is_about(exchange, header.topic, header.action):
            if header.action != "request" or _is_system(header.topic):
                return None
            exchange = Exchange("request", header.topic, "", None)  # the feed began after it
        exchange.count += 1
        exchange.passed_on = event.seconds
        if len(exchange.receivers) < _RECEIVERS:
            exchange.receivers.append(event.to)
            self._index(exchange, header.request_id)
        if exchange.action == "publish":
            exchange.outcome = Outcome.DELIVERED
        return exchange

    def _responded(self, event: AuditEvent) -> Exchange | None:
        exchange = self._current = self.get(event.message.header.request_id)
        if (
            exchange is None
            or exchange.outcome is not Outcome.OPEN
            or event.sender not in exchange.receivers
        ):
            return None
        exchange.responded = event.seconds
        _settle(exchange, event)
        return exchange

    def _returned(self, event: AuditEvent) -> Exchange | None:
        header = event.message.header
        exchange, current = self.get(header.request_id), self._current
        self._current = None
        if exchange is None and current is not None and current.own_id is None:
            exchange = current  # it had no id, so the broker answers under a new one
        if (
            exchange is None
            or exchange.sender != event.to
            or not _is_about(exchange, header.topic, exchange.action)
        ):
            return None
        if exchange.outcome is Outcome.OPEN:
            _settle(exchange, event)
        return exchange

    def _index(self, exchange: Exchange, message_id: str | None) -> None:
        if message_id is not None and self._by_id.get(message_id) is not exchange:
            exchange.ids.append(message_id)
            self._by_id[message_id] = exchange


def _settle(exchange: Exchange, event: AuditEvent) -> None:
    """Set the outcome from a response: an answer, an error, or a confirmation."""
    exchange.ended = event.seconds
    error = error_of(event)
    if error is None:
        answered = exchange.action == "request"
        exchange.outcome = Outcome.ANSWERED if answered else Outcome.DELIVERED
    elif exchange.action == "publish" and error.code == NoRouteFoundError.code:
        exchange.outcome = Outcome.UNHEARD
    else:
        exchange.outcome, exchange.error = Outcome.FAILED, error


def _is_about(exchange: Exchange, topic: str, action: str) -> bool:
    return exchange.action == action and (
        exchange.topic == topic or exchange.topic.lower() == topic.lower()
    )


def _is_system(topic: str) -> bool:
    return topic[:7].lower() == "system."
