"""The Session: the client's side of the protocol, without I/O."""

from .events import (
    Answer,
    Answered,
    Delivered,
    Discarded,
    Event,
    Failed,
    Initialized,
    Reply,
    Requested,
    Silent,
    Unmatched,
    Unroutable,
    Unrouted,
)
from .outbox import DEFAULT_BUFFER, BufferOverflow, BufferOverflowName, Outbox
from .requests import PendingRequest
from .session import Session
from .states import SessionState
from .subscriptions import LOG_TOPIC, Subscribed

__all__ = [
    "DEFAULT_BUFFER",
    "LOG_TOPIC",
    "Answer",
    "Answered",
    "BufferOverflow",
    "BufferOverflowName",
    "Delivered",
    "Discarded",
    "Event",
    "Failed",
    "Initialized",
    "Outbox",
    "PendingRequest",
    "Reply",
    "Requested",
    "Session",
    "SessionState",
    "Silent",
    "Subscribed",
    "Unmatched",
    "Unroutable",
    "Unrouted",
]
