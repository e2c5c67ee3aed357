"""The table of a client's subscriptions: which consumers get a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ..errors import LocalProtocolError
from ..header import Action
from ..topic import TopicTable, check_pattern

__all__ = ["LOG_TOPIC", "SubscriptionEntry", "SubscriptionTable"]

LOG_TOPIC = "system.log"
"""The topic of the broker's log."""

_DEFAULT_LOG_FILTER = {"levels": ["error"]}


class SubscriptionEntry(msgspec.Struct, eq=False):
    """A consumer's subscription to a pattern, for publications or for requests.

    Several entries can have the same pattern. The broker then knows one of them, and sends one
    copy.

    Attributes:
        pattern: The topic or pattern.
        action: `Action.PUBLISH` or `Action.REQUEST`.
        priority: The broker prefers the responder with the highest priority.
        consumer: For the driver: gets the messages.
        log_filter: The payload of `system.log.subscribe`, for the broker's log; None for any other
            topic.
    """

    pattern: str
    action: Action
    priority: float
    consumer: Any
    log_filter: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        # The pattern is checked later, by `SubscriptionTable.check`.
        of_log = isinstance(self.pattern, str) and self.pattern.lower() == LOG_TOPIC
        if not of_log or self.action is not Action.PUBLISH:
            self.log_filter = None
        elif self.log_filter is None:
            self.log_filter = _DEFAULT_LOG_FILTER


class SubscriptionTable:
    """Subscriptions by action and pattern; publications and requests have separate ones."""

    __slots__ = ("_by_key", "_publish", "_request", "_responders", "generation")

    def __init__(self) -> None:
        self._publish: TopicTable[SubscriptionEntry] = TopicTable()
        self._request: TopicTable[SubscriptionEntry] = TopicTable()
        # What the broker knows: the entries of each action and lower-case pattern.
        self._by_key: dict[tuple[Action, str], list[SubscriptionEntry]] = {}
        self._responders = 0
        self.generation = 0

    def __iter__(self) -> Iterator[SubscriptionEntry]:
        return iter([entry for entries in self._by_key.values() for entry in entries])

    def __contains__(self, entry: SubscriptionEntry) -> bool:
        return entry in self.of(entry.action, entry.pattern)

    @property
    def answers_requests(self) -> bool:
        """Whether there is a subscription to requests."""
        return self._responders > 0

    def check(self, entry: SubscriptionEntry) -> None:
        """Raise LocalProtocolError if `entry` can't be added.

        The reasons are an invalid pattern, a second responder, another filter of the log, and an
        entry that is in the table already.
        """
        check_pattern(entry.pattern)
        if entry.action is Action.RESPONSE:
            raise LocalProtocolError(
                "responses can't be subscribed to: they go to the sender of the request"
            )
        others = self.of(entry.action, entry.pattern)
        if entry in others:
            raise LocalProtocolError(f"the subscription to {entry.pattern!r} is already active")
        if others and entry.action is Action.REQUEST:
            raise LocalProtocolError(
                f"requests to {entry.pattern!r} are already answered by another subscription of "
                "this client (one subscription with concurrency=N answers N at a time)"
            )

        if others and entry.log_filter != others[0].log_filter:
            raise LocalProtocolError(
                f"this client follows the broker's log with {others[0].log_filter} already, and a "
                "broker keeps one choice of levels and regex for each client: use another client "
                f"for {entry.log_filter}"
            )

    def add(self, entry: SubscriptionEntry) -> None:
        """Add `entry`; raises as `check` does."""
        self.check(entry)
        self._by_key.setdefault((entry.action, entry.pattern.lower()), []).append(entry)
        self._table(entry.action).add(entry.pattern, entry)
        self._responders += entry.action is Action.REQUEST
        self.generation += 1

    def remove(self, entry: SubscriptionEntry) -> None:
        """Remove `entry`, if it is in the table."""
        key = (entry.action, entry.pattern.lower())
        entries = self._by_key.get(key, [])
        if entry not in entries:
            return
        entries.remove(entry)
        if not entries:
            del self._by_key[key]
        self._table(entry.action).remove(entry.pattern, entry)
        self._responders -= entry.action is Action.REQUEST
        self.generation += 1

    def of(self, action: Action, pattern: str) -> list[SubscriptionEntry]:
        """Return the subscriptions to exactly this pattern."""
        return list(self._by_key.get((action, pattern.lower()), ()))

    def receivers(self, topic: str) -> tuple[SubscriptionEntry, ...]:
        """Return the subscriptions that get a publication of `topic`: each that matches, once."""
        return tuple(dict.fromkeys(self._publish.match(topic)))

    def responder(self, topic: str) -> SubscriptionEntry | None:
        """Return what answers a request of `topic`: the highest priority, then an exact match."""
        matching = list(self._request.match(topic))
        return max(matching, key=lambda entry: entry.priority, default=None)

    def _table(self, action: Action) -> TopicTable[SubscriptionEntry]:
        return self._publish if action is Action.PUBLISH else self._request
