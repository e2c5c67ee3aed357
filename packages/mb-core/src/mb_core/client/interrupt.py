"""Ctrl-C and sys.exit() in user code that the connection's own tasks run."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NoReturn

from ..link import current_backend

__all__ = [
    "AsyncFunction",
    "exit_from_groups",
    "interrupted_twice",
    "pass_exit_on",
    "trio_interrupt_handler",
    "trio_main_task",
    "uninterrupted",
]

AsyncFunction = Callable[[], Coroutine[Any, Any, None]]

_AGAIN = 0.01
"""Seconds between tries to end trio's main task."""


def uninterrupted(function: AsyncFunction) -> AsyncFunction:
    """Return `function` so that Ctrl-C never raises KeyboardInterrupt in the middle of it.

    trio raises KeyboardInterrupt in whichever task runs.  In a system task, or below it, that
    counts as a bug of trio's.  In the main task it may come just before a wait, such as that of
    trio.Event, which then refers to a task that waits no more, and waking it breaks trio.
    Protected so, the main task gets it where it waits, at once; other tasks never do.
    asyncio.run() has nothing of the kind.
    """
    if current_backend().name != "trio":
        return function
    import trio

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        await function()

    return run


def pass_exit_on(error: BaseException) -> None:
    """Have a KeyboardInterrupt or SystemExit of user code end the program, as in the main task.

    asyncio's loop lets both out by itself, from whatever task; trio has to be told.  Raises
    `error` where it is neither, and on asyncio, unless it is a group: then the task in which it
    was raised has let it out already.
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
    """Raise `error` in the main task, which trio itself does with KeyboardInterrupt only."""
    import trio

    delivered = False
    if isinstance(error, SystemExit):
        exit_from_groups(error)

    def throw() -> NoReturn:
        nonlocal delivered
        delivered = True
        raise error

    async def deliver() -> None:
        # What the main task waits for may not be possible to abort, such as a thread.
        while not delivered:
            task = trio_main_task()
            if task is None:
                return
            if task._abort_func is not None:
                task._attempt_abort(throw)
            await trio.sleep(_AGAIN)

    trio.lowlevel.spawn_system_task(deliver, name="mb exit")


def exit_from_groups(error: SystemExit) -> None:
    """Have `error`, when nobody catches it, end the program as it does outside of task groups.

    trio's and anyio's task groups raise a group of it, for which Python prints a traceback and
    exits with status 1.
    """
    before = sys.excepthook

    def hook(
        kind: type[BaseException], raised: BaseException, traceback: TracebackType | None
    ) -> None:
        if isinstance(raised, BaseExceptionGroup) and raised.split(lambda e: e is error)[1] is None:
            raise error.with_traceback(None)  # which Python takes as if it was raised without group
        before(kind, raised, traceback)

    sys.excepthook = hook


def interrupted_twice(error: BaseException | None) -> bool:
    """Whether this is a KeyboardInterrupt that took the place of another one.

    trio raises the second in whatever the main task does, which may be the end of its block.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    before = error.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


def trio_main_task() -> Any:
    """The task that runs what was given to trio.run(); None when it has ended."""
    import trio

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return next(iter(root.child_nurseries[-1].child_tasks), None)


def trio_interrupt_handler() -> object:
    """The handler of SIGINT that trio.run() has installed to raise KeyboardInterrupt, if any.

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
