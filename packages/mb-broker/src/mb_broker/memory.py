"""memory://NAME: Links within one process, between threads and event loops if need be."""

from __future__ import annotations

import itertools
from collections import deque

import anyio

from mb_core.errors import ConnectError, ConnectionLost, MBError, MessageTooLarge
from mb_core.link import FLUSH_AT, Accept, Backend, Link, LinkHandler, Listener, Poster
from mb_core.url import URL
from mb_core.wire import Limits

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """A LinkTransport whose addresses are names in this process."""

    scheme = "memory"

    def __init__(self) -> None:
        self._listeners: dict[str, _MemoryListener] = {}
        self._names = itertools.count(1)

    async def connect(self, url: URL, accept: Accept, *, backend: Backend, limits: Limits) -> Link:
        listener = self._listeners.get(url.host)
        if listener is None:
            known = ", ".join(f"memory://{name}" for name in self._listeners) or "none"
            raise ConnectError(f"no broker in this process listens at {url} (there: {known})")
        near = _MemoryLink(backend.poster(), limits, str(url))
        far = _MemoryLink(listener.post, listener.limits, f"client of {url}")
        near.other, far.other = far, near
        near.be_open(accept)
        if not listener.post(lambda: far.be_open(listener.accept)):
            raise ConnectError(f"the broker at {url} has ended")
        return near

    async def listen(
        self, url: URL, accept: Accept, *, backend: Backend, limits: Limits
    ) -> Listener:
        """Listen at the URL's name, or at a new one where it has none."""
        name = url.host or f"broker{next(self._names)}"
        if name in self._listeners:
            raise ConnectError(f"can't listen on memory://{name}: another broker does")
        listener = _MemoryListener(self, name, accept, backend.poster(), limits)
        self._listeners[name] = listener
        return listener

    def forget(self, name: str) -> None:
        self._listeners.pop(name, None)


class _MemoryListener:
    def __init__(
        self,
        transport: MemoryTransport,
        name: str,
        accept: Accept,
        post: Poster,
        limits: Limits,
    ) -> None:
        self.address = (name, 0)
        self.accept = accept
        self.post = post
        self.limits = limits
        self._transport = transport

    async def close(self) -> None:
        self._transport.forget(self.address[0])


class _MemoryLink:
    """One end.  Its methods run in its own thread, but for `other` reading its output.

    Messages lie in `output`, from which the other end takes them in its own thread; a None
    behind them is the farewell.
    """

    other: _MemoryLink

    def __init__(self, post: Poster, limits: Limits, peer: str) -> None:
        self.peer = peer
        self.congested = False
        self.output: deque[bytes | None] = deque()
        self.post = post
        # Whether the other end has been told that there is output.  It resets this before it
        # looks, so what is added while it looks is announced again.
        self.announced = False
        self._limits = limits
        self._queued = 0
        self._open = False
        self._handler: LinkHandler | None = None
        self._relieved = anyio.Event()
        self._closed = anyio.Event()

    def be_open(self, accept: Accept) -> None:
        self._open = True
        self._handler = accept(self)

    # The Link

    def send(self, message: bytes) -> None:
        if not self._open:
            raise ConnectionLost(f"the connection to {self.peer} is closed", sent=False)
        self._queued += len(message)
        self.congested = self._queued >= FLUSH_AT
        self._put(message)

    def send_many(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    async def drain(self) -> None:
        while self.congested and self._open:
            await self._relieved.wait()

    def close(self, reason: str = "") -> None:
        if self._open:
            self._open = False
            self._put(None)
            self.post(lambda: self._lose(None))

    def abort(self) -> None:
        self.close()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    # Between the ends

    def _put(self, item: bytes | None) -> None:
        self.output.append(item)
        if not self.announced:
            self.announced = True
            if not self.other.post(self.other.take):
                self._lose(ConnectionLost(f"{self.peer} has ended", sent=True))

    def take(self) -> None:
        """Receive what the other end has sent."""
        other = self.other
        other.announced = False
        messages: list[bytes] = []
        ended = False
        error: MBError | None = None
        while other.output and not ended:
            item = other.output.popleft()
            if item is None:
                ended = True
            elif len(item) > self._limits.max_message:
                ended, error = True, _too_large(len(item), self._limits.max_message)
            else:
                messages.append(item)
        taken = sum(map(len, messages))
        if taken:
            other.post(lambda: other.relieve(taken))
        if messages and self._handler is not None and not self._closed.is_set():
            self._handler.messages_received(messages)
        if ended:
            self.close()
            self._lose(error)

    def relieve(self, taken: int) -> None:
        self._queued -= taken
        if self.congested and self._queued < FLUSH_AT:
            self.congested = False
            self._relieved.set()
            self._relieved = anyio.Event()

    def _lose(self, error: MBError | None) -> None:
        self._open = False
        if not self._closed.is_set():
            self._closed.set()
            self._relieved.set()
            if self._handler is not None:
                self._handler.link_lost(error)


def _too_large(size: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"a message of {size} bytes came, the limit is {limit}", size=size, limit=limit
    )
