"""Payloads: what can be written, what is read, and how an error is told from data."""

from __future__ import annotations

import contextlib
import enum
import json
import math
import re
import subprocess
import sys
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core import parse_message
from mb_core.codec import (
    decode_payload,
    encode_error,
    encode_payload,
    error_in,
    is_text,
    json_encoding,
)
from mb_core.errors import (
    InternalError,
    LocalProtocolError,
    MessageTooLarge,
    NoRouteFoundError,
    RemoteProtocolError,
    ResponseError,
)

T = TypeVar("T")
TIMESTAMP = "2026-01-01T00:00:00.000Z"
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


class Named(TypedDict):
    name: str


class Failing:
    """Something whose own code fails while it is written."""

    @property
    def __class__(self) -> type:  # what msgspec looks at first
        raise RuntimeError("broken property")


# Writing


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


# Pydantic


class Item(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="SKU")
    price: Decimal = Decimal(1)


class Basket(pydantic.BaseModel):
    items: list[Item]
    at: datetime | None = None
    weight: float = 1.0


@pydantic.dataclasses.dataclass
class Checked:
    count: int = pydantic.Field(gt=3)


@dataclass
class Holding:
    basket: Basket
    count: int = 0


class Struct(msgspec.Struct):
    count: int


class Boxed(msgspec.Struct, Generic[T]):
    content: T


class Strict(pydantic.BaseModel, strict=True):
    at: datetime


BASKET = Basket(items=[Item(SKU="a"), Item(SKU="b")], at=datetime(2026, 1, 1, tzinfo=UTC))
MODELS: dict[str, tuple[Any, Any]] = {
    "model": (BASKET, Basket),
    "list": ([BASKET], list[Basket]),
    "dict": ({"a": BASKET}, dict[str, Basket]),
    "optional": (BASKET, Basket | None),
    "union": (BASKET, int | Basket),
    "in a dataclass": (Holding(BASKET, 3), Holding),
    "in a list of dataclasses": ([Holding(BASKET)], list[Holding]),
    "dataclass": (Checked(5), Checked),
    "list of dataclasses": ([Checked(5)], list[Checked]),
    "root": (pydantic.RootModel[list[int]]([1]), pydantic.RootModel[list[int]]),
    "annotated, which has no hash": (BASKET, Annotated[Basket, []]),
    "strict": (Strict(at=datetime(2026, 1, 1, tzinfo=UTC)), Strict),
    "in a generic Struct": (Boxed(BASKET), Boxed[Basket]),
    "beside a Struct": ((BASKET, Struct(1)), tuple[Basket, Struct]),
    "types of pydantic's": ([5], list[pydantic.PositiveInt]),
    "strict within": ([Strict(at=datetime(2026, 1, 1, tzinfo=UTC))], list[Strict]),
}


@pytest.mark.parametrize("model", MODELS)
def test_models_of_pydantic_are_written_and_read(model: str) -> None:
    value, kind = MODELS[model]
    for _ in range(2):
        assert decode_payload(encode_payload(value), kind) == value


def test_a_model_is_written_as_it_is_read_by_alias() -> None:
    assert encode_payload(Item(SKU="a")) == b'{"SKU":"a","price":"1"}'

    class Plain(Item, serialize_by_alias=False):
        pass

    assert encode_payload(Plain(SKU="a")) == b'{"sku":"a","price":"1"}'


def test_a_number_in_a_model_that_json_does_not_know_is_refused() -> None:
    for payload in (Basket(items=[], weight=math.nan), [Basket(items=[], weight=math.inf)]):
        with pytest.raises(LocalProtocolError, match=r"at \$(\[0\])?\.weight is not a JSON"):
            encode_payload(payload)


