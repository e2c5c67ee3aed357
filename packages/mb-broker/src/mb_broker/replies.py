"""The messages that the broker itself writes, and the errors in them."""

from __future__ import annotations

from typing import Any

from mb_core.codec import encode_payload
from mb_core.errors import (
    InvalidRequestIdError,
    LocalProtocolError,
    MalformedMessageError,
    ResponseError,
    ServiceUnavailableError,
)
from mb_core.header import MAX_HEADER, HeaderPrefix

__all__ = [
    "GREETING",
    "HEARTBEAT",
    "MAX_SUBJECT",
    "busy_reply",
    "malformed_reply",
    "payload_error",
    "reply",
    "reply_error",
    "response",
    "subject_error",
    "unknown_request_error",
]

GREETING = b"publish:system.initialize:1.0.0\n{}"
HEARTBEAT = b"request:system.heartbeat:1.0.0\n{}"

MAX_SUBJECT = MAX_HEADER - len("response:") - len(":") - 36 - len("\n")
"""Bytes that topic and version may have together: a response with an id has no room for more."""


def reply(prefix: HeaderPrefix, request_id: bytes, payload: Any) -> bytes:
    """Return a response with the topic and version of what it answers."""
    return response(prefix, request_id, encode_payload(payload))


def response(prefix: HeaderPrefix, request_id: bytes, payload: bytes) -> bytes:
    """Return a response whose payload is encoded already."""
    return b"response:%b:%b\n%b" % (prefix.subject, request_id, payload)


def reply_error(prefix: HeaderPrefix, request_id: bytes, error: ResponseError) -> bytes:
    return response(prefix, request_id, _error_payload(error))


def malformed_reply(error: ResponseError) -> bytes:
    """The answer to a message whose header can't be read: it has no topic and no id."""
    return b"response:error:1.0.0\n" + _error_payload(error)


def busy_reply(text: str) -> bytes:
    """The error for a client that is refused because the broker is full."""
    return malformed_reply(ServiceUnavailableError(text))


def unknown_request_error(request_id: bytes | None) -> InvalidRequestIdError:
    """The error for a response to nothing that its sender was asked."""
    if request_id is None:
        return InvalidRequestIdError("a response needs the id of its request")
    return InvalidRequestIdError(
        f"this service has no request with the id {request_id.decode()} to answer (any more)"
    )


def subject_error(prefix: HeaderPrefix) -> MalformedMessageError:
    """The error for a message whose topic and version are too long."""
    return MalformedMessageError(
        f"topic and version have {len(prefix.subject)} bytes, the limit is {MAX_SUBJECT}: "
        f"with an id, the header would have more than {MAX_HEADER}",
        details={"version": prefix.version},
    )


def payload_error(size: int, max_payload: int) -> MalformedMessageError:
    """The error for a payload that is too large, or else not UTF-8."""
    if size <= max_payload:
        return MalformedMessageError("the message is not valid UTF-8")
    return MalformedMessageError(
        f"the payload has {size} bytes, the limit is {max_payload} (max_payload)",
        details={"payloadLength": size},
    )


def _error_payload(error: ResponseError) -> bytes:
    """Encode an error; without details if they repeat something that is nested too deep."""
    try:
        return encode_payload({"error": error.as_json()})
    except LocalProtocolError:
        plain = ResponseError(error.message, code=error.code, timestamp=error.timestamp)
        return encode_payload({"error": plain.as_json()})
