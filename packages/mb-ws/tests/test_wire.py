"""WebSocket without I/O: messages, limits, faults and ends."""

from __future__ import annotations

import tracemalloc
from types import NoneType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import MessageTooLarge, RemoteProtocolError
from mb_core.wire import WireState

from .wires import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    close_code,
    close_frame,
    connected,
    feed,
    frame,
    some_cuts,
)

# Messages


def test_a_message_is_one_text_frame() -> None:
    client, server = connected()
    server.send("publish:a.b:1.0.0\né".encode())
    assert server.data_to_send() == frame(TEXT, "publish:a.b:1.0.0\né".encode(), mask=False)
    client.send(b"one")
    assert client.data_to_send()[:2] == bytes([0x80 | TEXT, 0x80 | 3])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), some_cuts)
def test_a_message_in_fragments_is_one_message(parts: list[bytes], cuts: list[int]) -> None:
    _, server = connected()
    whole = b"".join(parts).hex().encode()
    data = b""
    for i, part in enumerate(parts):
        opcode, fin = TEXT if i == 0 else CONT, i == len(parts) - 1
        data += frame(opcode, part.hex().encode(), fin=fin) + frame(PING, b"in between")
    assert feed(server, data + frame(TEXT, b"next"), cuts) == [whole, b"next"]
    assert server.data_to_send() == len(parts) * frame(PONG, b"in between", mask=False)


def test_a_character_may_lie_in_two_fragments() -> None:
    _, server = connected()
    snowman = "\N{SNOWMAN}".encode()
    first, second = frame(TEXT, snowman[:1], fin=False), frame(CONT, snowman[1:])
    assert server.receive_data(first + second) == [snowman]


def test_a_ping_is_answered_and_a_pong_is_no_news() -> None:
    client, server = connected()
    assert server.receive_data(frame(PING, b"are you there") + frame(PONG, b"unasked")) == []
    assert server.data_to_send() == frame(PONG, b"are you there", mask=False)
    assert client.receive_data(frame(PING, mask=False)) == []
    assert client.data_to_send()[:2] == bytes([0x80 | PONG, 0x80])


@pytest.mark.parametrize(
    ("flood", "answer"),
    [
        pytest.param(b"\x89\x80\0\0\0\0", b"\x8a\x00", id="pings"),
        pytest.param(b"\x8a\x80\0\0\0\0", b"", id="pongs"),
        pytest.param(b"\x02\x80\0\0\0\0\x80\x80\0\0\0\0", b"", id="fragments"),
    ],
)
def test_a_flood_of_small_frames_is_read_little_by_little(flood: bytes, answer: bytes) -> None:
    _, server = connected()
    count = 1000
    before = server.receive_data(frame(TEXT, b"before") + flood * count + frame(TEXT, b"behind"))
    output = server.data_to_send()
    rounds = 0
    while server.held_back:
        before += server.receive_data(b"")
        output += server.data_to_send()
        rounds += 1
    assert rounds > 5
    assert before[0] == b"before"
    assert before[-1] == b"behind"
    assert output == answer * count


def test_what_comes_while_a_flood_is_read_is_behind_it() -> None:
    _, server = connected()
    server.receive_data(frame(PING) * 1000 + frame(TEXT, b"behind")[:3])
    assert server.held_back
    messages = server.receive_data(frame(TEXT, b"behind")[3:])
    assert messages == []
    while server.held_back:
        messages += server.receive_data(b"")
    assert messages == [b"behind"]


def test_a_flood_that_ends_in_a_fault_holds_nothing_back() -> None:
    _, server = connected()
    server.receive_data(frame(PING) * 1000 + frame(TEXT, b"x", mask=False))
    while server.held_back:
        server.receive_data(b"")
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)


def test_a_client_reads_a_flood_at_once() -> None:
    client, _ = connected()
    assert client.receive_data(frame(PING, mask=False) * 1000 + frame(TEXT, b"x", mask=False)) == [
        b"x"
    ]
    assert not client.held_back


# Limits


