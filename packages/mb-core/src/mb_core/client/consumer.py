"""The contracts between a client's connection and the consumers of its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import MBError
from ..link import Backend, Home
from ..message import Message
from ..session import SubscriptionEntry
from .context import Run
from .interrupt import AsyncFunction

__all__ = ["Consumer", "Driver", "EndError"]

EndError = Callable[[], MBError]
"""Makes the error with which something ended: a new one for each that raises it."""


class Consumer(Protocol):
    """What a subscription's messages are given to, from the reader: it only queues them."""

    @property
    def made_by(self) -> Run | None:
        """The call of an on_connect callback that has subscribed, if one has."""
        ...

    def deliver(self, messages: list[Message]) -> None:
        """Take messages in order; no other consumer has the same objects."""
        ...

    def release(self, entry: SubscriptionEntry, error: EndError | None = None) -> None:
        """Nothing more will come for `entry`, because of `error` or in order."""
        ...

    def end(self, error: EndError | None) -> None:
        """Nothing more will come at all."""
        ...

    def consume_with_on_message(self) -> None:
        """The client may have a new on_message handler: it takes what has no other consumer.

        The first one takes over what waits; a later one gets what comes from now on.
        """
        ...

    def stop_consuming_with(self, place: int) -> None:
        """The client's on_message handler at `place` among them was removed.

        What waits for it waits for the next one where there is no other.
        """
        ...


class Driver(Protocol):
    """What a Subscription needs of its client's connection."""

    @property
    def backend(self) -> Backend: ...

    @property
    def home(self) -> Home: ...

    async def subscribe(self, entry: SubscriptionEntry) -> None:
        """Subscribe; when it fails or is cancelled, the entry is gone."""
        ...

    async def unsubscribe(self, entries: Iterable[SubscriptionEntry]) -> None:
        """Unsubscribe; when cancelled, the entries are gone here, and the broker was told."""
        ...

    def let_go(self, entry: SubscriptionEntry) -> None:
        """Unsubscribe without waiting for the broker's confirmation."""
        ...

    def start(self, function: AsyncFunction) -> None:
        """Start a consumer's task."""
        ...

    def note_dropped(self, count: int) -> None:
        """Count messages that are lost."""
        ...
