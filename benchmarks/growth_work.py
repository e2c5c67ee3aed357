"""What the curves share: the work at one point, its messages and its patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mb_core.session import Session

from .workload import DOCUMENT, encode

__all__ = ["ID", "PAYLOAD", "Work", "publication", "ready_session", "topic", "wildcard"]

ID = b"123e4567-e89b-42d3-a456-426614174000"
PAYLOAD = encode(DOCUMENT)


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured at one point: `run` handles as many messages as `messages` says."""

    run: Callable[[], object]
    messages: int
    end: Callable[[], object] = lambda: None


def ready_session(**options: Any) -> Session:
    """A Session that was greeted."""
    session = Session(**options)
    session.link_up()
    session.receive([b"publish:system.initialize:1.0.0\n{}"])
    session.restored(0.0)
    return session


def publication(topic: str, payload: bytes = PAYLOAD, *, passed_on: bool = False) -> bytes:
    """As a client sends it, or as the broker passes it on: with an id."""
    request_id = b":" + ID if passed_on else b""
    return b"publish:%b:1.0.0%b\n%b" % (topic.encode(), request_id, payload)


def topic(number: int) -> str:
    return f"bench.t{number}.value"


def wildcard(number: int) -> str:
    """A pattern that matches the topic of this number and no other, of each kind in turn."""
    return (f"bench.t{number}.+", f"bench.t{number}.#", f"+.t{number}.value")[number % 3]
