"""Links on asyncio: received data goes from the loop's callback straight to the handler."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, cast

import anyio
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
    BACKLOG,
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

__all__ = ["AsyncioBackend"]

_log = logging.getLogger("mb_core.link")

_Found = tuple[Any, ...]  # what getaddrinfo gives of an address

# Bytes of one turn that do not wait for its end: the other side can work on them meanwhile.
_EARLY = 8_192
# Streams that are accepted in one turn of the loop.
_ACCEPTS = 64
# Seconds after which the next address of a host is tried beside the one before; as on trio.
_NEXT_ADDRESS = 0.25


class _StreamLink(Outgoing, asyncio.Protocol):
    """A Link and the asyncio.Protocol under it, driving one Wire."""

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        options: StreamOptions,
        listener: _Listener | None = None,
    ) -> None:
        super().__init__(wire)
        self._loop = asyncio.get_running_loop()
        self._accept = accept
        self._options = options
        self._listener = listener  # None where we dialled
        self._transport: asyncio.Transport | None = None
        self._handler: LinkHandler | None = None
        self._scheduled = False  # whether the end of this turn of the loop will be told
        self._crowded = False  # whether there was more than one call to send in it
        self._turn = 0  # bytes that were written early in it
        self._write_at = _EARLY  # bytes in the outbox that do not wait for it
        self._paused = False  # the system has not taken all that was written
        self._can_hold_back = hasattr(wire, "held_back")
        self._digesting = False  # the Wire has more to read before it may get more
        self._told_to_pause = False
        self._received = 0  # bytes
        self._waited = 0  # bytes that the system has not taken at once
        self._own = 0  # bytes that the Wire had to say for itself since then
        self._shaken = False  # whether the handshake is complete
        # Whether it is only a probe if it ends before the first byte comes.
        self._may_be_probe = listener is not None
        self._open = False
        self._ended = False  # the other side's half of the stream
        self._aborted = False
        self._fault: Exception | None = None  # why it was aborted, where that is an error
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Why the handshake failed, or None where it is complete.
        self.opened: asyncio.Future[MBError | None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self.peer = "peer"
        self.congested = False

    # The Link

    @property
    def unsent(self) -> int:
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._queued + buffered

    @property
    def progress(self) -> int:
        waiting = 0
        if self._paused and self._transport is not None:
            waiting = self._transport.get_write_buffer_size()
        return self._received + self._waited - waiting

    def send(self, message: bytes) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued = queued = self._queued + len(message)
        self._outbox.append(message)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)
        else:
            self._crowded = True
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
            self._crowded = True
        if queued >= self._write_at and not self._paused:
            self._write_early()

    async def drain(self) -> None:
        while self.congested and self._open:
            if self._drained is None:
                self._drained = self._loop.create_future()
            # Shielded: several tasks may wait, and one of them may be cancelled.
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        if self._open and self._transport is not None and not self._transport.is_closing():
            self._told_to_pause = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._told_to_pause = False
        self._read_on()

    def _read_on(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing() and not self._digesting:
            transport.resume_reading()

    def close(self, reason: str = "") -> None:
        if not self._closed.done():
            self.resume_reading()
            try:
                self._feed_rest()
                self._wire.close(reason)
                self._after_wire()
            except Exception as error:
                self._give_up(error)

    def abort(self) -> None:
        self._open = False
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def give_way(self, reason: ConnectError) -> None:
        """End before the handshake is complete."""
        self._may_be_probe = False
        self._refuse(reason)
        self.abort()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def fileno(self) -> int:
        """The socket's descriptor, or -1 where there is none; see `guard`."""
        if self._transport is None:
            return -1
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    # The asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Paused until all is taken: what the transport holds can't be taken back.
        self._transport.set_write_buffer_limits(high=0)
        guard(self)
        self.peer = peer_name(transport.get_extra_info("socket"))
        if self._listener is not None:
            if self._listener.closed:
                self.abort()
                return
            self._listener.handshakes.add(self)
        self._timer = self._loop.call_later(self._options.handshake_timeout, self._too_late)
        try:
            self._after_wire()
        except Exception as error:
            self._give_up(error)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        try:
            messages = self._wire.receive_data(data)
            if not self._shaken or self._wire.state is not WireState.OPEN:
                self._after_wire()  # what came with the farewell can't be answered any more
            if messages and self._handler is not None:
                self._handler.messages_received(messages)
            self._flush()
            if self._paused:
                self._look_at_unread()
            if self._can_hold_back and is_held_back(self._wire):
                self._digest()
        except Exception as error:
            self._give_up(error)

    def _digest(self) -> None:
        """Have the Wire go on with what it holds, when others had their turn."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._digesting = True
            transport.pause_reading()
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._digesting = False
        if self._transport is not None and not self._transport.is_closing():
            self.data_received(b"")
            if not self._told_to_pause:
                self._read_on()

    def eof_received(self) -> bool:
        self._ended = True
        if self._listener is not None:
            self._feed_rest()  # it may have ended its half only: a server's end is that of both
        self._wire.receive_eof()
        self._after_wire()
        return False

    def pause_writing(self) -> None:
        self._paused = self.congested = True
        if self._transport is not None:
            self._waited += self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self._paused = False
        self._own = 0
        # Not from within: asyncio reports the end twice when a write fails in here.
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn_ended)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed.done():
            return
        self._open = False
        # A transport that was closed while it had output can't stand an abort after that.
        self._transport = None
        if self._listener is not None:
            self._listener.handshakes.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._paused = False
        self._queued = self._turn = 0
        self._relieve()
        error = end_error(self.peer, self._wire, exc or self._fault, aborted=self._aborted)
        try:
            if self._handler is not None:
                self._handler.link_lost(error)
            else:
                self._refuse(error)
        except Exception as fault:
            self._log_bug(fault)
        finally:
            self._closed.set_result(None)

    # What they share

    def _after_wire(self) -> None:
        """What is due after every call of the Wire: output, and the changes of its state."""
        state = self._wire.state
        if state is WireState.OPEN:
            if not self._shaken:
                self._be_open()
        elif state is not WireState.HANDSHAKE:
            self._open = False
        self._flush()
        if state is WireState.CLOSED:
            if not self._shaken:
                self._refuse(self._wire.error)
            self._end_stream()
        if self._shaken and not self._open:
            self._limit_closing()

    def _look_at_unread(self) -> None:
        options = self._options
        if options.unread is not None:
            options.unread(self)
        if options.max_answers is not None and self._open and self._transport is not None:
            waiting = min(self._own, self._transport.get_write_buffer_size())
            if waiting > options.max_answers:
                self._fault = unread_answers(waiting, options)
                self.abort()

    def _end_stream(self) -> None:
        """Close our half of the stream, and the rest when the other side has closed its own.

        Closing with input unread would reset the connection: the other side might not read what
        it was sent, nor why it was refused.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        owes_nothing = not self._shaken and self._listener is None
        if self._ended or owes_nothing:
            transport.close()
        else:
            try:
                transport.write_eof()
            except OSError as error:  # a reset of which the loop has not told us yet
                self._fault = error
                self.abort()

    def _be_open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listener is not None:
            self._listener.handshakes.discard(self)
        self._shaken = self._open = True
        self._handler = self._accept(self)
        self._settle(None)

    def _limit_closing(self) -> None:
        if self._timer is None and self._transport is not None:
            self._timer = self._loop.call_later(self._options.close_timeout, self._never_ended)

    def _too_late(self) -> None:
        self._may_be_probe = False
        self._refuse(late_handshake(self.peer, self._options))
        self.abort()

    def _never_ended(self) -> None:
        self._fault = late_close(self._options)
        self.abort()

    def _give_up(self, error: Exception) -> None:
        self._log_bug(error)
        self._fault = error
        self.abort()

    def _log_bug(self, error: Exception) -> None:
        _log.error("internal error: the link to %s is given up", self.peer, exc_info=error)

    def _refuse(self, reason: MBError | None) -> None:
        if self._listener is not None and not self.opened.done():
            probe = self._may_be_probe and nothing_came(self._wire, self._received)
            (self._options.refused or log_refusal)(self.peer, None if probe else reason)
        self._settle(refusal(self.peer, reason))

    def _settle(self, error: MBError | None) -> None:
        if not self.opened.done():
            self.opened.set_result(error)

    def _write_early(self) -> None:
        """Write before the turn ends, as much again as has left: a long turn takes few writes."""
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
        self._write_at = _EARLY if self._crowded else 1
        self._scheduled = self._crowded = False
        self._turn = 0
        if self._outbox:
            self._flush()
        if self.congested:
            self._relieve()

    def _relieve(self) -> None:
        if self.congested and not self._paused and self._turn < FLUSH_AT:
            self.congested = False
            if self._drained is not None:
                self._drained.set_result(None)
                self._drained = None

    def _feed_rest(self) -> None:
        """Give the Wire, which is about to end, all that there is."""
        transport = self._transport
        if self._outbox and self._open and transport is not None and not transport.is_closing():
            self._feed(math.inf)

    def _flush(self) -> None:
        """Write the Wire's own output, and messages for as long as the system takes them all."""
        transport = self._transport
        if transport is None:
            return
        try:
            while self._outbox and self._open and not self._paused:
                messages = self._feed()
                transport.write(self._wire.data_to_send())
                if transport.is_closing():
                    # Nothing was before it, so it was tried at once, and refused whole.
                    self._put_back(messages)
                    self._open = False
                    return
                if not self._outbox:
                    return
            data = self._wire.data_to_send()
            if data and not transport.is_closing():
                if self._paused:
                    self._waited += len(data)
                    self._own += len(data)
                transport.write(data)
        except Exception as error:
            self._give_up(error)


