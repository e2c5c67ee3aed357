"""WebSocket Wires that get random messages and random bytes."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mb_core.errors import MBError
from mb_core.wire import WireState
from mb_ws import WebSocketWire, client_wire, server_wire

from .wires import LIMITS, REQUEST, TEXT, URL_OF_SERVER, close_frame, connected, frame

chunks_of_frames = st.lists(
    st.binary(max_size=40)
    | st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=130),
        fin=st.booleans(),
        mask=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 0, 1, 4]),
    ),
    max_size=12,
)


def check_any(wire: WebSocketWire, chunks: list[bytes], ends: bool) -> None:
    """Nothing raises; once CLOSED, the wire is silent, and its reason stays."""
    error: MBError | None = None
    closed = False
    order = list(WireState)
    state = wire.state
    for chunk in chunks:
        messages = wire.receive_data(chunk)
        assert not (closed and messages)
        assert error is None or wire.error is error
        assert order.index(wire.state) >= order.index(state)
        state, error = wire.state, wire.error
        closed = state is WireState.CLOSED
        assert closed or error is None
        for message in messages:
            assert isinstance(message, bytes)
        output = wire.data_to_send()
        assert isinstance(output, bytes)
    if ends:
        wire.receive_eof()
        assert wire.state is WireState.CLOSED
    wire.close()
    wire.data_to_send()


@settings(max_examples=200, deadline=None)
@given(chunks_of_frames, st.booleans(), st.sampled_from(["client", "server"]))
def test_nothing_that_the_other_side_sends_raises(
    chunks: list[bytes], ends: bool, side: str
) -> None:
    client, server = connected()
    check_any(client if side == "client" else server, chunks, ends)


http_lines = st.lists(
    st.sampled_from(
        [
            *(line + b"\r\n" for line in REQUEST.split(b"\r\n")),
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"HTTP/1.1 404 Not Found\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Sec-WebSocket-Extensions: permessage-deflate;;\r\n",
            b"POST / HTTP/1.1\r\n",
            b"\n",
            close_frame(1000),
            frame(TEXT, b"one"),
        ]
    )
    | st.binary(max_size=10),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(http_lines, st.booleans(), st.booleans(), st.sampled_from(["client", "server"]))
def test_nothing_that_comes_in_the_handshake_raises(
    lines: list[bytes], joined: bool, ends: bool, side: str
) -> None:
    wire = client_wire(URL_OF_SERVER, LIMITS) if side == "client" else server_wire(LIMITS)
    check_any(wire, [b"".join(lines)] if joined else lines, ends)


def test_no_fault_of_the_other_side_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for data in [frame(TEXT, b"\xff"), frame(3), close_frame(1000), b""]:
        _, server = connected()
        server.receive_data(data)
        server.receive_eof()
    server_wire(LIMITS).receive_data(b"GET / HTTP/1.1\r\n\r\n")
    assert caplog.records == []
