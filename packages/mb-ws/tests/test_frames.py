"""Frames that mb_ws reads and writes itself, against what websockets makes of the same bytes."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, Side
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mb_core.errors import MessageTooLarge
from mb_core.url import URL
from mb_core.wire import Limits, WireState
from mb_ws import WebSocketWire, client_wire, server_wire
from mb_ws.frames import MaskingKeys

LIMITS = Limits(max_message=300)
QUIET = logging.getLogger("mb_ws.tests")
QUIET.setLevel(logging.CRITICAL)


def answered(request: bytes, server: ServerProtocol) -> bytes:
    """What websockets' server says to a handshake, which it accepts."""
    server.receive_data(request)
    (event,) = server.events_received()
    assert isinstance(event, Request)
    server.send_response(server.accept(event))
    return b"".join(server.data_to_send())


def peers(side: Side) -> tuple[WebSocketWire, Protocol]:
    """Our Wire of one side, open, and websockets' own protocol of the same side."""
    client = ClientProtocol(
        parse_uri("ws://broker.example/"), max_size=LIMITS.max_message, logger=QUIET
    )
    client.send_request(client.connect())
    request = b"".join(client.data_to_send())
    server = ServerProtocol(max_size=LIMITS.max_message, logger=QUIET)
    answer = answered(request, server)
    reference: Protocol
    if side is Side.SERVER:
        wire, reference = server_wire(LIMITS), server
        assert wire.receive_data(request) == []
    else:
        wire, reference = client_wire(URL("ws", "broker.example", None, "/"), LIMITS), client
        theirs = answered(wire.data_to_send(), ServerProtocol(logger=QUIET))
        assert wire.receive_data(theirs) == []
        client.receive_data(answer)
        client.events_received()
    assert wire.state is WireState.OPEN
    wire.data_to_send()
    return wire, reference


def messages_of(protocol: Protocol, data: bytes) -> list[bytes]:
    """The messages in `data`, by websockets' reading of frames; of text, UTF-8 is checked."""
    messages: list[bytes] = []
    parts = b""
    binary = False
    for byte in data:  # one by one: it is not to read on behind what MB refuses
        protocol.receive_data(bytes([byte]))
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY):
                binary = event.opcode is Opcode.BINARY
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                parts += event.data
                if event.fin:
                    if not binary and not is_utf8(parts):
                        protocol.fail(CloseCode.INVALID_DATA, "a text frame is not valid UTF-8")
                        return messages
                    messages.append(parts)
                    parts = b""
    return messages


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def frames(draw: st.DrawFn, masked: bool) -> bytes:
    """A frame: a whole text mostly; of any other kind, or wrong, sometimes."""
    usual = draw(st.integers(0, 3)) > 0
    first = (
        0x81
        if usual
        else draw(st.sampled_from([0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0x82]))
        | (draw(st.sampled_from([0] * 9 + [0x40, 0x20, 0x10, 0x03, 0x80])))
    )
    size = draw(st.sampled_from([0, 1, 2, 5, 124, 125, 126, 127, 299, 300, 301]))
    fill = draw(st.sampled_from([b"a", b"\xc3\xa4", b"\xff", b"\x03\xe8"]))
    payload = (fill * size)[:size]
    if draw(st.integers(0, 30)) == 0:
        masked = not masked
    bit = 0x80 if masked else 0
    form = draw(st.integers(0, 20))  # a length may be written longer than it has to be
    if form == 0:
        length = bytes([bit | 127]) + size.to_bytes(8)
    elif form == 1 or size > 125:
        length = bytes([bit | 126]) + size.to_bytes(2)
    else:
        length = bytes([bit | size])
    if not masked:
        return bytes([first]) + length + payload
    key = draw(st.binary(min_size=4, max_size=4))
    hidden = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return bytes([first]) + length + key + hidden


@pytest.mark.parametrize("side", Side)
def test_what_comes_is_read_as_websockets_reads_it(side: Side) -> None:
    @settings(max_examples=800, deadline=None)
    @given(
        st.lists(frames(masked=side is Side.SERVER), max_size=8).map(b"".join),
        st.binary(max_size=3),
        st.lists(st.integers(0, 2500), max_size=6),
    )
    def compare(whole: bytes, rest: bytes, cuts: list[int]) -> None:
        wire, protocol = peers(side)
        data = whole + rest
        expected = messages_of(protocol, data)
        places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        found = [m for a, b in pairwise(places) for m in wire.receive_data(data[a:b])]

        assert found == expected
        assert (wire.state is WireState.OPEN) == (protocol.close_sent is None)
        answers = b"".join(protocol.data_to_send())
        sent = wire.data_to_send()
        if side is Side.SERVER:
            assert sent == answers
        else:
            assert len(sent) == len(answers)  # masked, by chance

    compare()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("side", Side)
def test_what_is_sent_is_read_by_websockets(side: Side, size: int) -> None:
    wire, _ = peers(side)
    _, protocol = peers(Side.CLIENT if side is Side.SERVER else Side.SERVER)
    protocol.max_message_size = None
    message = b"." * size
    length = wire.send(message)
    wire.send(b"next")
    data = wire.data_to_send()
    assert len(data) == length + 2 + 4 + (4 if side is Side.CLIENT else 0)
    assert messages_of(protocol, data) == [message, b"next"]


def test_no_two_frames_have_the_same_key() -> None:
    keys = MaskingKeys()
    drawn = [keys.next() for _ in range(200)]
    assert all(len(key) == 4 for key in drawn)
    # Two of 200 are alike by chance once in 200,000 runs; three pairs, never.
    assert len(set(drawn)) > 197


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("length", [301, 65_535, 2**16, 2**56, 2**64 - 1])
def test_a_length_over_the_limit_is_refused_as_soon_as_it_is_read(side: Side, length: int) -> None:
    bit = 0x80 if side is Side.SERVER else 0
    if length < 65_536:
        head = bytes([0x81, bit | 126]) + length.to_bytes(2)
    else:
        head = bytes([0x81, bit | 127]) + length.to_bytes(8)
    for cut in range(1, len(head)):
        wire, _ = peers(side)
        assert wire.receive_data(head[:cut]) == []
        assert wire.state is WireState.OPEN
        wire.receive_data(head[cut:])
        assert isinstance(wire.error, MessageTooLarge)
