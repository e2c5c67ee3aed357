"""What a Session says of its messages when a connection is lost."""

from __future__ import annotations

from mb_core.errors import ConnectionLost
from mb_core.session import Event, PendingRequest, RequestFailed, SendNow, Session

__all__ = ["empty", "fates", "lost", "sent"]


def sent(events: list[Event]) -> list[bytes]:
    """The messages that are given to be sent; there is nothing else among the events."""
    messages = []
    for event in events:
        assert isinstance(event, SendNow)
        messages.append(event.message)
    return messages


def lost(event: Event) -> ConnectionLost:
    assert isinstance(event, RequestFailed)
    assert isinstance(event.error, ConnectionLost)
    return event.error


def fates(events: list[Event]) -> dict[PendingRequest, bool]:
    """The requests that have failed with ConnectionLost, and whether it says that they left."""
    return {event.request: lost(event).sent for event in events if isinstance(event, RequestFailed)}


def empty(session: Session) -> bool:
    """Whether nothing waits: neither in the table, nor in the outbox, nor for a time."""
    outbox = session.outbox
    waits = (session.pending, len(outbox), outbox.used, len(outbox.requests))
    return waits == (0, 0, 0, 0) and session.next_deadline() is None
