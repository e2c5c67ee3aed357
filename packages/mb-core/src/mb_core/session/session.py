"""The Session: the client's side of the MB protocol, as a state machine without I/O.

Theory
======

A Session takes whole messages and the time; it returns whole messages to send, and events. It has
no socket, no clock, no task and no event loop, so tests simply call it, and one implementation
serves every event loop and every transport. It outlives its Links: registration, subscriptions,
requests and publications carry on over the next one. Its driver (the client) owns the Links, one
after the other, and has to:

- call `link_up` when there is a Link, `receive` with each batch of received messages, and
  `link_lost` when the Link has ended, with the messages that never left;
- at `Initialized`, send what `restore` returns, wait for the outcome, then call `restored`;
  before each subscription is sent, then and later, handle what `ask_for_timeouts` returns;
- handle every event, in order. `SendNow` is sent; `Initialized`, `ResponseReceived` and
  `RequestFailed` wake the tasks that wait for them; `PublicationsReceived` and `RequestsReceived`
  go to a queue, never straight into user code; `NoServiceYet` goes to `retry_later`; `PeerSilent`
  ends the Link;
- call `handle_deadline` at the time of `next_deadline`. If it is called late, timeouts are late,
  but never wrong;
- pass times in seconds, from one clock that does not go back.

In return, the Session promises:

- A request that was begun is completed exactly once: by `ResponseReceived`, by `RequestFailed`,
  or by the driver's own `cancel`. Each of these removes it from the table, so the table holds only
  requests that are really waiting.
- It asks for a message to be sent once, unless it is a request that may be sent again (`retry`).
- Nothing that the other side sends makes it raise: bad input becomes an `Unmatched` event. The
  errors that it raises are the caller's mistakes (LocalProtocolError, MessageTooLarge) or mean that
  there is no connection (ConnectionLost). Then nothing is sent, and the Session has not changed.
- One table holds all deadlines: ten thousand waiting requests cost one timer.

States
======

A connection begins with the broker's greeting; before it, nothing is sent but a `SendNow`. Then
the Session tells the broker what it told the previous one: the service's name, its subscriptions::

    OFFLINE --link_up--> GREETING --initialize--> RESTORING --restored--> READY
                           ^  |                       |                     |
                  link_up  |  +------link_lost--------+-----link_lost-------+
                           |  v
                           LOST
    any of them --close--> CLOSED

states.py has the same table as data, and raises for any other move. The other flags that decide
what a Session may do, such as why it was closed, are there as well.

Once a Session has been READY, messages wait in its Outbox (outbox.py) while it is not:
publications, up to a size, and requests that may be sent again. Everything else fails at once. A
publication that the broker has to confirm is never sent twice. If the connection is lost after it
was sent, it fails, and the error says that it may have arrived.

Ids
===

An id is a random prefix and a counter (ids.py): unique without a system call for each request. A
response is matched by its id alone; the broker restores the topic and version of the request. A
response without a match is not a protocol error: the request may have been cancelled, or the
broker reports a publication that had no id under an id of its own (docs/protocol.md, "Publish").
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ..codec import JSON, Codec, error_in
from ..errors import (
    ConnectionLost,
    ForbiddenError,
    LocalProtocolError,
    MBError,
    NoRouteFoundError,
    RemoteProtocolError,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from ..header import DEFAULT_VERSION, Action, HeaderPrefix, HeaderReader, check_timeout
from ..ids import IdSource
from ..message import Message
from ..topic import AUTHENTICATE
from ..wire import Limits
from .encoder import Encoder, is_anonymous, with_timeout
from .events import (
    AnswerNow,
    Event,
    Initialized,
    NoServiceYet,
    PeerSilent,
    PublicationsDiscarded,
    PublicationsReceived,
    PublicationUnheard,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    SendNow,
    SubscriptionsEnded,
    Unmatched,
)
from .heartbeat import Heartbeat, HeartbeatAction
from .outbox import Outbox
from .requests import PendingRequest, PendingRequests
from .states import LIVE, SessionState, SessionStatus
from .subscriptions import LOG_TOPIC, SubscriptionEntry, SubscriptionTable

__all__ = ["Session"]

_INITIALIZE = "system.initialize"
_HEARTBEAT = "system.heartbeat"
_REGISTER = "system.service.register"
_SUBSCRIBE = "system.topic.subscribe"
_UNSUBSCRIBE = "system.topic.unsubscribe"
# What a broker says of a subscription that it has ended.
_ENDED = {"subscribe": Action.PUBLISH, "respond": Action.REQUEST}
_FOLLOW_LOG = "system.log.subscribe"
_LEAVE_LOG = "system.log.unsubscribe"

# The time limit on the wire for requests whose answer nobody waits for, in milliseconds.
_UNAWAITED_TIMEOUT = 10_000

# Seconds between attempts of a request that nobody answers yet: the bounds double.
_FIRST_TRY, _LAST_TRY = 0.05, 0.5

_READY = SessionState.READY  # looked up for each message

_Registration = tuple[str, str]  # a service's name and description


class Session:
    r"""The client's side of the protocol, across successive connections, without I/O.

    `MessageBrokerClient` drives it. Use it directly to build a client with I/O of your own: the
    docstring of `mb_core.session.session` explains how. Times are in seconds, time limits in
    milliseconds.

    Example::

        session = Session()
        session.link_up()
        events = session.receive([b"publish:system.initialize:1.0.0\n{}"])
        print(session.state, events)  # SessionState.RESTORING [Initialized()]

    Args:
        limits: Limits on the size of messages to send.
        margin: A request fails this many seconds after its time limit, so that the broker's own
            TIMEOUT comes first.
        heartbeat: How many seconds the broker may be silent before it is asked for a sign of life;
            None for no heartbeat.
        outbox: Holds what waits for a connection.
        codec: Reads and writes payloads.
        early: Whether messages can also wait for the first connection.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        margin: float = 1.0,
        heartbeat: float | None = None,
        outbox: Outbox | None = None,
        codec: Codec = JSON,
        early: bool = False,
    ) -> None:
        self.limits = limits if limits is not None else Limits()
        self.margin = margin
        self.subscriptions = SubscriptionTable()
        # The name and description that the broker has accepted.
        self.registration: _Registration | None = None
        self.outbox = outbox if outbox is not None else Outbox()
        self._status = SessionStatus(waits_early=early)
        self._ids = IdSource()
        self._pending = PendingRequests()
        self._heartbeat = Heartbeat(heartbeat)
        # The requests that restore state on the current connection.
        self._restoring: dict[tuple[Action, str], SubscriptionEntry] = {}
        self._codec = codec
        self._reader = HeaderReader(codec=codec)
        self._encoder = Encoder(self.limits.max_payload, codec)
        # For the Session's own messages, whose size the user does not choose.
        self._own_encoder = Encoder(sys.maxsize)

    @property
    def state(self) -> SessionState:
        """The state of the connection."""
        return self._status.state

    @property
    def pending(self) -> int:
        """How many requests are waiting for their response."""
        return len(self._pending)

    # The connection

    def link_up(self) -> None:
        """Report that there is a Link. The broker's greeting comes next."""
        self._status.link_up()

    def restore(self, *, now: float, timeout: int) -> list[PendingRequest]:
        """Return the requests to send after the broker's greeting.

        They restore the registration and the subscriptions of the previous connection; the
        attribute `about` of each says which. Empty on a first connection.
        """
        state = self._status.state
        if state is not SessionState.RESTORING:
            raise LocalProtocolError(f"nothing is to be restored while {state.value}")
        asked: list[PendingRequest] = []
        # Subscriptions whose request waits in the outbox are not active yet, and are sent later.
        waiting = {id(request.about) for request in self.outbox.requests}
        if self.registration is not None:
            asked.append(self._ask_for(self.registration, now, timeout))
        self._restoring.clear()
        for entry in self.subscriptions:
            key = (entry.action, entry.pattern.lower())
            if key not in self._restoring and id(entry) not in waiting:
                self._restoring[key] = entry
                asked.append(self._ask_for(entry, now, timeout))
        return asked

    def restore_again(
        self,
        refused: Iterable[SubscriptionEntry | _Registration | None],
        *,
        now: float,
        timeout: int,
    ) -> list[PendingRequest]:
        """Return requests for what the broker temporarily refused to restore.

        Args:
            refused: What the refused requests of `restore` were about. What is no longer wanted is
                left out. Without a connection, the list is empty.
        """
        if self._status.state is not _READY:
            return []
        asked: list[PendingRequest] = []
        for about in refused:
            if isinstance(about, SubscriptionEntry):
                # The broker knows one entry of each pattern; any remaining one is fine.
                left = self.subscriptions.of(about.action, about.pattern)
                asked += [self._ask_for(entry, now, timeout) for entry in left[:1]]
            elif about is not None and about == self.registration:
                asked.append(self._ask_for(about, now, timeout))
        return asked

    def restored(self, now: float, *, settling: float = 0.0, progress: int = 0) -> list[Event]:
        """Report that everything is restored; return what was waiting to be sent, in order.

        From now on, more may be sent.

        Args:
            settling: For how many seconds other clients may still be reconnecting. Meanwhile, a
                request with `retry` that no service answers is reported as `NoServiceYet`.
            progress: The current `progress` of the Link, for the heartbeat.
        """
        self._status.restored(settled_at=now + settling if settling else None)
        self._heartbeat.start(now, progress)
        # Unsubscribe what was removed in the meantime; nobody waits for the answer.
        gone = [
            e for e in self._restoring.values() if not self.subscriptions.of(e.action, e.pattern)
        ]
        events: list[Event] = [SendNow(self._unsubscribing(entry)) for entry in gone]
        self._restoring.clear()
        for item in self.outbox.take_all():
            if not isinstance(item, PendingRequest):
                events.append(SendNow(item))
            elif isinstance(item.about, SubscriptionEntry) and item.about not in self.subscriptions:
                # It has been unsubscribed in the meantime, so there is nothing to send.
                self._pending.take(item.request_id)
                events.append(_failed(item, "it was unsubscribed"))
            else:
                events.extend(self._send_waiting(item, now))
        return events

    def link_lost(self, error: MBError | None, unsent: Iterable[bytes] = ()) -> list[Event]:
        """Report that the Link has ended.

        Pending requests fail, unless they may be sent again. Publications that never left wait for
        the next Link.

        Args:
            error: The reason; None for an orderly end.
            unsent: Messages that never left this process.
        """
        self._status.link_lost()
        self._heartbeat.stop()
        unsent = list(unsent)
        if self._status.state is SessionState.CLOSED:  # `close` has failed the requests
            lost = sum(1 for m in unsent if m.startswith(b"publish:") and is_anonymous(m))
            return [PublicationsDiscarded(lost)] if lost else []
        reason = str(error) if error is not None else "the connection was closed"
        never_left = {id(message) for message in unsent}
        # Among them, those to send once there is a connection, by message.
        back: dict[int, PendingRequest] = {}
        events: list[Event] = []
        for request in self._pending:
            if request.in_outbox:
                continue
            left = id(request.message) not in never_left
            if left:
                request.sent = True
            if not left and (request.retry or request.message.startswith(b"publish:")):
                back[id(request.message)] = request
            elif request.retry:
                self._put_in_outbox(request)
            else:
                self._pending.take(request.request_id)
                events.append(_failed(request, reason))
        for message in unsent:
            waiting = back.get(id(message))
            if waiting is not None and waiting.retry:
                self._put_in_outbox(waiting)
            elif waiting is not None:
                self.outbox.put_back(waiting)
                self._pending.add(waiting, waiting.deadline)
            elif message.startswith(b"publish:") and is_anonymous(message):
                self.outbox.put_back(message)
        return events

    def close(self, reason: str = "the connection was closed") -> list[Event]:
        """End the Session: requests fail, and messages that were waiting are dropped.

        Args:
            reason: The text of these errors and of later ones. Another call does not change it.
        """
        self._status.close(reason)
        self._heartbeat.stop()
        return self._fail_all(reason)

    # Sending: each method returns the message that the driver has to send

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> bytes | None:
        """Return the message to send for a publication that is not confirmed.

        None if it waits in the outbox.

        Raises:
            ConnectionLost: The outbox is full, or the Session is closed.
        """
        return self.publish_encoded(
            self._encoder.publication(topic, payload, version=version, parent_id=parent_id)
        )

    def encode(
        self,
        topic: str,
        payload: Any,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> bytes:
        """Return a message for `publish_encoded`. Changes nothing; can be called in any thread."""
        return self._encoder.publication(topic, payload, version=version, parent_id=parent_id)

    def publish_encoded(self, message: bytes) -> bytes | None:
        """Publish what `encode` returned, as `publish` does."""
        if self._status.state is _READY:
            return message
        self._status.check_waiting()
        self.outbox.add_publication(message)
        return None

    def check_room(self, length: int, before: int) -> None:
        """Raise what `publish_encoded` would raise without a connection. Changes nothing.

        Can be called from any thread.

        Args:
            length: The length of the message.
            before: How many bytes of other messages will be published before it.
        """
        self._status.check_waiting()
        self.outbox.check_room(length, before)

    def publish_confirmed(
        self,
        topic: str,
        payload: Any,
        *,
        now: float,
        timeout: int,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> PendingRequest:
        """Return the request to send for a publication that the broker has to confirm.

        If there is no connection, it is `in_outbox`.

        Args:
            timeout: Time limit for the confirmation, in milliseconds.

        Raises:
            ConnectionLost: The outbox is full, or the Session is closed.
        """
        check_timeout(timeout)
        request_id = self._ids.next()
        message = self._encoder.publication(
            topic, payload, version=version, request_id=request_id, parent_id=parent_id
        )
        deadline = now + timeout / 1000
        request = PendingRequest(request_id, topic, message, timeout, deadline, False)
        if self._status.state is _READY:
            return self._begin(request)
        self._status.check_waiting()
        self.outbox.add_publication(request)
        self._pending.add(request, deadline)
        return request

    def request(
        self,
        topic: str,
        payload: Any,
        *,
        now: float,
        timeout: int,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
        retry: bool = False,
        about: SubscriptionEntry | None = None,
    ) -> PendingRequest:
        """Return a request to send.

        Args:
            timeout: Its time limit, in milliseconds.
            retry: Whether it may be sent again if the connection is lost. Without a connection, it
                is then `in_outbox`.

        Raises:
            ConnectionLost: There is no connection, and `retry` is false.
        """
        ready = self._status.state is _READY
        if not ready:
            self._status.check_waiting()
            if not retry:
                why = self._status.state.value
                raise ConnectionLost(
                    f"not sent: {why} (retry=True waits for the next connection)", sent=False
                )
        request = self._make_request(topic, payload, now, timeout, version, parent_id, retry, about)
        if ready:
            return self._begin(request)
        self._put_in_outbox(request)
        return request

    def retry_later(
        self, request: PendingRequest, error: NoRouteFoundError, *, now: float
    ) -> list[Event]:
        """Send the request of a `NoServiceYet` again soon; fail it if its time limit has passed."""
        settled_at = self._status.settled_at
        if settled_at is None or now >= min(settled_at, request.deadline):
            return [RequestFailed(request, error)]
        bound = min(_FIRST_TRY * 2**request.refused_times, _LAST_TRY)
        at = now + bound * (1 + random.random()) / 2
        request.refusal = error
        request.refused_times += 1
        self._pending.add(request, min(at, settled_at, request.deadline))
        return []

    def cancel(self, request: PendingRequest) -> None:
        """Stop waiting for `request`. If a response comes, it is ignored."""
        self._pending.take(request.request_id)
        if request.outbox_key is not None:
            self.outbox.discard(request)

    def respond(self, message: Message, payload: Any) -> bytes:
        """Return the answer to a request that came over the current Link."""
        if not self._status.greeted:
            self._status.check_waiting()
            raise ConnectionLost(f"not sent: {self._status.state.value}", sent=False)
        return self._encoder.response(message, payload)

    # Registration and subscriptions, which are restored on each new connection

    def authenticate(self, token: str, *, now: float, timeout: int) -> PendingRequest:
        """Return the request that tells the broker which user this is.

        Send it, and wait for its answer, before you send the requests of `restore`: whether the
        broker accepts those depends on what the user may do.

        Args:
            token: The user's secret.
            timeout: Time limit in milliseconds.
        """
        payload = {"token": token}
        request = self._make_request(
            AUTHENTICATE, payload, now, timeout, DEFAULT_VERSION, None, False, None
        )
        return self._begin(request)

    def register(self, name: str, description: str, *, now: float, timeout: int) -> PendingRequest:
        """Return the request that registers this client as a service.

        When the broker has accepted it, the driver sets the attribute `registration` to name and
        description, which `restore` then repeats.

        Args:
            name: 1 to 36 characters.
            description: 1 to 1024 characters.
            timeout: Time limit in milliseconds.

        Raises:
            LocalProtocolError: A text is too long or empty.
        """
        for text, limit, what in ((name, 36, "name"), (description, 1024, "description")):
            if not isinstance(text, str) or not 1 <= len(text) <= limit:
                given = f"of {len(text)} characters" if isinstance(text, str) else repr(text)
                raise LocalProtocolError(
                    f"invalid service {what} {given}: expected 1 to {limit} characters"
                )
        payload = _registration(name, description)
        return self.request(_REGISTER, payload, now=now, timeout=timeout, retry=True)

    def subscribe(self, entry: SubscriptionEntry, *, now: float, timeout: int) -> PendingRequest:
        """Add a subscription, and return the request for it. If that fails, the driver removes it.

        The subscription takes effect before the broker confirms it, as messages may arrive first.
        """
        if self._status.state is not _READY:
            self._status.check_waiting()
        self.subscriptions.check(entry)
        topic, payload = _subscription(entry)
        request = self.request(topic, payload, now=now, timeout=timeout, retry=True, about=entry)
        self.subscriptions.add(entry)
        return request

    def ask_for_timeouts(self) -> list[Event]:
        """Ask the broker, once for each connection, to include time limits in requests.

        Call it after `subscribe` or `restore`, and send what it returns before their requests. A
        broker that does not support this takes the message for a heartbeat (docs/protocol.md,
        "Beyond the reference").
        """
        if not self.subscriptions.answers_requests or not self._status.ask_for_timeouts():
            return []
        return [SendNow(self._heartbeat_request({"timeouts": True}))]

    def unsubscribe(self, entry: SubscriptionEntry, *, now: float, timeout: int) -> PendingRequest:
        """Return the request that ends a subscription at the broker. Then `remove` the entry."""
        topic, payload = _unsubscription(entry)
        return self.request(topic, payload, now=now, timeout=timeout)

    def remove(self, entry: SubscriptionEntry) -> None:
        """Remove a subscription. What still arrives for it is refused or ignored."""
        self.subscriptions.remove(entry)
        # Cached routes would keep the entry and its consumer alive.
        self._reader = HeaderReader(codec=self._codec)

    # Time

    def next_deadline(self) -> float | None:
        """Return when `handle_deadline` has to be called next; None if not at all."""
        deadline, check = self._pending.next_deadline(), self._heartbeat.next_check
        if deadline is None or check is None:
            return deadline if check is None else check
        return min(deadline, check)

    def handle_deadline(self, now: float, *, progress: int = 0) -> list[Event]:
        """Fail requests that took too long, and check whether the other side is alive.

        Args:
            progress: The current `progress` of the Link.
        """
        events: list[Event] = []
        for request in self._pending.take_due(now):
            if request.in_outbox:
                self.outbox.discard(request)
                reason = f"there was no connection within {request.timeout} ms"
                events.append(_failed(request, reason))
            elif request.refusal is not None:
                events.append(self._send_again(request, now))
            else:
                events.append(RequestFailed(request, _too_late(request)))
        action = self._heartbeat.check(now, progress)
        if action is HeartbeatAction.ASK:
            events.append(SendNow(self._heartbeat_request({})))
        elif action is HeartbeatAction.GIVE_UP:
            events.append(PeerSilent())
        return events

    # Receiving

    def receive(self, messages: list[bytes]) -> list[Event]:
        """Handle whole messages, in the order in which they arrived; ignored without a Link."""
        events: list[Event] = []
        if self._status.state not in LIVE:
            return events
        self._heartbeat.received = True
        read = self._reader.read
        table = self.subscriptions
        batch: list[Message] | None = None  # of the event that is being collected
        batch_prefix: HeaderPrefix | None = None
        for data in messages:
            try:
                prefix, request_id, parent_id, timeout, end = read(data)
            except RemoteProtocolError as error:
                # There may be very many, and the frames of the traceback take much more memory than
                # the error.
                error.__traceback__ = None
                events.append(Unmatched(error, None))
                batch = batch_prefix = None  # events stay in the order of their messages
                continue
            message = Message(prefix, request_id, parent_id, timeout, data[end + 1 :])
            if prefix is batch_prefix and batch is not None:
                batch.append(message)
                continue
            batch = batch_prefix = None
            action = prefix.action
            if prefix.generation != table.generation:
                self._route(prefix)
            if action is Action.PUBLISH:
                if prefix.key == _INITIALIZE:
                    if self._status.state is SessionState.GREETING:  # a broker may repeat itself
                        self._status.initialized()
                        events.append(Initialized())
                elif prefix.route:
                    batch, batch_prefix = [message], prefix
                    events.append(PublicationsReceived(prefix.route, batch))
            elif action is Action.RESPONSE:
                if request_id is None and prefix.route:  # an entry of the broker's log
                    events.append(PublicationsReceived(prefix.route, [message]))
                else:
                    events.append(self._response(message, request_id))
            elif prefix.route is not None:
                batch, batch_prefix = [message], prefix
                events.append(RequestsReceived(prefix.route, batch))
            else:
                events.append(self._unanswered(message))
        return events

    def _response(self, message: Message, request_id: bytes | None) -> Event:
        error = error_in(message.raw_payload)
        request = self._pending.take(request_id)
        if request is not None:
            if (
                request.outbox_key is not None
            ):  # it answers a request that was going to be sent again
                self.outbox.discard(request)
            if error is None:
                return ResponseReceived(request, message)
            if isinstance(error, NoRouteFoundError) and error.details is None:
                # Brokers give no details, so an error that has them was passed on by a service.
                error = _with_topic(request.topic, error)
                if request.retry and self._status.settled_at is not None:
                    return NoServiceYet(request, error)
            return RequestFailed(request, error)
        if request_id is not None and self._ids.made(request_id):
            # Too late for a request that has failed: nobody waits for its error any more.
            return Unmatched(None, message)
        if isinstance(error, ForbiddenError) and message.prefix.key == _SUBSCRIBE:
            ended = self._ended_by(error)
            if ended:
                return SubscriptionsEnded(ended, error)
        topic = message.topic
        if isinstance(error, NoRouteFoundError) and self._encoder.has_published(topic):
            return PublicationUnheard(topic, _with_topic(topic, error))
        return Unmatched(error, message)

    def _ended_by(self, error: ForbiddenError) -> list[SubscriptionEntry]:
        """Remove and return the subscriptions that the broker has ended with this error."""
        details = error.details if isinstance(error.details, dict) else {}
        verb, pattern = details.get("action"), details.get("topic")
        if not isinstance(verb, str) or verb not in _ENDED or not isinstance(pattern, str):
            return []
        ended = self.subscriptions.of(_ENDED[verb], pattern)
        for entry in ended:
            self.remove(entry)
        return ended

    def _unanswered(self, message: Message) -> Event:
        """Return the event for a request without a subscription."""
        if message.prefix.key == _HEARTBEAT:
            return AnswerNow(self._own_encoder.response(message, {}))
        if message.request_key is None:
            return Unmatched(None, message)
        # It was sent before the broker unsubscribed us: answer, so that the requester need not
        # wait.
        gone = ServiceUnavailableError("the service has just stopped answering this topic")
        return AnswerNow(self._own_encoder.response(message, gone))

    # Helpers

    def _route(self, prefix: HeaderPrefix) -> None:
        """Store on the prefix who receives its messages, until a subscription changes."""
        table = self.subscriptions
        if prefix.action is Action.PUBLISH:
            prefix.route = table.receivers(prefix.key)
        elif prefix.action is Action.REQUEST and prefix.key != _HEARTBEAT:
            prefix.route = table.responder(prefix.key)
        elif prefix.action is Action.RESPONSE and prefix.key == LOG_TOPIC:
            prefix.route = table.receivers(prefix.key)
        prefix.generation = table.generation

    def _make_request(
        self,
        topic: str,
        payload: Any,
        now: float,
        timeout: int,
        version: str,
        parent_id: str | None,
        retry: bool,
        about: SubscriptionEntry | _Registration | None,
    ) -> PendingRequest:
        check_timeout(timeout)
        request_id = self._ids.next()
        message = self._encoder.request(
            topic,
            payload,
            request_id=request_id,
            timeout=timeout,
            version=version,
            parent_id=parent_id,
        )
        deadline = now + timeout / 1000
        return PendingRequest(request_id, topic, message, timeout, deadline, retry, about)

    def _ask_for(
        self, about: SubscriptionEntry | _Registration, now: float, timeout: int
    ) -> PendingRequest:
        """Ask the broker to restore a subscription or a registration."""
        if isinstance(about, SubscriptionEntry):
            topic, payload = _subscription(about)
        else:
            topic, payload = _REGISTER, _registration(*about)
        request = self._make_request(
            topic, payload, now, timeout, DEFAULT_VERSION, None, False, about
        )
        return self._begin(request)

    def _begin(self, request: PendingRequest) -> PendingRequest:
        self._pending.add(request, request.deadline + self.margin)
        return request

    def _put_in_outbox(self, request: PendingRequest) -> None:
        request.refusal = None
        self.outbox.add_request(request)
        self._pending.add(request, request.deadline)

    def _send_waiting(self, request: PendingRequest, now: float) -> list[Event]:
        if request.message.startswith(b"request:"):
            left = int((request.deadline - now) * 1000)
            if left < 1:
                self._put_in_outbox(request)  # it is about to time out
                return []
            request.message = with_timeout(request.message, left)
        self._begin(request)
        return [SendNow(request.message)]

    def _send_again(self, request: PendingRequest, now: float) -> Event:
        """Resend a request that no service answered a moment ago."""
        error, request.refusal = request.refusal, None
        assert error is not None
        left = int((request.deadline - now) * 1000)
        if left < 1:
            return RequestFailed(request, error)
        request.message = with_timeout(request.message, left)
        self._begin(request)
        return SendNow(request.message)

    def _heartbeat_request(self, payload: dict[str, Any]) -> bytes:
        """Return a request that any message answers, so it is not pending."""
        interval = self._heartbeat.interval
        limit = round(interval * 1000) or 1 if interval is not None else _UNAWAITED_TIMEOUT
        return self._own_encoder.request(
            _HEARTBEAT, payload, request_id=self._ids.next(), timeout=limit
        )

    def _unsubscribing(self, entry: SubscriptionEntry) -> bytes:
        topic, payload = _unsubscription(entry)
        return self._own_encoder.request(
            topic, payload, request_id=self._ids.next(), timeout=_UNAWAITED_TIMEOUT
        )

    def _fail_all(self, reason: str) -> list[Event]:
        events: list[Event] = []
        for request in self._pending:
            self._pending.take(request.request_id)
            if request.in_outbox:
                self.outbox.discard(request)
            else:
                request.sent = True
            events.append(_failed(request, reason))
        if self.outbox:
            events.append(PublicationsDiscarded(len(self.outbox.take_all())))
        return events


def _failed(request: PendingRequest, reason: str) -> RequestFailed:
    text = f"{_missing(request)}: {reason}"
    return RequestFailed(request, ConnectionLost(text, sent=request.sent))


def _too_late(request: PendingRequest) -> RequestTimeoutError:
    limit = f"{request.timeout} ms"
    return RequestTimeoutError(f"{_missing(request)} within {limit}, and no error from the broker")


def _missing(request: PendingRequest) -> str:
    """Return what did not arrive, in the caller's terms."""
    about = request.about
    if isinstance(about, SubscriptionEntry):
        return f"no confirmation of the subscription to {about.pattern!r}"
    return f"no answer to {request.topic!r}" if about is None else "no answer to the registration"


def _registration(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "description": description}


def _unsubscription(entry: SubscriptionEntry) -> tuple[str, dict[str, Any]]:
    """Return topic and payload of the request that ends a subscription."""
    if entry.log_filter is not None:
        return _LEAVE_LOG, {}
    return _UNSUBSCRIBE, {"action": entry.action.value, "topic": entry.pattern}


def _subscription(entry: SubscriptionEntry) -> tuple[str, Mapping[str, Any]]:
    """Return topic and payload of the request that subscribes."""
    if entry.log_filter is not None:
        return _FOLLOW_LOG, entry.log_filter
    payload: dict[str, Any] = {"action": entry.action.value, "topic": entry.pattern}
    if entry.action is Action.REQUEST:
        payload["priority"] = entry.priority
    return _SUBSCRIBE, payload


def _with_topic(topic: str, error: NoRouteFoundError) -> NoRouteFoundError:
    """Return the error with `topic` in its details, if it has none."""
    details = error.details if error.details is not None else {"topic": topic}
    return NoRouteFoundError(error.message, timestamp=error.timestamp, details=details)
