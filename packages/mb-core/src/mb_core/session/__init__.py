"""The Session: the client's side of the protocol, without I/O."""

from .events import (
    AnswerNow,
    Event,
    Initialized,
    NoServiceYet,
    PeerSilent,
    PublicationsDiscarded,
    PublicationsReceived,
    PublicationUnheard,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    SendNow,
    SubscriptionsEnded,
    Unmatched,
)
from .outbox import DEFAULT_BUFFER, BufferOverflow, BufferOverflowName, Outbox
from .requests import PendingRequest
from .session import Session
from .states import SessionState
from .subscriptions import LOG_TOPIC, SubscriptionEntry

__all__ = [
    "DEFAULT_BUFFER",
    "LOG_TOPIC",
    "AnswerNow",
    "BufferOverflow",
    "BufferOverflowName",
    "Event",
    "Initialized",
    "NoServiceYet",
    "Outbox",
    "PeerSilent",
    "PendingRequest",
    "PublicationUnheard",
    "PublicationsDiscarded",
    "PublicationsReceived",
    "RequestFailed",
    "RequestsReceived",
    "ResponseReceived",
    "SendNow",
    "Session",
    "SessionState",
    "SubscriptionEntry",
    "SubscriptionsEnded",
    "Unmatched",
]
