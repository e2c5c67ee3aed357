"""One connection of a client through the proxy, and the one that it leads to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from .pipe import Conditions, Pipe

__all__ = ["Cut", "Direction", "ProxiedConnection"]


class Direction(Enum):
    """A direction of a connection."""

    UP = "from the client to the server"
    DOWN = "from the server to the client"


class Cut(Enum):
    """How a connection is ended."""

    RESET = "at once, by a reset: data in transit is lost"
    ORDERLY = "by an end of file on both sides, after everything that was forwarded before"


class Count(Protocol):
    """Adds to the fields of ProxyStats that are given."""

    def __call__(self, **more: int) -> None: ...


class ProxiedConnection:
    """Both connections; used on the event loop of the proxy only."""

    def __init__(
        self, client: socket.socket, conditions: Callable[[Direction], Conditions], count: Count
    ) -> None:
        self.pipes: dict[Direction, Pipe] = {}
        self._conditions = {direction: conditions(direction) for direction in Direction}
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._sockets = [_ready(client)]
        self._asked = {how: self._loop.create_future() for how in Cut}
        self._done = {how: asyncio.Event() for how in Cut}

    async def run(self, address: tuple[str, int] | None) -> None:
        """Pass bytes until both sides have ended, one is reset, or it is cut."""
        passing = asyncio.create_task(self._pass(address))
        in_order = False
        try:
            await _any_of(passing, *self._asked.values())
            if passing.done():
                in_order = passing.result()
            elif self._asked[Cut.ORDERLY].done():
                await _end(passing)
                in_order = await self._close_in_order()
        finally:
            await _end(passing)
            for sock in self._sockets:
                if not in_order:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            for done in self._done.values():
                done.set()

    def change(self, direction: Direction, conditions: Conditions) -> None:
        """Set the conditions from now on, or for the beginning if that is still to come."""
        self._conditions[direction] = conditions
        if direction in self.pipes:
            self.pipes[direction].change(conditions)

    async def cut(self, how: Cut) -> None:
        """End it; return when both sides have been notified."""
        if not self._asked[how].done():
            self._asked[how].set_result(None)
        await self._done[how].wait()

    async def _pass(self, address: tuple[str, int] | None) -> bool:
        """Return whether both directions were closed cleanly."""
        if address is None:
            await self._loop.create_future()  # nothing happens until it is cut
            return False
        (client,) = self._sockets
        server = _ready(socket.socket())
        self._sockets.append(server)
        in_order = False
        with contextlib.suppress(OSError):
            await self._loop.sock_connect(server, address)
            for direction, source, target in (
                (Direction.UP, client, server),
                (Direction.DOWN, server, client),
            ):
                self.pipes[direction] = self._pipe(direction, source, target)
            try:
                async with asyncio.TaskGroup() as tasks:
                    for pipe in self.pipes.values():
                        tasks.create_task(pipe.run())
                in_order = True
            except* OSError:
                pass
        return in_order

    def _pipe(self, direction: Direction, source: socket.socket, target: socket.socket) -> Pipe:
        way = direction.name.lower()
        return Pipe(
            source,
            target,
            self._conditions[direction],
            received=lambda size: self._count(**{f"received_{way}": size}),
            forwarded=lambda size: self._count(**{f"forwarded_{way}": size}),
        )

    async def _close_in_order(self) -> bool:
        """End our half of both sides, and wait for theirs: a close with input unread is a reset.

        Return whether it finished before a reset was requested.
        """
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        self._done[Cut.ORDERLY].set()
        ends = asyncio.create_task(_read_to_ends(self._sockets))
        await _any_of(ends, self._asked[Cut.RESET])
        in_order = ends.done()
        await _end(ends)
        return in_order


async def _any_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _ready(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _read_to_ends(sockets: list[socket.socket]) -> None:
    async def read(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(sock, 64 * 1024):
                pass

    async with asyncio.TaskGroup() as tasks:
        for sock in sockets:
            tasks.create_task(read(sock))
