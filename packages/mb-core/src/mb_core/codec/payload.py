"""Write and read payloads on one line, with any codec."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, overload

from ..errors import LocalProtocolError, MessageTooLarge
from .json_decoding import NOT_JSON, decode, decode_rest, decoder_of, unreadable
from .json_encoding import encode_checked

__all__ = ["JSON", "Codec", "check_kind", "decode_payload", "encode_payload", "is_text"]

_NEWLINE = ord("\n")  # a number: searching for the bytes b"\n" takes ten times as long

T = TypeVar("T")


class Codec(Protocol):
    """Converts payloads to UTF-8 text on one line, and back.

    The protocol's payloads are JSON. Use another codec only between services that all have it;
    docs/plugins.md shows one. Errors that its methods raise become a `LocalProtocolError` or a
    `RemoteProtocolError` with their text.
    """

    @property
    def name(self) -> str:
        """The name by which clients choose it."""
        ...

    def encode(self, payload: Any) -> bytes:
        """Return the payload as UTF-8 text without a line break."""
        ...

    def decode(self, data: bytes, kind: Any) -> Any:
        """Return the value of a payload, as an instance of `kind`; `typing.Any` takes any value."""
        ...


class _Json:
    """The default codec of the protocol."""

    name = "json"
    encode = staticmethod(encode_checked)

    def decode(self, data: bytes, kind: Any) -> Any:
        return decoder_of(kind)(data or b"null")

    def __reduce__(self) -> str:
        return "JSON"  # there is one


JSON = _Json()


def encode_payload(payload: Any, limit: int | None = None, codec: Codec = JSON) -> bytes:
    """Return `payload` as one line of JSON, or of what `codec` writes.

    Besides JSON's own types, dataclasses, Structs, pydantic models, datetimes, UUIDs and others can
    be written (docs/payloads.md). `msgspec.Raw` is for bytes that are already JSON; they are passed
    on as they are.

    Args:
        limit: The largest allowed size in bytes; None for no limit.

    Raises:
        LocalProtocolError: The payload contains something else, such as bytes, NaN or infinity.
        MessageTooLarge: The encoded payload is larger than `limit`.
    """
    try:
        encoded = codec.encode(payload)
    except Exception as error:  # errors of msgspec, or of the payload's own code
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
    # In JSON, only msgspec.Raw can cause these. Clients in other languages split at newlines, and a
    # WebSocket closes if it receives anything but UTF-8.
    if _NEWLINE in encoded:
        raise LocalProtocolError("the payload contains a line break: it must be a single line")
    if not encoded.isascii() and not is_text(encoded):
        raise LocalProtocolError("the payload is not valid UTF-8")
    return encoded


def check_kind(kind: Any, codec: Codec = JSON) -> None:
    """Raise LocalProtocolError unless JSON can be decoded to this type."""
    if codec is JSON:  # other codecs know what they decode to
        decoder_of(kind)


@overload
def decode_payload(raw: bytes, *, codec: Codec = ...) -> Any: ...
@overload
def decode_payload(raw: bytes, kind: type[T], codec: Codec = ...) -> T: ...
def decode_payload(raw: bytes, kind: Any = Any, codec: Codec = JSON) -> Any:
    """Return the value of a received payload, as an instance of `kind`. Empty means null.

    Raises:
        RemoteProtocolError: The payload is not valid JSON, `codec` can't read it, or it does not
            fit `kind`.
        LocalProtocolError: JSON can't be decoded to `kind`.
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
    """Return whether `data` is valid UTF-8."""
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
    except Exception as error:  # any error of third-party code
        raise unreadable(raw, f"can't be read by the codec {codec.name!r}", error) from error
