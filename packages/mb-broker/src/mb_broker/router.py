"""The Router: the broker's side of the MB protocol as a machine that touches nothing.

Messages in, messages out.  Its driver (Broker) gives it each new connection, each batch of
received messages and the time, and sends what it then finds in the outboxes of
`take_output()`; it closes the connections of `take_dropped()`, and calls `handle_deadline` when
the time of `next_deadline` has come.

A publication goes to every subscriber under one new id.  A request goes to one responder under
a new id, and is outstanding until exactly one of these: its response, its time limit, the end
of its responder.  Nothing that a client sends makes the Router raise (docs/protocol.md).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mb_core.codec import ERROR_PREFIX
from mb_core.deadlines import Deadlines
from mb_core.errors import (
    InvalidRequestIdError,
    MalformedMessageError,
    NoRouteFoundError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.header import Action, HeaderPrefix, HeaderReader
from mb_core.ids import IdSource
from mb_core.message import is_text
from mb_core.wire import DEFAULT_MAX_PAYLOAD

from .registry import Registry, Service, is_system
from .replies import GREETING, HEARTBEAT, malformed_reply, reply, reply_error, response
from .system import SystemTopics

__all__ = ["Router", "RouterOptions"]


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Times in seconds; `max_payload` in bytes.

    `request_timeout` holds for requests that name no time limit.  A client that is silent for
    `heartbeat_after` is asked for a sign of life, again after as long, and dropped after
    `drop_after`.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    request_timeout: float = 5.0
    heartbeat_after: float = 30.0
    drop_after: float = 60.0


@dataclass(eq=False, slots=True)
class _Outstanding:
    """A request that was passed on.  `requester` is None once nobody waits for it any more."""

    id: bytes
    prefix: HeaderPrefix
    requester: Service | None
    requester_id: bytes | None
    responder: Service


# Stands in a prefix's route for topics that the broker answers itself.
_SYSTEM = object()


class Router:
    """Routes messages between the connected services."""

    def __init__(self, options: RouterOptions | None = None) -> None:
        self.options = options if options is not None else RouterOptions()
        self.registry = Registry()
        self.draining = False
        self._system = SystemTopics(self.registry)
        self._reader = HeaderReader()
        self._ids = IdSource()
        self._outstanding: dict[bytes, _Outstanding] = {}
        self._time_limits: Deadlines[_Outstanding] = Deadlines()
        self._silences: Deadlines[Service] = Deadlines()
        self._with_output: list[Service] = []
        self._dropped: list[Service] = []

    @property
    def outstanding(self) -> int:
        """How many requests wait for their responder."""
        return len(self._outstanding)

    # Connections

    def connect(self, now: float) -> Service:
        """A client has connected: greet it."""
        service = Service(connected_at=now, last_seen=now)
        self.registry.add(service)
        self._silences.add(service, now + self.options.heartbeat_after)
        self._send(service, GREETING)
        return service

    def disconnect(self, service: Service) -> None:
        """A client is gone; who waits for its answers hears of it at once."""
        self.registry.remove(service)
        self._silences.discard(service)
        for request in service.asked:
            request.requester = None
        service.asked.clear()
        for request in list(service.answering):
            self._forget(request)
            self._answer_error(
                request,
                ServiceUnavailableError(
                    "the responder disconnected", details={"targetServiceId": service.id}
                ),
            )
        service.outbox.clear()

    # Messages

    def receive(self, service: Service, messages: list[bytes], now: float) -> None:
        """Take whole messages of one client, in order."""
        service.last_seen = now
        read = self._reader.read
        max_payload = self.options.max_payload
        registry = self.registry
        for data in messages:
            try:
                prefix, request_id, _, timeout, end = read(data)
            except RemoteProtocolError as error:
                text = MalformedMessageError(str(error), details=error.details)
                self._send(service, malformed_reply(text))
                continue
            if len(data) - end - 1 > max_payload or not is_text(data):
                self._refuse(service, prefix, request_id, self._bad_payload(data, end))
                continue
            if prefix.generation != registry.generation:
                self._look_up(prefix)
            route = prefix.route
            if route is _SYSTEM:
                self._answer_system(service, prefix, request_id, data[end + 1 :], now)
            elif prefix.action is Action.PUBLISH:
                if route:
                    message = b"%b:%b%b" % (prefix.encoded, self._ids.next(), data[end:])
                    for receiver in route:
                        if not receiver.outbox:
                            self._with_output.append(receiver)
                        receiver.outbox.append(message)
                    if request_id is not None:
                        self._send(service, reply(prefix, request_id, {"status": "success"}))
                else:
                    self._no_route(service, prefix, request_id)
            elif prefix.action is Action.REQUEST:
                if route:
                    responder = route[0] if len(route) == 1 else random.choice(route)
                    limit = timeout / 1000 if timeout is not None else self.options.request_timeout
                    self._pass_on(service, prefix, request_id, data[end:], responder, now + limit)
                else:
                    self._no_route(service, prefix, request_id)
            else:
                self._pass_back(service, prefix, request_id, data[end + 1 :])

    def take_output(self) -> list[Service]:
        """The services whose outboxes have something; the driver sends and clears them."""
        services, self._with_output = self._with_output, []
        return services

    def take_dropped(self) -> list[Service]:
        """The services whose connections are to be closed: they were silent for too long."""
        services, self._dropped = self._dropped, []
        return services

    # Time

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is due next, if at all."""
        limit, silence = self._time_limits.next(), self._silences.next()
        if limit is None or silence is None:
            return limit if silence is None else silence
        return min(limit, silence)

    def handle_deadline(self, now: float) -> None:
        """End requests that took too long; ask the silent for a sign of life, or drop them."""
        for request in self._time_limits.pop_due(now):
            self._forget(request)
            details = {"targetServiceId": request.responder.id}
            self._answer_error(
                request, RequestTimeoutError("the request timed out", details=details)
            )
        options = self.options
        for service in self._silences.pop_due(now):
            # The sums by which deadlines are set: `now - last_seen` would round otherwise.
            ask_at = service.last_seen + options.heartbeat_after
            drop_at = service.last_seen + options.drop_after
            if now >= drop_at:
                self._dropped.append(service)
            elif now >= ask_at:
                self._send(service, HEARTBEAT)
                # It may answer: the next silence is not to be noticed later than this one.
                self._silences.add(service, min(drop_at, now + options.heartbeat_after))
            else:
                self._silences.add(service, ask_at)

    # Within

    def _look_up(self, prefix: HeaderPrefix) -> None:
        if is_system(prefix.key):
            prefix.route = _SYSTEM
        elif prefix.action is Action.PUBLISH:
            prefix.route = self.registry.receivers(prefix.key)
        else:
            prefix.route = self.registry.responders(prefix.key)
        prefix.generation = self.registry.generation

    def _pass_on(
        self,
        requester: Service,
        prefix: HeaderPrefix,
        requester_id: bytes | None,
        rest: bytes,
        responder: Service,
        deadline: float,
    ) -> None:
        if self.draining:
            error = ServiceUnavailableError("the broker is shutting down")
            self._refuse(requester, prefix, requester_id, error)
            return
        request = _Outstanding(self._ids.next(), prefix, requester, requester_id, responder)
        self._outstanding[request.id] = request
        self._time_limits.add(request, deadline)
        requester.asked[request] = None
        responder.answering[request] = None
        self._send(responder, b"%b:%b%b" % (prefix.encoded, request.id, rest))

    def _pass_back(
        self, responder: Service, prefix: HeaderPrefix, request_id: bytes | None, payload: bytes
    ) -> None:
        request = self._outstanding.get(request_id) if request_id is not None else None
        if request is None or request.responder is not responder:
            text = (
                "a response needs the id of its request"
                if request_id is None
                else f"no request with the id {request_id.decode()} waits for this service"
            )
            self._refuse(responder, prefix, request_id, InvalidRequestIdError(text))
            return
        self._forget(request)
        if request.requester_id is not None or payload.startswith(ERROR_PREFIX):
            self._answer(request, payload)

    def _answer(self, request: _Outstanding, payload: bytes) -> None:
        """Pass an answer back under the requester's own id, topic and version."""
        if request.requester is not None:
            request_id = request.requester_id or self._ids.next()
            self._send(request.requester, response(request.prefix, request_id, payload))

    def _answer_error(self, request: _Outstanding, error: ResponseError) -> None:
        if request.requester is not None:
            self._refuse(request.requester, request.prefix, request.requester_id, error)

    def _forget(self, request: _Outstanding) -> None:
        del self._outstanding[request.id]
        self._time_limits.discard(request)
        del request.responder.answering[request]
        if request.requester is not None:
            del request.requester.asked[request]

    def _no_route(self, service: Service, prefix: HeaderPrefix, request_id: bytes | None) -> None:
        error = NoRouteFoundError(f"nobody is subscribed to {prefix.action.value} {prefix.topic}")
        self._refuse(service, prefix, request_id, error)

    def _refuse(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        error: ResponseError,
    ) -> None:
        """Answer with an error; where the message had no id, under a new one."""
        self._send(service, reply_error(prefix, request_id or self._ids.next(), error))

    def _bad_payload(self, data: bytes, end: int) -> ResponseError:
        size, limit = len(data) - end - 1, self.options.max_payload
        if size <= limit:
            return MalformedMessageError("the message is no UTF-8")
        return MalformedMessageError(
            f"the payload has {size} bytes, the limit is {limit}", details={"payloadLength": size}
        )

    def _answer_system(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        payload: bytes,
        now: float,
    ) -> None:
        answer = self._system.answer(service, prefix, payload, now)
        if answer is not None:
            self._send(service, reply(prefix, request_id or self._ids.next(), answer))

    def _send(self, service: Service, message: bytes) -> None:
        if not service.outbox:
            self._with_output.append(service)
        service.outbox.append(message)
