"""The event loop that the clients of a process share, in its own thread."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ParamSpec, Protocol, TypeVar

from mb_core.errors import ConnectError, ConnectionLost, LocalProtocolError
from mb_core.link import forked_error

from .handler_pool import HandlerPool
from .thread_waiter import ThreadWaiter

__all__ = ["STUCK", "LoopThread", "loop_for"]

_log = logging.getLogger("mb_sync")

P = ParamSpec("P")
T = TypeVar("T")

_EXIT_TIMEOUT = 1.0
"""Seconds that handlers have to finish if the program ends without closing its clients, and then
brokers to take more of what they are sent."""

_LOCK_TIMEOUT = 0.02
"""Seconds that the loop waits during shutdown for threads that are posting something."""

_CHECK_INTERVAL = 10.0
"""Seconds between the checks of a waiting thread whether the loop still runs."""
_RESPONSE_TIMEOUT = 5.0
"""Seconds within which a running loop responds."""

STUCK = (
    "the client's event loop does not run: it waits for something that this thread holds, such as "
    "the lock of a logging handler, in which only publish without confirm may be called"
)


class LoopUser(Protocol):
    """A user of the loop."""

    def close(self, *, drain: bool) -> Future[None] | None:
        """Start closing; the Future completes when it has finished; None if already closed."""
        ...

    def unsent(self) -> int:
        """Bytes that the operating system has not accepted yet."""
        ...

    def abort(self) -> None:
        """End the connection at once; called in the loop."""
        ...


class LoopThread:
    """An event loop that runs in a daemon thread as long as somebody uses it.

    So heartbeats and reconnecting continue while the program computes, and Ctrl-C, which Python
    raises in the main thread, does not interrupt the connections.

    `post_lock` is held by the thread that posts something; while another thread holds it, nothing
    is posted.  The loop itself does not rely on getting it: a signal handler may have interrupted
    its holder, and wait for the loop.
    """

    def __init__(self) -> None:
        self.users: set[LoopUser] = set()
        # Whether this is a copy in a forked process, where the thread does not run.
        self.forked = False
        self.post_lock = _post_lock
        self.pool = HandlerPool(self.post)
        self._ended = False
        _check_threads()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="mb_sync", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # Python starts no more threads
            self._loop.close()
            raise ConnectError(
                f"mb_sync needs a thread for its event loop, and Python starts none: {error} (at "
                "the end of a program, use a client that was connected before)"
            ) from error
        except BaseException:  # interrupted
            self._loop.call_soon_threadsafe(self._stop.set)
            raise

    def check(self) -> None:
        """Raise LocalProtocolError if the caller can't wait for this loop."""
        if self.forked:
            raise forked_error()
        if self.is_current():
            raise LocalProtocolError(
                "a blocking client was called in the thread of its own event loop, which would "
                "wait for itself: hooks of plugins and handlers of log records are called there, "
                "and may only publish, without confirm"
            )

    def post(self, function: Callable[[], object]) -> bool:
        """Have `function` called soon in the loop, with the context variables of the caller.

        Functions are called in the order of posting.  Returns False if the loop has ended.
        """
        if self.forked:
            return False
        if self.is_current():
            self._loop.call_soon(function)
            return True
        with self.post_lock:
            if self._ended:
                return False
            self._loop.call_soon_threadsafe(function)
            return True

    def submit(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T] | None:
        """Start a coroutine function in the loop; return None if the loop has ended."""
        with self.post_lock:
            if self._ended:
                return None
            return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), self._loop)

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the loop, and wait for it.

        Raises what that raises, ConnectionLost if the loop ends first, and LocalProtocolError if
        the loop does not run.  When interrupted, it is cancelled, and not waited for.
        """
        future = self.submit(function, *args, **kwargs)
        if future is None:
            return _run_closed(function(*args, **kwargs))
        try:
            return self.wait_for(future)
        except concurrent.futures.CancelledError:
            raise ConnectionLost("the client was closed meanwhile", sent=True) from None
        except BaseException:
            future.cancel()
            raise

    def call_function(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the loop, and wait for it, as `call` does."""
        return self.call(_as_coroutine(function), *args, **kwargs)

    def wait_for(self, future: Future[T]) -> T:
        """Wait for a Future of the loop, and return its result or raise its error.

        Ctrl-C ends the wait.  Raises LocalProtocolError if the loop does not run.
        """
        waiter = ThreadWaiter()
        future.add_done_callback(waiter.set_result)
        while not waiter.wait(_CHECK_INTERVAL):
            if not self.responds(_RESPONSE_TIMEOUT) and not future.done():
                raise LocalProtocolError(STUCK)
        return future.result()

    def release(self, user: LoopUser) -> None:
        """Remove a user that is closed; called in the loop, which ends with the last one."""
        self.users.discard(user)
        self._end_if_unused()

    def join(self) -> None:
        """If nobody uses this loop any more, wait a moment for its end."""
        if not self.users:
            self._thread.join(1.0)

    def is_current(self) -> bool:
        """Whether this is called in the loop's own thread."""
        # The idents of threads that have ended are given to others.
        return threading.get_ident() == self._thread.ident and not self._ended

    def responds(self, timeout: float) -> bool:
        """Whether the loop runs something within `timeout` seconds, or has ended."""
        waiter = ThreadWaiter()
        return not self.post(lambda: waiter.set_result(None)) or waiter.wait(timeout)

    def _end_if_unused(self) -> None:
        if not self.post_lock.acquire(timeout=_LOCK_TIMEOUT):
            self._loop.call_soon(self._end_if_unused)
            return
        try:
            if not self.users:
                self._mark_ended()
                self._stop.set()
        finally:
            self.post_lock.release()

    def _mark_ended(self) -> None:
        global _current
        self._ended = True
        if _current is self:
            _current = None

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                try:
                    runner.run(self._main())
                finally:
                    # If something broke out of the loop, closing the Runner still calls what was
                    # posted before this.
                    with self.post_lock:
                        self._mark_ended()
        finally:
            self.pool.close()
            self.pool.join()

    async def _main(self) -> None:
        self.pool.keep_one_thread()
        await self._stop.wait()
        await asyncio.sleep(0)  # what was posted before the end has been called when this returns


