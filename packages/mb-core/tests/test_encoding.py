"""Payloads as JSON: what can be written, and how an error names the value that can not."""

from __future__ import annotations

import enum
import json
import math
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.codec import (
    decode_payload,
    encode_payload,
)
from mb_core.errors import (
    LocalProtocolError,
)

from .payloads import WITHIN, Pair, Place, Reading, json_values, text


@settings(deadline=None)
@given(json_values)
def test_what_is_written_is_read_again(value: Any) -> None:
    encoded = encode_payload(value)
    assert b"\n" not in encoded
    assert decode_payload(encoded) == value
    assert json.loads(encoded) == value  # and by others


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (None, b"null"),
        ({}, b"{}"),
        ("a\nb\r\u2028", '"a\\nb\\r\u2028"'.encode()),
        ({"a\n": 1}, b'{"a\\n":1}'),
        ("Malmö", '"Malmö"'.encode()),
        (2**53 + 1, b"9007199254740993"),
        (10**30, b"1" + b"0" * 30),
        ((1, 2), b"[1,2]"),
        ({1: "a"}, b'{"1":"a"}'),
        (Place("Oslo"), b'{"city":"Oslo","height":0}'),
        (Reading(1.5), b'{"degrees":1.5}'),
        (datetime(2026, 1, 1, tzinfo=UTC), b'"2026-01-01T00:00:00Z"'),
        (uuid.UUID(int=0), b'"00000000-0000-0000-0000-000000000000"'),
    ],
)
def test_json_and_what_msgspec_adds_is_written_on_one_line(payload: Any, encoded: bytes) -> None:
    assert encode_payload(payload) == encoded


class Blob(enum.Enum):
    EMPTY = b""


class Endless(enum.Enum):
    FOREVER = math.inf


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, Endless.FOREVER, -math.nan])
def test_numbers_that_json_does_not_know_are_refused(number: Any, within: str) -> None:
    put, path = WITHIN[within]
    text = rf"(nan|inf) at {re.escape(path) if path else ''}.*is not a JSON number"
    with pytest.raises(LocalProtocolError, match=text):
        encode_payload(put(number))


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(
    "data",
    [b"", b"data", Blob.EMPTY, b"\xff" * 130, b"x" * 150, b"x" * 191, b"x" * 256, b"x" * 70_000],
    ids=lambda data: f"{data!r:.12}",
)
def test_bytes_are_refused_with_a_remedy(data: Any, within: str) -> None:
    put, path = WITHIN[within]
    text = rf"bytes at {re.escape(path) if path else ''}.*data.decode\(\).*base64.*msgspec.Raw"
    with pytest.raises(LocalProtocolError, match=text):
        encode_payload(put(data))


@pytest.mark.parametrize("kind", [bytearray, memoryview, type("Own", (bytes,), {})])
def test_what_is_like_bytes_is_refused_too(kind: Callable[[bytes], Any]) -> None:
    for payload in (kind(b"data"), {"blob": kind(b"x" * 40_000)}):
        with pytest.raises(LocalProtocolError, match=r"base64\.b64encode"):
            encode_payload(payload)


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (Decimal("1.50"), '"1.50"'),
        (Decimal("NaN"), '"NaN"'),
        ({"b"}, '["b"]'),
        (timedelta(seconds=3), '"PT3S"'),
        (date(2026, 1, 1), '"2026-01-01"'),
        ({1.5: 1, 2: 2, date(2026, 1, 1): 3}, '{"1.5":1,"2":2,"2026-01-01":3}'),
        (Pair(1, 2), "[1,2]"),
        ("\x7f ÿ łódź ąę Ņ", '"\x7f ÿ łódź ąę Ņ"'),
        ("ąŁƀ" * 3000, f'"{"ąŁƀ" * 3000}"'),
        (
            [127, 255, -1, 196, 2**64, 1.7e308, None],
            "[127,255,-1,196,18446744073709551616,1.7e308,null]",
        ),
        (msgspec.Raw(b'"\xc4\x85"'), '"ą"'),
    ],
    ids=map(str, range(11)),
)
def test_what_only_looks_like_them_is_written(payload: Any, encoded: str) -> None:
    assert encode_payload(payload).decode() == encoded


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | text | st.binary(max_size=200),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=10,
    )
)
def test_a_payload_is_refused_if_and_only_if_json_has_no_form_for_it(value: Any) -> None:
    def is_json(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(is_json, value.values()))
        if isinstance(value, list):
            return all(map(is_json, value))
        return not isinstance(value, bytes) and (
            not isinstance(value, float) or math.isfinite(value)
        )

    if is_json(value):
        assert json.loads(encode_payload(value)) == value
    else:
        with pytest.raises(LocalProtocolError, match=r" at \$"):
            encode_payload(value)
