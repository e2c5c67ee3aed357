"""The event loop that the clients of a process share, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ParamSpec, Protocol, TypeVar

from mb_core.errors import ConnectionLost, LocalProtocolError

from .pool import HandlerPool

__all__ = ["LoopThread", "loop_for"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("mb_sync")


class User(Protocol):
    """Who uses the loop, until it is closed."""

    def close(self) -> None: ...


class LoopThread:
    """An event loop that runs in a daemon thread as long as somebody uses it.

    So heartbeats and reconnecting go on while the program computes, and Ctrl-C, which Python
    raises in the main thread, never strikes what keeps the connections.
    """

    def __init__(self) -> None:
        self.users: set[User] = set()
        self.pool = HandlerPool(self.post)
        # Whether this is a copy in a forked process, where the thread does not run.
        self.forked = False
        self._ended = False
        # Reentrant, because the garbage collector may end a Subscription while it is held.
        self._gate = threading.RLock()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="mb_sync", daemon=True
        )
        self._thread.start()
        started.wait()

    def check(self) -> None:
        """Raises LocalProtocolError where the caller can't wait for this loop."""
        if self.forked:
            raise LocalProtocolError(
                "this client was connected in the process that this one was forked from: its "
                "connection can't be shared; make a new client here, or fork before connecting"
            )
        if threading.get_ident() == self._thread.ident:
            raise LocalProtocolError(
                "a blocking client was called in the thread of its own event loop, which would "
                "wait for itself: hooks of plugins are called there"
            )

    def post(self, function: Callable[[], object]) -> bool:
        """Have `function` called soon in the loop, with the context variables of the caller.

        In the order in which it was asked for.  False where the loop has ended.
        """
        with self._gate:
            if self._ended or self.forked:
                return False
            self._loop.call_soon_threadsafe(function)
            return True

    def submit(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T] | None:
        """Start a coroutine function in the loop; None where that has ended."""
        with self._gate:
            if self._ended:
                return None
            return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), self._loop)

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the loop, and wait for it.

        Raises what that raises.  When interrupted, it is cancelled, and not waited for.
        """
        future = self.submit(function, *args, **kwargs)
        if future is None:
            return _run_to_its_error(function(*args, **kwargs))
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def release(self, user: User) -> None:
        """`user` is closed; the loop ends with the last of them."""
        global _current
        with _lock:
            self.users.discard(user)
            if not self.users and not self._ended:
                with self._gate:
                    self._ended = True
                self._loop.call_soon_threadsafe(self._stop.set)
                if _current is self:
                    _current = None

    def join(self) -> None:
        """Where nobody uses this loop any more, wait a moment for its end."""
        if not self.users:
            self._thread.join(1.0)

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        await self._stop.wait()
        await asyncio.sleep(0)  # what was posted before the end has been called when this returns
        self.pool.close()


def _run_to_its_error(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a client that is closed has to say needs no loop to run."""
    try:
        with contextlib.closing(coroutine):
            while coroutine.send(None) is None:
                pass  # it has only given the loop a turn
    except StopIteration as done:
        result: T = done.value
        return result
    raise ConnectionLost("the client was closed", sent=False)


# The loop of this process, as long as it is used, and those that may still be ending.
_current: LoopThread | None = None
_all: weakref.WeakSet[LoopThread] = weakref.WeakSet()
_lock = threading.Lock()


def loop_for(user: User) -> LoopThread:
    """The loop of this process, to be released when `user` is closed."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
            _all.add(_current)
        _current.users.add(user)
        return _current


def _close_all() -> None:
    """The program ends: what it has published goes out, and brokers hear of it."""
    for loop in list(_all):
        for user in list(loop.users):
            try:
                user.close()
            except Exception:
                _log.exception("a client could not be closed at exit")


def _forget() -> None:
    """In a forked process there is no thread but the one that has forked."""
    global _current, _lock
    _current = None
    _lock = threading.Lock()
    for loop in list(_all):
        loop.forked = True
        loop.users.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
