"""Forwarding requests to responders, and their responses back."""

from __future__ import annotations

from collections.abc import Callable

from mb_core.codec import ERROR_PREFIX, error_in, may_be_error
from mb_core.errors import RequestTimeoutError, ResponseError, ServiceUnavailableError
from mb_core.header import MAX_HEADER, HeaderPrefix
from mb_core.ids import IdSource

from .log_feed import LogFeed
from .metrics import BrokerMetrics
from .outstanding_requests import Outstanding, OutstandingRequests
from .refusals import Refusals, unknown_request_error
from .registry import Service
from .replies import reply_error, response

__all__ = ["RequestForwarding"]

# The most bytes of action, topic and version that leave room for an id and a time limit.
_LONGEST_WITH_TIMEOUT = MAX_HEADER - len(":") - 36 - len("::3600000") - len("\n")


class RequestForwarding:
    """Sends each request to one responder under a new id, until it is answered or fails.

    `send` puts a message into a client's outbox; its third argument is the sender's id of a message
    that got a new one. `seconds` are on the Router's clock, whole for counters.

    Attributes:
        draining: Whether the broker is shutting down, so that new requests are refused.
    """

    def __init__(
        self,
        max_outstanding: int,
        metrics: BrokerMetrics,
        log: LogFeed,
        ids: IdSource,
        refusals: Refusals,
        send: Callable[[Service, bytes, bytes | None], None],
    ) -> None:
        self.draining = False
        self._limit = max_outstanding
        self._outstanding = OutstandingRequests(max_outstanding)
        # When `time_out` is due next, if at all; read after each batch of messages.
        self.next_deadline = self._outstanding.next_deadline
        self._metrics = metrics
        self._log = log
        self._ids = ids
        self._refusals = refusals
        self._send = send

    def __len__(self) -> int:
        return len(self._outstanding)

    def awaits(self, responder: Service, request_id: bytes | None) -> bool:
        """Return whether this responder was asked under this id, and has not answered."""
        return self._outstanding.find(request_id, responder) is not None

    def forward(
        self,
        requester: Service,
        prefix: HeaderPrefix,
        requester_id: bytes | None,
        rest: bytes,
        responder: Service,
        now: float,
        seconds: float,
    ) -> None:
        """Send a request to its responder, who has `seconds` to answer."""
        if self.draining:
            error = ServiceUnavailableError("the broker is shutting down")
            self._refusals.refuse(requester, prefix, requester_id, error, int(now))
            return
        if self._outstanding.full:
            self._make_room(requester, int(now))
        request = Outstanding(self._ids.next(), prefix, requester, requester_id, responder)
        self._outstanding.add(request, now + seconds)
        encoded = prefix.encoded
        if responder.wants_timeouts and len(encoded) <= _LONGEST_WITH_TIMEOUT:
            message = b"%b:%b::%d%b" % (encoded, request.id, round(seconds * 1000), rest)
        else:
            message = b"%b:%b%b" % (encoded, request.id, rest)
        self._send(responder, message, requester_id)

    def answer(
        self,
        responder: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        payload: bytes,
        second: int,
        *,
        log_this: bool,
    ) -> None:
        """Send a response to the sender of its request."""
        request = self._outstanding.find(request_id, responder)
        if request is None:
            error = unknown_request_error(responder, request_id)
            self._refusals.refuse(responder, prefix, request_id, error, second)
            return
        self._outstanding.remove(request)
        if may_be_error(payload) and (answered := error_in(payload)) is not None:
            self._metrics.response_error.add(second)
            name = responder.name or responder.id
            text = f"{name} answered {request.prefix.topic} with {answered}"
            self._write_log("info", text, "error answers", second, responder)
        elif log_this:
            self._log.write_debug(responder, f"answered {request.prefix.topic}")
        if request.requester is None:
            return
        requester_id = request.requester_id
        if requester_id is None and payload.startswith(ERROR_PREFIX):
            requester_id = self._ids.next()
        if requester_id is not None:
            message = response(request.prefix, requester_id, payload)
            self._send(request.requester, message, None)

    def time_out(self, now: float) -> None:
        """Fail the requests whose time limit has passed."""
        second = int(now)
        for request in self._outstanding.take_due(now):
            self._metrics.request_timeout.add(second)
            details = {"targetServiceId": request.responder.id}
            text = f"a request to {request.prefix.topic} timed out"
            self._log.write(
                "warn", "router", text, cause="request timed out", second=second, **details
            )
            self._fail(request, RequestTimeoutError("the request timed out", details=details))

    def leave(self, service: Service) -> None:
        """Fail the requests that a client had to answer, and forget who sent its own."""
        self._outstanding.requester_left(service)
        for request in list(service.answering):
            self._outstanding.remove(request)
            details = {"targetServiceId": service.id}
            error = ServiceUnavailableError("the responder disconnected", details=details)
            self._fail(request, error)

    def _make_room(self, asker: Service, second: int) -> None:
        request = self._outstanding.make_room(asker)
        requester = request.requester
        if requester is None:
            return
        self._metrics.request_dropped.add(second)
        why = f"more than {self._limit} requests are outstanding (max_outstanding)"
        name = requester.name or requester.id
        text = f"a request to {request.prefix.topic} failed: {why}; {name} had "
        text += f"{len(requester.asked) + 1} of them"
        self._write_log("warn", text, "max_outstanding", second, requester)
        self._fail(request, ServiceUnavailableError(why))

    def _fail(self, request: Outstanding, error: ResponseError) -> None:
        """Answer a request with an error of the broker; without an id, it expects no answer."""
        if request.requester is not None and request.requester_id is not None:
            message = reply_error(request.prefix, request.requester_id, error)
            self._send(request.requester, message, None)

    def _write_log(self, level: str, text: str, cause: str, second: int, service: Service) -> None:
        self._log.write(level, "router", text, cause=cause, second=second, serviceId=service.id)
