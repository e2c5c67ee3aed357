"""Wires without I/O: how they end, and what untrusted peers send."""

from __future__ import annotations

import random

import pytest

from mb_core.errors import MBError, RemoteProtocolError
from mb_core.wire import WireState

from .check_runner import without_io
from .requirements import CLOSES, EOF_BETWEEN, EOF_WITHIN, TWICE, expect
from .settings import Settings
from .wire_messages import SHORT, framed, same
from .wires import SIDES, WatchedWire, WirePair, bytewise, pieces, shortened

__all__ = ["WireEndings", "WireUntrustedInput"]

from_each_side = pytest.mark.parametrize("side", SIDES)

OTHER_PROTOCOLS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
    "an HTTP answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(64),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"220 mail.example ESMTP\r\n",
    "a message without framing": b"publish:a.b:1.0.0\n{}",
    "zeros": bytes(300),
    "ones": b"\xff" * 300,
    "lines": b"\n" * 300,
}


class WireEndings(Settings):
    """The farewell, and the end of the stream."""

    @from_each_side
    @without_io
    def test_an_end_of_the_stream_within_a_message_is_an_error(self, side: str) -> None:
        one, _ = WirePair(self).of(side)
        size = len(framed(one, [b"message"]))
        for cut in range(1, size):
            one, other = WirePair(self).of(side)
            data = framed(one, [b"whole"]) + framed(one, [b"message"])[:cut]
            same(other.receive_data(data), [b"whole"], f"{cut} bytes into the next message")
            other.receive_eof()
            found = f"{cut} of {size} bytes into a message, {_described(other)}"
            expect(EOF_WITHIN, other.state is WireState.CLOSED, found)
            expect(EOF_WITHIN, isinstance(other.error, RemoteProtocolError), found)

    @from_each_side
    @without_io
    def test_an_end_of_the_stream_between_messages_closes(self, side: str) -> None:
        one, other = WirePair(self).of(side)
        same(other.receive_data(framed(one, SHORT)), SHORT, "before the end")
        other.receive_eof()
        fine = other.error is None or isinstance(other.error, RemoteProtocolError)
        expect(EOF_BETWEEN, other.state is WireState.CLOSED and fine, _described(other))

    @from_each_side
    @without_io
    def test_an_end_of_the_stream_within_the_handshake_is_an_error(self, side: str) -> None:
        flight = _first_flight(self, side)
        for cut in range(len(flight)):
            wire, _ = WirePair(self, ready=False).of(side)
            wire.receive_data(flight[:cut])
            shaking = wire.state is WireState.HANDSHAKE
            wire.receive_eof()
            found = f"after {cut} of {len(flight)} bytes of the handshake, {_described(wire)}"
            expect(EOF_WITHIN, wire.state is WireState.CLOSED, found)
            expect(EOF_WITHIN, not shaking or isinstance(wire.error, MBError), found)
        wire, _ = WirePair(self, ready=False).of(side)
        wire.receive_eof()
        expect(EOF_WITHIN, wire.state is WireState.CLOSED, f"without a byte, {_described(wire)}")

    @from_each_side
    @without_io
    def test_the_end_of_the_stream_may_come_twice_and_nothing_comes_behind_it(
        self, side: str
    ) -> None:
        one, other = WirePair(self).of(side)
        other.receive_data(framed(one, [b"message"])[:3])
        _end_again(one, other)

    @from_each_side
    @without_io
    def test_a_wire_closes_behind_all_that_was_sent_and_in_order(self, side: str) -> None:
        for reason in ("", "bye", "\N{SNOWMAN}" * 3000):
            pair = WirePair(self)
            one, other = pair.of(side)
            for message in SHORT:
                one.send(message)
            one.close(reason)
            found = f"after close, {_described(one)}"
            expect(CLOSES, one.state in (WireState.CLOSING, WireState.CLOSED), found)
            pair.settle()
            found = f"of {shortened(SHORT)}, {shortened(other.received)} came before the end"
            expect(CLOSES, other.received == SHORT, found)
            _expect_orderly(one, other)
            _end_again(one, other)

    @without_io
    def test_both_wires_may_close_at_once(self) -> None:
        pair = WirePair(self)
        pair.client.close()
        pair.server.close()
        pair.settle()
        _expect_orderly(pair.client, pair.server)

    @from_each_side
    @without_io
    def test_closing_within_the_handshake_ends_it(self, side: str) -> None:
        wire, _ = WirePair(self, ready=False).of(side)
        wire.close("changed my mind")
        wire.close()
        wire.receive_eof()
        fine = wire.state is WireState.CLOSED and wire.error is None
        expect(CLOSES, fine, f"closed within the handshake, {_described(wire)}")

    @from_each_side
    @without_io
    def test_a_close_that_is_never_answered_ends_with_the_stream(self, side: str) -> None:
        one, _ = WirePair(self).of(side)
        one.close()
        one.receive_eof()
        fine = one.state is WireState.CLOSED and one.error is None
        expect(CLOSES, fine, f"when the other side just ended, {_described(one)}")


