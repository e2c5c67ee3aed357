"""The messages that the broker itself writes: all of them can be read again."""

from __future__ import annotations

import pytest

from mb_broker.replies import GREETING, HEARTBEAT, malformed_reply, reply, reply_error, response
from mb_core import MalformedMessageError, NoRouteFoundError, parse_message
from mb_core.codec import error_in
from mb_core.header import read_header

ID = "123e4567-e89b-42d3-a456-426614174000"
PREFIX = read_header(b"REQUEST:A.b:1.0.0-rc.1:" + ID.encode() + b"\n{}")[0]


@pytest.mark.parametrize(
    ("message", "action", "topic"),
    [(GREETING, "publish", "system.initialize"), (HEARTBEAT, "request", "system.heartbeat")],
)
def test_what_the_broker_says_unasked(message: bytes, action: str, topic: str) -> None:
    read = parse_message(message)
    assert (read.action, read.topic, read.request_id, read.payload) == (action, topic, None, {})


def test_a_reply_has_the_spelling_of_what_it_answers() -> None:
    message = reply(PREFIX, ID.encode(), {"x": "é"})
    assert message == f'response:A.b:1.0.0-rc.1:{ID}\n{{"x":"é"}}'.encode()


def test_a_response_is_not_looked_into() -> None:
    message = response(PREFIX, ID.encode(), b"\xff\n{")
    assert message == b"response:A.b:1.0.0-rc.1:" + ID.encode() + b"\n\xff\n{"


def test_an_error_is_read_as_the_error_that_it_is() -> None:
    error = NoRouteFoundError("nobody", details={"topic": "A.b"})
    read = error_in(parse_message(reply_error(PREFIX, ID.encode(), error)).raw_payload)
    assert isinstance(read, NoRouteFoundError)
    assert read.as_json() == error.as_json()


def test_the_answer_to_what_is_malformed_has_neither_topic_nor_id() -> None:
    message = parse_message(malformed_reply(MalformedMessageError("what?")))
    assert (message.action, message.topic, message.request_id) == ("response", "error", None)
    assert isinstance(error_in(message.raw_payload), MalformedMessageError)
