"""The feed `system.message`: every message that the broker receives or sends, as an event.

Subscribers can follow each request to its response.  The protocol defines the order and the form
of events (docs/protocol.md, "The audit feed").  Without subscribers the feed costs one check for
each message.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mb_core.codec import ERROR_PREFIX, decode_payload, encode_payload, error_in
from mb_core.errors import RemoteProtocolError, timestamp_now
from mb_core.header import read_header
from mb_core.message import Message

__all__ = ["received_event", "sent_event"]

_HEADER = b"publish:system.message:1.0.0\n"


def received_event(service_id: str, data: bytes, default_timeout: float) -> bytes:
    """Return the event for a message of a client; `default_timeout` is in seconds."""
    message = _read(data)
    timeout = message.header.timeout
    return _event(
        {
            "from": service_id,
            "timeout": timeout if timeout is not None else round(default_timeout * 1000),
            "message": _shown(message),
        }
    )


def sent_event(service_id: str, data: bytes, masked_id: bytes | None) -> bytes:
    """Return the event for a message to a client.

    `masked_id` is the sender's id if the message was forwarded under an id of the broker's.
    """
    event: dict[str, Any] = {"to": service_id, "message": _shown(_read(data))}
    if masked_id is not None:
        event["maskedId"] = masked_id.decode()
    return _event(event)


def _event(content: dict[str, Any]) -> bytes:
    return _HEADER + encode_payload({"timestamp": timestamp_now(), **content})


def _read(data: bytes) -> Message:
    prefix, request_id, parent_id, timeout, end = read_header(data)
    return Message(prefix, request_id, parent_id, timeout, data[end + 1 :])


def _shown(message: Message) -> dict[str, Any]:
    header = message.header
    fields = {
        "action": header.action,
        "topic": header.topic,
        "version": header.version,
        "requestId": header.request_id,
        "parentRequestId": header.parent_id,
        "timeout": header.timeout,
    }
    shown = {name: value for name, value in fields.items() if value is not None}
    return {"header": shown, "payload": _payload(message)}


def _payload(message: Message) -> Any:
    """Return the payload as it is: JSON as JSON, anything else as a string.

    An error with the prefix is shown in its JSON form.
    """
    raw = message.raw_payload
    if raw.startswith(ERROR_PREFIX):
        return _error(raw)
    try:
        value = message.payload
    except RemoteProtocolError:
        return raw.decode(errors="replace")
    # Not encoded again, so numbers keep their spelling and any depth is allowed. In JSON a line
    # break equals a space.
    return msgspec.Raw(raw.replace(b"\n", b" ")) if raw else value


def _error(raw: bytes) -> Any:
    """Return an error with the prefix as an object if possible, otherwise as a string."""
    error = raw.removeprefix(ERROR_PREFIX).replace(b"\n", b" ")
    shown = b'{"error":%b}' % error
    if error_in(shown) is not None:
        return msgspec.Raw(shown)
    known = error_in(raw)
    assert known is not None  # the prefix implies it
    try:
        fields = decode_payload(error)
    except RemoteProtocolError:
        fields = None
    if isinstance(fields, dict) and isinstance(fields.get("code"), str):
        # Without its details, which may be nested too deep to encode.
        return {
            "error": {"code": known.code, "message": known.message, "timestamp": known.timestamp}
        }
    return raw.decode(errors="replace")
