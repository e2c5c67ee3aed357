"""Payloads: JSON on one line, as bytes.

msgspec does the work: it is an order of magnitude faster than the standard library, and decodes
into types.  The rules are the protocol's (docs/protocol.md, "Payload").
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, TypeVar, get_args, get_origin, overload

import msgspec

from .errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError, ResponseError

__all__ = [
    "ERROR_PREFIX",
    "JSON",
    "Codec",
    "check_kind",
    "decode_payload",
    "encode_error",
    "encode_payload",
    "error_in",
    "is_text",
    "may_be_error",
]

ERROR_PREFIX = b"error:"

# How the two shapes of an error begin; most responses are none, and not looked at any further.
may_be_error = re.compile(ERROR_PREFIX + rb'|\{[ \t\r\n]*"error"').match
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
        self.encode = _encode_checked
        self.decode_any = msgspec.json.Decoder().decode

    def decode(self, data: bytes, kind: Any) -> Any:
        return _decoder_of(kind)(data or b"null")

    def __reduce__(self) -> str:
        return "JSON"  # there is one


def _plain(value: Any) -> Any:
    """Give msgspec what it does not know: pydantic's models, without importing pydantic."""
    kind = type(value)
    if not hasattr(kind, "__pydantic_serializer__"):
        if issubclass(kind, _BINARY):
            raise TypeError(f"{kind.__qualname__} {_INSTEAD_OF_BYTES}")
        use = "keys" if kind in _VALUES_ONLY else "objects"
        raise TypeError(f"{use} of type {kind.__qualname__} are not supported")
    # By alias, since that is what the same model reads.
    by_alias = kind.model_config.get("serialize_by_alias", True)
    return value.model_dump(mode="json", by_alias=by_alias)


_encode = msgspec.json.Encoder(enc_hook=_plain).encode

# msgspec writes bytes as base64 and NaN as null, and can't be told not to.  A walk over each
# payload would cost more than encoding it; but in MessagePack, which takes msgspec less time than
# JSON, both are what they are: so a few bytes of that say which payloads are to be looked at.
_pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode
# How msgspec packs bytes: C4 to C6 and their length; and floats that are not finite: CB, and 7F or
# FF.  Now and then these are parts of other numbers.  In text a byte of 80 to BF follows the first
# three; as a length it stands for at least 128 bytes.  Text in Polish and others has many of them.
_BYTE_KINDS = bytes(
    ord("c" if 0xC4 <= byte <= 0xC6 else "t" if 0x80 <= byte <= 0xBF else ".")
    for byte in range(256)
)
# What 128 bytes have become in the JSON.
_long_base64 = re.compile(rb'"[A-Za-z0-9+/]{170}').search


def _encode_checked(payload: Any) -> bytes:
    try:
        encoded = _encode(payload)
    except TypeError:
        _check(payload)  # says where
        raise
    try:
        packed = _pack(payload)
    except Exception:  # an integer of more than 64 bits
        _check(payload)
        return encoded
    # To look for a byte takes 15 ns, and few payloads have any of these.
    if (
        0xC4 in packed
        or 0x7F in packed
        or 0xFF in packed
        or (len(packed) > 0xFF and (0xC5 in packed or 0xC6 in packed))
    ) and _is_suspect(packed, encoded):
        _check(payload)
    return encoded


def _is_suspect(packed: bytes, encoded: bytes) -> bool:
    # Without a regular expression, which takes ten times as long for text; `in` is slow for bytes.
    kinds = packed.translate(_BYTE_KINDS)
    return (
        kinds.find(b"c.") >= 0
        or kinds.find(b"cc") >= 0
        or packed.find(b"\xcb\x7f") >= 0
        or packed.find(b"\xcb\xff") >= 0
        or (kinds.find(b"ct") >= 0 and _long_base64(encoded) is not None)
    )


JSON = _Json()

_decode = JSON.decode_any

# The escape of half a surrogate pair, perhaps: JavaScript writes and reads these, msgspec does not.
_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search

