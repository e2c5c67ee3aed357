"""Run commands on an event loop until they finish, are interrupted, or lose their reader."""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

from .errors import Status

__all__ = ["asynchronous", "run", "until_nobody_reads"]

T = TypeVar("T")


def asynchronous(
    *, endless: Callable[[dict[str, Any]], bool] | None = None
) -> Callable[[Callable[..., Coroutine[Any, Any, Status | None]]], Callable[..., Status | None]]:
    """Turn an async function into the callback of a click command; it returns the exit status.

    A command with `endless` shows what happens, and stops when the reader of its output is gone.
    `endless` is called with the command's arguments; if it returns True, Ctrl-C is the only way to
    stop the command, and counts as success.
    """

    def decorate(
        function: Callable[..., Coroutine[Any, Any, Status | None]],
    ) -> Callable[..., Status | None]:
        @functools.wraps(function)
        def callback(**given: Any) -> Status | None:
            call = functools.partial(function, **given)
            if endless is None:
                return run(call)
            return run(call, following=True, endless=endless(given))

        return callback

    return decorate


def run(
    function: Callable[[], Awaitable[Status | None]],
    *,
    following: bool = False,
    endless: bool = False,
) -> Status | None:
    """Run an async function on an event loop and return its exit status; see `asynchronous`."""
    logging.getLogger("mb_core").addHandler(_SILENT)
    try:
        if following:
            return anyio.run(until_nobody_reads, function)
        return anyio.run(function)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]  # the others are consequences of the first
        if not isinstance(error, KeyboardInterrupt):
            raise error from None
    except KeyboardInterrupt:
        pass
    return Status.SUCCESS if endless else Status.INTERRUPTED


# Everything that the library logs, it also raises or reports to `on_error`.
_SILENT = logging.NullHandler()


async def until_nobody_reads(function: Callable[[], Awaitable[T]]) -> T | None:
    """Run `function`; if stdout is a pipe, stop when its other end is closed.

    A command that only writes would notice at its next write, perhaps hours later.
    """
    result = None
    async with anyio.create_task_group() as tasks:
        if _is_pipe():
            tasks.start_soon(_cancel_without_reader, tasks.cancel_scope)
        result = await function()
        tasks.cancel_scope.cancel()
    return result


def _is_pipe() -> bool:
    """Return whether stdout is the writing end of a pipe."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fd = sys.stdout.fileno()
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and mode == os.O_WRONLY
    except (OSError, ValueError):
        return False


async def _cancel_without_reader(scope: anyio.CancelScope) -> None:
    # The writing end of a pipe becomes readable when the other end is closed.
    await anyio.wait_readable(sys.stdout.fileno())
    scope.cancel()
