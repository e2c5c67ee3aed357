"""Requests that are waiting for their response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ..deadlines import Deadlines
from ..errors import NoRouteFoundError
from .subscriptions import SubscriptionEntry

__all__ = ["PendingRequest", "PendingRequests"]


class PendingRequest(msgspec.Struct, eq=False):
    """A message with an id, sent or about to be sent, whose response is awaited.

    Attributes:
        request_id: Its id.
        topic: Its topic.
        message: What the driver has to send, unless the request is `in_outbox`.
        timeout: Its time limit in milliseconds.
        deadline: When the time limit expires, in seconds.
        retry: Whether it may be sent twice, if the connection is lost before its response.
        about: What the broker is asked for: a subscription, or a service's name and description.
        sent: Whether it may have been sent on a connection that was lost.
        outbox_key: Its place in the Outbox; None if it is not there.
        given_up_at: When it fails, in seconds.
        waiter: For the driver: what to wake when the request is complete.
        refusal: The error after which it will be sent again, as no service answered.
        refused_times: How often it was refused like that.
    """

    request_id: bytes
    topic: str
    message: bytes
    timeout: int
    deadline: float
    # Whether it may be sent twice, if the connection is lost before its response.
    retry: bool
    about: SubscriptionEntry | tuple[str, str] | None = None
    # Whether it may have been sent over the lost connection.
    sent: bool = False
    # Its key in the Outbox; None if it was passed on to be sent.
    outbox_key: int | None = None
    given_up_at: float = 0.0
    waiter: Any = None
    refusal: NoRouteFoundError | None = None
    refused_times: int = 0

    def __repr__(self) -> str:
        # Without `message`: its payload may be a secret.
        return f"PendingRequest({self.topic!r}, {self.timeout} ms, about={self.about!r})"

    @property
    def began(self) -> float:
        """When the caller created it, in seconds."""
        return self.deadline - self.timeout / 1000

    @property
    def in_outbox(self) -> bool:
        """Whether it waits for a connection. `Session.restored` then returns it in a `SendNow`."""
        return self.outbox_key is not None


class PendingRequests:
    """Pending requests by id and by deadline; `take` removes one, whatever the reason."""

    __slots__ = ("_by_id", "_deadlines")

    def __init__(self) -> None:
        self._by_id: dict[bytes, PendingRequest] = {}
        self._deadlines: Deadlines[PendingRequest] = Deadlines()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[PendingRequest]:
        return iter(list(self._by_id.values()))

    def add(self, request: PendingRequest, given_up_at: float) -> None:
        """Add `request`, or change the time at which it fails."""
        request.given_up_at = given_up_at
        self._by_id[request.request_id] = request
        self._deadlines.add(request, given_up_at)

    def take(self, request_id: bytes | None) -> PendingRequest | None:
        """Remove and return the request with this id; None if there is none."""
        request = self._by_id.pop(request_id, None) if request_id is not None else None
        if request is not None:
            self._deadlines.discard(request)
        return request

    def take_due(self, now: float) -> list[PendingRequest]:
        """Remove and return the requests whose time has come."""
        due = self._deadlines.pop_due(now)
        for request in due:
            del self._by_id[request.request_id]
        return due

    def next_deadline(self) -> float | None:
        return self._deadlines.next()
