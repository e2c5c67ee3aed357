"""End a command when nobody reads its output any more."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["until_nobody_reads"]

T = TypeVar("T")


async def until_nobody_reads(function: Callable[[], Awaitable[T]]) -> T | None:
    """Run `function`; where stdout is a pipe whose other end is closed, end it.

    A command that only writes would notice at its next write, which may be hours away.
    """
    result = None
    async with anyio.create_task_group() as tasks:
        if _is_pipe():
            tasks.start_soon(_end_with_reader, tasks.cancel_scope)
        result = await function()
        tasks.cancel_scope.cancel()
    return result


def _is_pipe() -> bool:
    """Whether stdout is the writing end of a pipe, and nothing else."""
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


async def _end_with_reader(scope: anyio.CancelScope) -> None:
    """Cancel `scope` when the other end of the pipe is closed: then this one becomes readable."""
    await anyio.wait_readable(sys.stdout.fileno())
    scope.cancel()
