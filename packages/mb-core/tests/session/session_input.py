"""What the tests of the Session share."""

from __future__ import annotations

from collections.abc import Callable

from mb_core.message import Message, parse_message
from mb_core.session import (
    SubscriptionEntry,
)

Subscribe = Callable[..., SubscriptionEntry]
ID = b"7a0c7a6e-0000-4000-8000-00000000beef"


def asked(topic: str = "a.b", version: str = "1.0.0", request_id: bytes | None = ID) -> Message:
    tail = b":" + request_id if request_id is not None else b""
    return parse_message(f"request:{topic}:{version}".encode() + tail + b"\n{}")
