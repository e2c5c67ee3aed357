"""The requests that were passed on and wait for their responders."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from mb_core.deadlines import Deadlines
from mb_core.header import HeaderPrefix

from .registry import Service

__all__ = ["Outstanding", "OutstandingRequests"]


class Outstanding(msgspec.Struct, eq=False):
    """A request that was passed on.  `requester` is None once it has disconnected."""

    id: bytes
    prefix: HeaderPrefix
    requester: Service | None
    requester_id: bytes | None
    responder: Service


class OutstandingRequests:
    """Outstanding requests by id and by deadline; each leaves by `remove`, whatever the reason.

    Keeps the services' own tables, `asked` and `answering`, in step.  Its length is the number
    of requests whose requester is still connected.  The others stay until they are answered, so
    that their answers are not refused, but they are the first to make room.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._by_id: dict[bytes, Outstanding] = {}
        self._timeouts: Deadlines[Outstanding] = Deadlines()
        # When `take_due` is due next, if at all: asked for after each batch of messages.
        self.next_deadline = self._timeouts.next
        self._abandoned: OrderedDict[Outstanding, None] = OrderedDict()
        # Made when there is no more room, and dropped when there is plenty.
        self._ranking: _Ranking | None = None

    def __len__(self) -> int:
        return len(self._by_id) - len(self._abandoned)

    @property
    def full(self) -> bool:
        """Whether `make_room` is due before the next request is added."""
        return len(self._by_id) >= self._max_requests

    def add(self, request: Outstanding, deadline: float) -> None:
        self._by_id[request.id] = request
        self._timeouts.add(request, deadline)
        requester = request.requester
        if requester is not None:
            requester.asked[request] = None
            if self._ranking is not None:
                self._ranking.has_grown(requester)
        request.responder.answering[request] = None

    def find(self, request_id: bytes | None, responder: Service) -> Outstanding | None:
        """The request of this id, if it is this service that was asked."""
        request = self._by_id.get(request_id) if request_id is not None else None
        return request if request is not None and request.responder is responder else None

    def make_room(self, asker: Service) -> Outstanding:
        """Remove a request in favor of the next one, which `asker` makes; return it.

        It is one whose requester has disconnected, or else the oldest of the client that waits
        for most answers, so that whoever floods the broker pays for it.  A tie is the asker's.
        """
        if self._abandoned:
            request = next(iter(self._abandoned))
        else:
            if self._ranking is None or self._ranking.is_stale(len(self._by_id)):
                found = (request.requester for request in self._by_id.values())
                self._ranking = _Ranking(each for each in found if each is not None)
            busiest = self._ranking.first()
            if len(asker.asked) >= len(busiest.asked):
                busiest = asker
            request = next(iter(busiest.asked))
        self.remove(request)
        return request

    def remove(self, request: Outstanding) -> None:
        del self._by_id[request.id]
        self._timeouts.discard(request)
        del request.responder.answering[request]
        if request.requester is not None:
            del request.requester.asked[request]
        else:
            self._abandoned.pop(request, None)
        if self._ranking is not None and 2 * len(self._by_id) < self._max_requests:
            self._ranking = None

    def requester_left(self, requester: Service) -> None:
        """Keep the requests of a client that has disconnected; their answers go to nobody."""
        for request in requester.asked:
            request.requester = None
            self._abandoned[request] = None
        requester.asked.clear()

    def take_due(self, now: float) -> list[Outstanding]:
        """Remove and return the requests whose time limit has come."""
        due = self._timeouts.pop_due(now)
        for request in due:
            self.remove(request)
        return due


class _Ranking:
    """Services by how many requests they wait for, the one with most first.

    Only growth is entered.  An entry whose count has shrunk since then is corrected when it comes
    to the top, so each costs the logarithm of their number, and those below the top nothing.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        self._order = itertools.count()  # services are not compared
        self._heap = [
            (-len(service.asked), next(self._order), service) for service in dict.fromkeys(services)
        ]
        heapq.heapify(self._heap)

    def has_grown(self, service: Service) -> None:
        heapq.heappush(self._heap, (-len(service.asked), next(self._order), service))

    def first(self) -> Service:
        """The service that waits for most; there has to be one that waits for any."""
        heap = self._heap
        while True:
            counted, order, service = heap[0]
            count = len(service.asked)
            if count == -counted:
                return service
            if count:
                heapq.heapreplace(heap, (-count, order, service))
            else:
                heapq.heappop(heap)

    def is_stale(self, requests: int) -> bool:
        """Whether most of its entries are outdated."""
        return len(self._heap) > 2 * requests + 64
