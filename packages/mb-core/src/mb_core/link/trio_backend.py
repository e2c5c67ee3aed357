"""What the core needs from trio: dialled and accepted streams, waiters, root tasks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio
from anyio.abc import TaskGroup

from ..wire import Wire
from .contract import (
    Accept,
    Address,
    Link,
    Listener,
    Poster,
    SocketAddress,
    Spawn,
    StreamOptions,
    Waiter,
)
from .forks import process_token
from .listener import StreamListener
from .sockets import connect_error, listening_sockets
from .stream_link import Handshakes
from .tls import dialled_wire, wire_factory
from .trio_link import TrioLink

__all__ = ["TrioBackend"]


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
        born_in = process_token()

        def post(function: Callable[[], None]) -> bool:
            if process_token() is not born_in:
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
        link = TrioLink(secured, accept, options, stream, _TrioWaiter)
        try:
            spawn(link.run)
        except BaseException:
            stream.socket.close()
            raise
        try:
            reason = await link.opened
        except BaseException:
            link.abort()
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
        handshakes = Handshakes(options.max_handshakes)

        async def serve(sock: socket.socket) -> None:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await TrioLink(make_wire(), accept, options, stream, _TrioWaiter, handshakes).run()

        listener = StreamListener(await listening_sockets(address), handshakes, serve)
        listener.start(spawn)
        return listener


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


async def _connected(address: SocketAddress) -> trio.SocketStream:
    sock = trio.socket.socket(address.family, socket.SOCK_STREAM)
    try:
        await sock.connect(address.address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _first_of(error: OSError | UnicodeError) -> BaseException:
    """Return the first error if trio has grouped those of several addresses."""
    cause = error.__cause__
    return cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else error
