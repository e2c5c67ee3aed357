"""A message on TCP: its length in 4 bytes, big-endian, then its bytes (docs/protocol.md, "TCP")."""

from __future__ import annotations

from struct import Struct

from mb_core.errors import MBError, MessageTooLarge, RemoteProtocolError
from mb_core.wire import Limits, WireState, foreign_protocol

__all__ = ["LengthPrefixWire"]

_LENGTH = Struct(">I")
_PREFIX = _LENGTH.size


class LengthPrefixWire:
    """A `Wire` for TCP. Both sides of a connection are alike, and there is no handshake."""

    def __init__(self, limits: Limits) -> None:
        self.state = WireState.OPEN
        self.error: MBError | None = None
        self._limit = limits.max_message
        self._output: list[bytes] = []
        self._input = bytearray()
        # No message is complete before the input has this many bytes.
        self._needed = _PREFIX

    def receive_data(self, data: bytes) -> list[bytes]:
        if self.state is WireState.CLOSED:
            return []
        if self._input:
            self._input += data
            if len(self._input) < self._needed:
                return []
            data = bytes(self._input)
            self._input.clear()
        messages: list[bytes] = []
        position, end = 0, len(data)
        while (start := position + _PREFIX) <= end:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > self._limit:
                self._fail(length, data[position:start])
                return messages
            stop = start + length
            if stop > end:
                self._needed = _PREFIX + length
                break
            messages.append(data[start:stop])
            position = stop
        else:
            self._needed = _PREFIX
        if position < end:
            self._input += data[position:] if position else data
        return messages

    def receive_eof(self) -> None:
        if self._input and self.state is not WireState.CLOSED:
            self.error = RemoteProtocolError(
                f"the connection ended within a message: {len(self._input)} of "
                f"{self._needed} bytes came"
            )
        self.state = WireState.CLOSED

    def send(self, message: bytes) -> int:
        length = len(message)
        self._output += (_LENGTH.pack(length), message)
        return _PREFIX + length

    def close(self, reason: str = "") -> None:
        # TCP has no closing handshake, only the end of the stream.
        self._input.clear()
        self.state = WireState.CLOSED

    def data_to_send(self) -> bytes:
        if not self._output:
            return b""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def _fail(self, length: int, prefix: bytes) -> None:
        self._input.clear()
        self.state = WireState.CLOSED
        foreign = foreign_protocol(prefix)
        if foreign is not None:
            self.error = RemoteProtocolError(f"the other side speaks {foreign}")
            return
        # The length of a message begins with a zero byte; four letters mean another protocol.
        hint = " (is this another protocol's port or client?)" if prefix.isalpha() else ""
        self.error = MessageTooLarge(
            f"a message of {length} bytes was announced, the limit is {self._limit}{hint}",
            size=length,
            limit=self._limit,
        )
