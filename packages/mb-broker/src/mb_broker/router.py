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
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mb_core.codec import ERROR_PREFIX, encode_payload, error_in, may_be_error
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
from mb_core.header import MAX_HEADER, Action, HeaderPrefix, HeaderReader
from mb_core.ids import IdSource
from mb_core.message import is_text
from mb_core.wire import DEFAULT_MAX_PAYLOAD

from .audit_feed import received_event, sent_event
from .log_feed import NOTED, Journal
from .metrics import BrokerMetrics, Metric
from .outstanding_requests import Outstanding, OutstandingRequests
from .registry import Registry, Service, is_system
from .replies import GREETING, HEARTBEAT, malformed_reply, reply, reply_error, response
from .system import COSTLY, SystemTopics

__all__ = ["Router", "RouterOptions"]


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Times in seconds; `max_payload`, `max_header` and `max_answer`, that of the payload of the
    broker's own answers, in bytes.

    `request_timeout` holds for requests that name no time limit.  A client that is silent for
    `heartbeat_after` is asked for a sign of life, again after as long, and dropped after
    `drop_after`.  One client has at most `max_subscriptions`; where all of them together have
    `max_subscriptions_total`, none with more than an equal share of these gets another.  At most
    `max_outstanding` requests wait for their responders at a time, then one fails of the client
    that has the most.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    max_header: int = MAX_HEADER
    max_answer: int = 12 * 1024 * 1024
    max_subscriptions: int = 10_000
    max_subscriptions_total: int = 1_000_000
    max_outstanding: int = 10_000
    request_timeout: float = 5.0
    heartbeat_after: float = 30.0
    drop_after: float = 60.0


# Stands in a prefix's route for topics that the broker answers itself.
_SYSTEM = object()
# And for what can't be passed on or answered: with an id, its header is over the limit.
_TOO_LONG = object()
_LONGEST_SUBJECT = MAX_HEADER - len("response:") - len(":") - 36 - len("\n")
# Bytes of action, topic and version with which a header can name a time limit behind an id.
_LONGEST_WITH_TIMEOUT = MAX_HEADER - len(":") - 36 - len("::3600000") - len("\n")


