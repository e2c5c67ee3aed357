"""What a Session tells its driver, as values."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MBError, NoRouteFoundError
from ..message import Message
from .requests import PendingRequest
from .subscriptions import Subscribed

__all__ = [
    "Answered",
    "Delivered",
    "Discarded",
    "Event",
    "Failed",
    "Initialized",
    "Reply",
    "Requested",
    "Silent",
    "Unmatched",
    "Unroutable",
]

# Not frozen: freezing triples the cost of making one, and they are made for each message.


@dataclass(slots=True)
class Initialized:
    """The broker has greeted: the driver restores what it is to know (`Session.restore`)."""


@dataclass(slots=True)
class Delivered:
    """Published messages of one kind that arrived together, in order, for each subscription."""

    subscriptions: tuple[Subscribed, ...]
    messages: list[Message]


@dataclass(slots=True)
class Requested:
    """Requests of one kind that arrived together, in order, for `subscription`'s consumer."""

    subscription: Subscribed
    messages: list[Message]


@dataclass(slots=True)
class Answered:
    """The request is complete: this is its response."""

    request: PendingRequest
    message: Message


@dataclass(slots=True)
class Failed:
    """The request is complete: a ResponseError, or ConnectionLost."""

    request: PendingRequest
    error: MBError


@dataclass(slots=True)
class Reply:
    """A message of the Session's own, which the driver must send at once."""

    message: bytes


@dataclass(slots=True)
class Silent:
    """The other side gives no sign of life, though it was asked: the driver ends the Link."""


@dataclass(slots=True)
class Discarded:
    """Publications that waited for a connection are given up: there will be none."""

    count: int


@dataclass(slots=True)
class Unroutable:
    """Nobody is subscribed to `topic`, to which this side published without asking for word."""

    topic: str
    error: NoRouteFoundError


@dataclass(slots=True)
class Unmatched:
    """Something arrived that belongs to no request and no subscription.

    `error` is what it reports, or what is wrong with it: a MalformedMessageError for a message
    that the broker could not read, a RemoteProtocolError for one that we can't read.  None for a
    response that came too late, and for a request without an id that nobody here answers.  A
    publication that nobody here is subscribed to is no event at all: it crossed our unsubscribing.
    """

    error: MBError | None
    message: Message | None


Event = (
    Initialized
    | Delivered
    | Requested
    | Answered
    | Failed
    | Reply
    | Silent
    | Discarded
    | Unroutable
    | Unmatched
)