class _Listener:
    """Accepts streams itself: the loop's own server logs a traceback for each that it can't."""

    def __init__(
        self,
        sockets: list[socket.socket],
        make: Callable[[_Listener], _StreamLink],
        max_handshakes: int,
    ) -> None:
        self.address = listening_address(sockets[0])
        self.handshakes: Handshakes[_StreamLink] = Handshakes(max_handshakes)
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._sockets = sockets
        self._shortage = Shortage(self.address)
        self._opening: dict[asyncio.Task[None], socket.socket] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        for sock in self._sockets:
            try:
                self._loop.add_reader(sock, self._accept, sock)
            except NotImplementedError:  # Windows' usual loop, whose files do not run out so soon
                # In two steps: a server that is cancelled while it starts is nobody's to close.
                server = await self._loop.create_server(
                    lambda: self._make(self), sock=sock, backlog=BACKLOG, start_serving=False
                )
                self._servers.append(server)
                await server.start_serving()

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True  # some may have been accepted of which we have not heard yet
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            if not self._servers:
                self._loop.remove_reader(sock)
            sock.close()
        for link in self.handshakes:
            link.abort()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS):
            try:
                stream, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._shortage.tell(error, self._loop.time())
                self._loop.remove_reader(sock)
                self._loop.call_later(ACCEPT_PAUSE, self._accept_again, sock)
                return
            stream.setblocking(False)
            task = self._loop.create_task(self._open(stream))
            self._opening[task] = stream
            task.add_done_callback(self._opened)

    def _accept_again(self, sock: socket.socket) -> None:
        if not self.closed:
            self._loop.add_reader(sock, self._accept, sock)

    async def _open(self, stream: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self._make(self), stream)
        except Exception as error:
            stream.close()
            _log.error("internal error: a connection can't be accepted", exc_info=error)

    def _opened(self, task: asyncio.Task[None]) -> None:
        stream = self._opening.pop(task)
        if task.cancelled():  # with the loop, perhaps before it began
            stream.close()


