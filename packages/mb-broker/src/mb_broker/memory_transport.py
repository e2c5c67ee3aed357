"""memory://NAME: Links within one process, also between threads and event loops."""

from __future__ import annotations

import itertools
import os
import threading
import weakref

from mb_core.errors import ConnectError
from mb_core.link import Accept, Backend, Link, Listener, Poster
from mb_core.link.memory import MemoryLink, log_bug, loop_poster
from mb_core.url import URL
from mb_core.wire import Limits

__all__ = ["MemoryTransport"]


class MemoryTransport:
    """A LinkTransport whose addresses are names in this process.

    It may be used from any thread: its table is the only thing that event loops share.
    """

    scheme = "memory"

    def __init__(self) -> None:
        self._listeners: dict[str, _MemoryListener] = {}
        self._names = itertools.count(1)
        self._changing = threading.Lock()
        _transports.add(self)

    def clear_after_fork(self) -> None:
        """Drop the listeners, which belong to the parent process."""
        self._changing = threading.Lock()  # another thread of the parent may have held the old lock
        self._listeners.clear()

    async def connect(self, url: URL, accept: Accept, *, backend: Backend, limits: Limits) -> Link:
        listener = self._listeners.get(url.host)
        if listener is None:
            known = ", ".join(f"memory://{name}" for name in list(self._listeners)) or "none"
            raise ConnectError(f"no broker in this process listens on {url} (listening: {known})")
        near = MemoryLink(loop_poster(backend), limits, str(url))
        far = MemoryLink(listener.post, listener.limits, f"client of {url}")
        near.other, far.other = far, near
        # Open the far end first, because `accept` may send something.
        if not listener.admit(far):
            self.remove(listener)
            raise ConnectError(f"the broker at {url} has ended")
        near.open(accept)
        return near

    async def listen(
        self, url: URL, accept: Accept, *, backend: Backend, limits: Limits
    ) -> Listener:
        """Listen on the URL's name, or on a new name if it has none.

        A listener whose event loop was closed loses its name.
        """
        names = (url.host,) if url.host else (f"broker{number}" for number in self._names)
        for name in names:
            listener = _MemoryListener(self, name, accept, loop_poster(backend), limits)
            with self._changing:
                rival = self._listeners.get(name)
                if rival is None or not rival.alive:
                    self._listeners[name] = listener
                    return listener
        raise ConnectError(f"can't listen on memory://{url.host}: another broker does")

    def remove(self, listener: _MemoryListener) -> None:
        name = listener.address[0]
        with self._changing:
            if self._listeners.get(name) is listener:
                del self._listeners[name]


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
        self.post = post
        self.limits = limits
        self._accept = accept
        self._transport = transport
        # Our ends of connections from clients in other threads; None when closed.
        self._arriving: set[MemoryLink] | None = set()
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether its event loop still runs. Can be called from any thread."""
        return self.post(lambda: None)

    def admit(self, link: MemoryLink) -> bool:
        """Schedule opening our end of a connection; return False if closed. Can be called from any
        thread."""
        with self._lock:
            if self._arriving is None:
                return False
            self._arriving.add(link)
        return self.post(lambda: self._open(link))

    def _open(self, link: MemoryLink) -> None:
        with self._lock:
            if self._arriving is None:
                return
            self._arriving.discard(link)
        try:
            link.open(self._accept)
        except Exception as bug:
            log_bug(link.peer, bug)

    async def close(self) -> None:
        self._transport.remove(self)
        with self._lock:
            arriving, self._arriving = self._arriving or (), None
        for link in arriving:
            link.refuse()


_transports: weakref.WeakSet[MemoryTransport] = weakref.WeakSet()


def _after_fork() -> None:
    for transport in list(_transports):
        transport.clear_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