@pytest.mark.parametrize("from_client", [True, False], ids=["from a client", "from a server"])
def test_a_message_at_the_limit_is_taken_and_one_above_is_not(from_client: bool) -> None:
    client, server = connected()
    sender, receiver = (client, server) if from_client else (server, client)
    sender.send(b"x" * 1000)
    assert receiver.receive_data(sender.data_to_send()) == [b"x" * 1000]
    sender.send(b"before")
    sender.send(b"x" * 1001)
    assert receiver.receive_data(sender.data_to_send()) == [b"before"]
    assert receiver.state is WireState.CLOSED
    assert isinstance(receiver.error, MessageTooLarge)
    assert (receiver.error.size, receiver.error.limit) == (1001, 1000)
    # The other side gets the reason, and reports it.
    sender.receive_data(receiver.data_to_send())
    assert sender.state is WireState.CLOSED
    assert isinstance(sender.error, RemoteProtocolError)
    assert "1009" in str(sender.error)


def test_a_message_above_the_limit_is_refused_by_its_length_alone() -> None:
    _, server = connected()
    server.receive_data(bytes([0x80 | TEXT, 0x80 | 127]) + b"\xff" * 8)
    assert isinstance(server.error, MessageTooLarge)
    assert server.error.size == 2**64 - 1


def test_fragments_are_limited_in_sum() -> None:
    _, server = connected()
    data = frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 400)
    assert server.receive_data(data) == [b"x" * 1000]
    server.receive_data(frame(TEXT, b"x" * 600, fin=False) + frame(CONT, b"x" * 401))
    assert isinstance(server.error, MessageTooLarge)
    assert (server.error.size, server.error.limit) == (1001, 1000)


def test_empty_fragments_without_end_take_no_memory() -> None:
    _, server = connected()
    server.receive_data(frame(TEXT, b"one", fin=False))
    many = frame(CONT, fin=False) * 10
    server.receive_data(many)
    tracemalloc.start()
    try:
        for _ in range(1_000):
            server.receive_data(many)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 10_000
    assert server.receive_data(frame(CONT, b", two")) == [b"one, two"]


@pytest.mark.parametrize("body", [b"", b"one", "\N{SNOWMAN}".encode(), b"\xff\x00", b"x" * 1000])
def test_binary_frames_are_messages_too_and_answered_with_text(body: bytes) -> None:
    _, server = connected()
    cut = len(body) // 2
    whole = frame(BINARY, body)
    parts = frame(BINARY, body[:cut], fin=False) + frame(PING) + frame(CONT, body[cut:])
    assert server.receive_data(whole + parts + frame(TEXT, b"text")) == [body, body, b"text"]
    server.data_to_send()
    server.send(b"answer")
    assert server.data_to_send() == frame(TEXT, b"answer", mask=False)


def test_a_client_reads_binary_frames_too() -> None:
    client, _ = connected()
    assert client.receive_data(frame(BINARY, b"one", mask=False)) == [b"one"]


