"""The Link on asyncio: received data goes from the loop's callback straight to the handler."""

from __future__ import annotations

import asyncio
from typing import cast

from ..errors import ConnectionLost
from ..wire import Wire, is_held_back
from .contract import FLUSH_AT, Accept, StreamOptions
from .forks import protect_from_forks
from .sockets import peer_name
from .stream_link import Handshakes, StreamLink

__all__ = ["AsyncioLink"]

# Bytes that are written before the end of a turn, so that the other side can start working.
_EARLY = 8_192


class AsyncioLink(StreamLink, asyncio.Protocol):
    """A Link, and the asyncio.Protocol under it."""

    congested = False

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        options: StreamOptions,
        handshakes: Handshakes | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(wire, accept, options, handshakes, self._loop.create_future)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False  # whether `_turn_ended` will be called
        self._several_sends = False  # whether `send` was called more than once in this turn
        self._turn = 0  # bytes that were written early in this turn
        self._write_at = _EARLY  # bytes in the outbox at which they are written early
        self._paused = False  # whether the system has not accepted everything written
        self._waited = 0  # bytes that it did not accept immediately
        self._answers = 0  # bytes of the Wire's own output since then
        self._can_hold_back = hasattr(wire, "held_back")
        self._holding_back = False  # whether the Wire has to process more before it gets new data
        self._reading_paused = False  # by `pause_reading`

    # The Link

    @property
    def unsent(self) -> int:
        return self._queued + self._buffered

    @property
    def progress(self) -> int:
        return self._received + self._waited - (self._buffered if self._paused else 0)

    def send(self, message: bytes) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued = queued = self._queued + len(message)
        self._outbox.append(message)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)
        else:
            self._several_sends = True
        if queued >= self._write_at and not self._paused:
            self._write_early()

    def send_many(self, messages: list[bytes]) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued = queued = self._queued + sum(map(len, messages))
        self._outbox.extend(messages)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)
        else:
            self._several_sends = True
        if queued >= self._write_at and not self._paused:
            self._write_early()

    def pause_reading(self) -> None:
        if self._open and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        # Only if something changed: uvloop's transport may be closed, see _end_stream.
        if self._reading_paused:
            self._reading_paused = False
            if not self._holding_back:
                self._resume_transport()

    def _resume_transport(self) -> None:
        if self._takes_output():
            assert self._transport is not None
            self._transport.resume_reading()

    def abort(self) -> None:
        self._open = False
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def fileno(self) -> int:
        """The socket's descriptor, or -1 if there is none; see `protect_from_forks`."""
        if self._transport is None:
            return -1
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    # The asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Paused until everything is accepted: the transport's buffer can't be taken back.
        self._transport.set_write_buffer_limits(high=0)
        protect_from_forks(self)
        self.peer = peer_name(transport.get_extra_info("socket"))
        if self._handshakes is not None:
            self._handshakes.add(self)
            if self._aborted:
                return
        self._set_time_limit(self._options.handshake_timeout)
        try:
            self._after_wire()
        except Exception as bug:
            self._give_up(bug)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        try:
            self._receive(data)
            self._flush()
            if self._paused:
                self._check_unread(min(self._answers, self._buffered))
            if self._can_hold_back and is_held_back(self._wire):
                self._read_on_later()
        except Exception as bug:
            self._give_up(bug)

    def _read_on_later(self) -> None:
        """Let the Wire process its remaining data after others had their turn."""
        if self._takes_output():
            assert self._transport is not None
            self._holding_back = True
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._holding_back = False
        if self._takes_output():
            self.data_received(b"")
            if not self._reading_paused:
                self._resume_transport()

    def eof_received(self) -> bool:
        self._receive_eof()
        return False

    def pause_writing(self) -> None:
        self._paused = self.congested = True
        self._waited += self._buffered

    def resume_writing(self) -> None:
        self._paused = False
        self._answers = 0
        # Not from here: asyncio reports the end twice if a write fails here.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            # A transport that was closed while it had output must not be aborted afterwards.
            self._transport = None
            self._paused = self.congested = False
            self._lost(exc)

    # Writing

    def _write_early(self) -> None:
        """Write before the turn ends, doubling the amount each time: a long turn needs few
        writes."""
        self._turn += self._queued
        left = FLUSH_AT - self._turn
        if left > 0:
            self._write_at = min(max(_EARLY, self._turn), left)
        else:
            self._write_at = FLUSH_AT
            self.congested = True
        self._flush()

    def _turn_ended(self) -> None:
        # A single send per turn is probably a request, so write the next one immediately.
        self._write_at = _EARLY if self._several_sends else 1
        self._scheduled = self._several_sends = False
        self._turn = 0
        if self._outbox:
            self._flush()
        if self.congested and not self._paused and self._turn < FLUSH_AT:
            self.congested = False
            self._wake_draining()

    def _flush(self) -> None:
        """Write the Wire's own output, and messages as long as the system accepts them."""
        transport = self._transport
        if transport is None:
            return
        try:
            while self._outbox and self._open and not self._paused:
                messages = self._feed()
                transport.write(self._wire.data_to_send())
                if transport.is_closing():
                    # Nothing was queued before it, so it was tried at once, and none of it was
                    # accepted.
                    self._put_back(messages)
                    self._open = False
                    return
                if not self._outbox:
                    return
            data = self._wire.data_to_send()
            if data and not transport.is_closing():
                if self._paused:
                    self._waited += len(data)
                    self._answers += len(data)
                transport.write(data)
        except Exception as bug:
            self._give_up(bug)

    def _end_stream(self) -> None:
        """End our half of the stream, and close it when the other side has ended its half.

        Closing with unread input would reset the connection: the other side might not be able to
        read the last messages, or the reason for a refusal.
        """
        if not self._takes_output():
            return
        assert self._transport is not None
        owes_nothing = not self._established and self._handshakes is None
        if self._eof or owes_nothing:
            self._transport.close()
        else:
            try:
                self._transport.write_eof()
            except OSError as error:  # a reset that the loop has not reported yet
                self._fault = error
                self.abort()
            except RuntimeError:
                # uvloop has closed the transport without notification: connecting was cancelled
                # right after connection_made.
                self.abort()

    def _takes_output(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def _buffered(self) -> int:
        """Bytes that were written but not accepted by the system."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _set_time_limit(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._timed_out)
