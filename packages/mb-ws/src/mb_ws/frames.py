"""The layout of frames on the wire, as far as we write and read them ourselves (RFC 6455, 5.2)."""

from __future__ import annotations

import secrets
from struct import Struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # its wheel for this platform has no compiled code
    from websockets.utils import apply_mask

__all__ = ["KEY", "MASKED", "OPCODE", "OPCODES", "TEXT", "MaskingKeys", "apply_mask", "text_head"]

TEXT = 0x81
"""The first byte of a text message in one frame, without reserved bits."""

MASKED = 0x80
"""The bit in the byte of the length; if set, a masking key follows."""

KEY = 4
"""Bytes of a masking key."""

OPCODE = 0x0F
"""The bits of the first byte that are the kind of frame."""

OPCODES = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))
"""The kinds of frames."""

# Keys per system call, which costs more than all the rest of writing a frame.
_KEYS = 64

_SHORT = Struct(">BB").pack
_LONG = Struct(">BBH").pack
_LONGEST = Struct(">BBQ").pack


def text_head(length: int, masked: int) -> bytes:
    """A frame's bytes before its key and its payload of `length` bytes; `masked` is MASKED or 0."""
    if length < 126:
        return _SHORT(TEXT, masked | length)
    if length < 65_536:
        return _LONG(TEXT, masked | 126, length)
    return _LONGEST(TEXT, masked | 127, length)


class MaskingKeys:
    """Keys that nobody can guess, a fresh one for each frame."""

    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def next(self) -> bytes:
        if not self._ready:
            chance = secrets.token_bytes(_KEYS * KEY)
            self._ready = [chance[at : at + KEY] for at in range(0, len(chance), KEY)]
        return self._ready.pop()
