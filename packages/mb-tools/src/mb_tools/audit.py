"""The broker's audit feed, `system.message`, as values (docs/protocol.md, "The audit feed")."""

from __future__ import annotations

import json
from datetime import datetime

import msgspec

from mb_core import ResponseError
from mb_core.codec import error_in

__all__ = [
    "AuditEvent",
    "AuditHeader",
    "AuditMessage",
    "error_of",
    "read_event",
    "registered_name",
]


class AuditHeader(msgspec.Struct, gc=False, rename="camel"):
    """The header of a message that the broker received or sent."""

    action: str
    topic: str
    request_id: str | None = None
    parent_request_id: str | None = None


class AuditMessage(msgspec.Struct):
    """A message that the broker received or sent; its payload stays JSON until it is needed."""

    header: AuditHeader
    payload: msgspec.Raw = msgspec.Raw(b"null")


class AuditEvent(msgspec.Struct):
    """One message: `sender` is set if the broker received it, `to` if the broker sent it.

    `timeout` is a request's time limit in milliseconds; `masked_id` is the sender's request id if
    the broker replaced it with its own.
    """

    timestamp: datetime
    message: AuditMessage
    sender: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    timeout: int | None = None
    masked_id: str | None = msgspec.field(name="maskedId", default=None)

    @property
    def seconds(self) -> float:
        """The broker's clock, in seconds since 1970."""
        return self.timestamp.timestamp()


class _Buffer(msgspec.Struct, tag="Buffer"):
    """Bytes, as the reference broker shows them."""

    data: list[int]


class _Registration(msgspec.Struct):
    name: str


_decode = msgspec.json.Decoder(AuditEvent).decode

_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_event(raw: bytes) -> AuditEvent | None:
    """Return the event in a message of the feed; None if it can't be read.

    The feed contains payloads as they were sent, which may not be JSON, and a broker may fail to
    quote one. Only that event is lost.
    """
    try:
        return _decode(raw)
    except _NO_JSON:
        try:
            return _decode(_without_surrogates(raw))
        except (*_NO_JSON, ValueError):
            return None


def _without_surrogates(raw: bytes) -> bytes:
    """Return JSON without lone surrogates, which JavaScript writes and msgspec rejects."""
    return json.dumps(json.loads(raw.decode()), ensure_ascii=False).encode(errors="replace")


def error_of(event: AuditEvent) -> ResponseError | None:
    """Return the error in a response of the feed, or None if it is not an error."""
    return error_in(_payload_of(event))


def registered_name(event: AuditEvent) -> tuple[str, str] | None:
    """Return the id and name of a service that registers; None for any other event."""
    header = event.message.header
    if event.sender is None or header.topic.lower() != "system.service.register":
        return None
    try:
        return event.sender, msgspec.json.decode(_payload_of(event), type=_Registration).name
    except _NO_JSON:
        return None


def _payload_of(event: AuditEvent) -> bytes:
    """Return the payload as it was sent.

    A payload that is not JSON, such as a service's `error:{...}`, is a string in the feed or, from
    the reference broker, a list of its bytes.
    """
    raw = bytes(event.message.payload)
    try:
        if raw.startswith(b'"error:'):
            return msgspec.json.decode(raw, type=str).encode(errors="replace")
        if b'"Buffer"' in raw[:40]:
            return bytes(msgspec.json.decode(raw, type=_Buffer).data)
    except (*_NO_JSON, ValueError):
        pass
    return raw
