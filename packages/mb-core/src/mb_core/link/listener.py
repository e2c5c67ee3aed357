"""Accept streams on any event loop."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .contract import Spawn
from .sockets import address_text, listening_address, system_error
from .stream_link import Handshakes

__all__ = ["StreamListener"]

_log = logging.getLogger("mb_core.link")

# The most streams that are accepted in one turn of the loop.
_ACCEPTS = 64
# Seconds until the next attempt after the system refused to accept a stream.
_PAUSE = 0.2
# Seconds between two log entries about that.
_LOG_AGAIN = 1.0


class StreamListener:
    """Accepts streams on `sockets`, and runs `serve` for each, until it is closed.

    The event loops' own servers would log a traceback for each stream that the system refuses.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        handshakes: Handshakes,
        serve: Callable[[socket.socket], Coroutine[Any, Any, object]],
    ) -> None:
        self.address = listening_address(sockets[0])
        self._sockets = sockets
        self._handshakes = handshakes
        self._serve = serve
        self._logged_at = -math.inf
        self._scope = anyio.CancelScope()
        self._closed = anyio.Event()

    def start(self, spawn: Spawn) -> None:
        try:
            spawn(self._run)
        except BaseException:
            self._close_sockets()
            raise

    async def close(self) -> None:
        self._handshakes.close()  # also the tasks of streams that are just being accepted
        self._scope.cancel()
        await self._closed.wait()

    async def _run(self) -> None:
        async with anyio.create_task_group() as streams:
            try:
                with self._scope:
                    async with anyio.create_task_group() as accepting:
                        for sock in self._sockets:
                            accepting.start_soon(self._accept, sock, streams)
            finally:
                self._close_sockets()
                self._closed.set()

    async def _accept(self, sock: socket.socket, streams: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(sock)
            try:
                for _ in range(_ACCEPTS):
                    stream, _ = sock.accept()
                    stream.setblocking(False)
                    streams.start_soon(self._open, stream)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                pass
            except OSError as error:
                self._log_refusal(error)
                await anyio.sleep(_PAUSE)

    async def _open(self, stream: socket.socket) -> None:
        try:
            await self._serve(stream)
        except BaseException as error:
            with contextlib.suppress(OSError):  # uvloop's transport may have closed it
                stream.close()
            if not isinstance(error, Exception):
                raise
            _log.error("internal error: a connection can't be accepted", exc_info=error)

    def _log_refusal(self, error: OSError) -> None:
        """Log, at most once a second, that the system refuses to accept streams."""
        now = anyio.current_time()
        if now - self._logged_at >= _LOG_AGAIN:
            self._logged_at = now
            where = address_text(self.address)
            _log.warning("can't accept connections on %s: %s", where, system_error(error))

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
