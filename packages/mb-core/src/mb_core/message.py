"""A message: a header line and a payload, as a value and as text."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import msgspec

from .codec import Codec, decode_payload, encode_payload, is_text
from .errors import LocalProtocolError, MBError, RemoteProtocolError
from .header import Action, HeaderPrefix, MessageHeader, encode_header, read_header

__all__ = [
    "Message",
    "Responder",
    "create_message",
    "handled_id",
    "handling",
    "is_about",
    "is_text",
    "parse_message",
]

T = TypeVar("T")


class Responder(Protocol):
    """Sends the answer to a received request."""

    @property
    def deadline(self) -> float | None:
        """When the sender stops waiting, by the event loop's clock; None if it did not say."""
        ...

    def respond(self, message: Message, payload: Any) -> Any: ...
    def answer_now(self, message: Message, payload: Any) -> None:
        """Answer without back-pressure, if the connection is there."""
        ...


_UNREAD = object()


class Message(msgspec.Struct, eq=False):
    """A received message, as the client and `parse_message` return it; immutable.

    The payload is decoded on first use, so that counting or forwarding messages does not cost
    that.  `prefix` and `request_key` are the header as it is on the wire, for code that routes by
    it.  Copies, and what was pickled, can't be answered.  `msgspec.structs.replace` does not work
    on messages.
    """

    prefix: HeaderPrefix
    request_key: bytes | None
    _parent_id: bytes | None
    _timeout: int | None
    raw_payload: bytes
    responder: Responder | None = None
    _payload: Any = _UNREAD

    @property
    def action(self) -> Action:
        return self.prefix.action

    @property
    def topic(self) -> str:
        """The topic as the sender wrote it; topics are matched case-insensitively."""
        return self.prefix.topic

    @property
    def request_id(self) -> str | None:
        return self.request_key.decode() if self.request_key is not None else None

    @property
    def timeout(self) -> int | None:
        """A request's time limit in milliseconds; None if its sender set none."""
        return self._timeout

    @property
    def deadline(self) -> float | None:
        """When the sender of a request stops waiting, by `anyio.current_time()`, in seconds.

        None if it set no time limit, if this is not a received request, and once it was answered.
        """
        return self.responder.deadline if self.responder is not None else None

    @property
    def header(self) -> MessageHeader:
        prefix = self.prefix
        return MessageHeader(
            prefix.action,
            prefix.topic,
            prefix.version,
            self.request_id,
            self._parent_id.decode() if self._parent_id is not None else None,
            self._timeout,
        )

    @property
    def payload(self) -> Any:
        """The decoded payload; None for an empty one.

        Raises RemoteProtocolError if the payload is not valid JSON: brokers forward payloads
        unread.
        """
        if self._payload is _UNREAD:
            try:
                self._payload = decode_payload(self.raw_payload, codec=self.prefix.codec)
            except RemoteProtocolError as error:
                error._about = self
                raise
        return self._payload

    def decode(self, kind: type[T]) -> T:
        """Return the payload converted to `kind`: a dataclass, a TypedDict, a list[int], a Struct.

        Raises RemoteProtocolError if it does not fit: its `reason` says why, and its `path` where
        in the payload.  If a request handler lets this error escape, the requester gets
        INVALID_REQUEST with the reason and the path.  Raises LocalProtocolError for a type that
        JSON can't be decoded to.
        """
        try:
            return decode_payload(self.raw_payload, kind, self.prefix.codec)
        except RemoteProtocolError as error:
            error._about = self
            raise

    def respond(self, payload: Any) -> Any:
        """Answer this request.  Await the result, except in a blocking front end.

        Only the first answer counts: after responding, a handler's return value is ignored.
        Raises LocalProtocolError if the message is not a received request, or was answered
        already; ConnectionLost if the connection is gone.  Nothing is sent after the request's
        `deadline`: `stats().late_answers` counts these, and `on_error` is called at most once a
        second for each topic.  When cancelled, the answer has been sent.
        """
        if self.responder is None:
            why = "only requests can"
            if self.action is Action.REQUEST:
                why = "it has been answered already, or it is a copy"
            raise LocalProtocolError(
                f"this {self.action.value} of {self.topic!r} can't be answered: {why}"
            )
        return self.responder.respond(self, payload)

    def __copy__(self) -> Message:
        return Message(
            self.prefix, self.request_key, self._parent_id, self._timeout, self.raw_payload
        )

    def __reduce__(self) -> tuple[Callable[..., Message], tuple[Any, ...]]:
        # What was received, but not the prefix's route or the responder: they belong to a
        # connection.
        prefix = self.prefix
        fields = (prefix.action, prefix.topic, prefix.version, prefix.codec, self.request_key)
        return _restore, (*fields, self._parent_id, self._timeout, self.raw_payload)

    def __repr__(self) -> str:
        start = self.raw_payload[:60].decode(errors="backslashreplace")
        more = "..." if len(self.raw_payload) > 60 else ""
        return f"<Message {self.prefix.encoded.decode()} {start}{more}>"


handling: ContextVar[Message | None] = ContextVar("mb_handling", default=None)
"""The message that the running handler was called with; None outside of handlers.

A task keeps the message of the handler that spawned it.
"""


def handled_id() -> str | None:
    """The id of the request that is being handled: the parent of what is sent meanwhile."""
    message = handling.get()
    return message.request_id if message is not None else None


def create_message(header: MessageHeader, payload: Any) -> str:
    """Return the text of a message, as it is sent in a WebSocket frame.

    Raises LocalProtocolError for an invalid header or payload, MessageTooLarge for a header over
    its limit.  The payload's size is checked by the connection, which has a limit for it.
    """
    return (encode_header(header) + encode_payload(payload)).decode()


def parse_message(data: str | bytes) -> Message:
    """Read a whole message; raises RemoteProtocolError, whose `code` and `details` say why."""
    encoded = data.encode(errors="surrogatepass") if isinstance(data, str) else bytes(data)
    if not is_text(encoded):
        raise RemoteProtocolError("invalid message: it is not UTF-8")
    prefix, request_id, parent_id, timeout, end = read_header(encoded)
    return Message(prefix, request_id, parent_id, timeout, encoded[end + 1 :])


def is_about(error: BaseException, message: Message) -> bool:
    """Whether `error` says that this message can't be read or can't be answered."""
    about = error._about if isinstance(error, MBError) else None
    if about is None or about is message:
        return about is message
    key = message.request_key
    return key is not None and key == about.request_key  # a copy of it


def _restore(
    action: Action,
    topic: str,
    version: str,
    codec: Codec,
    request_id: bytes | None,
    parent_id: bytes | None,
    timeout: int | None,
    raw_payload: bytes,
) -> Message:
    prefix = HeaderPrefix(action, topic, version, codec)
    return Message(prefix, request_id, parent_id, timeout, raw_payload)
