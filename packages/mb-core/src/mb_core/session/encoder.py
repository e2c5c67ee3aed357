"""Encodes a Session's messages; the header of each topic is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..cache import BoundedCache
from ..codec import JSON, Codec, encode_error, encode_payload
from ..errors import MessageTooLarge, ResponseError
from ..header import DEFAULT_VERSION, Action, MessageHeader, encode_header
from ..ids import check_id
from ..message import Message
from ..topic import check_topic, is_system

__all__ = ["Encoder", "is_anonymous", "with_timeout"]

# The most topics whose header is cached.
_REMEMBERED = 4096


class Encoder:
    """Creates whole messages, with payloads of up to `max_payload` bytes, which `codec` writes.

    Payloads for the broker's own topics are JSON.  Raises LocalProtocolError for an invalid header
    or a payload that can't be encoded, and MessageTooLarge if either exceeds its limit.
    """

    __slots__ = ("_codec", "_max_payload", "_publish", "_request")

    def __init__(self, max_payload: int, codec: Codec = JSON) -> None:
        self._max_payload = max_payload
        self._codec = codec
        self._publish = _Headers(_publish_header)
        self._request = _Headers(_request_header)

    def has_published(self, topic: str) -> bool:
        """Whether a publication of this topic was created recently."""
        return topic in self._publish

    def publication(
        self,
        topic: str,
        payload: Any,
        *,
        version: str = DEFAULT_VERSION,
        request_id: bytes | None = None,
        parent_id: str | None = None,
    ) -> bytes:
        if request_id is None:
            try:
                header = self._publish[topic]  # cached from now on, for any version
            except TypeError:
                check_topic(topic)  # if it is not hashable, it is not a string
                raise
            if version != DEFAULT_VERSION:
                header = encode_header(
                    MessageHeader(Action.PUBLISH, topic, version, None, parent_id)
                )
            elif parent_id is not None:
                header = b"%b::%b\n" % (header[:-1], check_id(parent_id, "parent id"))
        else:
            text = request_id.decode()
            header = encode_header(MessageHeader(Action.PUBLISH, topic, version, text, parent_id))
        codec = JSON if self._codec is JSON else self._codec_of(topic)
        return header + encode_payload(payload, self._max_payload, codec)

    def request(
        self,
        topic: str,
        payload: Any,
        *,
        request_id: bytes,
        timeout: int,
        version: str = DEFAULT_VERSION,
        parent_id: str | None = None,
    ) -> bytes:
        """Return a request; the caller has checked the time limit, in milliseconds."""
        if version == DEFAULT_VERSION:
            try:
                start = self._request[topic]
            except TypeError:
                check_topic(topic)
                raise
            parent = b"" if parent_id is None else check_id(parent_id, "parent id")
            header = b"%b%b:%b:%d\n" % (start, request_id, parent, timeout)
        else:
            header = encode_header(
                MessageHeader(
                    Action.REQUEST, topic, version, request_id.decode(), parent_id, timeout
                )
            )
        codec = JSON if self._codec is JSON else self._codec_of(topic)
        return header + encode_payload(payload, self._max_payload, codec)

    def response(self, message: Message, payload: Any) -> bytes:
        """Return the answer to a received request; a ResponseError is sent as an error.

        An error that exceeds the payload's limit loses its details, and as much of its text as
        necessary, so that the requester gets an answer.
        """
        if isinstance(payload, ResponseError):
            encoded = _encode_error_within(payload, self._max_payload)
        else:
            encoded = encode_payload(payload, self._max_payload, message.prefix.codec)
        subject, request_id = message.prefix.subject, message.request_key
        if request_id is None:
            return b"response:%b\n%b" % (subject, encoded)
        return b"response:%b:%b\n%b" % (subject, request_id, encoded)

    def _codec_of(self, topic: str) -> Codec:
        return JSON if is_system(topic.lower()) else self._codec


def is_anonymous(message: bytes) -> bool:
    """Whether a whole message has no request id, so that nobody waits for its outcome."""
    fields = message[: message.index(b"\n")].split(b":")
    return len(fields) < 4 or not fields[3]


def with_timeout(message: bytes, timeout: int) -> bytes:
    """Return a request's message with another time limit, in milliseconds."""
    header, newline, payload = message.partition(b"\n")
    start, colon, _ = header.rpartition(b":")
    return b"%b%b%d%b%b" % (start, colon, timeout, newline, payload)


class _Headers(BoundedCache[str, bytes]):
    """A cache of the headers that `make` returns for topics."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[str], bytes]) -> None:
        super().__init__(_REMEMBERED)
        self._make = make

    def __missing__(self, topic: str) -> bytes:
        header = self[topic] = self._make(topic)
        return header


def _publish_header(topic: str) -> bytes:
    return encode_header(MessageHeader(Action.PUBLISH, topic))


def _request_header(topic: str) -> bytes:
    """Return the header of a request up to its id."""
    return encode_header(MessageHeader(Action.REQUEST, topic)).rstrip(b"\n") + b":"


def _encode_error_within(error: ResponseError, limit: int) -> bytes:
    encoded = encode_error(error)
    text = str(error.message)
    while len(encoded) > limit:
        # Not the error's own class: a user's subclass may have a different constructor.
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
