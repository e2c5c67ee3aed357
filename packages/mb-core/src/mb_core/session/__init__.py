"""The Session: the client's side of the protocol, without I/O."""

from .events import (
    Answered,
    Delivered,
    Event,
    Failed,
    Initialized,
    Reply,
    Requested,
    Unmatched,
)
from .requests import PendingRequest
from .session import Session, SessionState
from .subscriptions import Subscribed

__all__ = [
    "Answered",
    "Delivered",
    "Event",
    "Failed",
    "Initialized",
    "PendingRequest",
    "Reply",
    "Requested",
    "Session",
    "SessionState",
    "Subscribed",
    "Unmatched",
]
