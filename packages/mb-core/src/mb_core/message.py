"""Messages: a header line and a payload, as values and as text."""

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
        """When the sender stops waiting, by the loop's clock; None if it set no time limit."""
        ...

    def respond(self, message: Message, payload: Any) -> Any:
        """Answer `message` with a payload or a `ResponseError`; on an event loop, await it."""
        ...

    def answer_now(self, message: Message, payload: Any) -> None:
        """Answer without back-pressure, if the connection still exists."""
        ...


_UNREAD = object()


class Message(msgspec.Struct, eq=False):
    """A received message. Immutable.

    Clients pass messages to handlers and iterators; `parse_message` returns them, too. The payload
    is decoded when it is first used, so counting or forwarding messages is cheap.

    Example::

        def current(message: Message) -> dict[str, object]:
            return {"city": message.payload["city"], "degrees": 3}

        await client.subscribe("weather.current", action="request", handler=current)

    Messages can be copied and pickled; copies can't be answered. `msgspec.structs.replace` does not
    work on messages.

    Attributes:
        prefix: Action, topic and version of the header, for code that routes messages.
        request_key: `request_id` as it was received, for code that routes messages.
        raw_payload: The payload as it was received, UTF-8.
        responder: Sends the answer; None if the message can't be answered.
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
        """Whether this is a publication, a request or a response."""
        return self.prefix.action

    @property
    def topic(self) -> str:
        """The topic as the sender wrote it. Topics are matched case-insensitively."""
        return self.prefix.topic

    @property
    def request_id(self) -> str | None:
        """The id of the message, a UUID; None if it has none."""
        return self.request_key.decode() if self.request_key is not None else None

    @property
    def timeout(self) -> int | None:
        """The time limit of a request in milliseconds; None if the message has none."""
        return self._timeout

    @property
    def deadline(self) -> float | None:
        """When the sender of a request stops waiting: in seconds, as `anyio.current_time()`.

        None if there is no time limit, if this is not a received request, or if it has already been
        answered.
        """
        return self.responder.deadline if self.responder is not None else None

    @property
    def header(self) -> MessageHeader:
        """All fields of the header."""
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
        """The decoded payload; None if it is empty.

        Raises:
            RemoteProtocolError: The payload is not valid JSON. Brokers forward payloads without
                checking them.
        """
        if self._payload is _UNREAD:
            try:
                self._payload = decode_payload(self.raw_payload, codec=self.prefix.codec)
            except RemoteProtocolError as error:
                error._about = self
                raise
        return self._payload

    def decode(self, kind: type[T]) -> T:
        """Return the payload as an instance of `kind`.

        Example::

            @dataclass
            class Order:
                id: int

            def confirm(message: Message) -> Order:
                return message.decode(Order)

        Args:
            kind: A type that JSON can be decoded to: a dataclass, a TypedDict, `list[int]`, a
                `msgspec.Struct`, a pydantic model, and others (docs/payloads.md).

        Raises:
            RemoteProtocolError: The payload does not fit; its `reason` says why, and its `path`
                where. If a request handler lets this error escape, the sender gets INVALID_REQUEST
                with both.
            LocalProtocolError: JSON can't be decoded to this type.
        """
        try:
            return decode_payload(self.raw_payload, kind, self.prefix.codec)
        except RemoteProtocolError as error:
            error._about = self
            raise

    def respond(self, payload: Any) -> Any:
        """Answer this request before its handler returns. Await the result, except in `mb_sync`.

        Only the first answer counts: afterwards, what the handler returns is ignored. After the
        request's `deadline`, nothing is sent; `stats().late_answers` counts these answers, and
        `on_error` is called at most once a second for each topic.

        Args:
            payload: The answer: anything that can be written as JSON, or a `ResponseError`.

        Raises:
            LocalProtocolError: This is not a received request, or it was answered already, or the
                payload can't be written.
            MessageTooLarge: The payload is too large.
            ConnectionLost: The connection on which the request arrived is lost.

        If cancelled, the answer has already been sent.
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
        # The received data, without the prefix's route and the responder, which belong to a
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

A task keeps the message of the handler that started it.
"""


def handled_id() -> str | None:
    """Return the id of the message being handled: the parent id of what its handler sends."""
    message = handling.get()
    return message.request_id if message is not None else None


def create_message(header: MessageHeader, payload: Any) -> str:
    """Return the text of a message as it is sent in a WebSocket frame.

    Example::

        text = create_message(MessageHeader("publish", "order.paid"), {"id": 7})
        print(text)  # publish:order.paid:1.0.0 and, on the next line, {"id":7}

    The size of the payload is not checked: each connection has a limit of its own.

    Raises:
        LocalProtocolError: The header is invalid, or the payload can't be written as JSON.
        MessageTooLarge: The header is too long.
    """
    return (encode_header(header) + encode_payload(payload)).decode()


def parse_message(data: str | bytes) -> Message:
    r"""Parse the text of a message.

    Example::

        message = parse_message('publish:order.paid:1.0.0\n{"id":7}')
        print(message.topic, message.payload)

    The payload is decoded later, by `Message.payload`.

    Raises:
        RemoteProtocolError: The message is invalid; `code` and `details` say why.
    """
    encoded = data.encode(errors="surrogatepass") if isinstance(data, str) else bytes(data)
    if not is_text(encoded):
        raise RemoteProtocolError("invalid message: it is not UTF-8")
    prefix, request_id, parent_id, timeout, end = read_header(encoded)
    return Message(prefix, request_id, parent_id, timeout, encoded[end + 1 :])


def is_about(error: BaseException, message: Message) -> bool:
    """Whether `error` says that this message can't be read or answered."""
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
