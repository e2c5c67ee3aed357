"""A Session that subscribes."""

from __future__ import annotations

from collections.abc import Callable

from mb_core.session import (
    Event,
    PublicationsReceived,
    RequestsReceived,
    Session,
    SubscriptionEntry,
)

Answer = Callable[..., bytes]
Subscribe = Callable[..., SubscriptionEntry]
ID = b"7a0c7a6e-0000-4000-8000-00000000beef"


def published(topic: str, payload: str = "{}") -> bytes:
    return f"publish:{topic}:1.0.0\n{payload}".encode()


def requested(topic: str, payload: str = "{}") -> bytes:
    return f"request:{topic}:1.0.0:{ID.decode()}\n{payload}".encode()


def receivers(events: list[Event]) -> list[SubscriptionEntry]:
    """Who gets a copy, one for each message and subscription."""
    return [
        entry
        for event in events
        if isinstance(event, PublicationsReceived)
        for _ in event.messages
        for entry in event.subscriptions
    ]


def responder(session: Session, topic: str) -> SubscriptionEntry | None:
    (event,) = session.receive([requested(topic)])
    return event.subscription if isinstance(event, RequestsReceived) else None
