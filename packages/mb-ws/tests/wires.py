"""WebSocket Wires, client and server, without I/O."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import strategies as st

from mb_core.url import URL
from mb_core.wire import Limits, WireState
from mb_ws import WebSocketWire, client_wire, server_wire

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
LIMITS = Limits(max_message=1000)
URL_OF_SERVER = URL("ws", "broker.example", 8080, "")
REQUEST = (
    b"GET / HTTP/1.1\r\n"
    b"Host: broker.example:8080\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
"""A request as in RFC 6455, 1.3, without the final empty line."""


def connected(limits: Limits = LIMITS) -> tuple[WebSocketWire, WebSocketWire]:
    """A client and a server behind their handshake."""
    client, server = client_wire(URL_OF_SERVER, limits), server_wire(limits)
    assert server.receive_data(client.data_to_send()) == []
    assert client.receive_data(server.data_to_send()) == []
    assert client.state is server.state is WireState.OPEN
    return client, server


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0
) -> bytes:
    """A frame as RFC 6455, 5.2 has it; masked, as a client's are, with zeros."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65_536:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    return first + length + (bytes(4) if mask else b"") + payload


def close_frame(code: int, reason: str = "", *, mask: bool = True) -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode(), mask=mask)


def close_code(output: bytes) -> int:
    """The code in an unmasked close frame, which is the last thing in `output`."""
    start = output.rindex(bytes([0x80 | CLOSE]))
    code: int = struct.unpack("!H", output[start + 2 : start + 4])[0]
    return code


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given positions, which are taken modulo its length."""
    positions = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(positions)]


def feed(wire: WebSocketWire, data: bytes, cuts: list[int]) -> list[bytes]:
    messages = []
    for piece in pieces(data, cuts):
        messages += wire.receive_data(piece)
        while wire.held_back:
            messages += wire.receive_data(b"")
    return messages


some_cuts = st.lists(st.integers(min_value=0), max_size=20)
