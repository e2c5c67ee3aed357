"""What clients might send, and what might be in a table of an access file."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import date
from typing import Any

__all__ = ["CERTIFICATES", "TOKENS", "WRONG_VALUES", "changes", "random_texts"]

WRONG_VALUES: list[Any] = [
    *("", " ", "\0", "a\nb", "\u202e", "no such thing", "../..", "x" * 100_000),
    *(-1, 0, 7, 10**400, 0.5, math.nan, math.inf, True, False),
    *([], [7], [""], ["x"], [[]], {}, {"x": 1}, date(2026, 1, 1)),
]
TOKENS = [
    *("", " ", "\n", "\0", "a", ".", "..", "a.b.c", ":", "Bearer x", "Basic YTpi", "{}", "null"),
    *('"', "'; --", "%s%n", "{0}", "../../etc/passwd", "1e999", "\x1b[2J", "\u202e", "\u00e9"),
    *("\ud800", "\udfff\ud800", "\U0001f600", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOjd9.e30.a"),
    *("A" * 1_000_000, "." * 1_000_000, "a." * 500_000, "{" * 500_000, "\ud800" * 500_000),
]
CERTIFICATES = [
    *(("",), ("CN=",), ("URI:",), ("nothing",), ("CN=\ud800",), ("CN=" + "x" * 1_000_000,)),
    tuple(f"DNS:{number}.example" for number in range(10_000)),
]


def random_texts(chance: random.Random) -> Iterator[str]:
    """Return texts of characters that a parser may stumble over."""
    alphabet = "abcXYZ019-_.=:+/ \0\n\u00e9\u202e\ud800\U0001f600"
    for size in range(200):
        yield "".join(chance.choices(alphabet, k=size))


def changes(text: str, chance: random.Random) -> Iterator[str]:
    """Return variants of a token or of a name in a certificate."""
    yield from (text + text, text + "\n", " " + text, text + "\0", text[::-1], text.swapcase())
    for _ in range(200):
        position = chance.randrange(len(text) + 1)
        yield text[:position]
        yield text[:position] + chance.choice("aZ0._-=\ud800\0") + text[position + 1 :]
        yield text[:position] + text[position + 1 :]