class Router:
    """Routes messages between the connected services."""

    def __init__(
        self,
        options: RouterOptions | None = None,
        host_metrics: Callable[[], Iterable[Metric]] = tuple,
        progress: Callable[[Service], int] = lambda service: 0,
    ) -> None:
        self.options = options if options is not None else RouterOptions()
        self.registry = Registry()
        self.metrics = BrokerMetrics(self.registry, host_metrics)
        self.journal = Journal(self._send)
        self.draining = False
        self._detailed = False  # whether each message that is passed on is an entry of the log
        self._system = SystemTopics(
            self.registry,
            self.metrics,
            self.journal,
            max_subscriptions=self.options.max_subscriptions,
            max_subscriptions_total=self.options.max_subscriptions_total,
            max_answer=self.options.max_answer,
        )
        self._reader = HeaderReader(self.options.max_header)
        self._ids = IdSource()
        self._requests = OutstandingRequests(self.options.max_outstanding)
        self._progress = progress  # of a service's Link
        self._silences: Deadlines[Service] = Deadlines()
        self._with_output: list[Service] = []
        self._dropped: list[Service] = []
        self._second = 0  # of the driver's clock, for the counters

    @property
    def outstanding(self) -> int:
        """How many requests of connected clients wait for their responder."""
        return len(self._requests)

    @property
    def followed(self) -> bool:
        """Whether somebody follows the messages or the log, for whom each is an event or more."""
        return bool(self.registry.auditors) or self.journal.followed

    # Connections

    def connect(self, now: float) -> Service:
        """A client has connected: greet it."""
        self._second = int(now)
        service = Service(connected_at=now, last_seen=now)
        self.registry.add(service)
        self.metrics.connected.add(self._second)
        self._silences.add(service, now + self.options.heartbeat_after)
        self._send(service, GREETING)
        return service

    def disconnect(self, service: Service, now: float) -> None:
        """A client has gone: requests that it was to answer fail at once."""
        self._second = int(now)
        self.registry.remove(service)
        self.journal.forget(service)
        self.metrics.disconnected.add(self._second)
        if service.name:
            self.metrics.unregistration.add(self._second)
        self._silences.discard(service)
        self._requests.abandon(service)
        for request in list(service.answering):
            self._requests.forget(request)
            self._answer_error(
                request,
                ServiceUnavailableError(
                    "the responder disconnected", details={"targetServiceId": service.id}
                ),
            )
        service.outbox.clear()

    def spare(self, service: Service, now: float) -> None:
        """It is alive, though nothing came from it: keep it from being dropped for that."""
        service.last_seen = now
        self._silences.add(service, now + self.options.heartbeat_after)

    # Messages

    def receive(
        self, service: Service, messages: list[bytes], now: float, *, costly: int | None = None
    ) -> list[bytes]:
        """Take whole messages of one client, in order; return those that are left.

        With `costly`, no more than so many of them are answered whose answers are long: the next
        such question is left, and all behind it.  So is one whose answer takes more preparation
        than is done at once.
        """
        service.last_seen = now
        self._second = int(now)
        self.metrics.count_sizes(self._second, messages)
        read = self._reader.read
        max_payload = self.options.max_payload
        default_limit = self.options.request_timeout
        registry = self.registry
        detailed = noted = self._detailed = self.journal.detailed
        published = 0
        rest = iter(messages)
        for data in rest:
            try:
                prefix, request_id, parent_id, timeout, end = read(data)
            except RemoteProtocolError as error:
                self._refuse_unread(
                    service, MalformedMessageError(str(error), details=error.details)
                )
                continue
            if prefix.generation != registry.generation:
                self._look_up(prefix)
            if detailed:
                noted = self._detailed = parent_id != NOTED
            route = prefix.route
            if route is _SYSTEM:
                if published:  # the question may be how many
                    self.metrics.publish.add(self._second, published)
                    published = 0
                if costly is not None and prefix.key in COSTLY:
                    if not costly or not self._system.prepare(prefix.key):
                        left = [data, *rest]
                        self.metrics.count_sizes(self._second, left, -1)
                        return left
                    costly -= 1
            if registry.auditors:
                self._audit(received_event(service.id, data, default_limit))
            if route is _TOO_LONG:
                self._refuse_unread(service, _too_long(prefix))
                continue
            if len(data) - end - 1 > max_payload or not is_text(data):
                self._refuse_payload(service, prefix, request_id, data, end, now)
                continue
            if route is _SYSTEM:
                self._answer_system(service, prefix, request_id, data[end + 1 :], now)
            elif prefix.action is Action.PUBLISH:
                published += 1
                if route:
                    if noted:
                        self._note(service, f"published {prefix.topic}, receivers: {len(route)}")
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
                    limit = timeout / 1000 if timeout is not None else default_limit
                    if noted:
                        self._note(service, f"passing request {prefix.topic} on to {responder.id}")
                    self._pass_on(service, prefix, request_id, data[end:], responder, now, limit)
                else:
                    self._no_route(service, prefix, request_id)
            else:
                self.metrics.response.add(self._second)
                self._pass_back(service, prefix, request_id, data[end + 1 :])
        if published:
            self.metrics.publish.add(self._second, published)
        return []

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
        limit, silence = self._requests.next_deadline(), self._silences.next()
        if limit is None or silence is None:
            return limit if silence is None else silence
        return min(limit, silence)

    def handle_deadline(self, now: float) -> None:
        """End requests that took too long; ask the silent for a sign of life, or drop them."""
        self._second = int(now)
        for request in self._requests.take_due(now):
            self.metrics.request_timeout.add(self._second)
            details = {"targetServiceId": request.responder.id}
            self.journal.write(
                "warn",
                "router",
                f"a request to {request.prefix.topic} timed out",
                cause="request timed out",
                second=self._second,
                **details,
            )
            self._answer_error(
                request, RequestTimeoutError("the request timed out", details=details)
            )
        options = self.options
        for service in self._silences.pop_due(now):
            seen = max(service.last_seen, service.moved_at)
            progress = self._progress(service)
            if progress != service.progress:
                service.progress = progress
                if now >= seen + options.heartbeat_after:
                    # Not by a message, so by a part of one, or by what it had to read first.
                    seen = service.moved_at = now
            # The sums by which deadlines are set: `now - seen` would round otherwise.
            ask_at = seen + options.heartbeat_after
            drop_at = seen + options.drop_after
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
        if len(prefix.subject) > _LONGEST_SUBJECT:
            prefix.route = _TOO_LONG
        elif is_system(prefix.key):
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
        now: float,
        limit: float,
    ) -> None:
        if self.draining:
            error = ServiceUnavailableError("the broker is shutting down")
            self._refuse(requester, prefix, requester_id, error)
            return
        if self._requests.full:
            self._make_room(requester)
        request = Outstanding(self._ids.next(), prefix, requester, requester_id, responder)
        self._requests.add(request, now + limit)
        encoded = prefix.encoded
        if responder.wants_timeouts and len(encoded) <= _LONGEST_WITH_TIMEOUT:
            message = b"%b:%b::%d%b" % (encoded, request.id, round(limit * 1000), rest)
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
        self.journal.write(
            "warn",
            "router",
            f"a request to {request.prefix.topic} failed: {text}; "
            f"{requester.name or requester.id} had {len(requester.asked) + 1} of them",
            cause="max_outstanding",
            second=self._second,
            serviceId=requester.id,
        )
        self._answer_error(request, ServiceUnavailableError(text))

    def _pass_back(
        self, responder: Service, prefix: HeaderPrefix, request_id: bytes | None, payload: bytes
    ) -> None:
        request = self._requests.of(request_id, responder)
        if request is None:
            self._refuse(responder, prefix, request_id, _unknown_request(request_id))
            return
        self._requests.forget(request)
        if may_be_error(payload) and (error := error_in(payload)) is not None:
            self.metrics.response_error.add(self._second)
            self.journal.write(
                "info",
                "router",
                f"{responder.name or responder.id} answered {request.prefix.topic} with {error}",
                cause="error answers",
                second=self._second,
                serviceId=responder.id,
            )
        elif self._detailed:
            self._note(responder, f"answered {request.prefix.topic}")
        if request.requester is None:
            return
        requester_id = request.requester_id
        if requester_id is None and payload.startswith(ERROR_PREFIX):
            requester_id = self._ids.next()
        if requester_id is not None:
            self._send(request.requester, response(request.prefix, requester_id, payload))

    def _answer_error(self, request: Outstanding, error: ResponseError) -> None:
        """End a request with an error of the broker's; one without an id waits for no word."""
        if request.requester is not None and request.requester_id is not None:
            self._send(request.requester, reply_error(request.prefix, request.requester_id, error))

    def _no_route(self, service: Service, prefix: HeaderPrefix, request_id: bytes | None) -> None:
        error = NoRouteFoundError(f"nobody is subscribed to {prefix.action.value} {prefix.topic}")
        if prefix.action is Action.PUBLISH:
            # Usual where events have no listeners yet: dropped, and no error.
            self.metrics.publish_dropped.add(self._second)
            if self._detailed:
                self._note(service, error.message)
            self._send(service, reply_error(prefix, request_id or self._ids.next(), error))
        else:
            self._refuse(service, prefix, request_id, error)

    def _refuse(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        error: ResponseError,
    ) -> None:
        """Answer with an error; where the message had no id, under a new one."""
        self.metrics.count_error(self._second, service, prefix.action)
        self._log_refusal(service, error)
        self._send(service, reply_error(prefix, request_id or self._ids.next(), error))

    def _refuse_unread(self, service: Service, error: MalformedMessageError) -> None:
        """Answer a message whose header can't be used: its sender can't tell which one it was."""
        self.metrics.count_error(self._second, service, None)
        self._log_refusal(service, error)
        self._send(service, malformed_reply(error))

    def _log_refusal(self, service: Service, error: ResponseError) -> None:
        self.journal.write(
            "error",
            "router",
            f"[{error.code}] {error.message}",
            cause=error.code,
            second=self._second,
            serviceId=service.id,
            error={"code": error.code, "message": error.message, "timestamp": error.timestamp},
        )

    def _note(self, service: Service, text: str) -> None:
        self.journal.note(text, service)

    def _refuse_payload(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        data: bytes,
        end: int,
        now: float,
    ) -> None:
        """Refuse a message for its payload, unless it is wrong in another way as well.

        The reference broker looks at payloads last.
        """
        error = self._bad_payload(data, end)
        if prefix.route is _SYSTEM:
            self._answer_system(service, prefix, request_id, error, now)
            return
        self.metrics.of(prefix.action).add(self._second)
        if prefix.action is Action.RESPONSE:
            if self._requests.of(request_id, service) is None:
                error = _unknown_request(request_id)
        elif not prefix.route:
            self._no_route(service, prefix, request_id)
            return
        self._refuse(service, prefix, request_id, error)

    def _bad_payload(self, data: bytes, end: int) -> ResponseError:
        size, limit = len(data) - end - 1, self.options.max_payload
        if size <= limit:
            return MalformedMessageError("the message is not valid UTF-8")
        return MalformedMessageError(
            f"the payload has {size} bytes, the limit is {limit} (max_payload)",
            details={"payloadLength": size},
        )

    def _answer_system(
        self,
        service: Service,
        prefix: HeaderPrefix,
        request_id: bytes | None,
        payload: bytes | ResponseError,
        now: float,
    ) -> None:
        self.metrics.of(prefix.action).add(self._second)
        try:
            answer = self._system.answer(service, prefix, payload, now)
        except ResponseError as error:
            self._refuse(service, prefix, request_id, error)
            return
        if answer is not None:
            encoded = answer if isinstance(answer, bytes) else encode_payload(answer)
            self._send(service, response(prefix, request_id or self._ids.next(), encoded))

    def _send(self, service: Service, message: bytes, masked_id: bytes | None = None) -> None:
        """Put a message into an outbox; `masked_id` is its sender's id, where it was replaced."""
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


def _unknown_request(request_id: bytes | None) -> InvalidRequestIdError:
    if request_id is None:
        return InvalidRequestIdError("a response needs the id of its request")
    return InvalidRequestIdError(
        f"this service has no request with the id {request_id.decode()} to answer (any more)"
    )


def _too_long(prefix: HeaderPrefix) -> MalformedMessageError:
    return MalformedMessageError(
        f"topic and version have {len(prefix.subject)} bytes, the limit is {_LONGEST_SUBJECT}: "
        f"with an id, the header would have more than {MAX_HEADER}",
        details={"version": prefix.version},
    )
