"""SIGINT and SIGTERM while a client's `run` waits: each ends it so that the client can drain."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import anyio

from ..link import current_backend
from .interrupt import exit_from_groups, trio_interrupt_handler, trio_main_task

__all__ = ["Terminated", "interruptible", "terminable"]

_log = logging.getLogger("mb_core.client")


class Terminated(SystemExit, KeyboardInterrupt):
    """SIGTERM: programs catch it as they catch Ctrl-C, and need not, as with SystemExit."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


async def interruptible(
    function: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> None:
    """Await `function()`; at SIGINT and SIGTERM cancel it and raise KeyboardInterrupt here.

    SIGINT: trio does that by itself, in the main task.  asyncio.run() cancels its main task
    instead, and raises KeyboardInterrupt where no coroutine can catch it.  Only that handling and
    Python's own are replaced, only in the main task and while it waits here.

    SIGTERM, where nobody handles it, raises Terminated in the main task, if that waits here.
    Otherwise the tasks that do each `close` their client first: on asyncio, the error breaks out
    of the loop, and whatever closes behind it is cancelled.

    A program's own handler of either signal stays, and so does everything outside the main
    thread.  A second signal ends the program at once: as Python does for SIGINT (which is raised
    at once where the loop is blocked), and without more ado for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        await function()
        return
    run = _Run()
    with _handling_terminate(run), _handling_interrupt(run):
        try:
            with run.scope:
                await function()
        finally:
            # Whatever else has ended the wait at the same time.
            if run.number == signal.SIGINT:
                raise KeyboardInterrupt
            if run.number is not None:
                _log.info("SIGTERM: the client is closed; a second signal ends the program")
                if not run.in_main_task:
                    await run.close_with_others(close)
                error = Terminated()
                exit_from_groups(error)
                raise error


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated within the block at SIGTERM, in the main thread, if nobody handles it."""
    if threading.current_thread() is not threading.main_thread() or not _is_default():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        _let_go(terminate)
        _end_by(signal.SIGTERM)
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        _let_go(terminate)


class _Run:
    """A `run` that waits in the main thread."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.number: int | None = None  # the signal that has ended it
        self.others: _Others
        self.trio_handler: object = None  # of SIGINT, where that is trio's own
        if current_backend().name == "asyncio":
            import asyncio

            self._call_soon: Callable[..., Any] = asyncio.get_running_loop().call_soon_threadsafe
            self.in_main_task = _handles_interrupts_by_default()
        else:
            import trio

            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
            self.in_main_task = trio.lowlevel.current_task() is trio_main_task()
            self.trio_handler = trio_interrupt_handler()

    def end(self, number: int) -> None:
        """Stop waiting because of a signal; for its handler."""
        self.number = number
        self._call_soon(self.scope.cancel)

    async def close_with_others(self, close: Callable[[], Awaitable[None]]) -> None:
        """Close the client, and wait until the clients of the other runs are closed as well."""
        others = self.others
        try:
            await close()
        finally:
            others.left -= 1
            if not others.left:
                others.closed.set()
        await others.closed.wait()


class _Others:
    """The runs that one signal has ended."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.closed = anyio.Event()


# Those that SIGTERM ends; while there are any, _terminate is its handler.
_runs: list[_Run] = []


@contextlib.contextmanager
def _handling_terminate(run: _Run) -> Iterator[None]:
    if _is_default():
        signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGTERM) is not _terminate:
        yield
        return
    _runs.append(run)
    try:
        yield
    finally:
        _runs.remove(run)
        if not _runs:
            _let_go(_terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    _let_go(_terminate)
    _end_by(signal.SIGTERM)
    interrupting = signal.getsignal(signal.SIGINT)
    if interrupting is not None and any(run.trio_handler is interrupting for run in _runs):
        # trio would raise KeyboardInterrupt in whatever runs, which may be half of a client's end.
        signal.signal(signal.SIGINT, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    runs = [run for run in _runs if run.in_main_task] or list(_runs)
    others = _Others(len(runs))
    for run in runs:
        run.others = others
        run.end(number)


@contextlib.contextmanager
def _handling_interrupt(run: _Run) -> Iterator[None]:
    if current_backend().name != "asyncio" or not run.in_main_task:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if run.number is not None:
            raise KeyboardInterrupt
        run.end(number)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _handles_interrupts_by_default() -> bool:
    """Whether SIGINT is Python's own to handle, or asyncio.run()'s whose main task this is."""
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    import asyncio

    return (
        isinstance(handler, functools.partial)
        and isinstance(getattr(handler.func, "__self__", None), asyncio.Runner)
        and handler.keywords.get("main_task") is asyncio.current_task()
    )


def _is_default() -> bool:
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _let_go(handler: Callable[..., None]) -> None:
    """Have the next SIGTERM end the program at once, unless somebody else handles it."""
    if signal.getsignal(signal.SIGTERM) is handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_by(number: int) -> None:
    """Have the program end as one that the signal has killed, whatever it does until then."""
    atexit.unregister(_kill)
    atexit.register(_kill, number, os.getpid())  # registered last, called first


def _kill(number: int, process: int) -> None:
    atexit.unregister(_kill)
    if process == os.getpid():  # and not in a fork
        atexit._run_exitfuncs()  # the others
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        os._exit(128 + number)  # process 1 of a container, whom such a signal doesn't end
