"""The length prefix, without I/O: any messages, cut anywhere, from anybody."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import MessageTooLarge, RemoteProtocolError
from mb_core.wire import Limits, WireState
from mb_tcp import LengthPrefixWire


def wire(max_message: int = 1000) -> LengthPrefixWire:
    return LengthPrefixWire(Limits(max_message=max_message))


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given positions, which are taken modulo its length."""
    positions = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(positions)]


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


@given(st.lists(st.binary(max_size=300)))
def test_send_says_how_many_bytes_it_adds(messages: list[bytes]) -> None:
    sender = wire()
    sizes = [sender.send(message) for message in messages]
    assert sum(sizes) == len(sender.data_to_send())


def test_output_is_given_once() -> None:
    sender = wire()
    sender.send(b"one")
    assert sender.data_to_send() == framed(b"one")
    assert sender.data_to_send() == b""


# Receiving


@given(st.lists(st.binary(max_size=300)), st.lists(st.integers(min_value=0), max_size=20))
def test_messages_are_the_same_however_their_bytes_are_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    sender, receiver = wire(), wire()
    for message in messages:
        sender.send(message)
    received: list[bytes] = []
    for piece in pieces(sender.data_to_send(), cuts):
        received += receiver.receive_data(piece)
    assert received == messages
    receiver.receive_eof()
    assert receiver.error is None


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_messages_are_the_same_one_byte_at_a_time(messages: list[bytes]) -> None:
    receiver = wire()
    data = framed(*messages)
    received = [receiver.receive_data(data[i : i + 1]) for i in range(len(data))]
    assert [message for batch in received for message in batch] == messages
    # Each comes with its last byte, not later.
    end = 0
    for message in messages:
        end += 4 + len(message)
        assert received[end - 1] == [message]


def test_a_chunk_gives_all_messages_that_are_whole_in_it() -> None:
    receiver = wire()
    data = framed(b"one", b"", b"three", b"four")
    assert receiver.receive_data(data[:-1]) == [b"one", b"", b"three"]
    assert receiver.receive_data(data[-1:]) == [b"four"]


def test_no_data_is_no_message() -> None:
    receiver = wire()
    assert receiver.receive_data(b"") == []
    receiver.receive_data(framed(b"one")[:-1])
    assert receiver.receive_data(b"") == []
    assert receiver.receive_data(b"e") == [b"one"]


def test_a_large_message_in_single_bytes_takes_work_in_proportion() -> None:
    # Quadratic work would copy some 130 GB here, and take minutes.
    size = 512 * 1024
    receiver = wire(size)
    data = framed(bytes(size))
    received = [
        message for i in range(len(data)) for message in receiver.receive_data(data[i : i + 1])
    ]
    assert received == [bytes(size)]


# Limits


@pytest.mark.parametrize("cut", [0, 2, 4, 10], ids=lambda cut: f"cut at {cut}")
def test_a_message_at_the_limit_is_taken_and_one_above_is_not(cut: int) -> None:
    receiver = wire(max_message=100)
    for piece in pieces(framed(bytes(100)), [cut]):
        messages = receiver.receive_data(piece)
    assert messages == [bytes(100)]
    for piece in pieces(framed(bytes(101)), [cut]):
        assert receiver.receive_data(piece) == []
    assert receiver.state is WireState.CLOSED
    assert isinstance(receiver.error, MessageTooLarge)
    assert (receiver.error.size, receiver.error.limit) == (101, 100)


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
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /",
        b"HTTP/1.1 400",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    ],
    ids=["GET", "POST", "HTTP answer", "TLS"],
)
def test_another_protocol_is_named_where_it_is_known(data: bytes) -> None:
    receiver = wire(max_message=16_751)
    receiver.receive_data(data)
    assert "HTTP or TLS" in str(receiver.error)


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


def test_the_end_may_come_twice() -> None:
    receiver = wire()
    receiver.receive_data(b"\0")
    receiver.receive_eof()
    error = receiver.error
    receiver.receive_eof()
    assert receiver.error is error


def test_the_end_after_a_fault_keeps_its_reason() -> None:
    receiver = wire(max_message=1)
    receiver.receive_data(framed(b"one"))
    receiver.receive_eof()
    receiver.close()
    assert isinstance(receiver.error, MessageTooLarge)


def test_after_the_end_received_data_is_ignored() -> None:
    receiver = wire()
    receiver.receive_eof()
    assert receiver.receive_data(framed(b"one")) == []
    assert receiver.state is WireState.CLOSED
    assert receiver.error is None


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


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_nothing_that_the_other_side_sends_raises(chunks: list[bytes], ends: bool) -> None:
    receiver = wire(max_message=0x0101)
    was_closed = False
    for chunk in chunks:
        messages = receiver.receive_data(chunk)
        assert not (was_closed and messages)
        assert all(len(message) <= 0x0101 for message in messages)
        was_closed = receiver.state is WireState.CLOSED
        assert was_closed is (receiver.error is not None)
    if ends:
        receiver.receive_eof()
        assert receiver.state is WireState.CLOSED
    assert receiver.data_to_send() == b""