class AsyncioBackend:
    """The Backend of asyncio."""

    name = "asyncio"

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.running = asyncio._get_running_loop
        self._starting: asyncio.Future[None] | None = None  # the last task that starts another

    def waiter(self) -> Waiter:
        return asyncio.get_running_loop().create_future()

    def poster(self) -> Poster:
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        born_in = process()

        def post(function: Callable[[], None]) -> bool:
            try:
                if threading.get_ident() == thread:
                    loop.call_soon(function)
                elif process() is born_in:
                    loop.call_soon_threadsafe(function)
                else:
                    return False  # its thread is not in this process
            except RuntimeError:  # the loop is closed
                return False
            return True

        return post

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def spawn_root(self, function: Callable[[], Coroutine[Any, Any, None]]) -> object:
        return asyncio.ensure_future(function())

    def start_in(self, group: TaskGroup, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        if asyncio.current_task() is not None:
            group.start_soon(function)
            return

        # anyio knows the event loop by the task that runs, unless anyio.run() has begun it.
        async def start() -> None:
            if not group.cancel_scope.cancel_called:
                with contextlib.suppress(RuntimeError):  # it has ended
                    group.start_soon(function)

        self._starting = asyncio.ensure_future(start())

    async def connect(
        self,
        address: Address | SocketAddress,
        wire: Wire,
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Link:
        loop = asyncio.get_running_loop()
        link = _StreamLink(dialled_wire(wire, address, options), accept, options)
        try:
            if isinstance(address, SocketAddress):
                await loop.create_connection(lambda: link, sock=await _connected(address))
            elif _is_numeric(address[0]):
                await loop.create_connection(lambda: link, *address)
            else:
                await loop.create_connection(lambda: link, sock=await _first_connected(address))
            reason = await link.opened
        except (OSError, UnicodeError) as error:
            raise connect_error(address, error) from error
        except BaseException:
            link.abort()
            # uvloop doesn't tell the protocol if it was cancelled right behind connection_made.
            loop.call_soon(link.connection_lost, None)
            raise
        if reason is not None:
            raise reason
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

        def make(listener: _Listener) -> _StreamLink:
            return _StreamLink(make_wire(), accept, options, listener)

        sockets = await listening_sockets(address)
        listener = _Listener(sockets, make, options.max_handshakes)
        try:
            await listener.start()
        except BaseException:
            await listener.close()
            raise
        return listener


async def _connected(address: SocketAddress) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address.address)
        # A Unix socket whose queue is full refuses with EAGAIN, which asyncio takes for progress.
        sock.getpeername()
    except BaseException:
        sock.close()
        raise
    return sock


def _is_numeric(host: str) -> bool:
    """Whether there is nothing to look up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError):
            socket.inet_pton(family, host)
            return True
    return False


async def _first_connected(address: Address) -> socket.socket:
    """A socket that is connected to whichever address of a host answers first.

    Each is tried when the one before has failed, or has not answered for a little while (happy
    eyeballs).  The loop's own way leaves a socket open when it is cancelled as it connects, and
    uvloop has none.  Raises the error of the first address; when cancelled, nothing is left.
    """
    loop = asyncio.get_running_loop()
    host, port = address
    targets = _by_turns(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    connected: list[socket.socket] = []
    failures: list[OSError] = []

    async def attempt(failed: anyio.Event, family: int, target: Any) -> None:
        try:
            connected.append(await _connected(SocketAddress(family, target)))
            tasks.cancel_scope.cancel()
        except OSError as error:
            failures.append(error)
            failed.set()

    try:
        async with anyio.create_task_group() as tasks:
            for family, _, _, _, target in targets:
                failed = anyio.Event()
                tasks.start_soon(attempt, failed, family, target)
                with anyio.move_on_after(_NEXT_ADDRESS):
                    await failed.wait()
        if not connected:
            raise failures[0] if failures else OSError("it has no address")
    except BaseException:
        for sock in connected:
            sock.close()
        raise
    for late in connected[1:]:
        late.close()
    return connected[0]


def _by_turns(found: list[_Found]) -> list[_Found]:
    """Addresses with their families in turn: where one does not work, none of it does."""
    families: dict[int, list[_Found]] = {}
    for each in found:
        families.setdefault(each[0], []).append(each)
    turns = itertools.zip_longest(*families.values())
    return [each for turn in turns for each in turn if each is not None]
