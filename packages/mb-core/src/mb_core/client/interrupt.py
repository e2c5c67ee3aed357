"""Ctrl-C as a KeyboardInterrupt that the main task can catch, on asyncio and on trio."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any

import anyio

from ..link import current_backend

__all__ = ["AsyncFunction", "interruptible", "pass_interrupt_on", "uninterrupted"]

AsyncFunction = Callable[[], Coroutine[Any, Any, None]]


async def interruptible(function: Callable[[], Awaitable[None]]) -> None:
    """Await `function()`; at SIGINT cancel it and raise KeyboardInterrupt here.

    trio does that by itself, in the main task.  asyncio.run() cancels its main task instead, and
    raises KeyboardInterrupt where no coroutine can catch it.  Only that handling and Python's own
    are replaced, only in the main task and while it waits here: a program's own handler of SIGINT
    stays.  A second SIGINT, which comes where the loop is blocked, is raised at once, as
    asyncio.run() does.
    """
    if current_backend().name != "asyncio" or not _replaceable():
        await function()
        return
    import asyncio

    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        loop.call_soon_threadsafe(scope.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with scope:
            await function()
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)
        if interrupted:
            # Whatever else has ended the wait at the same time.
            raise KeyboardInterrupt


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


def _replaceable() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    import asyncio

    return (
        isinstance(handler, functools.partial)
        and isinstance(getattr(handler.func, "__self__", None), asyncio.Runner)
        and handler.keywords.get("main_task") is asyncio.current_task()
    )