class WireUntrustedInput(Settings):
    """What no Wire of this transport would send.  WatchedWire checks that nothing is raised."""

    @from_each_side
    @pytest.mark.parametrize("protocol", OTHER_PROTOCOLS)
    @without_io
    def test_another_protocol_harms_nobody(self, side: str, protocol: str) -> None:
        data = OTHER_PROTOCOLS[protocol]
        for ready in (False, True):
            for chunks in ([data], bytewise(data), pieces(data, [1, 5, 9])):
                _survives(self, side, chunks, ready=ready)

    @from_each_side
    @without_io
    def test_random_bytes_harm_nobody(self, side: str) -> None:
        for seed in range(150):
            chance = random.Random(seed)
            chunks = [chance.randbytes(chance.randint(1, 40)) for _ in range(chance.randint(1, 8))]
            _survives(self, side, chunks, ready=seed % 3 > 0)

    @from_each_side
    @without_io
    def test_a_damaged_stream_harms_nobody(self, side: str) -> None:
        """Each byte of handshake and messages wrong, in turn: changed, missing, twice."""
        sent = [b"one", "\N{SNOWMAN}".encode(), b"x" * 130]
        for damage in ("changed", "missing", "doubled"):
            at = 0
            while True:
                pair = WirePair(self, ready=False)
                receiver, sender = pair.of(side)
                first = _handshake_for(receiver, sender)
                data = first + (framed(sender, sent) if sender.state is WireState.OPEN else b"")
                if at >= len(data):
                    break
                wrong = {
                    "changed": bytes([data[at] ^ 0x55]),
                    "missing": b"",
                    "doubled": data[at : at + 1] * 2,
                }
                receiver.receive_data(data[:at] + wrong[damage] + data[at + 1 :])
                _ends(receiver)
                at += 1


def _described(wire: WatchedWire) -> str:
    return f"{wire.name} is {wire.state} and has {wire.error!r}"


def _first_flight(suite: Settings, side: str) -> bytes:
    """The first bytes that a Wire of this side gets in the handshake."""
    pair = WirePair(suite, ready=False)
    wire, other = pair.of(side)
    if side == "client":
        other.receive_data(wire.data_to_send())
    return other.data_to_send()


def _expect_orderly(*wires: WatchedWire) -> None:
    __tracebackhide__ = True
    for wire in wires:
        expect(CLOSES, wire.state is WireState.CLOSED, f"after both ends, {_described(wire)}")
        expect(CLOSES, wire.error is None, f"after an orderly end, {_described(wire)}")


def _end_again(one: WatchedWire, other: WatchedWire) -> None:
    """End `other` a second time; WatchedWire checks what changes."""
    __tracebackhide__ = True
    other.receive_eof()
    error = other.error
    other.data_to_send()
    other.receive_eof()
    other.close("again")
    other.close()
    other.receive_data(b"more of it")
    other.receive_data(b"")
    output = other.data_to_send()
    expect(TWICE, other.error is error, f"{_described(other)}; before, it had {error!r}")
    expect(TWICE, not output, f"{other.name}, long CLOSED, gave {shortened(output)}")


def _handshake_for(receiver: WatchedWire, sender: WatchedWire) -> bytes:
    """What `sender` says first; for a client's Wire, when it was asked."""
    sender.receive_data(receiver.data_to_send())
    return sender.data_to_send()


def _survives(suite: Settings, side: str, chunks: list[bytes], *, ready: bool) -> None:
    wire, _ = WirePair(suite, ready=ready).of(side)
    for chunk in chunks:
        wire.receive_data(chunk)
        wire.data_to_send()
    _ends(wire)


def _ends(wire: WatchedWire) -> None:
    __tracebackhide__ = True
    wire.data_to_send()
    wire.receive_eof()
    expect(EOF_WITHIN, wire.state is WireState.CLOSED, f"after the end, {_described(wire)}")
    wire.close()
    wire.data_to_send()