# Faults


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"one", fin=False) + frame(BINARY, b"two"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, "\N{SNOWMAN}".encode()[:2]), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"ok", fin=False) + frame(CONT, b"\xff"), 1007),
        (frame(TEXT, b"one", mask=False), 1002),
        (frame(TEXT, b"one", rsv=4), 1002),
        (frame(3, b"one"), 1002),
        (frame(CONT, b"one"), 1002),
        (frame(TEXT, b"one", fin=False) + frame(TEXT, b"two"), 1002),
        (frame(PING, b"one", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"x"), 1002),
        (close_frame(1005), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"one", fin=False) + close_frame(1000), 1002),
    ],
    ids=[
        "binary not continued",
        "no UTF-8",
        "cut UTF-8",
        "surrogate",
        "no UTF-8 in fragments",
        "unmasked",
        "compressed",
        "unknown opcode",
        "nothing to continue",
        "not continued",
        "fragmented ping",
        "long ping",
        "short close",
        "reserved close code",
        "close no UTF-8",
        "close within a message",
    ],
)
def test_a_fault_closes_with_its_code_and_whole_messages_before_it_are_given(
    data: bytes, code: int
) -> None:
    _, server = connected()
    received = server.receive_data(frame(TEXT, b"whole") + data + frame(TEXT, b"behind"))
    assert received == [b"whole"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert close_code(server.data_to_send()) == code
    error = server.error
    assert server.receive_data(frame(TEXT, b"later")) == []
    server.receive_eof()
    server.close()
    assert server.error is error
    assert server.data_to_send() == b""


def test_a_masked_frame_from_a_server_is_a_fault() -> None:
    client, server = connected()
    assert client.receive_data(frame(TEXT, b"one")) == []
    assert client.state is WireState.CLOSED
    assert isinstance(client.error, RemoteProtocolError)
    server.receive_data(client.data_to_send())
    assert "1002" in str(server.error)


# The end


@pytest.mark.parametrize("client_begins", [True, False], ids=["by the client", "by the server"])
def test_a_close_is_a_handshake_behind_everything_that_was_sent(client_begins: bool) -> None:
    client, server = connected()
    one, other = (client, server) if client_begins else (server, client)
    one.send(b"last words")
    one.close("bye")
    assert one.state is WireState.CLOSING
    other.send(b"crossing")
    assert other.receive_data(one.data_to_send()) == [b"last words"]
    assert other.state is WireState.CLOSED
    assert one.receive_data(other.data_to_send()) == [b"crossing"]
    assert one.state is WireState.CLOSED
    for wire in (one, other):
        wire.receive_eof()
        wire.close("again")
        assert wire.error is None
        assert wire.data_to_send() == b""


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1008, 1011, 1013, 4000])
def test_the_code_of_a_close_says_whether_it_is_an_error(code: int) -> None:
    client, _ = connected()
    close = frame(CLOSE, mask=False) if code == 1005 else close_frame(code, "why", mask=False)
    client.receive_data(close)
    assert client.state is WireState.CLOSED
    if code in (1000, 1001, 1005):
        assert client.error is None
    else:
        assert isinstance(client.error, RemoteProtocolError)
        assert str(client.error) == f"closed by the other side with code {code}: why"


def test_an_error_without_a_reason_is_told_as_such() -> None:
    client, _ = connected()
    client.receive_data(close_frame(1011, mask=False))
    assert "1011: no reason given" in str(client.error)


def test_a_long_reason_is_cut_at_a_character() -> None:
    client, server = connected()
    server.close("\N{SNOWMAN}" * 100)
    output = server.data_to_send()
    assert output[4:].decode() == "\N{SNOWMAN}" * 41  # 123 bytes
    client.receive_data(output)
    assert client.error is None


@pytest.mark.parametrize("side", ["client", "server"])
def test_an_end_of_a_client_that_was_never_heard_is_not_an_error(side: str) -> None:
    wire = connected()[side == "server"]
    wire.receive_eof()
    assert wire.state is WireState.CLOSED
    assert isinstance(wire.error, RemoteProtocolError if side == "client" else NoneType)


@pytest.mark.parametrize("length", range(9))
def test_an_end_without_a_close_is_an_error_between_messages_and_within(length: int) -> None:
    _, server = connected()
    whole = frame(TEXT, b"whole")
    assert server.receive_data(whole + frame(TEXT, b"half")[:length]) == [b"whole"]
    server.receive_eof()
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert server.receive_data(whole) == []
    error = server.error
    server.receive_eof()
    assert server.error is error


def test_a_ping_while_closing_is_answered_until_the_close_comes() -> None:
    client, server = connected()
    server.close()
    server.data_to_send()
    assert server.receive_data(frame(PING, b"hello") + frame(TEXT, b"more")) == [b"more"]
    assert server.data_to_send() == frame(PONG, b"hello", mask=False)
    assert server.state is WireState.CLOSING
    assert client.state is WireState.OPEN


def test_a_fault_while_closing_ends_it_at_once() -> None:
    _, server = connected()
    server.close()
    server.data_to_send()
    assert server.receive_data(frame(TEXT, b"whole") + frame(TEXT, b"\xff")) == [b"whole"]
    assert server.state is WireState.CLOSED
    assert isinstance(server.error, RemoteProtocolError)
    assert server.data_to_send() == b""  # the close was sent
