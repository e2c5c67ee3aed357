"""A message as a value and as text."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mb_core.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from mb_core.header import Action, MessageHeader
from mb_core.message import Message, create_message, parse_message

ID = "5d0c3b0e-7f5c-4b4e-9a53-2f0d7c9e4a11"
PARENT = "00000000-0000-4000-8000-000000000001"


@dataclass
class Place:
    city: str


class Collector:
    """A Responder that keeps what it was given."""

    def __init__(self) -> None:
        self.answers: list[tuple[Message, Any]] = []

    async def respond(self, message: Message, payload: Any) -> None:
        self.answers.append((message, payload))


# To text


def test_a_message_is_a_header_line_and_a_payload() -> None:
    header = MessageHeader("request", "weather.current", request_id=ID, timeout=2000)
    assert create_message(header, {"city": "Malmö"}) == (
        f'request:weather.current:1.0.0:{ID}::2000\n{{"city":"Malmö"}}'
    )


def test_a_payload_that_is_encoded_already_stays_as_it_is() -> None:
    text = create_message(MessageHeader("publish", "a"), msgspec.Raw(b'{ "a": 1 }'))
    assert text == 'publish:a:1.0.0\n{ "a": 1 }'


@pytest.mark.parametrize("payload", [object(), "\ud800", msgspec.Raw(b"\xff"), msgspec.Raw(b"\n")])
def test_a_payload_that_breaks_a_rule_makes_no_message(payload: Any) -> None:
    with pytest.raises(LocalProtocolError):
        create_message(MessageHeader("publish", "a"), payload)


def test_a_header_that_breaks_a_rule_makes_no_message() -> None:
    with pytest.raises(LocalProtocolError, match="invalid topic"):
        create_message(MessageHeader("publish", "a..b"), {})
    with pytest.raises(MessageTooLarge):
        create_message(MessageHeader("publish", "a" * 200, f"1.0.0-{'x' * 200}"), {})


def test_the_payloads_limit_is_the_connections() -> None:
    assert len(create_message(MessageHeader("publish", "a"), "x" * 100_000)) > 100_000


# From text


@pytest.mark.parametrize("encode", [str, str.encode, lambda text: bytearray(text.encode())])
def test_text_and_bytes_are_read_alike(encode: Callable[[str], Any]) -> None:
    message = parse_message(encode(f'Request:Weather.Oslo:v1.0.0:{ID}:{PARENT}:9\n{{"ö":1}}'))
    assert message.action is Action.REQUEST
    assert message.topic == "Weather.Oslo"
    assert message.request_id == ID
    assert message.request_key == ID.encode()
    assert message.raw_payload == '{"ö":1}'.encode()
    assert message.payload == {"ö": 1}
    assert message.header == MessageHeader("request", "Weather.Oslo", "v1.0.0", ID, PARENT, 9)


def test_a_message_may_have_no_ids_and_no_payload() -> None:
    message = parse_message("publish:a:1.0.0\n")
    assert message.request_id is None
    assert message.header == MessageHeader("publish", "a")
    assert message.raw_payload == b""
    assert message.payload is None


def test_a_payload_may_have_lines() -> None:
    assert parse_message("publish:a:1.0.0\n{\n}\n").payload == {}


@pytest.mark.parametrize(
    "data",
    [b"publish:a:1.0.0\n\xff", b"\xff:a:1.0.0\n", "publish:a:1.0.0\n\ud800", b"a\n\xed\xa0\x80"],
    ids=["payload", "header", "lone surrogate in text", "surrogate in bytes"],
)
def test_what_is_no_utf_8_is_refused(data: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not UTF-8") as raised:
        parse_message(data)
    assert raised.value.code == "MALFORMED_MESSAGE"


@pytest.mark.parametrize("data", ["", "\n", "hello", "{}", "publish:a\n{}", b"\0\0\0\0"])
def test_what_is_no_message_is_refused(data: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="invalid"):
        parse_message(data)


ids = st.none() | st.uuids().map(str)
payloads = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab\n"), inner),
    max_leaves=6,
)


@given(st.sampled_from(["publish", "response"]), ids, ids, payloads)
def test_what_is_created_is_parsed_again(
    action: str, request_id: str | None, parent_id: str | None, payload: Any
) -> None:
    header = MessageHeader(action, "a.B", "1.0.0-x", request_id, parent_id)
    text = create_message(header, payload)
    assert text.count("\n") == 1
    message = parse_message(text)
    assert message.header == header
    assert message.payload == payload


# The payload


def test_the_payload_is_decoded_when_it_is_asked_for_and_once() -> None:
    message = parse_message("publish:a:1.0.0\n[1]")
    assert message.payload is message.payload


def test_a_payload_that_is_no_json_is_an_error_each_time_it_is_asked_for() -> None:
    message = parse_message("publish:a:1.0.0\nhello")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="not valid JSON"):
            _ = message.payload
    assert message.raw_payload == b"hello"


def test_null_is_decoded_as_any_other_payload() -> None:
    assert parse_message("publish:a:1.0.0\nnull").payload is None


def test_a_payload_is_converted_to_a_type() -> None:
    message = parse_message('publish:a:1.0.0\n{"city":"Oslo"}')
    assert message.decode(Place) == Place("Oslo")
    with pytest.raises(RemoteProtocolError, match="does not fit"):
        message.decode(list)
    assert message.payload == {"city": "Oslo"}


# Answering


@pytest.mark.anyio
@pytest.mark.parametrize("action", ["publish", "request", "response"])
async def test_only_a_received_request_can_be_answered(action: str) -> None:
    with pytest.raises(LocalProtocolError, match=f"this {action} of 'a.b' can't be answered"):
        await parse_message(f"{action}:a.b:1.0.0\n{{}}").respond({})


@pytest.mark.anyio
async def test_an_answer_goes_to_the_messages_responder() -> None:
    message = parse_message(f"request:a.b:1.0.0:{ID}\n{{}}")
    responder = message.responder = Collector()
    await message.respond({"a": 1})
    assert responder.answers == [(message, {"a": 1})]


# As a value


def test_its_repr_is_short_and_says_what_it_is() -> None:
    message = parse_message(f'request:a.b:1.0.0:{ID}\n{{"a":1}}')
    assert repr(message) == '<Message request:a.b:1.0.0 {"a":1}>'
    long = parse_message("publish:a:1.0.0\n" + "ö" * 10_000)
    assert repr(long).endswith("...>")
    assert len(repr(long)) < 120


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda message: pickle.loads(pickle.dumps(message))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("asked_before", [True, False])
def test_a_copy_says_the_same(copied: Callable[[Message], Message], asked_before: bool) -> None:
    message = parse_message(f'request:A.b: 1.0.0:{ID}:{PARENT}:9\n{{"city":"Oslo"}}')
    if asked_before:
        assert message.payload == {"city": "Oslo"}
    other = copied(message)
    assert other.header == message.header
    assert other.raw_payload == message.raw_payload
    assert other.payload == {"city": "Oslo"}
    assert repr(other) == repr(message)


@pytest.mark.anyio
async def test_a_copy_takes_along_neither_its_route_nor_its_responder() -> None:
    message = parse_message(f"request:a:1.0.0:{ID}\n{{}}")
    message.responder = Collector()
    message.prefix.route = lambda: "it can't be pickled"
    for other in (pickle.loads(pickle.dumps(message)), copy.copy(message)):
        with pytest.raises(LocalProtocolError, match="it is a copy"):
            await other.respond({})
