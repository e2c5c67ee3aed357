"""The requests that were forwarded and wait for their responders."""

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
    """A request that was forwarded. `requester` is None once it has disconnected."""

    id: bytes
    prefix: HeaderPrefix
    requester: Service | None
    requester_id: bytes | None
    responder: Service


class OutstandingRequests:
    """Outstanding requests by id and by deadline; `remove` is the only way out.

    Also updates the services' tables `asked` and `answering`. Its length is the number of requests
    whose requester is still connected. The others stay until they are answered, so that their
    answers are not refused, but they are removed first to make room.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._by_id: dict[bytes, Outstanding] = {}
        self._timeouts: Deadlines[Outstanding] = Deadlines()
        # When `take_due` is due next, if at all; read after each batch of messages.
        self.next_deadline = self._timeouts.next
        self._abandoned: OrderedDict[Outstanding, None] = OrderedDict()
        # Created when there is no more room, and dropped when there is plenty.
        self._ranking: _Ranking | None = None

    def __len__(self) -> int:
        return len(self._by_id) - len(self._abandoned)

    @property
    def full(self) -> bool:
        """Whether `make_room` must be called before the next request is added."""
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
        """Return the request with this id if it was forwarded to this service."""
        request = self._by_id.get(request_id) if request_id is not None else None
        return request if request is not None and request.responder is responder else None

    def make_room(self, asker: Service) -> Outstanding:
        """Remove a request to make room for the next one, by `asker`, and return it.

        It is one whose requester has disconnected, or else the oldest of the client that waits for
        the most answers, so that flooding the broker hurts only the client that does it. In a tie,
        it is the asker's.
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
        """Keep the requests of a client that has disconnected; their answers are dropped."""
        for request in requester.asked:
            request.requester = None
            self._abandoned[request] = None
        requester.asked.clear()

    def take_due(self, now: float) -> list[Outstanding]:
        """Remove and return the requests whose time limit has passed."""
        due = self._timeouts.pop_due(now)
        for request in due:
            self.remove(request)
        return due


class _Ranking:
    """Services by the number of requests they wait for, most first.

    Only growth is recorded. An entry whose count has shrunk is corrected when it reaches the top,
    so a change costs at most the logarithm of their number.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        self._order = itertools.count()  # so that services are not compared
        self._heap = [
            (-len(service.asked), next(self._order), service) for service in dict.fromkeys(services)
        ]
        heapq.heapify(self._heap)

    def has_grown(self, service: Service) -> None:
        heapq.heappush(self._heap, (-len(service.asked), next(self._order), service))

    def first(self) -> Service:
        """Return the service that waits for the most; at least one must be waiting."""
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
