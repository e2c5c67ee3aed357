"""Errors as payloads: written, read, and told from data."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.codec import (
    encode_error,
    encode_payload,
    error_in,
)
from mb_core.errors import (
    InternalError,
    NoRouteFoundError,
    ResponseError,
)

from .payloads import DEEP, json_values, nested, text

TIMESTAMP = "2026-01-01T00:00:00.000Z"


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
    "code is not a string": b'{"error":{"code":5,"message":"m"}}',
    "message is not a string": b'{"error":{"code":"X","message":5}}',
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
    "code is not a string": b'{"code":5,"message":"m"}',
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
