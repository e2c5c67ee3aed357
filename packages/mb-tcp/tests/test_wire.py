"""The length prefix, without I/O; what holds for every Wire is in test_transport_suite.py."""

from __future__ import annotations

import pytest

from mb_core.errors import MessageTooLarge, RemoteProtocolError
from mb_core.wire import Limits, WireState
from mb_tcp import LengthPrefixWire


def wire(max_message: int = 1000) -> LengthPrefixWire:
    return LengthPrefixWire(Limits(max_message=max_message))


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


def test_a_wire_is_open_at_once_and_has_nothing_to_say() -> None:
    fresh = wire()
    assert fresh.state is WireState.OPEN
    assert fresh.error is None
    assert fresh.data_to_send() == b""


# Sending


def test_a_message_stands_behind_its_length_in_four_bytes_big_endian() -> None:
    sender = wire()
    sender.send(b"publish:a.b:1.0.0\n{}")
    sender.send("é".encode())
    assert sender.data_to_send() == b"\0\0\0\x14publish:a.b:1.0.0\n{}\0\0\0\x02\xc3\xa9"


# Limits


def test_a_message_above_the_limit_is_refused_by_its_length_alone() -> None:
    receiver = wire(max_message=100)
    receiver.receive_data(framed(bytes(101))[:4])
    assert isinstance(receiver.error, MessageTooLarge)


def test_messages_that_were_whole_before_the_fault_are_given() -> None:
    receiver = wire(max_message=5)
    assert receiver.receive_data(framed(b"one", b"two") + b"\xff\xff\xff\xff") == [b"one", b"two"]
    assert receiver.state is WireState.CLOSED
    assert isinstance(receiver.error, MessageTooLarge)
    assert receiver.error.size == 0xFFFFFFFF


def test_the_limit_is_what_is_accepted_not_what_is_sent() -> None:
    sender = LengthPrefixWire(Limits(max_payload=1, max_message=1))
    sender.send(b"12345")
    assert sender.data_to_send() == framed(b"12345")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST /", "HTTP"),
        (b"HTTP/1.1 400", "HTTP"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "TLS, on a port without TLS"),
        (b"\x15\x03\x03\0", "TLS, on a port with TLS"),
        (b"PROXY TCP4 1.2.3.4", "the PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n", "the PROXY protocol"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
        (b"SSH-2.0-x\r\n", "SSH"),
    ],
    ids=repr,
)
def test_another_protocol_is_named_where_it_is_known(data: bytes, name: str) -> None:
    receiver = wire(max_message=16_751)
    receiver.receive_data(data)
    assert isinstance(receiver.error, RemoteProtocolError)
    assert str(receiver.error).startswith(f"the other side speaks {name}")


def test_four_letters_as_a_length_may_be_another_protocol() -> None:
    receiver = wire(max_message=16_751)
    receiver.receive_data(b"EHLO mail.example\r\n")
    assert "(is this another protocol's port or client?)" in str(receiver.error)


def test_a_length_that_looks_like_no_other_protocol_gets_no_hint() -> None:
    receiver = wire(max_message=100)
    receiver.receive_data(b"\0\0\0\xff")
    assert str(receiver.error) == "a message of 255 bytes was announced, the limit is 100"


# The end


def test_an_end_between_messages_is_in_order() -> None:
    receiver = wire()
    receiver.receive_data(framed(b"one"))
    receiver.receive_eof()
    assert receiver.state is WireState.CLOSED
    assert receiver.error is None


@pytest.mark.parametrize("length", range(1, 7))
def test_an_end_within_a_message_is_an_error(length: int) -> None:
    receiver = wire()
    data = framed(b"one", b"two")
    assert receiver.receive_data(data[: 7 + length]) == [b"one"]
    receiver.receive_eof()
    assert receiver.state is WireState.CLOSED
    assert isinstance(receiver.error, RemoteProtocolError)
    whole = 4 if length < 4 else 7
    assert f"{length} of {whole} bytes came" in str(receiver.error)


def test_the_end_after_a_fault_keeps_its_reason() -> None:
    receiver = wire(max_message=1)
    receiver.receive_data(framed(b"one"))
    receiver.receive_eof()
    receiver.close()
    assert isinstance(receiver.error, MessageTooLarge)


def test_closing_keeps_what_is_queued_and_ignores_what_comes() -> None:
    receiver = wire()
    receiver.send(b"last words")
    receiver.receive_data(framed(b"half a message")[:6])
    receiver.close("no reason")
    assert receiver.state is WireState.CLOSED
    assert receiver.data_to_send() == framed(b"last words")
    assert receiver.receive_data(framed(b"one")) == []
    receiver.close()
    receiver.receive_eof()
    assert receiver.error is None
    assert receiver.data_to_send() == b""
