"""Links on trio: a reader task and a writer task for each connection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio

from ..errors import ConnectError, ConnectionLost, MBError
from ..wire import Wire, WireState
from .contract import (
    FLUSH_AT,
    Accept,
    Address,
    Link,
    LinkHandler,
    Listener,
    Poster,
    Spawn,
    StreamOptions,
    Waiter,
)
from .streams import bind, closed_error, connect_error, peer_name

__all__ = ["TrioBackend"]

_log = logging.getLogger("mb_core.link")

_STREAM_FAULTS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class _StreamLink:
    """A Link over a trio stream, driving one Wire."""

    def __init__(
        self,
        wire: Wire,
        accept: Accept,
        tcp: trio.SocketStream,
        stream: trio.abc.Stream,
        options: StreamOptions,
        *,
        accepted: bool,
    ) -> None:
        self._wire = wire
        self._accept = accept
        self._tcp = tcp
        self._stream = stream  # the same, or TLS over it
        self._options = options
        self._accepted = accepted
        self._handler: LinkHandler | None = None
        self._queued = 0
        self._open = False
        self._ended = False  # the other side's half of the stream
        self._has_output = trio.Event()
        self._written = trio.Event()
        self._opened = trio.Event()
        self._closed = trio.Event()
        self._scope = trio.CancelScope()
        self._refusal: MBError | None = None
        self.peer = peer_name(tcp.socket)

    # The Link

    @property
    def congested(self) -> bool:
        return self._queued >= FLUSH_AT

    def send(self, message: bytes) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += self._wire.send(message)
        self._has_output.set()

    def send_many(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    async def drain(self) -> None:
        while self.congested and self._open:
            await self._written.wait()

    def close(self, reason: str = "") -> None:
        self._wire.close(reason)
        self._after_wire()

    def abort(self) -> None:
        self._open = False
        self._scope.cancel()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    # Its tasks

    async def run(self) -> None:
        """Read and write until the connection ends."""
        error: BaseException | None = None
        self._scope.deadline = trio.current_time() + self._options.handshake_timeout
        try:
            with self._scope:
                # The writer ends last: when it has written all that there will be.
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    await self._write()
                    nursery.cancel_scope.cancel()
                await self._linger()
            if self._scope.cancelled_caught and self._handler is None and not self._wire.error:
                seconds = self._options.handshake_timeout
                self._refusal = ConnectError(
                    f"{self.peer} did not complete its handshake in {seconds:g} s"
                )
        except _STREAM_FAULTS as fault:
            error = fault.__cause__ or fault
        except BaseExceptionGroup as group:
            error = self._sort_out(group)
        finally:
            try:
                # Nothing is owed to the other side any more: the farewell, if any, is written.
                await trio.aclose_forcefully(self._stream)
            finally:
                self._lost(error)

    async def opened(self) -> None:
        """Wait for the handshake; raises ConnectError where it failed."""
        await self._opened.wait()
        if self._refusal is not None:
            raise self._refusal

    async def _read(self) -> None:
        self._after_wire()
        while self._wire.state is not WireState.CLOSED:
            data = await self._stream.receive_some()
            if not data:
                self._ended = True
                self._wire.receive_eof()
                self._after_wire()
                # What is left to write goes out; then the connection is over.
                self._wire.close()
                self._after_wire()
                return
            messages = self._wire.receive_data(bytes(data))
            if self._handler is None:
                self._after_wire()
            if messages and self._handler is not None:
                self._handler.messages_received(messages)
            self._after_wire()

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output = trio.Event()
            while data := self._wire.data_to_send():
                await self._stream.send_all(data)
            self._queued = 0
            self._written.set()
            self._written = trio.Event()
            if self._wire.state is WireState.CLOSED:
                return

    async def _linger(self) -> None:
        """Close our half of the stream, and wait until the other side has closed its own.

        Closing with input unread would reset the connection: the other side might not read what
        it was sent, nor why it was refused.
        """
        owes_nothing = self._handler is None and not self._accepted
        if not self._ended and not owes_nothing:
            await self._tcp.send_eof()
            while await self._tcp.receive_some():
                pass

    def _sort_out(self, group: BaseExceptionGroup[BaseException]) -> BaseException | None:
        """The reason to give for the end of the tasks; raises what is no error (cancellation)."""
        faults, rest = group.split(_STREAM_FAULTS)
        bugs, rest = rest.split(Exception) if rest is not None else (None, None)
        if bugs is not None:
            _log.error("internal error: the link to %s is given up", self.peer, exc_info=bugs)
        if rest is not None:
            raise rest from None
        reason: BaseException | None = faults or bugs
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        return (reason.__cause__ or reason) if reason is not None else None

    def _after_wire(self) -> None:
        """What is due after every call of the Wire: output, and the changes of its state."""
        state = self._wire.state
        if state is WireState.OPEN:
            if self._handler is None:
                self._scope.deadline = float("inf")
                self._open = True
                self._handler = self._accept(self)
                self._opened.set()
        elif state is not WireState.HANDSHAKE and (self._open or self._handler is None):
            self._open = False
            self._scope.deadline = trio.current_time() + self._options.close_timeout
        self._has_output.set()

    def _lost(self, error: BaseException | None) -> None:
        self._open = False
        self._wire.receive_eof()
        self._written.set()
        reason = closed_error(self.peer, self._wire, error)
        if self._handler is not None:
            self._handler.link_lost(reason)
        elif self._refusal is None:
            text = reason or f"{self.peer} closed the connection during the handshake"
            self._refusal = reason if isinstance(reason, ConnectError) else ConnectError(str(text))
        self._opened.set()
        self._closed.set()

    @property
    def refusal(self) -> MBError | None:
        return self._refusal


class _Listener:
    def __init__(self, scope: trio.CancelScope, address: Address) -> None:
        self._scope = scope
        self.address = address

    async def close(self) -> None:
        self._scope.cancel()


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

    def waiter(self) -> Waiter:
        return _TrioWaiter()

    def poster(self) -> Poster:
        token = trio.lowlevel.current_trio_token()

        def post(function: Callable[[], None]) -> bool:
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

    async def connect(
        self, address: Address, wire: Wire, accept: Accept, *, options: StreamOptions, spawn: Spawn
    ) -> Link:
        secure = options.ssl_context is not None
        try:
            tcp = await trio.open_tcp_stream(*address)
        except OSError as error:
            raise connect_error(address, _first_of(error), secure=secure) from error
        stream: trio.abc.Stream = tcp
        try:
            if options.ssl_context is not None:
                stream = trio.SSLStream(
                    tcp,
                    options.ssl_context,
                    server_hostname=options.server_hostname,
                    https_compatible=True,
                )
                await stream.do_handshake()
        except BaseException as error:
            await trio.aclose_forcefully(tcp)
            if isinstance(error, _STREAM_FAULTS):
                raise connect_error(address, error.__cause__ or error, secure=secure) from error
            raise
        link = _StreamLink(wire, accept, tcp, stream, options, accepted=False)
        spawn(link.run)
        try:
            await link.opened()
        except BaseException:
            link.abort()
            raise
        return link

    async def listen(
        self,
        address: Address,
        wire: Callable[[], Wire],
        accept: Accept,
        *,
        options: StreamOptions,
        spawn: Spawn,
    ) -> Listener:
        sockets = await bind(address)
        scope = trio.CancelScope()

        async def serve_stream(tcp: trio.SocketStream) -> None:
            stream: trio.abc.Stream = tcp
            if options.ssl_context is not None:
                stream = trio.SSLStream(
                    tcp, options.ssl_context, server_side=True, https_compatible=True
                )
            link = _StreamLink(wire(), accept, tcp, stream, options, accepted=True)
            await link.run()
            if link.refusal is not None:
                _log.warning("connection from %s refused: %s", link.peer, link.refusal)

        async def serve() -> None:
            async with trio.open_nursery() as connections:
                with scope:
                    listeners = [
                        trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                        for sock in sockets
                    ]
                    await trio.serve_listeners(serve_stream, listeners, handler_nursery=connections)

        spawn(serve)
        name = sockets[0].getsockname()
        return _Listener(scope, (name[0], name[1]))


def _first_of(error: OSError) -> BaseException:
    """The first error where trio has joined those of several addresses into a group."""
    cause = error.__cause__
    return cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else error
