"""Payloads: JSON on one line, as bytes.

msgspec does the work: it is an order of magnitude faster than the standard library, and decodes
into types.  The rules are the protocol's (docs/protocol.md, "Payload").
"""

from __future__ import annotations

import re
from typing import Any, Protocol, TypeVar, get_args, overload

import msgspec

from .errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError, ResponseError

__all__ = [
    "ERROR_PREFIX",
    "JSON",
    "Codec",
    "decode_payload",
    "encode_error",
    "encode_payload",
    "error_in",
    "is_text",
]

ERROR_PREFIX = b"error:"

# How the two shapes of an error begin; most responses are none, and not looked at any further.
_may_be_error = re.compile(ERROR_PREFIX + rb'|\{[ \t\r\n]*"error"').match
# Characters of a received value that an error shows.
_SHOWN = 60
_NEWLINE = ord("\n")  # a number: to look for the bytes b"\n" takes ten times as long

T = TypeVar("T")


class Codec(Protocol):
    """Turns payloads into text on one line, UTF-8, and back.

    The protocol's payloads are JSON: a codec that writes anything else is for services that all
    use it.  What either method raises becomes an error that says so, its text included.
    """

    @property
    def name(self) -> str: ...
    def encode(self, payload: Any) -> bytes: ...
    def decode(self, data: bytes, kind: Any) -> Any:
        """The value of a payload, as `kind`; typing.Any where nothing was asked for."""
        ...


class _Json:
    """The protocol's own codec."""

    name = "json"

    def __init__(self) -> None:
        self.encode = msgspec.json.Encoder().encode
        self.decode_any = msgspec.json.Decoder().decode

    def decode(self, data: bytes, kind: Any) -> Any:
        return msgspec.json.decode(data or b"null", type=kind)

    def __reduce__(self) -> str:
        return "JSON"  # there is one


JSON = _Json()

_decode = JSON.decode_any

# What decoding raises for bytes that somebody else chose; a RecursionError for deep nesting.
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_payload(payload: Any, limit: int | None = None, codec: Codec = JSON) -> bytes:
    """`payload` as one line of JSON, or of what `codec` writes.

    JSON takes what JSON knows, and what msgspec adds: dataclasses, Structs, datetimes, UUIDs, and
    `msgspec.Raw` for bytes that are JSON already and are passed on as they are.  Numbers that
    JSON does not know, NaN and the infinities, become null.

    Raises LocalProtocolError for anything else, and MessageTooLarge above `limit` bytes.
    """
    try:
        encoded = codec.encode(payload)
    except Exception as error:  # msgspec's, or whatever the payload's own code raises
        name = "JSON" if codec is JSON else codec.name
        raise LocalProtocolError(f"the payload can't be written as {name}: {error}") from error
    if codec is not JSON and not isinstance(encoded, bytes):
        raise LocalProtocolError(
            f"the codec {codec.name!r} wrote {type(encoded).__name__}, not bytes"
        )
    if limit is not None and len(encoded) > limit:
        raise MessageTooLarge(
            f"the payload has {len(encoded)} bytes, the limit is {limit} "
            "(max_payload; the broker must allow it too)",
            size=len(encoded),
            limit=limit,
        )
    # Of JSON, only msgspec.Raw can bring these in.  Clients in other languages split at newlines,
    # and a WebSocket that gets anything but UTF-8 closes.
    if _NEWLINE in encoded:
        raise LocalProtocolError("a payload is one line: this one contains a line break")
    if not is_text(encoded):
        raise LocalProtocolError("a payload is UTF-8: this one is not")
    return encoded


@overload
def decode_payload(raw: bytes, *, codec: Codec = ...) -> Any: ...
@overload
def decode_payload(raw: bytes, kind: type[T], codec: Codec = ...) -> T: ...
def decode_payload(raw: bytes, kind: Any = Any, codec: Codec = JSON) -> Any:
    """The value of a received payload, converted to `kind`; an empty payload counts as null.

    Raises RemoteProtocolError if it is not valid JSON, if `codec` can't read it, or if it does
    not fit `kind`.
    """
    if codec is not JSON:
        return _decode_with(codec, raw, kind)
    try:
        if kind is Any:
            return _decode(raw) if raw else None
        return JSON.decode(raw, kind)
    except _NO_JSON as error:
        fits = not isinstance(error, msgspec.ValidationError)
        fault = "is not valid JSON" if fits else f"does not fit {_name_of(kind)}"
        raise _unreadable(raw, fault, error) from error


