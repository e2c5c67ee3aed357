"""The messages that the broker itself writes."""

from __future__ import annotations

from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import (
    LocalProtocolError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.header import HeaderPrefix

__all__ = [
    "GREETING",
    "HEARTBEAT",
    "busy_reply",
    "ended_reply",
    "malformed_reply",
    "reply",
    "reply_error",
    "response",
]

GREETING = b"publish:system.initialize:1.0.0\n{}"
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"


def reply(prefix: HeaderPrefix, request_id: bytes, payload: Any) -> bytes:
    """Return a response with the topic and version of the message that it answers."""
    return response(prefix, request_id, encode_payload(payload))


def response(prefix: HeaderPrefix, request_id: bytes, payload: bytes) -> bytes:
    """Return a response with an encoded payload."""
    return b"response:%b:%b\n%b" % (prefix.subject, request_id, payload)


def reply_error(prefix: HeaderPrefix, request_id: bytes, error: ResponseError) -> bytes:
    return response(prefix, request_id, _error_payload(error))


def malformed_reply(error: ResponseError) -> bytes:
    """Return the answer to a message with an invalid header: it has no topic and no id."""
    return b"response:error:1.0.0\n" + _error_payload(error)


def busy_reply(text: str) -> bytes:
    """Return the error for a client that is refused because the broker is full."""
    return malformed_reply(ServiceUnavailableError(text))


def ended_reply(request_id: bytes, error: ResponseError) -> bytes:
    """Return the message that a subscription has ended, because of `error`."""
    return b"response:system.topic.subscribe:1.0.0:%b\n%b" % (request_id, _error_payload(error))


def _error_payload(error: ResponseError) -> bytes:
    """Encode an error; without its details if they quote something that is nested too deep."""
    try:
        return encode_payload({"error": error.as_json()})
    except LocalProtocolError:
        plain = ResponseError(error.message, code=error.code, timestamp=error.timestamp)
        return encode_payload({"error": plain.as_json()})
