"""Ctrl-C as a KeyboardInterrupt that the awaiting code can catch, on asyncio as on trio."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import anyio

from ..link import current_backend

__all__ = ["interruptible"]


async def interruptible(function: Callable[[], Awaitable[None]]) -> None:
    """Await `function()`; at SIGINT cancel it and raise KeyboardInterrupt here.

    trio does that by itself.  asyncio.run() cancels its main task instead, and raises
    KeyboardInterrupt where no coroutine can catch it.  Only that handling and Python's own are
    replaced, and only while this waits: a program's own handler of SIGINT stays.
    """
    if current_backend().name != "asyncio" or not _replaceable():
        await function()
        return
    loop = asyncio.get_running_loop()
    scope = anyio.CancelScope()
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        loop.call_soon_threadsafe(scope.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with scope:
            await function()
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _replaceable() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    return isinstance(handler, functools.partial) and isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    )