def encode_error(error: ResponseError) -> bytes:
    """An error as a service sends it: `error:` and the error's object.

    Details that are no JSON are left out, and a text that is none is written as one, rather
    than hide the error that they belong to.
    """
    try:
        return ERROR_PREFIX + encode_payload(error.as_json())
    except LocalProtocolError:
        code, message, timestamp = (
            str(part).encode(errors="backslashreplace").decode()
            for part in (error.code, error.message, error.timestamp)
        )
        plain = {"code": code, "message": message, "timestamp": timestamp}
        return ERROR_PREFIX + encode_payload(plain)


def error_in(raw: bytes) -> ResponseError | None:
    """The error that a response's payload stands for, in either of its two shapes, or None.

    `{"error":{...}}` comes from a broker, `error:{...}` from a service.  A payload that merely
    has a key `error` is data (docs/protocol.md, "Errors").
    """
    if not _may_be_error(raw):
        return None
    if raw.startswith(ERROR_PREFIX):
        try:
            value = _decode(raw[len(ERROR_PREFIX) :])
        except _NO_JSON:
            value = None
        if isinstance(value, dict) and isinstance(value.get("code"), str):
            return _error_of(value)
        # The prefix alone says that it is an error: never taken for data.
        text = raw[len(ERROR_PREFIX) :].decode(errors="backslashreplace")
        return ResponseError.of("INTERNAL_ERROR", text)
    try:
        value = _decode(raw)
    except _NO_JSON:
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


def is_text(data: bytes) -> bool:
    """Whether `data` is UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_with(codec: Codec, raw: bytes, kind: Any) -> Any:
    if not raw and kind is Any:
        return None
    try:
        return codec.decode(raw, kind)
    except Exception as error:  # whatever a stranger's code raises
        raise _unreadable(raw, f"can't be read by the codec {codec.name!r}", error) from error


def _unreadable(raw: bytes, fault: str, error: Exception) -> RemoteProtocolError:
    reason, path = _reason_and_path(error)
    where = f" at {path}" if path is not None else ""
    found = _value_at(raw, path) if path is not None else _NOTHING
    shown = f"it begins {_shown(raw)}" if found is _NOTHING else f"the value is {_shown(found)}"
    fresh = RemoteProtocolError(f"the received payload {fault}: {reason}{where} ({shown})")
    fresh.reason, fresh.path = reason, path
    return fresh


def _reason_and_path(error: Exception) -> tuple[str, str | None]:
    """What is wrong and where, `$.items[0].price`; None where an error does not say."""
    if not isinstance(error, msgspec.ValidationError):
        return str(error), None
    reason, _, path = str(error).rpartition(" - at `")
    return (reason, path.removesuffix("`").replace("`", "")) if reason else (path, "$")


_NOTHING = object()
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def _value_at(raw: bytes, path: str) -> Any:
    """The value at `path` in a payload; _NOTHING where the path does not lead to one."""
    try:
        value = _decode(raw or b"null")
        position = 1
        while position < len(path):
            step = _STEP.match(path, position)
            if step is None:
                return _NOTHING
            value = value[step[1] if step[2] is None else int(step[2])]
            position = step.end()
    except (*_NO_JSON, LookupError, TypeError):
        return _NOTHING
    return value


def _shown(value: Any) -> str:
    """A value of the other side's, made harmless and short."""
    if isinstance(value, bytes):
        shown = repr(value[: _SHOWN + 1].decode(errors="backslashreplace"))
    else:
        shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _name_of(kind: Any) -> str:
    plain = isinstance(kind, type) and not get_args(kind)
    name = kind.__name__ if plain else str(kind).replace("typing.", "")
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def _error_of(value: dict[str, Any]) -> ResponseError:
    message = value.get("message")
    timestamp = value.get("timestamp")
    return ResponseError.of(
        value["code"],
        message if isinstance(message, str) else "",
        timestamp=timestamp if isinstance(timestamp, str) else None,
        details=value.get("details"),
    )
