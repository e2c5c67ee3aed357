"""One direction of a proxied connection, and what happens to the bytes in it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from enum import Enum

import msgspec
from msgspec.structs import replace

__all__ = ["HALF_OPEN", "NORMAL", "STALLED", "Conditions", "Flow", "Pipe"]

_READ_AT_ONCE = 64 * 1024
# Chunks that wait for their time; with more, nothing is read.
_QUEUED = 64


class Flow(Enum):
    """What happens to bytes."""

    PASS = "they go through"
    STALL = "they are neither read nor passed on, and wait"
    DISCARD = "they are read and thrown away; neither end nor reset is passed on"


class Conditions(msgspec.Struct, frozen=True):
    """What happens to the bytes in one direction.

    Attributes:
        flow: Whether bytes are forwarded, held or discarded.
        delay: Delay in milliseconds. The order is kept.
        chunk: The most bytes to forward at once; None for no limit.
        swap: Whether to swap the two halves of what was read at once.
        cut_after: After how many more bytes the connection is reset on both sides; None for never.
    """

    flow: Flow = Flow.PASS
    delay: int = 0
    chunk: int | None = None
    swap: bool = False
    cut_after: int | None = None


NORMAL = Conditions()
"""Bytes go through."""
STALLED = Conditions(Flow.STALL)
"""Bytes are neither read nor forwarded, and wait."""
HALF_OPEN = Conditions(Flow.DISCARD)
"""Bytes are read and discarded; neither an end nor a reset is forwarded."""


class Pipe:
    """Moves bytes from one socket to another until their end, on one event loop.

    A pipe that has begun to discard bytes never passes anything on again, whatever its conditions.
    """

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        conditions: Conditions,
        *,
        received: Callable[[int], None],
        forwarded: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._target = target
        self._received = received
        self._forwarded = forwarded
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)
        self._writing = asyncio.Lock()
        self._moving = asyncio.Event()
        self._conditions = NORMAL
        self._left: int | None = None
        self.change(conditions)

    def change(self, conditions: Conditions) -> None:
        """Set the conditions from now on."""
        if self._conditions.flow is Flow.DISCARD:
            conditions = replace(conditions, flow=Flow.DISCARD)
        self._conditions = conditions
        self._left = conditions.cut_after
        if conditions.flow is Flow.STALL:
            self._moving.clear()
        else:
            self._moving.set()

    async def run(self) -> None:
        """Move bytes until the source is closed cleanly.

        Raises an ExceptionGroup of OSErrors where either side is reset, or is to be reset.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._write())

    async def inject(self, data: bytes) -> None:
        """Put `data` into the stream where it is now."""
        async with self._writing:
            await self._loop.sock_sendall(self._target, data)

    async def _read(self) -> None:
        while True:
            await self._moving.wait()
            try:
                data = await self._loop.sock_recv(self._source, _READ_AT_ONCE)
            except OSError:
                await self._keep_quiet_if_discarding()
                raise
            await self._moving.wait()
            self._received(len(data))
            if self._conditions.flow is not Flow.DISCARD:
                due = self._loop.time() + self._conditions.delay / 1000
                await self._queue.put((due, _swapped(data) if self._conditions.swap else data))
            if not data:
                await self._keep_quiet_if_discarding()
                return

    async def _write(self) -> None:
        while True:
            due, data = await self._queue.get()
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                await self._moving.wait()
                await self._keep_quiet_if_discarding()
                self._target.shutdown(socket.SHUT_WR)
                return
            for piece in self._pieces(data):
                await self._moving.wait()
                if self._conditions.flow is Flow.DISCARD:
                    break
                await self._pass_on(piece)
                if self._conditions.chunk is not None:
                    await asyncio.sleep(0)

    async def _pass_on(self, piece: bytes) -> None:
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        async with self._writing:
            await self._loop.sock_sendall(self._target, piece)
        self._forwarded(len(piece))
        if self._left == 0:
            raise ConnectionResetError("its bytes are used up")

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        position = 0
        while position < len(data):
            # Looked at for each piece: the conditions may change in the middle.
            end = position + (self._conditions.chunk or len(data))
            yield data[position:end]
            position = end

    async def _keep_quiet_if_discarding(self) -> None:
        if self._conditions.flow is Flow.DISCARD:
            await asyncio.get_running_loop().create_future()


def _swapped(data: bytes) -> bytes:
    half = len(data) // 2
    return data[half:] + data[:half]
