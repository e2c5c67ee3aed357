"""Decode JSON into plain values, or into types of msgspec and pydantic."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_args, get_origin

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .json_encoding import encode

__all__ = ["NOT_JSON", "decode", "decode_any", "decode_rest", "decoder_of", "unreadable"]

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The errors of decoding untrusted bytes; a RecursionError means deep nesting."""

# The most characters of a received value that an error shows.
_SHOWN = 60

decode = msgspec.json.Decoder().decode

# Possibly the escape of a lone surrogate: JavaScript writes and reads these, msgspec does not.
_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search


def decode_any(raw: bytes) -> Any:
    """Decode JSON, including lone surrogates; raises one of NOT_JSON."""
    try:
        return decode(raw)
    except msgspec.DecodeError:
        if not _surrogate(raw):
            raise
        return _decode_surrogates(raw)


def decode_rest(raw: bytes, kind: Any, error: Exception) -> Any:
    """Decode what `decode` or a decoder of `kind` rejected with `error`.

    It may still be valid if it contains lone surrogates. Otherwise raises RemoteProtocolError that
    says what is wrong and where.
    """
    if type(error) is msgspec.DecodeError and _surrogate(raw):
        try:
            value = _decode_surrogates(raw)
            if kind is Any:
                return value
            return msgspec.convert(value, kind, str_keys=True, dec_hook=_convert)
        except (*NOT_JSON, ValueError) as other:
            error = other
    is_json = isinstance(error, msgspec.ValidationError) or not isinstance(error, NOT_JSON)
    fault = "can't be read" if kind is Any else f"does not fit {_name_of(kind)}"
    raise unreadable(raw, fault if is_json else "is not valid JSON", error) from error


def _decode_surrogates(raw: bytes) -> Any:
    """Decode JSON that contains lone surrogates; raises msgspec.DecodeError."""
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_number, parse_float=_finite)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    raise ValueError(f"the number {text} is out of range")


def _make_decoder(kind: Any) -> Callable[[bytes], Any]:
    if _is_pydantic(kind):
        try:
            validate = _validator_of(kind)
        except Exception:  # it contains something that only msgspec knows, such as a Struct
            return msgspec.json.Decoder(kind, dec_hook=_convert).decode

        def decode_checked(data: bytes) -> Any:
            decode(data)  # pydantic accepts NaN as JSON
            return validate(data)

        return decode_checked
    return msgspec.json.Decoder(kind, dec_hook=_convert).decode


_remembered_decoder_of = lru_cache(maxsize=256)(_make_decoder)


def decoder_of(kind: Any) -> Callable[[bytes], Any]:
    """Return the decoder of a type; raises LocalProtocolError if JSON can't be decoded to it."""
    try:
        return _remembered_decoder_of(kind)
    except TypeError:  # it is not hashable, or can't be decoded to, which the next call reports
        pass
    except Exception as error:
        raise _undecodable(kind, error) from error
    try:
        return _make_decoder(kind)
    except Exception as error:
        raise _undecodable(kind, error) from error


def _undecodable(kind: Any, error: Exception) -> LocalProtocolError:
    # For example, an undefined name in a type, or a value instead of a type.
    shown = _name_of(kind) if isinstance(kind, type) or get_args(kind) else _shown(kind)
    return LocalProtocolError(f"can't decode to {shown}: {error}")


def _validator_of(kind: Any) -> Callable[[bytes], Any]:
    # There is a model, so pydantic has been imported.
    validate: Callable[[bytes], Any] = sys.modules["pydantic"].TypeAdapter(kind).validate_json
    return validate


def _is_pydantic(kind: Any) -> bool:
    """Return whether pydantic has to read it: a model, a pydantic type, a list of them, ..."""
    if isinstance(kind, type) and (
        hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__")
    ):
        return True
    # PositiveInt and similar types: msgspec would ignore the constraint.
    if any(_module_of(mark) in _PYDANTIC for mark in getattr(kind, "__metadata__", ())):
        return True
    kind = getattr(kind, "__value__", kind)  # of a type alias
    return any(map(_is_pydantic, get_args(kind)))


_PYDANTIC = frozenset({"pydantic", "annotated_types"})


def _module_of(mark: Any) -> str:
    return type(mark).__module__.partition(".")[0]


_cached_validator_of = lru_cache(maxsize=256)(_validator_of)


def _convert(kind: Any, value: Any) -> Any:
    """Convert what msgspec can't: pydantic models within other types."""
    if _is_pydantic(kind):
        return _cached_validator_of(kind)(encode(value))
    if isinstance(value, get_origin(kind) or kind):
        return value
    raise TypeError(f"Expected `{_name_of(kind)}`, got `{type(value).__name__}`")


def unreadable(raw: bytes, fault: str, error: Exception) -> RemoteProtocolError:
    """Return the error for an invalid payload: what is wrong, where, and the value."""
    reason, path = _reason_and_path(error)
    where = f" at {path}" if path is not None else ""
    found = _value_at(raw, path) if path is not None else _NOTHING
    shown = f"it begins {_shown(raw)}" if found is _NOTHING else f"the value is {_shown(found)}"
    fresh = RemoteProtocolError(f"the received payload {fault}: {reason}{where} ({shown})")
    fresh.reason, fresh.path = reason, path
    return fresh


def _reason_and_path(error: Exception) -> tuple[str, str | None]:
    """Return what is wrong and where (`$.items[0].price`); None if the error does not say."""
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
    """Return what is wrong and where, for the first of pydantic's errors; None for other errors."""
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
    """Return the value at `path` in a payload, or _NOTHING if there is none."""
    try:
        value = decode(raw or b"null")
        position = 1
        while position < len(path):
            step = _STEP.match(path, position)
            if step is None:
                return _NOTHING
            value = value[step[1] if step[2] is None else int(step[2])]
            position = step.end()
    except (*NOT_JSON, LookupError, TypeError):
        return _NOTHING
    return value


def _shown(value: Any) -> str:
    """Return a received value, escaped and shortened."""
    if isinstance(value, bytes):
        shown = repr(value[: _SHOWN + 1].decode(errors="backslashreplace"))
    else:
        shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _name_of(kind: Any) -> str:
    plain = isinstance(kind, type) and not get_args(kind)
    name = kind.__name__ if plain else str(kind).replace("typing.", "")
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
