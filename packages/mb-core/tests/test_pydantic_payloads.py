"""Payloads with models of pydantic in them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pydantic
import pytest

from mb_core import parse_message
from mb_core.codec import (
    decode_payload,
    encode_payload,
    json_encoding,
)
from mb_core.errors import (
    LocalProtocolError,
    MessageTooLarge,
    RemoteProtocolError,
)

from .payloads import DEEP, WITHIN, Place, Reading, Struct, nested

T = TypeVar("T")


class Failing:
    """Something whose own code fails while it is written."""

    @property
    def __class__(self) -> type:  # what msgspec looks at first
        raise RuntimeError("broken property")


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


def endless() -> Any:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


UNENCODABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "function": lambda: print,
    "generator": lambda: (each for each in ()),
    "complex number": lambda: 1j,
    "key that is not a string": lambda: {(1, 2): 3},
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
