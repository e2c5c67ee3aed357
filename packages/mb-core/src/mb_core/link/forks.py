"""Bind a connection to one event loop and one process: errors elsewhere, safety after forks."""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Protocol

from ..errors import LocalProtocolError
from .contract import Backend

__all__ = ["Home", "forked_error", "process_token", "protect_from_forks"]


class _File(Protocol):
    def fileno(self) -> int:
        """The descriptor, or -1 if it is closed."""
        ...


class Home:
    """The event loop and process in which something was connected and may be used.

    For each message, the caller compares `running()` with `loop` and raises `error` if they differ:
    that is cheaper than a call.
    """

    __slots__ = ("__weakref__", "loop", "running")

    def __init__(self, backend: Backend) -> None:
        self.running = backend.running
        self.loop = backend.running()
        _homes.add(self)

    @property
    def forked(self) -> bool:
        """Return whether this process is a fork of the one that created this."""
        return self.loop is _FORKED

    def check(self, what: str = "client") -> None:
        """Raise `error` if the caller is on another loop or in another process."""
        if self.running() is not self.loop:
            raise self.error(what)

    def error(self, what: str = "client") -> LocalProtocolError:
        """Return the error for using `what` from the caller's loop or process."""
        if self.forked:
            return forked_error(what)
        return LocalProtocolError(
            f"this {what} belongs to another event loop: use it on the one on which it was "
            "connected (from other threads with asyncio.run_coroutine_threadsafe or "
            "trio.from_thread.run), or connect another one here"
        )


def forked_error(what: str = "client") -> LocalProtocolError:
    """Return the error for using `what` in a forked process."""
    return LocalProtocolError(
        f"this {what} belongs to the parent process, and can't be used after a fork: "
        f"create a new {what} here, or fork before it connects"
    )


def protect_from_forks(file: _File) -> None:
    """Keep forked processes away from a socket of this one.

    In a forked process its descriptor is replaced by a socket whose peer is closed.  So nothing
    that runs there, not even the garbage collector or the interpreter's shutdown, writes to this
    process's peer, reads what was meant for this process, changes what its event loop waits for
    (which the fork shares), or keeps the connection open once this process has closed it.
    """
    _guarded.add(file)


def process_token() -> object:
    """Return an object that identifies this process; a fork gets a different one."""
    return _process


_FORKED = object()
_process = object()
_homes: weakref.WeakSet[Home] = weakref.WeakSet()
_guarded: weakref.WeakSet[_File] = weakref.WeakSet()


def _after_fork() -> None:
    global _process
    _process = object()
    for home in list(_homes):
        home.loop = _FORKED
    _homes.clear()
    descriptors = [descriptor for file in list(_guarded) if (descriptor := file.fileno()) >= 0]
    _guarded.clear()
    if descriptors:
        # Without a free descriptor, they can't be replaced; the checks still work.
        with contextlib.suppress(OSError):
            dead, other = socket.socketpair()
            other.close()
            dead.setblocking(False)
            for descriptor in descriptors:
                os.dup2(dead.fileno(), descriptor, inheritable=False)
            dead.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