def _check_threads() -> None:
    """Raise LocalProtocolError if threads are greenlets in a system thread with a running loop.

    Loops in greenlets would disturb each other: asyncio stores the running loop by thread.
    """
    if asyncio._get_running_loop() is None:
        return
    gevent: Any = sys.modules.get("gevent.monkey")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("threading")) or (
        eventlet is not None and eventlet.is_monkey_patched("thread")
    ):
        raise LocalProtocolError(
            "an asyncio event loop is running, and threads are greenlets (gevent or eventlet has "
            "patched them), so mb_sync can't run its own loop as well: connect before that, or use "
            "mb_core's async client on that loop"
        )


def _as_coroutine(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    return run


def _run_closed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a closed client, which raises an error without a loop."""
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
_loops: weakref.WeakSet[LoopThread] = weakref.WeakSet()
# Reentrant, because the garbage collector may end a Subscription while it is held, and a signal
# handler may do anything.
_post_lock = threading.RLock()


def loop_for(user: LoopUser) -> LoopThread:
    """Return the loop of this process, to be released when `user` is closed."""
    global _current
    with _post_lock:
        if _current is None:
            _current = LoopThread()
            _loops.add(_current)
        _current.users.add(user)
        return _current


def _close_all() -> None:
    """At the end of the program, send what it has published and close its clients.

    Handlers have `_EXIT_TIMEOUT`.  Then brokers have as long, which starts again whenever they take
    more of what is sent.
    """
    loops = list(_loops)
    users = [(loop, user) for loop in loops for user in list(loop.users)]
    leaving = [future for _, user in users if (future := user.close(drain=True)) is not None]
    unsent: int | None = None
    left = set(leaving)
    while left := concurrent.futures.wait(left, _EXIT_TIMEOUT).not_done:
        if unsent is None:
            for loop, user in users:
                if user in loop.users:
                    user.close(drain=False)
        before, unsent = unsent, sum(user.unsent() for _, user in users)
        if before is not None and unsent >= before:
            _log.warning(
                "closing was cut short at the end of the program: the broker has taken nothing for "
                "%g s, so what was published last may not have arrived",
                _EXIT_TIMEOUT,
            )
            for loop, user in users:
                loop.post(user.abort)
            concurrent.futures.wait(left, _EXIT_TIMEOUT)
            break
    for loop in loops:
        loop.join()


def _after_fork() -> None:
    """In a forked process, only the thread that has forked exists."""
    global _current, _post_lock
    _current = None
    _post_lock = threading.RLock()
    for loop in list(_loops):
        loop.forked = True
        loop.users.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
