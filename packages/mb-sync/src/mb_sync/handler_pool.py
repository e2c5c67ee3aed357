"""The threads that run user code."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["HandlerPool", "as_exception"]

_IDLE_TIMEOUT = 10.0
"""Seconds after which an idle thread ends."""

_Call = Callable[[], Callable[[], object]]
"""Calls a function, and returns a function that reports its outcome in the loop."""


class HandlerPool:
    """Threads that call functions for an event loop; as many as there are calls at a time.

    It has no bound of its own: its callers have one (`concurrency`), and a handler that waits for
    another handler must not keep it from being called.  The threads are daemons: a handler that
    never returns does not keep the program from ending.

    If Python can't start more threads, the existing ones make the calls one after the other.
    """

    def __init__(self, post: Callable[[Callable[[], object]], bool]) -> None:
        self.post = post
        self._numbers = itertools.count(1)
        # Used by the threads as well.
        self.threads: set[_PoolThread] = set()
        self.idle: list[_PoolThread] = []
        self.unstarted: deque[_Call] = deque()  # calls for which no thread could be started
        self.closed = False

    def keep_one_thread(self) -> None:
        """Start a thread that does not end when it is idle.

        Python 3.12 starts none from the end of the main thread on, when callbacks are still due.
        """
        with contextlib.suppress(RuntimeError):  # no thread can be started now; later, perhaps
            _PoolThread(self, None, self._name(), idle_timeout=-1)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in a thread, with the context variables of the task that asks.

        Raises what it raises; anything but an Exception as a RuntimeError: sys.exit() in a handler
        ends neither the thread's program nor the event loop.  When cancelled, the call continues,
        and its outcome is ignored.
        """
        future = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        call = functools.partial(self._call, future, context, function, args)
        if not self._give_to_idle(call):
            try:
                _PoolThread(self, call, self._name(), idle_timeout=_IDLE_TIMEOUT)
            except RuntimeError:
                if not self.threads:
                    raise
                self.unstarted.append(call)
                self._give_to_idle(
                    _wake_up
                )  # to a thread that became idle before it could see this
        return await future

    def includes(self, thread: threading.Thread) -> bool:
        """Return whether a thread is one of these."""
        return any(each.thread is thread for each in list(self.threads))

    def close(self) -> None:
        """End the idle threads now, and the others after their calls."""
        self.closed = True
        while self._give_to_idle(None):
            pass

    def join(self) -> None:
        """When closed, wait for the threads that are not within a call."""
        for each in list(self.threads):
            if not each.calling:
                each.thread.join()

    def _name(self) -> str:
        return f"mb_sync handler {next(self._numbers)}"

    def _give_to_idle(self, call: _Call | None) -> bool:
        """Make an idle thread run a call, or end; return False if no thread is idle."""
        try:
            idle = self.idle.pop()
        except IndexError:
            return False
        idle.give(call)
        return True

    @staticmethod
    def _call(
        future: asyncio.Future[Any],
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> Callable[[], None]:
        try:
            result = context.run(function, *args)
        except BaseException as error:
            return functools.partial(_fail, future, error)
        return functools.partial(_succeed, future, result)


class _PoolThread:
    """A thread that runs calls one by one."""

    def __init__(
        self, pool: HandlerPool, call: _Call | None, name: str, *, idle_timeout: float
    ) -> None:
        self._pool = pool
        self._call = call
        self._idle_timeout = idle_timeout
        self._assigned = threading.Lock()
        self._assigned.acquire()
        self.calling = call is not None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        pool.threads.add(self)
        try:
            self.thread.start()
        except BaseException:
            pool.threads.discard(self)
            raise

    def give(self, call: _Call | None) -> None:
        """Run a call, or end; called by the code that took this from the idle ones."""
        self.calling = call is not None
        self._call = call
        self._assigned.release()

    def _run(self) -> None:
        call: _Call | None = self._call
        self._call = None
        while call is not None or (call := self._next()) is not None:
            report = call()
            self.calling = False
            self._pool.post(report)
            call = None  # it refers to the called function, and this to the result
            del report
        self._pool.threads.discard(self)

    def _next(self) -> _Call | None:
        """Be idle until there is a call; return None if this thread has to end."""
        pool = self._pool
        while True:
            pool.idle.append(self)
            # Checked only now: close() and run() change these before they look for idle threads.
            has_news = pool.closed or bool(pool.unstarted)
            if not has_news and self._assigned.acquire(timeout=self._idle_timeout):
                break
            try:
                pool.idle.remove(self)
            except ValueError:
                self._assigned.acquire()  # it was taken at the last moment
                break
            try:
                left = pool.unstarted.popleft()
            except IndexError:
                if pool.closed or not has_news:
                    return None
            else:
                self.calling = True
                return left
        call, self._call = self._call, None
        return call


def _wake_up() -> Callable[[], None]:
    """A call that does nothing, after which the thread finds the work left for it."""
    return lambda: None


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(as_exception(error))


def as_exception(error: BaseException) -> Exception:
    """Return what a handler raised as an error that can be reported in the event loop.

    sys.exit() in a thread must not end the loop, and futures can't carry a StopIteration.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    text = f"{type(error).__name__} in a handler's thread"
    fault = RuntimeError(f"{text}: {error}" if str(error) else text)
    fault.__cause__ = error
    return fault
