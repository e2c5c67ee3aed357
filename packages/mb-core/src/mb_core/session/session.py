"""The Session: the client's side of the MB protocol as a machine that touches nothing.

Theory
======

A Session takes whole messages and the time, and gives whole messages to send and completed
work.  It has no socket, no clock, no task and no event loop, so it can be tested by calling it,
and one implementation serves every event loop and every transport.  Its driver (the client)
owns a Link, and owes the Session this:

- `link_up` when the Link is there; then each batch of received messages to `receive`, and the
  end of the Link to `link_lost`;
- to act on every Event that these return, in order.  `Reply` must be sent; `Initialized`,
  `Answered` and `Failed` wake whoever waits; `Delivered` and `Requested` go to a queue, never
  straight into user code;
- to call `handle_deadline` when the time of `next_deadline` has come, which may be late: a late
  call costs patience, never correctness;
- times from one clock that does not go back, in seconds.

What the Session promises in return:

- A request that was begun is completed exactly once: by `Answered`, by `Failed`, or by the
  driver's own `cancel`.  It leaves the table on each of these paths, so the table holds what is
  really waited for.
- Nothing that the other side sends makes it raise: bad input becomes an `Unmatched` event.
  What it raises is the caller's fault (LocalProtocolError, MessageTooLarge) or says that the
  connection is over (ConnectionLost); nothing is sent then, and the Session is as it was.
- One heap holds all deadlines: ten thousand waiting requests cost one timer.

States
======

A connection begins with the broker's greeting; before it, nothing is sent but a Reply:

    OFFLINE --link_up--> GREETING --initialize--> READY
                            |                       |
                            +------link_lost--------+---> LOST
    any of them --close--> CLOSED

The table below says the same, and one place raises for a move that is not in it.  LOST is
where reconnecting begins: what was registered and subscribed stays in the Session, so a new
Link can be brought to the state of the old one.

Ids
===

An id is a random prefix and a counter (ids.py): unique without a call to the system for each
request.  A response is matched by its id alone; topic and version are the requester's own,
restored by the broker.  A response without a match is not an error of the protocol: the
request may have been cancelled, or the broker reports a publish that had no id under an id of
its own making (docs/protocol.md, "Publish").
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from ..codec import encode_error, encode_payload, error_in
from ..errors import (
    ConnectionLost,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)
from ..header import (
    DEFAULT_VERSION,
    Action,
    HeaderPrefix,
    HeaderReader,
    MessageHeader,
    check_timeout,
    encode_header,
)
from ..ids import IdSource
from ..message import Message
from ..wire import Limits
from .events import (
    Answered,
    Delivered,
    Event,
    Failed,
    Initialized,
    Reply,
    Requested,
    Unmatched,
)
from .requests import PendingRequest, PendingRequests
from .subscriptions import Subscribed, SubscriptionTable

__all__ = ["Session", "SessionState"]

_INITIALIZE = "system.initialize"
_HEARTBEAT = "system.heartbeat"

# Topics whose encoded header is remembered; forgotten together when there are more.
_REMEMBERED = 4096


class SessionState(Enum):
    """Where the Session's connection is."""

    OFFLINE = "not connected yet"
    GREETING = "waiting for the broker's greeting"
    READY = "connected"
    LOST = "the connection is lost"
    CLOSED = "closed"


class _Move(Enum):
    LINK_UP = "a link comes up"
    INITIALIZED = "the broker greets"
    LINK_LOST = "the link is lost"
    CLOSE = "the session is closed"


