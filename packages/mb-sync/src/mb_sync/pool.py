"""The threads in which user code is called."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["HandlerPool"]

_IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends."""


class HandlerPool:
    """Threads that call functions for an event loop; as many as there are calls at a time.

    It has no bound of its own: who calls has one (`concurrency`), and a handler that waits for
    another handler must not keep it from being called.  The threads are daemons: a handler that
    never returns does not keep the program from ending.
    """

    def __init__(self, post: Callable[[Callable[[], object]], bool]) -> None:
        self._post = post
        self._idle: list[_Worker] = []
        self._numbers = itertools.count(1)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in a thread, with the context variables of the task that asks.

        Raises what it raises; what is no Exception, as a RuntimeError: sys.exit() in a handler
        ends neither the thread's program nor the event loop.  When cancelled, the call goes on,
        and what becomes of it is ignored.
        """
        future = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        call = functools.partial(self._call, future, context, function, args)
        try:
            worker = self._idle.pop()
        except IndexError:
            _Worker(call, self._idle, f"mb_sync handler {next(self._numbers)}")
        else:
            worker.give(call)
        return await future

    def close(self) -> None:
        """Have the idle threads end."""
        while self._idle:
            self._idle.pop().give(None)

    def _call(
        self,
        future: asyncio.Future[Any],
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        try:
            result = context.run(function, *args)
        except BaseException as error:
            self._post(functools.partial(_fail, future, error))
        else:
            self._post(functools.partial(_succeed, future, result))


class _Worker:
    """A thread that makes one call after the other."""

    def __init__(self, call: Callable[[], None], idle: list[_Worker], name: str) -> None:
        self._call: Callable[[], None] | None = call
        self._idle = idle
        self._given = threading.Lock()
        self._given.acquire()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def give(self, call: Callable[[], None] | None) -> None:
        """Make a call, or end; for who has taken this worker from the idle ones."""
        self._call = call
        self._given.release()

    def _run(self) -> None:
        while self._call is not None:
            self._call()
            self._call = None  # it holds what it was called with
            self._idle.append(self)
            if not self._given.acquire(timeout=_IDLE):
                try:
                    self._idle.remove(self)
                except ValueError:
                    self._given.acquire()  # it was taken at the last moment
                else:
                    return


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if future.done():
        return
    if not isinstance(error, Exception) or isinstance(error, StopIteration):
        text = f"{type(error).__name__} in a handler's thread"
        future.set_exception(RuntimeError(f"{text}: {error}" if str(error) else text))
        future.exception().__cause__ = error  # type: ignore[union-attr]
    else:
        future.set_exception(error)
