"""Payloads that the tests of the codec share."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st

# More than any stack has room for.
DEEP = 500_000
text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@dataclass
class Place:
    city: str
    height: int = 0


class Reading(msgspec.Struct):
    degrees: float

    def __post_init__(self) -> None:
        if self.degrees < -273.15:
            raise ValueError("colder than cold")


class Anything(msgspec.Struct):
    value: Any


@dataclass
class Something:
    value: Any


Pair = namedtuple("Pair", ["one", "other"])
# Ways in which a value can be within a payload, and its path there.
WITHIN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "alone": (lambda value: value, "$"),
    "dict": (lambda value: {"a": 1, "b": value}, "$.b"),
    "list": (lambda value: [None, value], "$[1]"),
    "deep": (lambda value: {"a": [{"x y": [value]}]}, "$.a[0]['x y'][0]"),
    "tuple": (lambda value: (1, value), "$[1]"),
    "named tuple": (lambda value: Pair(1, value), "$[1]"),
    "set": (lambda value: {value}, "$[0]"),
    "dict with other keys": (lambda value: {7: value}, "$[7]"),
    "key": (lambda value: {value: 1}, None),
    "Struct": (Anything, "$.value"),
    "dataclass": (Something, "$.value"),
    "ordered": (lambda value: OrderedDict(a=value), "$.a"),
    "beside a large number": (lambda value: [2**70, value], "$[1]"),
    "beside raw JSON": (lambda value: [msgspec.Raw(b"{}"), value], "$[1]"),
    "beside a long text": (lambda value: ["ą" * 9000, value], "$[1]"),
}


class Struct(msgspec.Struct):
    count: int


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value
