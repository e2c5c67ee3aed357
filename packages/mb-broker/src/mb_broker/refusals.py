"""The errors that refuse a message."""

from __future__ import annotations

from mb_core.errors import InvalidRequestIdError, MalformedMessageError
from mb_core.header import MAX_HEADER, HeaderPrefix

__all__ = ["MAX_SUBJECT", "payload_error", "subject_error", "unknown_request_error"]

MAX_SUBJECT = MAX_HEADER - len("response:") - len(":") - 36 - len("\n")
"""Bytes that topic and version may have together: a response with an id has no room for more."""


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
