"""Reading payloads: JSON as values, and as types of the caller."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.codec import (
    decode_payload,
    error_in,
    is_text,
)
from mb_core.errors import (
    NoRouteFoundError,
    RemoteProtocolError,
)

from .payloads import DEEP, Place, Reading


class Named(TypedDict):
    name: str


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"", None),
        (b"null", None),
        (b" {} ", {}),
        (b'{\n"a": [1, 2.5]\n}', {"a": [1, 2.5]}),
        (b'"\\ud83c\\udf27"', "🌧"),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_payload_is_read_as_json(raw: bytes, value: Any) -> None:
    assert decode_payload(raw) == value


NO_JSON = {
    "text": b"hello",
    "truncated": b'{"name":',
    "space alone": b" ",
    "two values": b"1 2",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "NaN": b"NaN",
    "null byte": b"{}\0",
    "no UTF-8": b'"\xff"',
    "lone surrogate and more": rb'"\ud800" 1',
    "lone surrogate and NaN": rb'["\ud800", NaN]',
    "lone surrogate and a number out of range": rb'["\ud800", 1e999]',
    "lone surrogate as UTF-8": b'"\xed\xa0\x80"',
    "a line break in a text": b'"a\nb"',
    "nested too deep": b"[" * DEEP,
    "nested too deep, and closed": b"[" * DEEP + b"]" * DEEP,
    "objects nested too deep": b'{"a":' * DEEP,
}


@pytest.mark.parametrize("raw", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("kind", [Any, dict, Place], ids=["any", "dict", "dataclass"])
def test_what_is_no_json_is_the_other_sides_fault(raw: bytes, kind: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="the received payload") as raised:
        decode_payload(raw, kind)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("raw", "kind", "value"),
    [
        (rb'"\ud800"', Any, "\ud800"),
        (rb'{"\uDFFF":["\ud83d\ude00", 10000000000000000000000, 1.5, null]}', Any,
         {"\udfff": ["😀", 10**22, 1.5, None]}),
        (rb'["\ud800"]', list[str], ["\ud800"]),
        (rb'{"1":"\udbff"}', dict[int, str], {1: "\udbff"}),
        (rb'{"\ud800":"2026-01-01"}', dict[str, date], {"\ud800": date(2026, 1, 1)}),
    ],
)  # fmt: skip
def test_halves_of_surrogate_pairs_are_decoded(raw: bytes, kind: Any, value: Any) -> None:
    assert decode_payload(raw, kind) == value


def test_they_do_not_make_a_value_fit() -> None:
    with pytest.raises(RemoteProtocolError, match="does not fit"):
        decode_payload(rb'["\ud800"]', list[int])


@pytest.mark.parametrize("shape", [rb'{"error":%b}', b"error:%b"])
def test_an_error_with_half_of_a_surrogate_pair_is_an_error(shape: bytes) -> None:
    read = error_in(shape % rb'{"code":"NO_ROUTE_FOUND","message":"\ud800"}')
    assert isinstance(read, NoRouteFoundError)
    assert read.message == "\ud800"


def test_the_error_shows_how_a_payload_begins() -> None:
    with pytest.raises(RemoteProtocolError, match=r"not valid JSON: .*it begins 'h\\\\xffllo'"):
        decode_payload(b"h\xffllo")


@pytest.mark.parametrize("raw", [b"1" * 5000, b"1e999"], ids=["digits", "exponent"])
def test_a_number_out_of_range_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="out of range"):
        decode_payload(raw)


@pytest.mark.parametrize(
    ("raw", "kind", "value"),
    [
        (b'{"city":"Oslo","more":1}', Place, Place("Oslo")),
        (b'{"degrees":1}', Reading, Reading(1.0)),
        (b'{"name":"a"}', Named, {"name": "a"}),
        (b"[1,2]", list[int], [1, 2]),
        (b"[1,2]", tuple[int, int], (1, 2)),
        (b'"2026-01-01T00:00:00Z"', datetime, datetime(2026, 1, 1, tzinfo=UTC)),
        (b"[1]", object, [1]),
        (b"[1, 2]", msgspec.Raw, msgspec.Raw(b"[1, 2]")),
        (b"", Place | None, None),
        (b"", type(None), None),
        (b"null", Place | None, None),
    ],
)
def test_a_payload_is_converted_to_a_type(raw: bytes, kind: Any, value: Any) -> None:
    assert decode_payload(raw, kind) == value


@pytest.mark.parametrize(
    ("raw", "kind", "reason", "path", "shown"),
    [
        (b'{"city":5}', Place, "Expected `str`, got `int`", "$.city", "the value is 5"),
        (b"{}", Place, "Object missing required field `city`", "$", "the value is {}"),
        (b"[1,null]", list[int], "Expected `int`, got `null`", "$[1]", "the value is None"),
        (b"", Place, "Expected `object`, got `null`", "$", "the value is None"),
        (b'{"degrees":-300}', Reading, "colder than cold", "$", "the value is {'degrees': -300}"),
        (
            b'{"a":[{"city":"x"},{"city":["y"]}]}',
            dict[str, list[Place]],
            "Expected `str`, got `array`",
            "$[...][1].city",
            """it begins '{"a":[{"city":"x"},{"city":["y"]}]}'""",
        ),
        (b'{"x":1}', dict[int, int], "Expected `int`, got `str`", "key in $", "it begins"),
        (
            b'"%b"' % (b"x" * 500),
            int,
            "Expected `int`, got `str`",
            "$",
            f"the value is '{'x' * 59}...",
        ),
    ],
)
def test_what_does_not_fit_says_where_and_why_and_shows_the_value(
    raw: bytes, kind: Any, reason: str, path: str, shown: str
) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_payload(raw, kind)
    error = raised.value
    assert (error.reason, error.path) == (reason, path)
    assert f"{reason} at {path} ({shown}" in str(error)
    assert f"does not fit {kind.__name__ if kind in (Place, Reading, int) else kind}" in str(error)


def test_what_is_not_valid_has_a_reason_and_no_path() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode_payload(b"}{")
    assert raised.value.path is None
    assert raised.value.reason == "JSON is malformed: invalid character (byte 0)"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_the_other_sides_fault(raw: bytes) -> None:
    for kind in (Any, Place, list[int]):
        with contextlib.suppress(RemoteProtocolError):
            decode_payload(raw, kind)


@given(st.binary(max_size=20) | st.text(max_size=10).map(str.encode))
def test_text_is_what_python_reads_as_utf_8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not is_text(data)
    else:
        assert is_text(data)
