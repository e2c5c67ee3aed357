"""The Router: the broker's side of the MB protocol, as a state machine without I/O.

Its driver (Connections) reports each new connection and each batch of received messages with the
time, sends what it finds in the outboxes of `take_output()`, closes the connections of
`take_dropped()`, and calls `handle_deadline` at the time of `next_deadline`.

A publication goes to every subscriber under one new id. A request goes to one responder under a new
id, and is outstanding until its response, its time limit, or the end of its responder. Nothing that
a client sends makes the Router raise (docs/protocol.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from mb_core.codec import ERROR_PREFIX, encode_payload, error_in, may_be_error
from mb_core.errors import (
    MalformedMessageError,
    NoRouteFoundError,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.header import MAX_HEADER, Action, HeaderPrefix
from mb_core.ids import IdSource
from mb_core.message import is_text
from mb_core.topic import AUTHENTICATE

from .access import Access, Grants
from .audit_feed import received_event, sent_event
from .heartbeats import Heartbeats
from .identities import Identities
from .log_feed import LOGGED_MESSAGE_ID, LogFeed
from .metrics import BrokerMetrics, Metric
from .options import RouterOptions
from .outstanding_requests import Outstanding, OutstandingRequests
from .refusals import (
    MAX_SUBJECT,
    Refusals,
    denied_error,
    payload_error,
    subject_error,
    unknown_request_error,
)
from .registry import Registry, Service, is_system
from .replies import GREETING, HEARTBEAT, reply, reply_error, response
from .system_topics import COSTLY_TOPICS, SystemTopics

__all__ = ["Router"]


# The route for topics that the broker answers itself.
_SYSTEM = object()
# The route of what a client may not send: nobody.
_FORBIDDEN: list[Service] = []
# The route for messages whose header would be over the limit with an id.
_TOO_LONG = object()
# The most bytes of action, topic and version that leave room for an id and a time limit.
_LONGEST_WITH_TIMEOUT = MAX_HEADER - len(":") - 36 - len("::3600000") - len("\n")


class Router:
    """Routes messages between connected clients, without I/O. All times are in seconds."""

    def __init__(
        self,
        options: RouterOptions | None = None,
        host_metrics: Callable[[], Iterable[Metric]] = tuple,
        progress: Callable[[Service], int] = lambda service: 0,
        access: Access | None = None,
    ) -> None:
        self.options = options if options is not None else RouterOptions()
        self.registry = Registry()
        self.metrics = BrokerMetrics(self.registry, host_metrics)
        self.log = LogFeed(self._send)
        self.draining = False
        self._log_this = False  # whether the current message gets a debug entry
        self._identities = Identities(access or Access(), self.options)
        self._system = SystemTopics(
            self.registry, self.metrics, self.log, self.options, self._identities
        )
        self._ids = IdSource()
        self._refusals = Refusals(self.metrics, self.log, self._ids, self._send)
        self._requests = OutstandingRequests(self.options.max_outstanding)
        self._heartbeats = Heartbeats(
            self.options.heartbeat_after, self.options.drop_after, progress
        )
        self._with_output: list[Service] = []
        self._dropped: list[Service] = []
        self._second = 0  # by the driver's clock, for the counters

    @property
    def outstanding(self) -> int:
        """How many requests of connected clients wait for their answer."""
        return len(self._requests)

    @property
    def followed(self) -> bool:
        """Whether any client follows the messages or the log: then each message is an event."""
        return bool(self.registry.auditors) or self.log.followed

    # Connections

    def connect(self, now: float) -> Service:
        """Add a client that has connected, and greet it."""
        self._second = int(now)
        service = Service(connected_at=now, last_seen=now)
        self._identities.add(service, now)
        self.registry.add(service)
        self.metrics.connected.add(self._second)
        self._heartbeats.add(service, now)
        self._send(service, GREETING)
        return service

    def disconnect(self, service: Service, now: float) -> None:
        """Remove a client that has left. Requests that it had to answer fail at once."""
        self._second = int(now)
        self.registry.remove(service)
        self.log.unfollow(service)
        self._identities.discard(service)
        self.metrics.disconnected.add(self._second)
        if service.name:
            self.metrics.unregistration.add(self._second)
        self._heartbeats.discard(service)
        self._requests.requester_left(service)
        for request in list(service.answering):
            self._requests.remove(request)
            self._answer_error(
                request,
                ServiceUnavailableError(
                    "the responder disconnected", details={"targetServiceId": service.id}
                ),
            )
        service.outbox.clear()

    def keep_alive(self, service: Service, now: float) -> None:
        """Note that a client is alive, although no message arrived from it."""
        service.last_seen = now
        self._heartbeats.add(service, now)

    # Messages

    def receive(
        self, service: Service, messages: list[bytes], now: float, *, costly: int | None = None
    ) -> list[bytes]:
        """Handle whole messages of one client, in order, and return those that were not handled.

        `costly` limits how many requests with long answers are handled: the next such request is
        returned, with all messages after it. So is a request whose answer is not prepared yet.
        """
        service.last_seen = now
        self._second = int(now)
        self.metrics.count_sizes(self._second, messages)
        read = service.read
        max_payload = self.options.max_payload
        default_timeout = self.options.request_timeout
        registry = self.registry
        wants_debug = log_this = self._log_this = self.log.wants_debug
        published = 0
        rest = iter(messages)
        for data in rest:
            try:
                prefix, request_id, parent_id, timeout, end = read(data)
            except RemoteProtocolError as error:
                malformed = MalformedMessageError(str(error), details=error.details)
                self._refusals.refuse_unread(service, malformed, self._second)
                continue
            if prefix.generation != registry.generation:
                self._set_route(prefix, service.grants)
            if wants_debug:
                log_this = self._log_this = parent_id != LOGGED_MESSAGE_ID
            route = prefix.route
            if route is _SYSTEM:
                if published:  # the request may ask for this number
                    self.metrics.publish.add(self._second, published)
                    published = 0
                if costly is not None and prefix.key in COSTLY_TOPICS:
                    if not costly or not self._system.prepare(prefix.key):
                        left = [data, *rest]
                        self.metrics.count_sizes(self._second, left, -1)
                        return left
                    costly -= 1
            if registry.auditors:
                shown = data if prefix.key != AUTHENTICATE else data[: end + 1] + b"{}"
                self._audit(received_event(service.id, shown, default_timeout))
            if route is _TOO_LONG:
                self._refusals.refuse_unread(service, subject_error(prefix), self._second)
                continue
            if len(data) - end - 1 > max_payload or not is_text(data):
                self._refuse_payload(service, prefix, request_id, data, end, now)
                continue
            if route is _SYSTEM:
                self._answer_system(service, prefix, request_id, data[end + 1 :], now)
                read = service.read  # it may have authenticated
            elif prefix.action is Action.PUBLISH:
                published += 1
                if route:
                    if log_this:
                        text = f"published {prefix.topic}, receivers: {len(route)}"
                        self.log.write_debug(service, text)
                    message = b"%b:%b%b" % (prefix.encoded, self._ids.next(), data[end:])
                    if registry.auditors:
                        for receiver in route:
                            self._send(receiver, message, request_id)
                    else:
                        for receiver in route:
                            if not receiver.outbox:
                                self._with_output.append(receiver)
                            receiver.outbox.append(message)
                    if request_id is not None:
                        self._send(service, reply(prefix, request_id, {"status": "success"}))
                else:
                    self._no_route(service, prefix, request_id)
            elif prefix.action is Action.REQUEST:
                self.metrics.request.add(self._second)
                if route:
                    responder = route[0] if len(route) == 1 else random.choice(route)
                    seconds = timeout / 1000 if timeout is not None else default_timeout
                    if log_this:
                        text = f"forwarding request {prefix.topic} to {responder.id}"
                        self.log.write_debug(service, text)
                    self._forward_request(
                        service, prefix, request_id, data[end:], responder, now, seconds
                    )
                else:
                    self._no_route(service, prefix, request_id)
            else:
                self.metrics.response.add(self._second)
                self._forward_response(service, prefix, request_id, data[end + 1 :])
        if published:
            self.metrics.publish.add(self._second, published)
        return []

    def take_output(self) -> list[Service]:
        """Return the clients whose outboxes are not empty. The driver sends and clears them."""
        services, self._with_output = self._with_output, []
        return services

    def take_dropped(self) -> list[Service]:
        """Return the clients that were silent for too long. The driver closes their connections."""
        services, self._dropped = self._dropped, []
        return services

    def take_rejected(self, now: float) -> list[tuple[Service, str]]:
        """Return clients that did not authenticate, and why. The driver closes their links."""
        rejected = self._identities.unauthenticated.take_rejected(now)
        self.metrics.unauthorized.add(int(now), len(rejected))
        return rejected

    # Time

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` has to be called next; None if it doesn't."""
        timeout, silence = self._requests.next_deadline(), self._heartbeats.next_deadline()
        if self._identities.restricted:
            rejection = self._identities.unauthenticated.next_deadline()
            if rejection is not None:
                return min(rejection, timeout or rejection, silence or rejection)
        if timeout is None or silence is None:
            return timeout if silence is None else silence
        return min(timeout, silence)

    def handle_deadline(self, now: float) -> None:
        """Fail requests that took too long, send heartbeats to silent clients, and drop them."""
        self._second = int(now)
        for request in self._requests.take_due(now):
            self.metrics.request_timeout.add(self._second)
            details = {"targetServiceId": request.responder.id}
            self._write_log(
                "warn",
                f"a request to {request.prefix.topic} timed out",
                "request timed out",
                **details,
            )
            timed_out = RequestTimeoutError("the request timed out", details=details)
            self._answer_error(request, timed_out)
        silent, dropped = self._heartbeats.check(now)
        for service in silent:
            self._send(service, HEARTBEAT)
        self._dropped += dropped

    # Internals

    def _set_route(self, prefix: HeaderPrefix, grants: Grants) -> None:
        if len(prefix.subject) > MAX_SUBJECT:
            prefix.route = _TOO_LONG
        elif not grants.may_send(prefix.action, prefix.key):
            prefix.route = _FORBIDDEN
        elif is_system(prefix.key):
            prefix.route = _SYSTEM
        elif prefix.action is Action.PUBLISH:
            prefix.route = self.registry.receivers(prefix.key)
        else:
            prefix.route = self.registry.responders(prefix.key)
        prefix.generation = self.registry.generation

    def _forward_request(
        self,
        requester: Service,
        prefix: HeaderPrefix,
        requester_id: bytes | None,
        rest: bytes,
        responder: Service,
        now: float,
        seconds: float,
    ) -> None:
        if self.draining:
            error = ServiceUnavailableError("the broker is shutting down")
            self._refusals.refuse(requester, prefix, requester_id, error, self._second)
            return
        if self._requests.full:
            self._make_room(requester)
        request = Outstanding(self._ids.next(), prefix, requester, requester_id, responder)
        self._requests.add(request, now + seconds)
        encoded = prefix.encoded
        if responder.wants_timeouts and len(encoded) <= _LONGEST_WITH_TIMEOUT:
            message = b"%b:%b::%d%b" % (encoded, request.id, round(seconds * 1000), rest)
        else:
            message = b"%b:%b%b" % (encoded, request.id, rest)
        self._send(responder, message, requester_id)

    def _make_room(self, asker: Service) -> None:
        request = self._requests.make_room(asker)
        requester = request.requester
        if requester is None:
            return
        self.metrics.request_dropped.add(self._second)
        limit = self.options.max_outstanding
        text = f"more than {limit} requests are outstanding (max_outstanding)"
        self._write_log(
            "warn",
            f"a request to {request.prefix.topic} failed: {text}; "
            f"{requester.name or requester.id} had {len(requester.asked) + 1} of them",
            "max_outstanding",
            serviceId=requester.id,
        )
        self._answer_error(request, ServiceUnavailableError(text))

    def _forward_response(
        self, responder: Service, prefix: HeaderPrefix, request_id: bytes | None, payload: bytes
    ) -> None:
        request = self._requests.find(request_id, responder)
        if request is None:
            error = unknown_request_error(responder, request_id)
            self._refusals.refuse(responder, prefix, request_id, error, self._second)
            return
        self._requests.remove(request)
        if may_be_error(payload) and (answered := error_in(payload)) is not None:
            self.metrics.response_error.add(self._second)
            self._write_log(
                "info",
                f"{responder.name or responder.id} answered {request.prefix.topic} with {answered}",
                "error answers",
                serviceId=responder.id,
            )
        elif self._log_this:
            self.log.write_debug(responder, f"answered {request.prefix.topic}")
        if request.requester is None:
            return
        requester_id = request.requester_id
        if requester_id is None and payload.startswith(ERROR_PREFIX):
            requester_id = self._ids.next()
        if requester_id is not None:
            self._send(request.requester, response(request.prefix, requester_id, payload))

    def _answer_error(self, request: Outstanding, error: ResponseError) -> None:
        """Answer a request with an error of the broker; without an id, it expects no answer."""
        if request.requester is not None and request.requester_id is not None:
            self._send(request.requester, reply_error(request.prefix, request.requester_id, error))

    def _no_route(self, service: Service, prefix: HeaderPrefix, request_id: bytes | None) -> None:
        if prefix.route is _FORBIDDEN:
            denied = denied_error(service, prefix.action.value, prefix.topic)
            self._refusals.refuse(service, prefix, request_id, denied, self._second)
            return
        error = NoRouteFoundError(f"nobody is subscribed to {prefix.action.value} {prefix.topic}")
        if prefix.action is Action.PUBLISH:
            # It is normal for an event to have no subscribers: count it as dropped, not as an
            # error.
            self.metrics.publish_dropped.add(self._second)
            if self._log_this:
                self.log.write_debug(service, error.message)
            self._send(service, reply_error(prefix, request_id or self._ids.next(), error))
        else:
            self._refusals.refuse(service, prefix, request_id, error, self._second)

    def _refuse_payload(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        data: bytes,
        end: int,
        now: float,
    ) -> None:
        """Refuse a message because of its payload, unless something else is wrong as well.

        The reference broker checks payloads last.
        """
        error: ResponseError = payload_error(len(data) - end - 1, self.options.max_payload)
        if prefix.route is _SYSTEM:
            self._answer_system(service, prefix, request_id, error, now)
            return
        self.metrics.counter_of(prefix.action).add(self._second)
        if prefix.action is Action.RESPONSE:
            if self._requests.find(request_id, service) is None:
                error = unknown_request_error(service, request_id)
        elif not prefix.route:
            self._no_route(service, prefix, request_id)
            return
        self._refusals.refuse(service, prefix, request_id, error, self._second)

    def _answer_system(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        payload: bytes | ResponseError,
        now: float,
    ) -> None:
        self.metrics.counter_of(prefix.action).add(self._second)
        try:
            answer = self._system.answer(service, prefix, payload, now)
        except ResponseError as error:
            self._refusals.refuse(service, prefix, request_id, error, self._second)
            return
        if answer is not None:
            encoded = answer if isinstance(answer, bytes) else encode_payload(answer)
            self._send(service, response(prefix, request_id or self._ids.next(), encoded))

    def _write_log(self, level: str, text: str, cause: str, **fields: Any) -> None:
        self.log.write(level, "router", text, cause=cause, second=self._second, **fields)

    def _send(self, service: Service, message: bytes, masked_id: bytes | None = None) -> None:
        """Put a message into an outbox; `masked_id` is the sender's id if it was replaced."""
        if not service.outbox:
            self._with_output.append(service)
        service.outbox.append(message)
        if self.registry.auditors:
            self._audit(sent_event(service.id, message, masked_id))

    def _audit(self, event: bytes) -> None:
        for auditor in self.registry.auditors:
            if not auditor.outbox:
                self._with_output.append(auditor)
            auditor.outbox.append(event)
