"""What the core needs from asyncio: dialled and accepted streams, waiters, root tasks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskGroup

from ..wire import Wire
from .asyncio_link import AsyncioLink
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

__all__ = ["AsyncioBackend"]

_Found = tuple[Any, ...]  # an address from getaddrinfo

# Seconds after which the next address of a host is tried in parallel, as on trio.
_NEXT_ADDRESS = 0.25


class AsyncioBackend:
    """The Backend of asyncio."""

    name = "asyncio"

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.running = asyncio._get_running_loop
        self._starting: asyncio.Future[None] | None = None  # the last task that started another one

    def waiter(self) -> Waiter:
        return asyncio.get_running_loop().create_future()

    def poster(self) -> Poster:
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        born_in = process_token()

        def post(function: Callable[[], None]) -> bool:
            try:
                if threading.get_ident() == thread:
                    loop.call_soon(function)
                elif process_token() is born_in:
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

        # anyio detects the event loop by the running task, unless anyio.run() started it.
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
        link = AsyncioLink(dialled_wire(wire, address, options), accept, options)
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
        handshakes = Handshakes(options.max_handshakes)

        def make() -> AsyncioLink:
            return AsyncioLink(make_wire(), accept, options, handshakes)

        async def serve(stream: socket.socket) -> None:
            await asyncio.get_running_loop().connect_accepted_socket(make, stream)

        listener = StreamListener(await listening_sockets(address), handshakes, serve)
        listener.start(spawn)
        return listener


async def _connected(address: SocketAddress) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address.address)
        # A Unix socket whose queue is full fails with EAGAIN, which asyncio treats as progress.
        sock.getpeername()
    except BaseException:
        sock.close()
        raise
    return sock


def _is_numeric(host: str) -> bool:
    """Return whether there is nothing to look up."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, UnicodeError):
            socket.inet_pton(family, host)
            return True
    return False


async def _first_connected(address: Address) -> socket.socket:
    """Return a socket that is connected to the address of a host that answers first.

    Each is tried when the previous one has failed, or has not answered for a short while (happy
    eyeballs). The loop's own implementation leaves a socket open when cancelled while connecting,
    and uvloop has none. Raises the error of the first address; when cancelled, nothing is left.
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
    """Return addresses with alternating families: if a family does not work, all its addresses
    fail."""
    families: dict[int, list[_Found]] = {}
    for each in found:
        families.setdefault(each[0], []).append(each)
    turns = itertools.zip_longest(*families.values())
    return [each for turn in turns for each in turn if each is not None]
