"""Encode JSON: types that msgspec knows, pydantic's models, and errors for everything else."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any

import msgspec

__all__ = ["encode", "encode_checked"]

# The most characters of a key that an error shows.
_SHOWN = 60

_BINARY = (bytes, bytearray, memoryview)
_INSTEAD_OF_BYTES = (
    "(send text instead: data.decode(), or base64.b64encode(data).decode() for binary data; "
    "msgspec.Raw(data) if it is JSON already)"
)
# msgspec does not support these as keys.
_VALUES_ONLY = (bool, type(None), tuple, frozenset)


def _plain(value: Any) -> Any:
    """Convert for msgspec what it does not know: pydantic's models, without importing pydantic."""
    kind = type(value)
    if not hasattr(kind, "__pydantic_serializer__"):
        if issubclass(kind, _BINARY):
            raise TypeError(f"{kind.__qualname__} {_INSTEAD_OF_BYTES}")
        use = "keys" if kind in _VALUES_ONLY else "objects"
        raise TypeError(f"{use} of type {kind.__qualname__} are not supported")
    # By alias, because that is what the same model reads.
    by_alias = kind.model_config.get("serialize_by_alias", True)
    return value.model_dump(mode="json", by_alias=by_alias)


encode = msgspec.json.Encoder(enc_hook=_plain).encode

# msgspec writes bytes as base64 and NaN as null, and has no option against it. Walking over each
# payload would cost more than encoding it. But MessagePack, which msgspec writes faster than JSON,
# has both types, so a few bytes in its output say which payloads to check.
_pack = msgspec.msgpack.Encoder(enc_hook=_plain).encode
# How msgspec packs bytes: C4 to C6 and their length; and floats that are not finite: CB, and 7F or
# FF. Sometimes these are parts of other numbers. In text (common in Polish, for example), the first
# three are followed by a byte of 80 to BF; as a length, that means at least 128 bytes.
_BYTE_KINDS = bytes(
    ord("c" if 0xC4 <= byte <= 0xC6 else "t" if 0x80 <= byte <= 0xBF else ".")
    for byte in range(256)
)
# The length of 128 bytes in JSON.
_long_base64 = re.compile(rb'"[A-Za-z0-9+/]{170}').search


def encode_checked(payload: Any) -> bytes:
    """Encode a payload; raises TypeError or ValueError that says which value is not valid JSON."""
    try:
        encoded = encode(payload)
    except TypeError:
        _check(payload)  # names the place
        raise
    try:
        packed = _pack(payload)
    except Exception:  # an integer of more than 64 bits
        _check(payload)
        return encoded
    # Searching for a byte takes 15 ns, and few payloads contain any of these.
    if (
        0xC4 in packed
        or ((0x7F in packed or 0xFF in packed) and 0xCB in packed)
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


def _check(payload: Any) -> None:
    """Raise for values that JSON can't represent but msgspec writes anyway."""
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
    waiting: deque[tuple[Any, _Path]] = deque([(plain, ())])
    while waiting:
        value, path = waiting.popleft()
        if isinstance(value, dict):
            for key, item in value.items():
                inner = (path, key)
                waiting.append((item, inner))
                if not isinstance(key, str):
                    waiting.append((key, inner))
        elif isinstance(value, list | tuple):
            waiting.extend((item, (path, index)) for index, item in enumerate(value))
        elif any(value is each for each in unknown):
            remedy = _INSTEAD.get(value, "convert it to a dict, list, str, int or float")
            raise TypeError(f"{value.decode()} at {_path_text(path)} is not supported ({remedy})")
        elif isinstance(value, _BINARY):
            raise TypeError(f"{type(value).__name__} at {_path_text(path)} {_INSTEAD_OF_BYTES}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{value} at {_path_text(path)} is not a JSON number (send None or text instead)"
            )


def _is_writable(plain: Any) -> bool:
    """Return whether a payload of built-in types certainly is valid JSON.

    Most checked payloads are, so this checks whole containers at a time.
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

# The place of a value: the path of its container, and its key or index there.
_Path = tuple[Any, ...]


def _path_text(path: _Path) -> str:
    steps: list[object] = []
    while path:
        path, step = path
        steps.append(step)
    return "$" + "".join(map(_step, reversed(steps)))


def _step(key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    shown = repr(key)
    return f"[{shown}]" if len(shown) <= _SHOWN else f"[{shown[:_SHOWN]}...]"
