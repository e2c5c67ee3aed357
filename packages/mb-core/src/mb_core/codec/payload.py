"""What is written on one line as a payload, and read from it, by whichever codec."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, overload

from ..errors import LocalProtocolError, MessageTooLarge
from .json_decoding import NOT_JSON, decode, decode_rest, decoder_of, unreadable
from .json_encoding import encode_checked

__all__ = ["JSON", "Codec", "check_kind", "decode_payload", "encode_payload", "is_text"]

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
    encode = staticmethod(encode_checked)

    def decode(self, data: bytes, kind: Any) -> Any:
        return decoder_of(kind)(data or b"null")

    def __reduce__(self) -> str:
        return "JSON"  # there is one


JSON = _Json()


def encode_payload(payload: Any, limit: int | None = None, codec: Codec = JSON) -> bytes:
    """`payload` as one line of JSON, or of what `codec` writes.

    Apart from JSON's own types, these are written: dataclasses, Structs, pydantic models,
    datetimes, UUIDs and others (docs/payloads.md has a table), and `msgspec.Raw`, for bytes that
    are JSON already and are passed on as they are.

    Raises LocalProtocolError for anything else, such as bytes, NaN and the infinities, and
    MessageTooLarge above `limit` bytes.
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
    if not encoded.isascii() and not is_text(encoded):
        raise LocalProtocolError("a payload is UTF-8: this one is not")
    return encoded


def check_kind(kind: Any, codec: Codec = JSON) -> None:
    """Raise LocalProtocolError unless JSON can be decoded to this type."""
    if codec is JSON:  # others know what they decode to
        decoder_of(kind)


@overload
def decode_payload(raw: bytes, *, codec: Codec = ...) -> Any: ...
@overload
def decode_payload(raw: bytes, kind: type[T], codec: Codec = ...) -> T: ...
def decode_payload(raw: bytes, kind: Any = Any, codec: Codec = JSON) -> Any:
    """The value of a received payload, converted to `kind`; an empty payload counts as null.

    Raises RemoteProtocolError if it is not valid JSON, if `codec` can't read it, or if it does
    not fit `kind`; LocalProtocolError if JSON can't be decoded to `kind`.
    """
    if codec is not JSON:
        return _decode_with(codec, raw, kind)
    try:
        if kind is Any:
            return decode(raw) if raw else None
        return decoder_of(kind)(raw or b"null")
    except (*NOT_JSON, ValueError) as error:  # pydantic's, too
        return decode_rest(raw, kind, error)


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
    except Exception as error:  # whatever third-party code raises
        raise unreadable(raw, f"can't be read by the codec {codec.name!r}", error) from error
