"""The events that a Session reports to its driver."""

from __future__ import annotations

import msgspec

from ..errors import ForbiddenError, MBError, NoRouteFoundError
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
    "SubscriptionsEnded",
    "Unmatched",
]

# Structs, which take half the time of dataclasses to make: they are made for each message.


class Initialized(msgspec.Struct):
    """The broker has sent its greeting. The driver calls `Session.restore`."""


class PublicationsReceived(msgspec.Struct):
    """Publications of one topic that arrived together.

    Attributes:
        subscriptions: The entries that match the topic; the consumer of each gets the messages.
        messages: The publications, in order.
    """

    subscriptions: tuple[SubscriptionEntry, ...]
    messages: list[Message]


class RequestsReceived(msgspec.Struct):
    """Requests of one topic that arrived together.

    Attributes:
        subscription: The entry whose consumer has to answer them.
        messages: The requests, in order.
    """

    subscription: SubscriptionEntry
    messages: list[Message]


class ResponseReceived(msgspec.Struct):
    """A request is complete.

    Attributes:
        request: The request.
        message: Its response.
    """

    request: PendingRequest
    message: Message


class RequestFailed(msgspec.Struct):
    """A request has failed.

    Attributes:
        request: The request.
        error: A `ResponseError` or a `ConnectionLost`.
    """

    request: PendingRequest
    error: MBError


class SendNow(msgspec.Struct):
    """A message that the driver has to send at once.

    Attributes:
        message: The text of the message, UTF-8.
    """

    message: bytes


class AnswerNow(SendNow):
    """The Session's own answer to something that the other side sent.

    Nothing waits for it, so the driver limits how many such answers can wait for a peer that does
    not read.
    """


class PeerSilent(msgspec.Struct):
    """The other side did not answer the heartbeat. The driver ends the Link."""


class PublicationsDiscarded(msgspec.Struct):
    """Publications that waited for a connection were dropped: there will be no other connection.

    Attributes:
        count: How many.
    """

    count: int


class PublicationUnheard(msgspec.Struct):
    """This client published without confirmation to a topic without subscribers.

    Attributes:
        topic: The topic.
        error: What the broker answered.
    """

    topic: str
    error: NoRouteFoundError


class SubscriptionsEnded(msgspec.Struct):
    """The broker has ended subscriptions, because the client's user may no longer have them.

    The Session has removed them.

    Attributes:
        subscriptions: The entries. Their pattern and action are the same.
        error: Why.
    """

    subscriptions: list[SubscriptionEntry]
    error: ForbiddenError


class NoServiceYet(msgspec.Struct):
    """No service answers this request, but one may still be reconnecting.

    The driver passes it to `Session.retry_later`.

    Attributes:
        request: The request.
        error: What the broker answered.
    """

    request: PendingRequest
    error: NoRouteFoundError


class Unmatched(msgspec.Struct):
    """A message arrived that belongs to no request and no subscription.

    A publication without a subscription causes no event: it was sent before the broker knew that
    this client had unsubscribed.

    Attributes:
        error: What the message reports, or what is wrong with it: a `MalformedMessageError` for a
            message that the broker could not read, a `RemoteProtocolError` for one that this client
            can't read. None for a late response, and for a request that has neither an id nor a
            subscription here to answer it.
        message: The message; None if it can't be read.
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
    | SubscriptionsEnded
    | NoServiceYet
    | Unmatched
)
