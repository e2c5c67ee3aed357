"""Ctrl-C and sys.exit() in user code that the connection's own tasks run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from typing import Any

from ..link import current_backend

__all__ = ["AsyncFunction", "pass_interrupt_on", "uninterrupted"]

AsyncFunction = Callable[[], Coroutine[Any, Any, None]]


def uninterrupted(function: AsyncFunction) -> AsyncFunction:
    """`function`, in which Ctrl-C raises nothing: it waits for the main task.

    trio raises KeyboardInterrupt in whichever task runs, and one within a system task, or below
    it, counts as a bug of trio's.  asyncio.run() has nothing of the kind.
    """
    if current_backend().name != "trio":
        return function
    import trio

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        await function()

    return run


def pass_interrupt_on(error: BaseException) -> None:
    """Have a KeyboardInterrupt that trio has raised in a handler raised in the main task instead.

    Raises `error` where it is none, and on asyncio, whose loop lets a KeyboardInterrupt out by
    itself.
    """
    group = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
    if group.subgroup(KeyboardInterrupt) is None or current_backend().name != "trio":
        raise error
    import trio

    @trio.lowlevel.enable_ki_protection
    def again() -> None:
        signal.raise_signal(signal.SIGINT)

    again()