@pytest.mark.parametrize(
    ("raw", "kind", "path"),
    [
        (b'{"items":[{"SKU":"a"},{"SKU":5}]}', Basket, "$.items[1].SKU"),
        (b'{"items":[{"SKU":"a"},{"SKU":5}]}', Basket | None, "$.items[1].SKU"),
        (b'[{"items":[{"SKU":5}]}]', list[Basket], "$[0].items[0].SKU"),
        (b'{"basket":{"items":[{"SKU":5}]}}', Holding, "$.basket.items[0].SKU"),
        (b'{"basket":{"items":[]},"count":"x"}', Holding, "$.count"),
        (b"{}", Basket, "$.items"),
        (b'{"count":1}', Checked, "$.count"),
        (b'[{"count":1}]', list[Checked], "$[0].count"),
        (b'{"content":{"items":[{"SKU":5}]}}', Boxed[Basket], "$.content.items[0].SKU"),
        (b"[1,-1]", list[pydantic.PositiveInt], "$[1]"),
        (b"0", Annotated[int, pydantic.Field(ge=1)], "$"),
        (b'"nowhere"', pydantic.AnyUrl, "$"),
    ],
)
def test_what_does_not_fit_a_model_says_where(raw: bytes, kind: Any, path: str) -> None:
    with pytest.raises(RemoteProtocolError, match="does not fit") as raised:
        decode_payload(raw, kind)
    assert raised.value.path == path
    assert "\n" not in str(raised.value)
    assert "pydantic.dev" not in str(raised.value)


@pytest.mark.parametrize("raw", [b'{"items":', b'{"items":[],"weight":NaN}', b'"\xff"', b""])
def test_what_is_not_json_is_not_for_models_either(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not valid JSON" if raw else "does not fit"):
        decode_payload(raw, Basket)


def test_a_type_that_cant_be_decoded_is_the_callers_fault() -> None:
    kinds: list[Any] = [int | Place | Reading, "Place", 5, Basket | Struct, [Basket]]
    for kind in kinds:
        with pytest.raises(LocalProtocolError, match=r"^can't decode to [^\n]+$"):
            decode_payload(b"{}", kind)


def test_pydantic_is_not_imported_for_this() -> None:
    program = (
        "import sys, mb_client; mb_client.parse_message('publish:a:1.0.0\\n').decode(type(None))"
    )
    program += "; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("raw", [b"", b"{}", b' {"a" : 1}', "Malmö".encode(), b"no json", b"\r"])
def test_raw_is_passed_on_byte_for_byte(raw: bytes) -> None:
    assert encode_payload(msgspec.Raw(raw)) == raw


@pytest.mark.parametrize("raw", [b"{\n}", b"{}\n", b"\n"])
@pytest.mark.parametrize("within", [lambda raw: raw, lambda raw: [raw], lambda raw: {"a": raw}])
def test_raw_with_a_line_break_is_refused(raw: bytes, within: Callable[[Any], Any]) -> None:
    with pytest.raises(LocalProtocolError, match="line break"):
        encode_payload(within(msgspec.Raw(raw)))


@pytest.mark.parametrize("raw", [b"\xff", b'"Malm\xf6"', b'"\xed\xa0\x80"', b"\xc3"])
@pytest.mark.parametrize("within", [lambda raw: raw, lambda raw: [raw], lambda raw: {"a": raw}])
def test_raw_that_is_no_utf_8_is_refused(raw: bytes, within: Callable[[Any], Any]) -> None:
    with pytest.raises(LocalProtocolError, match="UTF-8"):
        encode_payload(within(msgspec.Raw(raw)))


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


def endless() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


UNENCODABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "function": lambda: print,
    "generator": lambda: (each for each in ()),
    "complex number": lambda: 1j,
    "key that is no text": lambda: {(1, 2): 3},
    "lone surrogate": lambda: "\ud800",
    "lone surrogate in a key": lambda: {"\udfff": 1},
    "thousands of digits": lambda: 10**5000,
    "memory that is not in one piece": lambda: memoryview(b"abcd")[::2],
    "nested too deep": lambda: nested(DEEP),
    "nested without end": endless,
    "an error": lambda: ValueError("x"),
    "a class of its own": Failing,
    "within": lambda: {"a": [{"b": object()}]},
}


@pytest.mark.parametrize("make", UNENCODABLE.values(), ids=UNENCODABLE)
def test_what_can_not_be_written_is_the_callers_fault(make: Callable[[], Any]) -> None:
    with pytest.raises(LocalProtocolError, match="can't be written as JSON") as raised:
        encode_payload(make())
    assert raised.value.__cause__ is not None


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("value", [PurePosixPath("/tmp"), Text("x"), range(3)], ids=type)
def test_types_that_are_not_supported_are_named_with_their_place(value: Any, within: str) -> None:
    put, path = WITHIN[within]
    if path is None:
        pytest.skip("the type of a key is named without its place")
    text = rf"{type(value).__name__} at {re.escape(path)} is not supported \(convert it to "
    with pytest.raises(LocalProtocolError, match=text):
        encode_payload(put(value))


