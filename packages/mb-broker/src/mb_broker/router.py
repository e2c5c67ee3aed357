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

from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.codec import encode_payload
from mb_core.errors import (
    MalformedMessageError,
    NoRouteFoundError,
    RemoteProtocolError,
    ResponseError,
)
from mb_core.header import Action, HeaderPrefix
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
from .rate_limit import RateLimit
from .refusals import (
    MAX_SUBJECT,
    Refusals,
    denied_error,
    payload_error,
    subject_error,
    unknown_request_error,
)
from .registry import Registry, Service, is_system
from .replies import GREETING, HEARTBEAT, ended_reply, reply, reply_error, response
from .request_forwarding import RequestForwarding
from .system_topics import COSTLY_TOPICS, SystemTopics

__all__ = ["Router"]


# The route for topics that the broker answers itself.
_SYSTEM = object()
# The route of what a client may not send: nobody.
_FORBIDDEN: list[Service] = []
# The route for messages whose header would be over the limit with an id.
_TOO_LONG = object()


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
        self._log_this = False  # whether the current message gets a debug entry
        self._identities = Identities(access or Access(), self.options, self.metrics, self.log)
        self._system = SystemTopics(
            self.registry, self.metrics, self.log, self.options, self._identities
        )
        self._ids = IdSource()
        # Of answers to messages without one. Those of `_ids` count the messages of all clients,
        # which is nothing for clients that may do nothing.
        self._answer_ids = IdSource()
        self._refusals = Refusals(self.metrics, self.log, self._answer_ids, self._send)
        self.requests = RequestForwarding(
            self.options.max_outstanding,
            self.metrics,
            self.log,
            self._ids,
            self._refusals,
            self._send,
        )
        self._heartbeats = Heartbeats(
            self.options.heartbeat_after, self.options.drop_after, progress
        )
        self._with_output: list[Service] = []
        self._dropped: list[Service] = []
        self._second = 0  # by the driver's clock, for the counters

    @property
    def outstanding(self) -> int:
        """How many requests of connected clients wait for their answer."""
        return len(self.requests)

    @property
    def followed(self) -> bool:
        """Whether any client follows the messages or the log: then each message is an event."""
        return bool(self.registry.auditors) or self.log.followed

    # Connections

    def connect(self, now: float, credentials: Credentials = NO_CREDENTIALS) -> Service:
        """Add a client that has connected, with what its connection says about it; greet it."""
        self._second = int(now)
        service = Service(connected_at=now, last_seen=now)
        self._identities.add(service, credentials, now)
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
        self.requests.leave(service)
        service.outbox.clear()

    def keep_alive(self, service: Service, now: float) -> None:
        """Note that a client is alive, although no message arrived from it."""
        service.last_seen = now
        self._heartbeats.add(service, now)

    def replace_access(self, access: Access, now: float) -> None:
        """Apply new users and roles, and send clients an error for each subscription that ends."""
        self._second = int(now)
        for service in self._identities.replace(access, self.registry.services.values(), now):
            errors = self._system.end_forbidden(service, now)
            for error in errors if service.grants.known else ():  # others are disconnected
                self._send(service, ended_reply(self._answer_ids.next(), error))

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
        excess: list[bytes] = []
        limit = service.rate_limit
        if limit is not None:
            messages, excess = limit.split(messages, now)
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
                        if limit is not None:
                            limit.give_back(left)
                            left += excess
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
                if service.rate_limit is not limit:  # and has other limits now
                    left = [*rest]
                    if limit is not None:
                        limit.give_back(left)
                        left += excess
                    self.metrics.count_sizes(self._second, left, -1)
                    return self.receive(service, left, now, costly=costly)
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
                    self.requests.forward(
                        service, prefix, request_id, data[end:], responder, now, seconds
                    )
                else:
                    self._no_route(service, prefix, request_id)
            else:
                self.metrics.response.add(self._second)
                self.requests.answer(
                    service, prefix, request_id, data[end + 1 :], self._second, log_this=log_this
                )
        if published:
            self.metrics.publish.add(self._second, published)
        if excess and isinstance(limit, RateLimit):
            self._refuse_excess(service, excess, limit)
        elif excess:
            self._identities.too_many_messages(service)
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
        """Return clients that nobody knows (any more), and why. The driver closes their links."""
        rejected = self._identities.take_rejected(now)
        for service, _ in rejected:
            self._system.end_forbidden(service, now)
        return rejected

    # Time

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` has to be called next; None if it doesn't."""
        timeout, silence = self.requests.next_deadline(), self._heartbeats.next_deadline()
        if self._identities.restricted:
            rejection = self._identities.next_deadline()
            if rejection is not None:
                return min(rejection, timeout or rejection, silence or rejection)
        if timeout is None or silence is None:
            return timeout if silence is None else silence
        return min(timeout, silence)

    def handle_deadline(self, now: float) -> None:
        """Fail requests that took too long, send heartbeats to silent clients, and drop them."""
        self._second = int(now)
        self.requests.time_out(now)
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
            self._send(service, reply_error(prefix, request_id or self._answer_ids.next(), error))
        else:
            self._refusals.refuse(service, prefix, request_id, error, self._second)

    def _refuse_excess(self, service: Service, messages: list[bytes], limit: RateLimit) -> None:
        """Refuse messages beyond the rate limit of their sender, whatever they contain."""
        error: ResponseError
        for data in messages:
            try:
                prefix, request_id, *_ = service.read(data)
            except RemoteProtocolError as fault:
                error = MalformedMessageError(str(fault), details=fault.details)
                self._refusals.refuse_unread(service, error, self._second)
            else:
                error = limit.error()
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
            if not self.requests.awaits(service, request_id):
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
            self._send(service, response(prefix, request_id or self._answer_ids.next(), encoded))

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