# What decoding raises for bytes that somebody else chose; a RecursionError for deep nesting.
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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
        _decoder_of(kind)


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
            return _decode(raw) if raw else None
        return JSON.decode(raw, kind)
    except (*_NO_JSON, ValueError) as fault_found:  # pydantic's, too
        error: Exception = fault_found
        if _surrogate(raw) and type(error) is msgspec.DecodeError:
            try:
                value = _decode_surrogates(raw)
                if kind is Any:
                    return value
                return msgspec.convert(value, kind, str_keys=True, dec_hook=_convert)
            except (*_NO_JSON, ValueError) as other:
                error = other
        is_json = isinstance(error, msgspec.ValidationError) or not isinstance(error, _NO_JSON)
        fault = "can't be read" if kind is Any else f"does not fit {_name_of(kind)}"
        fault = fault if is_json else "is not valid JSON"
        raise _unreadable(raw, fault, error) from error


def _decode_surrogates(raw: bytes) -> Any:
    """Decode JSON that contains halves of surrogate pairs; raises msgspec.DecodeError."""
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_number, parse_float=_finite)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _decode_any(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        if not _surrogate(raw):
            raise
        return _decode_surrogates(raw)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    raise ValueError(f"the number {text} is out of range")


def encode_error(error: ResponseError) -> bytes:
    """Return the payload that stands for an error: `{"error":{...}}`.

    Details that can't be written as JSON are left out, and a text that can't is escaped, rather
    than hide the error that they belong to.
    """
    try:
        # Without these two as texts, its receiver would take it for data.
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
    """Return the error that a response's payload stands for, in either of its two shapes, or None.

    Brokers and most services write `{"error":{...}}`, some services `error:{...}`.  A payload
    that merely has a key `error` is data (docs/protocol.md, "Errors").
    """
    if not may_be_error(raw):
        return None
    if raw.startswith(ERROR_PREFIX):
        try:
            value = _decode_any(raw[len(ERROR_PREFIX) :])
        except _NO_JSON:
            value = None
        if isinstance(value, dict) and isinstance(value.get("code"), str):
            return _error_of(value)
        # The prefix alone says that it is an error: never taken for data.
        text = raw[len(ERROR_PREFIX) :].decode(errors="backslashreplace")
        return ResponseError.of("INTERNAL_ERROR", text)
    try:
        value = _decode_any(raw)
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


_BINARY = (bytes, bytearray, memoryview)
_INSTEAD_OF_BYTES = (
    "(send text instead: data.decode(), or base64.b64encode(data).decode() for binary data; "
    "msgspec.Raw(data) if it is JSON already)"
)
# Of these, only keys are msgspec's not to know.
_VALUES_ONLY = (bool, type(None), tuple, frozenset)


def _check(payload: Any) -> None:
    """Raise for what JSON has no form for, and msgspec writes all the same."""
    unknown: list[bytes] = []

    def plain_or_marked(value: Any) -> Any:
        if isinstance(value, msgspec.Raw):
            return None
        if isinstance(value, _BINARY):
            return bytes(value)
        try:
            return _plain(value)
        except TypeError:
            unknown.append(type(value).__qualname__.encode())
            return unknown[-1]

    plain = msgspec.to_builtins(payload, builtin_types=_BINARY, enc_hook=plain_or_marked)
    if _is_writable(plain):
        return
    waiting: deque[tuple[Any, _Place]] = deque([(plain, ())])
    while waiting:
        value, place = waiting.popleft()
        if isinstance(value, dict):
            for key, item in value.items():
                inner = (place, key)
                waiting.append((item, inner))
                if not isinstance(key, str):
                    waiting.append((key, inner))
        elif isinstance(value, list | tuple):
            waiting.extend((item, (place, index)) for index, item in enumerate(value))
        elif any(value is each for each in unknown):
            remedy = _INSTEAD.get(value, "convert it to a dict, list, str, int or float")
            raise TypeError(f"{value.decode()} at {_path_to(place)} is not supported ({remedy})")
        elif isinstance(value, _BINARY):
            raise TypeError(f"{type(value).__name__} at {_path_to(place)} {_INSTEAD_OF_BYTES}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{value} at {_path_to(place)} is not a JSON number (send None or text instead)"
            )


def _is_writable(plain: Any) -> bool:
    """Whether a payload of built-in types certainly is one that JSON has a form for.

    Most payloads that are looked at are, so this looks at whole containers at a time.
    """
    containers: list[Any] = [[plain]]
    for container in containers:
        items = container
        if type(container) is dict:
            items = container.values()
            if not _LEAVES.issuperset(map(type, container)):
                return False
        kinds = set(map(type, items))
        if not kinds <= _LEAVES:
            if not kinds <= _BUILT_IN:
                return False
            if float in kinds:
                floats = items if len(kinds) == 1 else [n for n in items if type(n) is float]
                if not all(map(math.isfinite, floats)):
                    return False
            containers.extend(item for item in items if type(item) in _CONTAINERS)
    return True


_LEAVES = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
_BUILT_IN = _LEAVES | _CONTAINERS | {float}
# A Message is a Struct, and this is the first of its fields.
_INSTEAD = {b"HeaderPrefix": "send the payload of the Message, message.payload"}

# Where something is: the place of what it is in, and its key or index there.
_Place = tuple[Any, ...]


def _path_to(place: _Place) -> str:
    steps: list[object] = []
    while place:
        place, step = place
        steps.append(step)
    return "$" + "".join(map(_step, reversed(steps)))


def _step(key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    shown = repr(key)
    return f"[{shown}]" if len(shown) <= _SHOWN else f"[{shown[:_SHOWN]}...]"


def _make_decoder(kind: Any) -> Callable[[bytes], Any]:
    if _is_pydantic(kind):
        try:
            validate = _validator_of(kind)
        except Exception:  # it contains what only msgspec knows, such as a Struct
            return msgspec.json.Decoder(kind, dec_hook=_convert).decode

        def decode(data: bytes) -> Any:
            _decode(data)  # pydantic takes NaN for JSON
            return validate(data)

        return decode
    return msgspec.json.Decoder(kind, dec_hook=_convert).decode


_remembered_decoder_of = lru_cache(maxsize=256)(_make_decoder)


def _decoder_of(kind: Any) -> Callable[[bytes], Any]:
    try:
        return _remembered_decoder_of(kind)
    except TypeError:  # it can't be hashed, or decoded to: then this says so
        pass
    except Exception as error:
        raise _undecodable(kind, error) from error
    try:
        return _make_decoder(kind)
    except Exception as error:
        raise _undecodable(kind, error) from error


def _undecodable(kind: Any, error: Exception) -> LocalProtocolError:
    # A name in a type that is not defined, for instance, or a value instead of a type.
    shown = _name_of(kind) if isinstance(kind, type) or get_args(kind) else _shown(kind)
    return LocalProtocolError(f"can't decode to {shown}: {error}")


def _validator_of(kind: Any) -> Callable[[bytes], Any]:
    # There is a model, so pydantic has been imported.
    validate: Callable[[bytes], Any] = sys.modules["pydantic"].TypeAdapter(kind).validate_json
    return validate


def _is_pydantic(kind: Any) -> bool:
    """Whether pydantic is to read it: a model, a type of pydantic's, a list of them, ..."""
    if isinstance(kind, type) and (
        hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__")
    ):
        return True
    # PositiveInt and the like: msgspec would take the constraint for a comment.
    if any(_module_of(mark) in _PYDANTIC for mark in getattr(kind, "__metadata__", ())):
        return True
    kind = getattr(kind, "__value__", kind)  # of a type alias
    return any(map(_is_pydantic, get_args(kind)))


_PYDANTIC = frozenset({"pydantic", "annotated_types"})


def _module_of(mark: Any) -> str:
    return type(mark).__module__.partition(".")[0]


_cached_validator_of = lru_cache(maxsize=256)(_validator_of)


def _convert(kind: Any, value: Any) -> Any:
    """Convert what msgspec can't: models of pydantic's within other types."""
    if _is_pydantic(kind):
        return _cached_validator_of(kind)(_encode(value))
    if isinstance(value, get_origin(kind) or kind):
        return value
    raise TypeError(f"Expected `{_name_of(kind)}`, got `{type(value).__name__}`")


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
    if isinstance(error, msgspec.ValidationError):
        reason, _, path = str(error).rpartition(" - at `")
        reason, path = (reason, path.removesuffix("`").replace("`", "")) if reason else (path, "$")
        within = _pydantic_reason(error.__cause__)
        return (reason, path) if within is None else (within[0], path + within[1])
    reason_and_place = _pydantic_reason(error)
    if reason_and_place is None:
        return str(error), None
    return reason_and_place[0], "$" + reason_and_place[1]


def _pydantic_reason(error: BaseException | None) -> tuple[str, str] | None:
    """What is wrong and where, of the first of pydantic's errors; None for any other error."""
    if not hasattr(type(error), "error_count"):
        return None
    found: list[dict[str, Any]] = error.errors(include_url=False)  # type: ignore[union-attr]
    reason = found[0]["msg"]
    if len(found) > 1:
        reason += f" (and {len(found) - 1} more)"
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in found[0]["loc"])
    return reason, "".join(steps)


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
