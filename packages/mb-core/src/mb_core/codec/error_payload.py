"""Errors as payloads, in their two shapes: `{"error":{...}}` and `error:{...}`."""

from __future__ import annotations

import re
from typing import Any

from ..errors import LocalProtocolError, ResponseError
from .json_decoding import NOT_JSON, decode_any
from .payload import encode_payload

__all__ = ["ERROR_PREFIX", "encode_error", "error_in", "may_be_error"]

ERROR_PREFIX = b"error:"

# How the two shapes begin; most responses are not errors, and are not checked any further.
may_be_error = re.compile(ERROR_PREFIX + rb'|\{[ \t\r\n]*"error"').match


def encode_error(error: ResponseError) -> bytes:
    """Return the payload that represents an error: `{"error":{...}}`.

    Details that can't be written as JSON are left out, and a text that can't is escaped, rather
    than hide the error that they belong to.
    """
    try:
        # If these two are not strings, its receiver treats it as data.
        if isinstance(error.code, str) and isinstance(error.message, str):
            return encode_payload({"error": error.as_json()})
    except LocalProtocolError:
        pass
    code, message, timestamp = (
        str(part).encode(errors="backslashreplace").decode()
        for part in (error.code, error.message, error.timestamp)
    )
    return encode_payload({"error": {"code": code, "message": message, "timestamp": timestamp}})


def error_in(raw: bytes) -> ResponseError | None:
    """Return the error that a response's payload represents, in either of its two shapes, or None.

    Brokers and most services write `{"error":{...}}`, some services `error:{...}`.  A payload
    that merely has a key `error` is data (docs/protocol.md, "Errors").
    """
    if not may_be_error(raw):
        return None
    if raw.startswith(ERROR_PREFIX):
        try:
            value = decode_any(raw[len(ERROR_PREFIX) :])
        except NOT_JSON:
            value = None
        if isinstance(value, dict) and isinstance(value.get("code"), str):
            return _error_of(value)
        # The prefix alone says that it is an error: never taken for data.
        text = raw[len(ERROR_PREFIX) :].decode(errors="backslashreplace")
        return ResponseError.of("INTERNAL_ERROR", text)
    try:
        value = decode_any(raw)
    except NOT_JSON:
        return None
    error = value.get("error")
    if (
        len(value) == 1
        and isinstance(error, dict)
        and isinstance(error.get("code"), str)
        and isinstance(error.get("message"), str)
    ):
        return _error_of(error)
    return None


def _error_of(value: dict[str, Any]) -> ResponseError:
    message = value.get("message")
    timestamp = value.get("timestamp")
    return ResponseError.of(
        value["code"],
        message if isinstance(message, str) else "",
        timestamp=timestamp if isinstance(timestamp, str) else None,
        details=value.get("details"),
    )
