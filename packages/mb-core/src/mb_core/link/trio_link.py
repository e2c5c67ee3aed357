"""Links on trio: a reader task and a writer task for each connection."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio
from anyio.abc import TaskGroup

from ..errors import ConnectError, ConnectionLost, MBError
from ..wire import Wire, WireState, is_held_back
from .contract import (
    FLUSH_AT,
    Accept,
    Address,
    Link,
    LinkHandler,
    Listener,
    Poster,
    SocketAddress,
    Spawn,
    StreamOptions,
    Waiter,
)
from .home import guard, process
from .outgoing import Outgoing
from .streams import (
    ACCEPT_PAUSE,
    Handshakes,
    Shortage,
    connect_error,
    end_error,
    late_close,
    late_handshake,
    listening_address,
    listening_sockets,
    log_refusal,
    peer_name,
    refusal,
    unread_answers,
)
from .tls import dialled_wire, nothing_came, wire_factory

__all__ = ["TrioBackend"]

_log = logging.getLogger("mb_core.link")

_STREAM_FAULTS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class _StreamLink(Outgoing):
    """A Link over a trio stream, driving one Wire."""

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        stream: trio.SocketStream,
        options: StreamOptions,
        listener: _Listener | None = None,
    ) -> None:
        super().__init__(wire)
        self._accept = accept
        self._stream = stream
        self._options = options
        self._listener = listener  # None where we dialled
        self._handler: LinkHandler | None = None
        self._written = 0  # bytes of messages, of those that were handed over
        # Bytes that have arrived, or that the system has taken and had not taken at once.
        self.progress = 0
        self._own: list[bytes] = []  # what the Wire has to say for itself
        self._own_bytes = 0  # of those, and of the write under way
        self._shaken = False  # whether the handshake is complete
        # Whether it is only a probe if it ends before the first byte comes.
        self._may_be_probe = listener is not None
        self._open = False
        self._ended = False  # the other side's half of the stream
        self._aborted = False
        self._fault: Exception | None = None  # why it was aborted, where that is an error
        self._resumed: trio.Event | None = None  # what the reader waits for while it is paused
        self._has_output = trio.Event()
        self._relieved = trio.Event()
        self.opened = trio.Event()
        self._closed = trio.Event()
        self._scope = trio.CancelScope()
        self.refusal: MBError | None = None  # why the handshake failed
        self.peer = peer_name(stream.socket)
        guard(self)

    # The Link

    @property
    def congested(self) -> bool:
        return self.unsent >= FLUSH_AT

    @property
    def unsent(self) -> int:
        return self._queued + self.bytes_sent - self._written + self._own_bytes

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

    async def drain(self) -> None:
        while self.congested and self._open:
            await self._relieved.wait()

    def pause_reading(self) -> None:
        if self._open and self._resumed is None:
            self._resumed = trio.Event()

    def resume_reading(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def close(self, reason: str = "") -> None:
        if not self._closed.is_set():
            self.resume_reading()
            try:
                if self._outbox and self._open:
                    self._feed(math.inf)
                self._wire.close(reason)
                self._after_wire()
            except Exception as bug:
                self._log_bug(bug)
                self._fault = bug
                self.abort()

    def abort(self) -> None:
        self._open = False
        self._aborted = True
        self._scope.cancel()

    def give_way(self, reason: ConnectError) -> None:
        """End before the handshake is complete."""
        self._may_be_probe = False
        self._refuse(reason)
        self.abort()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def fileno(self) -> int:
        """The socket's descriptor, or -1 where it is closed; see `guard`."""
        return self._stream.socket.fileno()

    # Its tasks

    async def run(self) -> None:
        """Read and write until the connection ends."""
        fault: BaseException | None = None
        cancelled = True  # by whoever holds the tasks, unless it turns out otherwise
        self._scope.deadline = trio.current_time() + self._options.handshake_timeout
        if self._listener is not None:
            self._listener.handshakes.add(self)
            if self._listener.scope.cancel_called:
                self.abort()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._while_open, self._read)
                    await self._while_open(self._write)
                    if not await self._end_half():
                        nursery.cancel_scope.cancel()
            cancelled = False
            if self._scope.cancelled_caught and not self._aborted:
                fault = self._too_late()
        except BaseExceptionGroup as group:
            fault = self._sort_out(group)
            cancelled = False
        finally:
            self._aborted = self._aborted or cancelled
            # Nothing is owed to the other side any more: the farewell, if any, is written.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            self._lost(fault or self._fault)

    async def _while_open(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await function()
        finally:
            self._open = False  # whichever of the two ends: nothing more will be written

    # Ctrl-C is for the program's main task, not for the one that happens to run.
    @trio.lowlevel.enable_ki_protection
    async def _read(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # then nothing is to be accepted
        self._after_wire()
        while (data := await self._next_data()) is not None:
            # Read on when the Wire is CLOSED: the other side may read only what is sent to it
            # when it has sent all of its own.
            self.progress += len(data)
            shaken = self._shaken
            messages = self._wire.receive_data(data)
            if not self._shaken or self._wire.state is not WireState.OPEN:
                self._after_wire()  # what came with the farewell can't be answered any more
            if messages and self._handler is not None:
                self._handler.messages_received(messages)
            self._after_wire()
            # Taken now, so that it counts; the end of the handshake does not.
            if shaken and (own := self._wire.data_to_send()):
                self._own.append(own)
                self._own_bytes += len(own)
            if self.congested:
                self._look_at_unread()
            if self._resumed is not None:
                await self._resumed.wait()
        # After a reset that the writer notices first, the stream seems to end here.  It takes trio
        # a turn to wake the writer, which cancels us.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        self._ended = True
        if self._outbox and self._open and self._listener is not None:
            self._feed(math.inf)  # it may have ended its half only: a server's end is that of both
        self._wire.receive_eof()
        self._after_wire()
        # What is left to write goes out; then the connection is over.
        self._wire.close()
        self._after_wire()

    async def _next_data(self) -> bytes | None:
        """What the stream gives next, nothing while the Wire has more to read, None at the end."""
        if is_held_back(self._wire):
            await trio.lowlevel.checkpoint()
            return b""
        return bytes(await self._stream.receive_some()) or None

    def _look_at_unread(self) -> None:
        options = self._options
        if options.unread is not None:
            options.unread(self)
        limit = options.max_answers
        if limit is not None and self._open and self._own_bytes > limit:
            self._fault = unread_answers(self._own_bytes, options)
            self.abort()

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output = trio.Event()
            while await self._write_some():
                pass
            if self._wire.state is WireState.CLOSED:
                return

    async def _write_some(self) -> bool:
        """Write the Wire's own output and messages for one write; whether there was anything."""
        own, own_bytes, self._own = self._own, self._own_bytes, []
        messages = self._feed() if self._outbox and self._open else []
        handed = self.bytes_sent
        data = b"".join((*own, self._wire.data_to_send())) if own else self._wire.data_to_send()
        left = memoryview(data)
        try:
            while left:
                taken = await self._stream.socket.send(left)
                if len(left) < len(data):
                    self.progress += taken
                left = left[taken:]
        except BaseException:
            if len(left) == len(data):
                self._put_back(messages)
            raise
        self._written = handed
        self._own_bytes -= own_bytes
        self._relieve()
        return bool(data)

    def _relieve(self) -> None:
        self._relieved.set()
        self._relieved = trio.Event()

    async def _end_half(self) -> bool:
        """Close our half of the stream; whether there is the other side's half to wait for.

        Closing with input unread would reset the connection: the other side might not read what
        it was sent, nor why it was refused.
        """
        owes_nothing = not self._shaken and self._listener is None
        if self._ended or owes_nothing:
            return False
        await self._stream.send_eof()
        return True

    def _sort_out(self, group: BaseExceptionGroup[BaseException]) -> BaseException | None:
        """Why the tasks ended; raises what is not an error: cancellation."""
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

    def _after_wire(self) -> None:
        """What is due after every call of the Wire: output, and the changes of its state."""
        state = self._wire.state
        if state is WireState.OPEN:
            if not self._shaken:
                self._be_open()
        elif state is not WireState.HANDSHAKE:
            if state is WireState.CLOSED and not self._shaken:
                self._refuse(self._wire.error)
            if self._open:
                self._open = False
                self._scope.deadline = trio.current_time() + self._options.close_timeout
        self._has_output.set()

    def _be_open(self) -> None:
        self._scope.deadline = float("inf")
        if self._listener is not None:
            self._listener.handshakes.discard(self)
        self._shaken = self._open = True
        self._handler = self._accept(self)
        self.opened.set()

    def _too_late(self) -> Exception | None:
        if self._shaken:
            return late_close(self._options)
        self._may_be_probe = False
        self._refuse(late_handshake(self.peer, self._options))
        return None

    def _lost(self, fault: BaseException | None) -> None:
        self._open = False
        if self._listener is not None:
            self._listener.handshakes.discard(self)
        self._queued, self._own_bytes, self._written = 0, 0, self.bytes_sent
        self._relieve()
        error = end_error(self.peer, self._wire, fault, aborted=self._aborted)
        try:
            if self._handler is not None:
                self._handler.link_lost(error)
            else:
                self._refuse(error)
        except Exception as bug:
            self._log_bug(bug)
        finally:
            self._closed.set()

    def _refuse(self, reason: MBError | None) -> None:
        if not self.opened.is_set():
            if self._listener is not None:
                probe = self._may_be_probe and nothing_came(self._wire, self.progress)
                (self._options.refused or log_refusal)(self.peer, None if probe else reason)
            self.refusal = refusal(self.peer, reason)
            self.opened.set()

    def _log_bug(self, error: BaseException) -> None:
        _log.error("internal error: the link to %s is given up", self.peer, exc_info=error)


class _Listener:
    def __init__(self, address: Address, max_handshakes: int) -> None:
        self.address = address
        self.scope = trio.CancelScope()
        self.closed = trio.Event()
        self.handshakes: Handshakes[_StreamLink] = Handshakes(max_handshakes)

    async def close(self) -> None:
        self.scope.cancel()
        for link in self.handshakes:
            link.abort()
        await self.closed.wait()


class _TrioWaiter:
    """One value for one waiting task, without the cost of an Event."""

    __slots__ = ("_done", "_result", "_task")

    def __init__(self) -> None:
        self._done = False
        self._result: Any = None
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._result = result
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self._done:
            await trio.lowlevel.checkpoint()
            return self._result

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            self._done = True
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        return self._result


class TrioBackend:
    """The Backend of trio."""

    name = "trio"

    def __init__(self) -> None:
        self.time = trio.lowlevel.current_clock().current_time

    def running(self) -> object:
        try:
            return trio.lowlevel.current_trio_token()
        except RuntimeError:
            return None

    def waiter(self) -> Waiter:
        return _TrioWaiter()

    def poster(self) -> Poster:
        token = trio.lowlevel.current_trio_token()
        born_in = process()

        def post(function: Callable[[], None]) -> bool:
            if process() is not born_in:
                return False  # its thread is not in this process
            try:
                token.run_sync_soon(function)
            except trio.RunFinishedError:
                return False
            return True

        return post

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    def spawn_root(self, function: Callable[[], Coroutine[Any, Any, None]]) -> object:
        return trio.lowlevel.spawn_system_task(function, name="mb client")

    def start_in(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        group.start_soon(function)

    async def connect(
        self,
        address: Address | SocketAddress,
        wire: Wire,
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Link:
        secured = dialled_wire(wire, address, options)
        try:
            if isinstance(address, SocketAddress):
                stream = await _connected(address)
            else:
                stream = await trio.open_tcp_stream(*address)
        except (OSError, UnicodeError) as error:
            raise connect_error(address, _first_of(error)) from error
        link = _StreamLink(secured, accept, stream, options)
        try:
            spawn(link.run)
        except BaseException:
            stream.socket.close()
            raise
        try:
            await link.opened.wait()
        except BaseException:
            link.abort()
            raise
        if link.refusal is not None:
            raise link.refusal
        return link

    async def listen(
        self,
        address: Address | socket.socket,
        wire: Callable[[], Wire],
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Listener:
        make_wire = wire_factory(wire, options)
        sockets = await listening_sockets(address)
        listener = _Listener(listening_address(sockets[0]), options.max_handshakes)
        shortage = Shortage(listener.address)

        async def serve_stream(stream: trio.SocketStream) -> None:
            await _StreamLink(make_wire(), accept, stream, options, listener).run()

        async def accept_streams(source: trio.SocketListener, connections: trio.Nursery) -> None:
            # Not trio.serve_listeners, which logs a traceback each time that there is no file.
            async with source:
                while True:
                    try:
                        stream = await source.accept()
                    except OSError as error:
                        shortage.tell(error, trio.current_time())
                        await trio.sleep(ACCEPT_PAUSE)
                    else:
                        connections.start_soon(serve_stream, stream)

        async def serve() -> None:
            async with trio.open_nursery() as connections:
                with listener.scope:
                    sources = [
                        trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                        for sock in sockets
                    ]
                    try:
                        async with trio.open_nursery() as accepting:
                            for source in sources:
                                accepting.start_soon(accept_streams, source, connections)
                    finally:
                        listener.closed.set()

        spawn(serve)
        return listener


async def _connected(address: SocketAddress) -> trio.SocketStream:
    sock = trio.socket.socket(address.family, socket.SOCK_STREAM)
    try:
        await sock.connect(address.address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _first_of(error: OSError | UnicodeError) -> BaseException:
    """The first error where trio has joined those of several addresses into a group."""
    cause = error.__cause__
    return cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else error
