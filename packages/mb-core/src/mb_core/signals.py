"""Handle Ctrl-C, SIGTERM and sys.exit() while a client waits, and in user code that it runs."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

import anyio

from .link import current_backend

__all__ = [
    "AsyncFunction",
    "Terminated",
    "interrupted_twice",
    "interruptible",
    "pass_exit_on",
    "terminable",
    "uninterrupted",
]

_log = logging.getLogger("mb_core.client")

AsyncFunction = Callable[[], Coroutine[Any, Any, None]]

_AGAIN = 0.01
"""Seconds between tries to end trio's main task."""


class Terminated(SystemExit, KeyboardInterrupt):
    """SIGTERM. Programs may catch it like Ctrl-C, but need not, as with SystemExit."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


async def interruptible(
    function: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> None:
    """Await `function()`; on SIGINT and SIGTERM, cancel it and raise KeyboardInterrupt here.

    SIGINT: trio does that by itself, in the main task.  asyncio.run() cancels its main task
    instead, and raises KeyboardInterrupt where no coroutine can catch it.  Only that handling and
    Python's own are replaced, only in the main task and while it waits here.

    SIGTERM, if nobody handles it, raises Terminated in the main task if that waits here.
    Otherwise, each task that waits here calls `close` first: on asyncio, the error breaks out of
    the loop, and everything that closes after that is cancelled.

    A program's own handler of either signal stays in place, and outside the main thread nothing
    changes. A second signal ends the program at once: as Python does for SIGINT (which is raised at
    once if the loop is blocked), and immediately for SIGTERM.
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
            # Even if something else ended the wait at the same time.
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
    """Raise Terminated in the block on SIGTERM, in the main thread, if nobody handles it."""
    if threading.current_thread() is not threading.main_thread() or not _is_default():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        _stop_handling(terminate)
        _end_by(signal.SIGTERM)
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        _stop_handling(terminate)


class _Run:
    """A `run` call that waits in the main thread."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.number: int | None = None  # the signal that has ended it
        self.others: _Others
        self.trio_handler: object = None  # of SIGINT, if that is trio's own
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
    """The `run` calls that a signal has ended."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.closed = anyio.Event()


# The calls that SIGTERM ends; while there are any, _terminate is its handler.
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
            _stop_handling(_terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    _stop_handling(_terminate)
    _end_by(signal.SIGTERM)
    interrupting = signal.getsignal(signal.SIGINT)
    if interrupting is not None and any(run.trio_handler is interrupting for run in _runs):
        # trio would raise KeyboardInterrupt in whatever runs, possibly while a client is closing.
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
    """Return whether SIGINT is handled by Python, or by asyncio.run() with this main task."""
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


def _stop_handling(handler: Callable[..., None]) -> None:
    """Make the next SIGTERM end the program at once, unless the program handles it."""
    if signal.getsignal(signal.SIGTERM) is handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_by(number: int) -> None:
    """Make the program exit as if killed by the signal, whatever it does until then."""
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
        os._exit(128 + number)  # process 1 of a container, which such a signal doesn't end


def uninterrupted(function: AsyncFunction) -> AsyncFunction:
    """Return `function` so that Ctrl-C never raises KeyboardInterrupt in the middle of it.

    trio raises KeyboardInterrupt in whichever task is running. In a system task or its children,
    trio treats that as a bug of its own. In the main task it may come just before a wait, such as
    trio.Event's, which then refers to a task that no longer waits, and waking it breaks trio. With
    this protection, the main task gets it immediately where it waits, and other tasks never get it.
    asyncio.run() does not have this problem.
    """
    if current_backend().name != "trio":
        return function
    import trio

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        await function()

    return run


def pass_exit_on(error: BaseException) -> None:
    """Make a KeyboardInterrupt or SystemExit of user code end the program, as in the main task.

    asyncio's loop lets both out by itself, from any task; trio needs help. Raises `error` if it is
    neither, and on asyncio, unless it is a group: then the task that raised it has already let it
    out.
    """
    is_group = isinstance(error, BaseExceptionGroup)
    group = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("", [error])
    exits, others = group.split((KeyboardInterrupt, SystemExit))
    if exits is None:
        raise error
    if current_backend().name != "trio":
        if is_group and others is None:
            return
        raise error
    _, exits = exits.split(KeyboardInterrupt)
    if exits is None:
        _interrupt_trio()
    else:
        _exit_trio(_first_of(exits))


def _interrupt_trio() -> None:
    import trio

    @trio.lowlevel.enable_ki_protection
    def again() -> None:
        signal.raise_signal(signal.SIGINT)

    again()


def _exit_trio(error: BaseException) -> None:
    """Raise `error` in the main task, which trio itself does only with KeyboardInterrupt."""
    import trio

    delivered = False
    if isinstance(error, SystemExit):
        exit_from_groups(error)

    def throw() -> NoReturn:
        nonlocal delivered
        delivered = True
        raise error

    async def deliver() -> None:
        # The main task may wait for something that can't be aborted, such as a thread.
        while not delivered:
            task = trio_main_task()
            if task is None:
                return
            if task._abort_func is not None:
                task._attempt_abort(throw)
            await trio.sleep(_AGAIN)

    trio.lowlevel.spawn_system_task(deliver, name="mb exit")


def exit_from_groups(error: SystemExit) -> None:
    """Make an uncaught `error` end the program as it does outside of task groups.

    trio's and anyio's task groups wrap it in a group, for which Python prints a traceback and exits
    with status 1.
    """
    before = sys.excepthook

    def hook(
        kind: type[BaseException], raised: BaseException, traceback: TracebackType | None
    ) -> None:
        if isinstance(raised, BaseExceptionGroup) and raised.split(lambda e: e is error)[1] is None:
            raise error.with_traceback(
                None
            )  # which Python treats as if it was raised without a group
        before(kind, raised, traceback)

    sys.excepthook = hook


def interrupted_twice(error: BaseException | None) -> bool:
    """Return whether this is a KeyboardInterrupt that replaced another one.

    trio raises the second one in whatever the main task does, possibly the end of its block.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    before = error.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


def trio_main_task() -> Any:
    """Return the task of the function passed to trio.run(); None when it has ended."""
    import trio

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return next(iter(root.child_nurseries[-1].child_tasks), None)


def trio_interrupt_handler() -> object:
    """Return the SIGINT handler that trio.run() has installed to raise KeyboardInterrupt, if any.

    trio has no public name for it.  Any other handler, even one of trio's own code such as that of
    trio.open_signal_receiver, is the program's.
    """
    from trio._core import _run

    runner = getattr(_run.GLOBAL_RUN_CONTEXT, "runner", None)
    return getattr(getattr(runner, "ki_manager", None), "handler", None)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