def test_a_message_is_not_a_payload_and_the_error_says_what_is() -> None:
    message = parse_message(b"publish:a.b:1.0.0\n{}")
    with pytest.raises(LocalProtocolError, match=r"message\.payload"):
        encode_payload(message)


@pytest.mark.parametrize(
    "payload",
    [
        [{"name": "Wąchock", "text": "Zażółć gęślą jaźń, ćma i łódź"}] * 50,
        {"text": "čeština ğ ā " * 1000},
        [number * 1.37e-5 for number in range(500)],
    ],
    ids=["rows", "long text", "numbers"],
)
def test_usual_payloads_are_not_searched_value_by_value(
    payload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The search makes a place of each value: it would raise here.
    monkeypatch.setattr(json_encoding, "deque", None)
    assert decode_payload(encode_payload(payload)) == payload


def test_a_payload_may_be_as_long_as_the_limit() -> None:
    assert encode_payload("abc", limit=5) == b'"abc"'


def test_a_payload_one_byte_over_the_limit_is_too_large() -> None:
    with pytest.raises(MessageTooLarge, match="6 bytes, the limit is 5") as raised:
        encode_payload("abcd", limit=5)
    assert (raised.value.size, raised.value.limit) == (6, 5)


def test_the_limit_counts_bytes_not_characters() -> None:
    assert encode_payload("ö", limit=4)
    with pytest.raises(MessageTooLarge):
        encode_payload("öö", limit=5)


def test_without_a_limit_a_payload_is_as_long_as_it_is() -> None:
    assert len(encode_payload("a" * 1_000_000)) == 1_000_002


# Reading


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


# Errors: written


def test_an_error_is_written_as_an_object_which_every_client_reads() -> None:
    error = NoRouteFoundError("nobody", timestamp=TIMESTAMP, details={"topic": "a"})
    assert encode_error(error) == (
        b'{"error":{"code":"NO_ROUTE_FOUND","message":"nobody",'
        b'"timestamp":"2026-01-01T00:00:00.000Z","details":{"topic":"a"}}}'
    )


@pytest.mark.parametrize(("code", "message"), [("OWN", 5), (5, "text"), ("OWN", None), ("", "")])
def test_what_is_written_as_an_error_is_never_read_as_data(code: Any, message: Any) -> None:
    read = error_in(encode_error(ResponseError(message, code=code)))
    assert read is not None
    assert (read.code, read.message) == (str(code), str(message))


@pytest.mark.parametrize(
    "details",
    [object(), "\ud800", msgspec.Raw(b"{\n}"), msgspec.Raw(b"\xff"), nested(DEEP)],
    ids=["object", "surrogate", "line break", "no UTF-8", "deep"],
)
def test_details_that_are_no_json_do_not_hide_their_error(details: object) -> None:
    error = NoRouteFoundError("nobody", timestamp=TIMESTAMP, details=details)
    read = error_in(encode_error(error))
    assert isinstance(read, NoRouteFoundError)
    assert (read.message, read.timestamp, read.details) == ("nobody", TIMESTAMP, None)


def test_a_text_that_is_none_does_not_hide_its_error() -> None:
    cause: Any = ValueError("not a text")
    read = error_in(encode_error(NoRouteFoundError(cause)))
    assert isinstance(read, NoRouteFoundError)
    assert read.message == "not a text"


def test_a_text_that_can_not_be_encoded_does_not_hide_its_error() -> None:
    read = error_in(encode_error(ResponseError("file \udcff", code="\ud800", timestamp="\ud800")))
    assert read is not None
    assert (read.code, read.message) == ("\\ud800", "file \\udcff")
    assert read.timestamp == "\\ud800"


@settings(deadline=None)
@given(text, text, text, json_values)
def test_both_shapes_are_read_again(
    code: str, message: str, timestamp: str, details: object
) -> None:
    error = ResponseError(message, code=code, timestamp=timestamp, details=details)
    for raw in (encode_error(error), encode_payload({"error": error.as_json()})):
        read = error_in(raw)
        assert read is not None
        assert (read.code, read.message) == (code, message)
        assert (read.timestamp, read.details) == (timestamp, details)


# Errors: told from data


def test_an_error_of_the_broker_is_an_object_under_the_key_error() -> None:
    raw = b'{"error":{"code":"NO_ROUTE_FOUND","message":"m","timestamp":"t","details":[1]}}'
    read = error_in(raw)
    assert type(read) is NoRouteFoundError
    assert (read.message, read.timestamp, read.details) == ("m", "t", [1])


def test_an_error_without_a_timestamp_gets_one() -> None:
    read = error_in(b'{"error":{"code":"X","message":"m"}}')
    assert read is not None
    assert read.timestamp.endswith("Z")


DATA = {
    "empty": b"",
    "empty object": b"{}",
    "null": b"null",
    "a list": b'["error"]',
    "the word": b'"error"',
    "a text as error": b'{"error":"no"}',
    "null as error": b'{"error":null}',
    "a number as error": b'{"error":5}',
    "a list as error": b'{"error":[{"code":"X","message":"m"}]}',
    "an empty object as error": b'{"error":{}}',
    "no message": b'{"error":{"code":"X"}}',
    "no code": b'{"error":{"message":"m"}}',
    "code is no text": b'{"error":{"code":5,"message":"m"}}',
    "message is no text": b'{"error":{"code":"X","message":5}}',
    "more keys": b'{"error":{"code":"X","message":"m"},"value":1}',
    "another key": b'{"errors":{"code":"X","message":"m"}}',
    "deeper": b'{"a":{"error":{"code":"X","message":"m"}}}',
    "in a list": b'[{"error":{"code":"X","message":"m"}}]',
    "no JSON": b'{"error":{"code":"X","message":"m"}',
    "no UTF-8": b'{"error":"\xff"}',
    "nested too deep": b'{"error":' + b"[" * DEEP,
    "prefix in upper case": b'ERROR:{"code":"X","message":"m"}',
    "prefix in a text": b'"error:{}"',
    "a longer word": b"errors:1",
    "prefix without colon": b'error{"code":"X"}',
}


@pytest.mark.parametrize("raw", DATA.values(), ids=DATA)
def test_what_merely_looks_like_an_error_is_data(raw: bytes) -> None:
    assert error_in(raw) is None


JUNK = {
    "nothing": b"",
    "a text": b"it went wrong",
    "truncated JSON": b'{"code":"X"',
    "trailing characters": b'{"code":"X"} and more',
    "a list": b"[1]",
    "null": b"null",
    "no code": b'{"message":"m"}',
    "code is no text": b'{"code":5,"message":"m"}',
    "lone surrogate, and no JSON": rb'{"code":"\ud800"',
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_the_prefix_makes_an_error_of_whatever_follows(junk: bytes) -> None:
    read = error_in(b"error:" + junk)
    assert type(read) is InternalError
    assert read.message == junk.decode()
    assert read.details is None


def test_what_follows_the_prefix_need_not_be_utf_8() -> None:
    read = error_in(b"error:\xff\xfe")
    assert type(read) is InternalError
    assert read.message == "\\xff\\xfe"


@pytest.mark.parametrize("deep", [b"[" * DEEP, b'{"code":' * DEEP], ids=["lists", "objects"])
def test_the_prefix_makes_an_error_of_what_is_nested_too_deep(deep: bytes) -> None:
    assert type(error_in(b"error:" + deep)) is InternalError


@pytest.mark.parametrize(
    ("rest", "code", "message", "details"),
    [
        (b' {"code":"X","message":"m"} ', "X", "m", None),
        (b'{"code":"X"}', "X", "", None),
        (b'{"code":"X","message":5,"timestamp":6}', "X", "", None),
        (b'{"code":"","message":""}', "", "", None),
        (b'{"code":"X","message":"m","details":0}', "X", "m", 0),
        (b'{"code":"X","message":"m","details":"text"}', "X", "m", "text"),
        (b'{"code":"X","message":"m","details":null,"more":1}', "X", "m", None),
    ],
)
def test_of_a_services_error_the_code_alone_is_needed(
    rest: bytes, code: str, message: str, details: object
) -> None:
    read = error_in(b"error:" + rest)
    assert read is not None
    assert (read.code, read.message, read.details) == (code, message, details)
    assert isinstance(read.timestamp, str)


shapes = st.sampled_from([b"%b", b"error:%b", b'{"error":%b}', b'{"error":{"code":"X",%b}}'])


@given(shapes, st.binary(max_size=40))
def test_any_payload_is_an_error_or_data(shape: bytes, junk: bytes) -> None:
    raw = shape % junk
    read = error_in(raw)
    if raw.startswith(b"error:"):
        assert read is not None
    if read is not None:
        assert str(read).encode()  # it can be logged and passed on
        assert error_in(encode_error(read)) is not None
