"""The subscriptions of a client: which of its consumers gets a message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import LocalProtocolError
from ..header import Action
from ..topic import TopicTable, check_pattern

__all__ = ["Subscribed", "SubscriptionTable"]


@dataclass(eq=False, slots=True)
class Subscribed:
    """One consumer's subscription to one pattern, for publications or for requests.

    `consumer` is the driver's.  Several may share a pattern: the broker knows one of them, and
    sends one copy.
    """

    pattern: str
    action: Action
    priority: float
    consumer: Any


class SubscriptionTable:
    """Subscriptions by action and pattern: publications and requests of a topic are apart."""

    __slots__ = ("_by_key", "_publish", "_request", "generation")

    def __init__(self) -> None:
        self._publish: TopicTable[Subscribed] = TopicTable()
        self._request: TopicTable[Subscribed] = TopicTable()
        # What the broker knows of: the consumers of each action and lower-case pattern.
        self._by_key: dict[tuple[Action, str], list[Subscribed]] = {}
        self.generation = 0

    def __iter__(self) -> Iterator[Subscribed]:
        return iter([entry for entries in self._by_key.values() for entry in entries])

    def add(self, entry: Subscribed) -> None:
        """File `entry`.  Raises LocalProtocolError for a bad pattern, or a second responder."""
        check_pattern(entry.pattern)
        key = (entry.action, entry.pattern.lower())
        entries = self._by_key.get(key, [])
        if entries and entry.action is Action.REQUEST:
            raise LocalProtocolError(
                f"requests to {entry.pattern!r} are answered by another subscription of this "
                "client already (one subscription with concurrency=N answers N at a time)"
            )
        self._by_key[key] = [*entries, entry]
        self._table(entry.action).add(entry.pattern, entry)
        self.generation += 1

    def remove(self, entry: Subscribed) -> bool:
        """Take `entry` out; True where it was the last of its pattern, so the broker must know."""
        key = (entry.action, entry.pattern.lower())
        entries = [other for other in self._by_key.get(key, ()) if other is not entry]
        self._table(entry.action).remove(entry.pattern, entry)
        self.generation += 1
        if entries:
            self._by_key[key] = entries
            return False
        return self._by_key.pop(key, None) is not None

    def of(self, action: Action, pattern: str) -> list[Subscribed]:
        """The subscriptions to exactly this pattern."""
        return list(self._by_key.get((action, pattern.lower()), ()))

    def receivers(self, topic: str) -> tuple[Subscribed, ...]:
        """Who gets a publication of `topic`: each subscription that matches, once."""
        return tuple(dict.fromkeys(self._publish.match(topic)))

    def responder(self, topic: str) -> Subscribed | None:
        """Who answers a request of `topic`: the highest priority, an exact match among equals."""
        matching = list(self._request.match(topic))
        return max(matching, key=lambda entry: entry.priority, default=None)

    def _table(self, action: Action) -> TopicTable[Subscribed]:
        return self._publish if action is Action.PUBLISH else self._request
