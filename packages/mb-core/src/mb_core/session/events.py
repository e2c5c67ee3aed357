"""What a Session reports to its driver."""

from __future__ import annotations

import msgspec

from ..errors import MBError, NoRouteFoundError
from ..message import Message
from .requests import PendingRequest
from .subscriptions import SubscriptionEntry

__all__ = [
    "AnswerNow",
    "Event",
    "Initialized",
    "NoServiceYet",
    "PeerSilent",
    "PublicationUnheard",
    "PublicationsDiscarded",
    "PublicationsReceived",
    "RequestFailed",
    "RequestsReceived",
    "ResponseReceived",
    "SendNow",
    "Unmatched",
]

# Structs, which take half the time of dataclasses to make: they are made for each message.


class Initialized(msgspec.Struct):
    """The broker has greeted: the driver restores what it has to know (`Session.restore`)."""


class PublicationsReceived(msgspec.Struct):
    """Publications of one topic that arrived together, in order, for each subscription."""

    subscriptions: tuple[SubscriptionEntry, ...]
    messages: list[Message]


class RequestsReceived(msgspec.Struct):
    """Requests of one topic that arrived together, in order, for `subscription`'s consumer."""

    subscription: SubscriptionEntry
    messages: list[Message]


class ResponseReceived(msgspec.Struct):
    """A request is complete: this is its response."""

    request: PendingRequest
    message: Message


class RequestFailed(msgspec.Struct):
    """A request has failed, with a ResponseError or ConnectionLost."""

    request: PendingRequest
    error: MBError


class SendNow(msgspec.Struct):
    """A message of the Session's own: the driver sends it at once."""

    message: bytes


class AnswerNow(SendNow):
    """An answer of the Session's own to something that the other side has sent.

    Nobody here waits for it: the driver bounds how much of it a peer may leave unread.
    """


class PeerSilent(msgspec.Struct):
    """The other side does not react to the heartbeat: the driver ends the Link."""


class PublicationsDiscarded(msgspec.Struct):
    """Publications that waited for a connection are dropped, as there will be none."""

    count: int


class PublicationUnheard(msgspec.Struct):
    """Nobody is subscribed to `topic`, to which this side published without confirmation."""

    topic: str
    error: NoRouteFoundError


class NoServiceYet(msgspec.Struct):
    """No service answers this request's topic, but one may still be reconnecting.

    The driver passes it to `Session.retry_later`, with the time.
    """

    request: PendingRequest
    error: NoRouteFoundError


class Unmatched(msgspec.Struct):
    """Something arrived that belongs to no request and no subscription.

    `error` is what it reports, or what is wrong with it: a MalformedMessageError for a message
    that the broker could not read, a RemoteProtocolError for one that we can't read.  It is None
    for a response that came too late, and for a request without an id that nobody here answers.
    A publication without a subscription causes no event: it was sent before the broker knew that
    we unsubscribed.
    """

    error: MBError | None
    message: Message | None


Event = (
    Initialized
    | PublicationsReceived
    | RequestsReceived
    | ResponseReceived
    | RequestFailed
    | SendNow
    | PeerSilent
    | PublicationsDiscarded
    | PublicationUnheard
    | NoServiceYet
    | Unmatched
)