_MOVES: dict[tuple[SessionState, _Move], SessionState] = {
    (SessionState.OFFLINE, _Move.LINK_UP): SessionState.GREETING,
    (SessionState.GREETING, _Move.INITIALIZED): SessionState.READY,
    (SessionState.READY, _Move.INITIALIZED): SessionState.READY,  # a broker may repeat itself
    (SessionState.GREETING, _Move.LINK_LOST): SessionState.LOST,
    (SessionState.READY, _Move.LINK_LOST): SessionState.LOST,
    (SessionState.CLOSED, _Move.LINK_LOST): SessionState.CLOSED,
    (SessionState.OFFLINE, _Move.CLOSE): SessionState.CLOSED,
    (SessionState.GREETING, _Move.CLOSE): SessionState.CLOSED,
    (SessionState.READY, _Move.CLOSE): SessionState.CLOSED,
    (SessionState.LOST, _Move.CLOSE): SessionState.CLOSED,
    (SessionState.CLOSED, _Move.CLOSE): SessionState.CLOSED,
}


class Session:
    """The client's side of one connection to a broker.

    `limits` bounds what is sent.  `margin` is how many seconds longer than its time limit on
    the wire a request is waited for, so that the broker's word on a time-out comes first.
    """

    def __init__(self, *, limits: Limits | None = None, margin: float = 1.0) -> None:
        self.limits = limits if limits is not None else Limits()
        self.margin = margin
        self.subscriptions = SubscriptionTable()
        self.registration: tuple[str, str] | None = None
        self._state = SessionState.OFFLINE
        self._ids = IdSource()
        self._pending = PendingRequests()
        self._reader = HeaderReader()
        self._publish_headers: dict[str, bytes] = {}
        self._request_headers: dict[str, bytes] = {}

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def pending(self) -> int:
        """How many requests wait for their response."""
        return len(self._pending)

    # The connection

    def link_up(self) -> None:
        """A Link is there; the broker's greeting is awaited."""
        self._move(_Move.LINK_UP)

    def link_lost(self, error: MBError | None) -> list[Event]:
        """The Link is gone, because of `error` or in order: no pending request gets an answer."""
        self._move(_Move.LINK_LOST)
        return self._fail_all(error)

    def close(self) -> list[Event]:
        """The user wants no more of it; pending requests fail."""
        self._move(_Move.CLOSE)
        return self._fail_all(None)

    # Sending: each gives the message that the driver sends

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> bytes:
        """A publication of which nothing more is heard, unless nobody listens."""
        if self._state is not SessionState.READY:
            self._refuse_sending()
        if parent_id is None and version == DEFAULT_VERSION:
            header = self._publish_headers.get(topic) or self._learn(
                self._publish_headers, topic, _publish_header
            )
        else:
            header = encode_header(
                MessageHeader(Action.PUBLISH, topic, version, parent_id=parent_id)
            )
        return header + encode_payload(payload, self.limits.max_payload)

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
        """A publication that the broker confirms; `timeout` in milliseconds bounds the wait."""
        if self._state is not SessionState.READY:
            self._refuse_sending()
        check_timeout(timeout)
        request_id = self._ids.next()
        header = encode_header(
            MessageHeader(Action.PUBLISH, topic, version, request_id.decode(), parent_id)
        )
        message = header + encode_payload(payload, self.limits.max_payload)
        return self._begin(PendingRequest(request_id, topic, timeout, message), now)

    def request(
        self,
        topic: str,
        payload: Any,
        *,
        now: float,
        timeout: int,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> PendingRequest:
        """A request; `timeout` is its time limit on the wire, in milliseconds."""
        if self._state is not SessionState.READY:
            self._refuse_sending()
        check_timeout(timeout)
        request_id = self._ids.next()
        if parent_id is None and version == DEFAULT_VERSION:
            start = self._request_headers.get(topic) or self._learn(
                self._request_headers, topic, _request_header
            )
            header = b"%b%b::%d\n" % (start, request_id, timeout)
        else:
            header = encode_header(
                MessageHeader(
                    Action.REQUEST, topic, version, request_id.decode(), parent_id, timeout
                )
            )
        message = header + encode_payload(payload, self.limits.max_payload)
        return self._begin(PendingRequest(request_id, topic, timeout, message), now)

    def cancel(self, request: PendingRequest) -> None:
        """Nobody waits for `request` any more; its response, if one comes, is ignored."""
        self._pending.take(request.request_id)

    def respond(self, message: Message, payload: Any) -> bytes:
        """The answer to a received request; a ResponseError as payload is sent as an error.

        An error that is over the payload's limit loses its details, and as much of its text as
        it must, rather than leave the requester without an answer.
        """
        if self._state is not SessionState.READY:
            self._refuse_sending()
        limit = self.limits.max_payload
        if isinstance(payload, ResponseError):
            return _response(message, _encode_error_within(payload, limit))
        return _response(message, encode_payload(payload, limit))

    # Registration and subscriptions: what a new connection would have to be told again

    def register(self, name: str, description: str, *, now: float, timeout: int) -> PendingRequest:
        """Tell the broker this service's name (36 characters) and description (1024)."""
        for text, limit, what in ((name, 36, "name"), (description, 1024, "description")):
            if not isinstance(text, str) or not 1 <= len(text) <= limit:
                given = f"of {len(text)} characters" if isinstance(text, str) else repr(text)
                raise LocalProtocolError(
                    f"invalid service {what} {given}: a text of 1 to {limit} characters"
                )
        request = self.request(
            "system.service.register",
            {"name": name, "description": description},
            now=now,
            timeout=timeout,
        )
        self.registration = (name, description)
        return request

    def subscribe(self, entry: Subscribed, *, now: float, timeout: int) -> PendingRequest:
        """Begin to receive what `entry` asks for; on `Failed` the driver removes the entry.

        The entry is in force before the broker confirms: messages may overtake that word.
        """
        if self._state is not SessionState.READY:
            self._refuse_sending()
        self.subscriptions.check(entry)
        payload: dict[str, Any] = {"action": entry.action.value, "topic": entry.pattern}
        if entry.action is Action.REQUEST:
            payload["priority"] = entry.priority
        request = self.request("system.topic.subscribe", payload, now=now, timeout=timeout)
        self.subscriptions.add(entry)
        return request

    def unsubscribe(self, entry: Subscribed, *, now: float, timeout: int) -> PendingRequest | None:
        """Receive no more for `entry`; None where the broker need not be told."""
        request = None
        sharing = self.subscriptions.of(entry.action, entry.pattern)
        if sharing == [entry] and self._state is SessionState.READY:
            payload = {"action": entry.action.value, "topic": entry.pattern}
            request = self.request("system.topic.unsubscribe", payload, now=now, timeout=timeout)
        self.subscriptions.remove(entry)
        # The routes that are remembered would keep the entry and its consumer alive.
        self._reader = HeaderReader()
        return request

    # Time

    def next_deadline(self) -> float | None:
        """When `handle_deadline` is due next, if at all."""
        return self._pending.next_deadline()

    def handle_deadline(self, now: float) -> list[Event]:
        """Fail what has waited too long."""
        return [
            Failed(
                request,
                RequestTimeoutError(
                    f"no answer to {request.topic!r} within {request.limit} ms, "
                    "nor the broker's word that there is none"
                ),
            )
            for request in self._pending.take_due(now)
        ]

    # Receiving

    def receive(self, messages: list[bytes]) -> list[Event]:
        """Take whole messages in the order of their arrival; ignored without a live Link."""
        events: list[Event] = []
        if self._state not in (SessionState.GREETING, SessionState.READY):
            return events
        read = self._reader.read
        table = self.subscriptions
        run: list[Message] | None = None  # of the Delivered event that is being filled
        run_prefix: HeaderPrefix | None = None
        for data in messages:
            try:
                prefix, request_id, parent_id, timeout, end = read(data)
            except RemoteProtocolError as error:
                events.append(Unmatched(error, None))
                continue
            message = Message(prefix, request_id, parent_id, timeout, data[end + 1 :])
            if prefix is run_prefix and run is not None:
                run.append(message)
                continue
            run = run_prefix = None
            action = prefix.action
            if prefix.generation != table.generation:
                self._look_up(prefix)
            if action is Action.PUBLISH:
                if prefix.key == _INITIALIZE:
                    self._move(_Move.INITIALIZED)
                    events.append(Initialized())
                elif prefix.route:
                    run, run_prefix = [message], prefix
                    events.append(Delivered(prefix.route, run))
            elif action is Action.RESPONSE:
                events.append(self._response(message, request_id))
            else:
                events.append(self._requested(message))
        return events

    def _response(self, message: Message, request_id: bytes | None) -> Event:
        error = error_in(message.raw_payload)
        request = self._pending.take(request_id)
        if request is None:
            # Too late for a request that was given up: its error is nobody's any more.
            late = request_id is not None and self._ids.made(request_id)
            return Unmatched(None if late else error, message)
        return Answered(request, message) if error is None else Failed(request, error)

    def _requested(self, message: Message) -> Event:
        if message.prefix.key == _HEARTBEAT:
            return Reply(_response(message, b"{}"))
        entry: Subscribed | None = message.prefix.route
        if entry is not None:
            return Requested(entry, message)
        if message.request_key is None:
            return Unmatched(None, message)
        # It crossed our unsubscribing: the requester need not wait for its time limit.
        gone = ServiceUnavailableError("the service has just stopped answering this topic")
        return Reply(_response(message, encode_error(gone)))

    # Within

    def _look_up(self, prefix: HeaderPrefix) -> None:
        """Remember on the prefix who gets its messages, until a subscription changes."""
        table = self.subscriptions
        if prefix.action is Action.PUBLISH:
            prefix.route = table.receivers(prefix.key)
        elif prefix.action is Action.REQUEST:
            prefix.route = table.responder(prefix.key)
        prefix.generation = table.generation

    def _begin(self, request: PendingRequest, now: float) -> PendingRequest:
        self._pending.add(request, now + request.limit / 1000 + self.margin)
        return request

    def _learn(self, headers: dict[str, bytes], topic: str, make: Callable[[str], bytes]) -> bytes:
        header = make(topic)
        if len(headers) >= _REMEMBERED:
            headers.clear()
        headers[topic] = header
        return header

    def _fail_all(self, error: MBError | None) -> list[Event]:
        reason = str(error) if error is not None else "the connection was closed"
        events: list[Event] = []
        for request in self._pending:
            self._pending.take(request.request_id)
            text = f"no answer to {request.topic!r}: {reason}"
            events.append(Failed(request, ConnectionLost(text, sent=True)))
        return events

    def _move(self, move: _Move) -> None:
        state = _MOVES.get((self._state, move))
        if state is None:
            raise LocalProtocolError(f"{move.value} while the session is: {self._state.value}")
        self._state = state

    def _refuse_sending(self) -> None:
        if self._state in (SessionState.LOST, SessionState.CLOSED):
            raise ConnectionLost(f"not sent: {self._state.value}", sent=False)
        raise LocalProtocolError(
            f"nothing can be sent while {self._state.value}: await client.connect(...) first"
        )


def _response(message: Message, payload: bytes) -> bytes:
    if message.request_key is None:
        return b"response:%b\n%b" % (message.prefix.subject, payload)
    return b"response:%b:%b\n%b" % (message.prefix.subject, message.request_key, payload)


def _encode_error_within(error: ResponseError, limit: int) -> bytes:
    encoded = encode_error(error)
    text = str(error.message)
    while len(encoded) > limit:
        # Not of the error's own class: a subclass of the user's may be made in its own way.
        shorter = ResponseError(text, code=error.code, timestamp=error.timestamp)
        encoded = encode_error(shorter)
        if not text and len(encoded) > limit:
            raise MessageTooLarge(
                f"the error {error.code[:80]!r} has {len(encoded)} bytes without its text, the "
                f"limit is {limit}",
                size=len(encoded),
                limit=limit,
            )
        text = text[: len(text) // 2]
    return encoded


def _publish_header(topic: str) -> bytes:
    return encode_header(MessageHeader(Action.PUBLISH, topic))


def _request_header(topic: str) -> bytes:
    return encode_header(MessageHeader(Action.REQUEST, topic)).rstrip(b"\n") + b":"
