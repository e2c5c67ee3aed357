"""The requests that were passed on and wait for their responders."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from mb_core.deadlines import Deadlines
from mb_core.header import HeaderPrefix

from .registry import Service

__all__ = ["Outstanding", "OutstandingRequests"]


class Outstanding(msgspec.Struct, eq=False):
    """A request that was passed on.  `requester` is None once nobody waits for it any more."""

    id: bytes
    prefix: HeaderPrefix
    requester: Service | None
    requester_id: bytes | None
    responder: Service


class OutstandingRequests:
    """Outstanding requests by id, by age and by deadline; one leaves by `forget`, whatever the
    reason.

    It keeps the services' own tables, `asked` and `answering`, in step.
    """

    def __init__(self) -> None:
        # Not a dict: to find its first item it walks over all that were taken from before it.
        self._by_id: OrderedDict[bytes, Outstanding] = OrderedDict()
        self._time_limits: Deadlines[Outstanding] = Deadlines()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, request: Outstanding, deadline: float) -> None:
        self._by_id[request.id] = request
        self._time_limits.add(request, deadline)
        if request.requester is not None:
            request.requester.asked[request] = None
        request.responder.answering[request] = None

    def of(self, request_id: bytes | None, responder: Service) -> Outstanding | None:
        """The request of this id, if it is this service that was asked."""
        request = self._by_id.get(request_id) if request_id is not None else None
        return request if request is not None and request.responder is responder else None

    def oldest(self) -> Outstanding:
        """The one that has waited longest."""
        return next(iter(self._by_id.values()))

    def forget(self, request: Outstanding) -> None:
        del self._by_id[request.id]
        self._time_limits.discard(request)
        del request.responder.answering[request]
        if request.requester is not None:
            del request.requester.asked[request]

    def abandon(self, requester: Service) -> None:
        """The requester is gone: its requests go on, and their answers to nobody."""
        for request in requester.asked:
            request.requester = None
        requester.asked.clear()

    def take_due(self, now: float) -> list[Outstanding]:
        """Forget and return the requests whose time limit has come."""
        due = self._time_limits.pop_due(now)
        for request in due:
            self.forget(request)
        return due

    def next_deadline(self) -> float | None:
        return self._time_limits.next()
