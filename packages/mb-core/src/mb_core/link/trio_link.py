"""The Link on trio: a reader task and a writer task for each connection."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import trio

from ..errors import ConnectionLost
from ..wire import Wire, WireState, is_held_back
from .contract import FLUSH_AT, Accept, StreamOptions, Waiter
from .forks import protect_from_forks
from .sockets import peer_name
from .stream_link import Handshakes, StreamLink

__all__ = ["TrioLink"]

_STREAM_FAULTS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class TrioLink(StreamLink):
    """A Link over a trio stream; `run` drives it."""

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        options: StreamOptions,
        stream: trio.SocketStream,
        make_waiter: Callable[[], Waiter],
        handshakes: Handshakes | None = None,
    ) -> None:
        super().__init__(wire, accept, options, handshakes, make_waiter)
        self.peer = peer_name(stream.socket)
        self._stream = stream
        self._written = 0  # bytes of messages that were given to the Wire
        self._waited = 0  # bytes that the system accepted, but not immediately
        self._answers: list[bytes] = []  # the Wire's own output, not written yet
        self._answer_bytes = 0  # bytes of that, and of the current write
        self._resumed: trio.Event | None = None  # the reader waits for this while paused
        self._has_output = trio.Event()
        self._scope = trio.CancelScope()
        protect_from_forks(self)

    # The Link

    @property
    def congested(self) -> bool:
        return self.unsent >= FLUSH_AT

    @property
    def unsent(self) -> int:
        return self._queued + self.bytes_sent - self._written + self._answer_bytes

    @property
    def progress(self) -> int:
        return self._received + self._waited

    def send(self, message: bytes) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += len(message)
        self._outbox.append(message)
        self._has_output.set()

    def send_many(self, messages: list[bytes]) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += sum(map(len, messages))
        self._outbox.extend(messages)
        self._has_output.set()

    def pause_reading(self) -> None:
        if self._open and self._resumed is None:
            self._resumed = trio.Event()

    def resume_reading(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def abort(self) -> None:
        self._open = False
        self._aborted = True
        self._scope.cancel()

    def fileno(self) -> int:
        """The socket's descriptor, or -1 if it is closed; see `protect_from_forks`."""
        return self._stream.socket.fileno()

    # Its tasks

    async def run(self) -> None:
        """Read and write until the connection ends."""
        fault: BaseException | None = None
        cancelled = True  # by the owner of the tasks, unless something else turns out
        self._set_time_limit(self._options.handshake_timeout)
        if self._handshakes is not None:
            self._handshakes.add(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._while_open, self._read)
                    await self._while_open(self._write)
                    if not await self._end_half():
                        nursery.cancel_scope.cancel()
            cancelled = False
            if self._scope.cancelled_caught and not self._aborted:
                self._timed_out()
        except BaseExceptionGroup as group:
            fault = self._sort_out(group)
            cancelled = False
        finally:
            self._aborted = self._aborted or cancelled
            # Nothing is left to send: the closing handshake, if any, is written.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            self._answer_bytes, self._written = 0, self.bytes_sent
            self._lost(fault)

    async def _while_open(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await function()
        finally:
            self._open = False  # when either of the two ends, nothing more will be written

    # Ctrl-C is for the program's main task, not for the task that happens to be running.
    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # then nothing must be accepted
        self._after_wire()
        while (data := await self._next_data()) is not None:
            # Keep reading when the Wire is CLOSED: the other side may read our data only after
            # sending all of its own.
            self._received += len(data)
            established = self._established
            self._receive(data)
            self._flush()
            # Read before, so that it counts; the end of the handshake does not.
            if established and (answer := self._wire.data_to_send()):
                self._answers.append(answer)
                self._answer_bytes += len(answer)
            if self.congested:
                self._check_unread(self._answer_bytes)
            if self._resumed is not None:
                await self._resumed.wait()
        # After a reset that the writer notices first, the stream seems to end here. trio needs a
        # turn to wake the writer, which cancels us.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        self._receive_eof()
        # Write the remaining messages; then the connection ends.
        self._wire.close()
        self._after_wire()

    async def _next_data(self) -> bytes | None:
        """Return the next data: b"" while the Wire has more to process, None at the end."""
        if is_held_back(self._wire):
            await trio.lowlevel.checkpoint()
            return b""
        return bytes(await self._stream.receive_some()) or None

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output = trio.Event()
            while await self._write_some():
                pass
            if self._wire.state is WireState.CLOSED:
                return

    async def _write_some(self) -> bool:
        """Write the Wire's own output and messages for one write; return whether there was
        anything."""
        answers, answer_bytes, self._answers = self._answers, self._answer_bytes, []
        messages = self._feed() if self._outbox and self._open else []
        handed = self.bytes_sent
        data = self._wire.data_to_send()
        if answers:
            data = b"".join((*answers, data))
        left = memoryview(data)
        try:
            while left:
                taken = await self._stream.socket.send(left)
                if len(left) < len(data):
                    self._waited += taken
                left = left[taken:]
        except BaseException:
            if len(left) == len(data):
                self._put_back(messages)
            raise
        self._written = handed
        self._answer_bytes -= answer_bytes
        self._wake_draining()
        return bool(data)

    async def _end_half(self) -> bool:
        """End our half of the stream; return whether to wait for the other side's half.

        Closing with unread input would reset the connection: the other side might not be able to
        read the last messages, or the reason for a refusal.
        """
        owes_nothing = not self._established and self._handshakes is None
        if self._eof or owes_nothing:
            return False
        await self._stream.send_eof()
        return True

    def _sort_out(self, group: BaseExceptionGroup[BaseException]) -> BaseException | None:
        """Return why the tasks ended; raises cancellation, which is not an error."""
        faults, rest = group.split(_STREAM_FAULTS)
        bugs, rest = rest.split(Exception) if rest is not None else (None, None)
        if bugs is not None:
            self._log_bug(bugs)
        if rest is not None:
            raise rest from None
        reason: BaseException | None = bugs or faults
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        if reason is None or bugs is not None:
            return reason
        cause = reason.__cause__
        return cause if isinstance(cause, OSError) else ConnectionError(str(reason))

    def _flush(self) -> None:
        self._has_output.set()

    def _end_stream(self) -> None:
        """The writer does that when it has written everything."""

    def _set_time_limit(self, seconds: float | None) -> None:
        # When the time is up, `run` calls `_timed_out`.
        over = float("inf") if seconds is None else trio.current_time() + seconds
        self._scope.deadline = over
