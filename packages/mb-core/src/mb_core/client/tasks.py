"""A client's tasks: one root task that holds all others, from the start to the end."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context

import anyio
import anyio.abc
import anyio.lowlevel

from ..errors import ConnectError, ConnectionLost
from ..link import Backend, Home, Link, current_backend
from .callbacks import Callbacks
from .signals import AsyncFunction, pass_exit_on, uninterrupted

__all__ = ["TaskScope", "abort", "abort_and_wait", "warn_unclosed"]

_log = logging.getLogger("mb_core.client")

_NOT_ENDED = "internal error: the connection could not be ended"


class TaskScope:
    """Runs a connection's tasks, and ends them in order.

    The root task belongs to the event loop, not to a scope of the user's: so a client can be
    connected in one function and closed in another, on trio as on asyncio, and an error in one
    place cancels nothing in another.

    Its end has three steps, each within a limit in seconds: `draining`, in which what has begun
    may come to its end; then consumers are cancelled, `ending` is called and the Link is closed;
    `ended` is called when it is over, whatever the reason.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        close_timeout: float,
        *,
        drain_timeout: float = 0.0,
        draining: AsyncFunction | None = None,
        ending: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.backend: Backend = current_backend()
        self.home = Home(self.backend)
        self.link: Link | None = None
        self._post = self.backend.poster()
        self._callbacks = callbacks
        self._close_timeout = close_timeout
        self._drain_timeout = drain_timeout
        self._draining = draining
        self.fault: ConnectionLost | None = None  # the bug that has ended it
        self._refuses_links = False  # whether no Link is taken any more
        self.ending = False  # whether the Link is about to be closed, or was
        self._on_ending = ending
        self._on_ended = ended
        # The callbacks' task, with its context variables, belongs to the caller of connect.
        self._context = copy_context()
        self._opening = anyio.CancelScope()
        self._end_requested = anyio.Event()
        self._drain_scope = anyio.CancelScope()
        self._running = _Running()
        self._consuming = _Running()
        self._own_tasks: set[int] = set()
        self._finished = anyio.Event()
        self._tasks: anyio.abc.TaskGroup
        self._consumers: anyio.abc.TaskGroup
        self._root_task: object = None

    @property
    def closing(self) -> bool:
        """Whether the end was asked for."""
        return self._end_requested.is_set()

    @property
    def ended(self) -> bool:
        """Whether it is all over."""
        return self._finished.is_set()

    @property
    def in_own_task(self) -> bool:
        """Whether the caller is one of the connection's own tasks: a handler, or a callback.

        So is a task in a task group of theirs, for which they wait; one that they have started
        and go on without is not.
        """
        if not self.in_handler:
            return False
        parents = {task.id: task.parent_id for task in anyio.get_running_tasks()}
        task: int | None = anyio.get_current_task().id
        while task is not None and task not in self._own_tasks:
            task = parents.get(task)
        return task is not None

    @property
    def in_handler(self) -> bool:
        """Whether the caller is a handler or a callback, or something that one has started."""
        return _own.get() is self

    async def begin(self, opening: AsyncFunction) -> None:
        """Start the root task and await `opening`; if that fails, end everything at once.

        Raises ConnectError where the end was asked for meanwhile.
        """
        await uninterrupted(lambda: self._begin(opening))()

    async def _begin(self, opening: AsyncFunction) -> None:
        started = anyio.Event()
        self._root_task = self.backend.spawn_root(lambda: self._root(started))
        try:
            with self._opening:
                await started.wait()
                await anyio.lowlevel.checkpoint_if_cancelled()
                await opening()
            if self._opening.cancelled_caught or self.fault is not None:
                raise _closed_meanwhile(self.fault)
        except BaseException as error:
            fault = self.fault  # and not what the Link's end may raise
            if self.link is not None:
                abort(self.link)  # nothing was sent yet, so no farewell is due
            self._drain_scope.cancel()
            self._end_requested.set()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()
            if fault is not None and isinstance(error, ConnectError):
                raise _closed_meanwhile(fault) from fault.__cause__
            raise

    async def end(self, *, drain: bool = True) -> None:
        """End in order, and wait until it is over; safe to call twice.

        Raises LocalProtocolError elsewhere than on the event loop of `begin`, unless it is over.

        Without `drain` the first step is left out, or cut short, and so it is when this is
        cancelled; the end goes on by itself.  The connection's own tasks, which run the user's
        handlers and callbacks, do not wait for what waits for them.
        """
        if self.ended:
            return
        self.home.check()
        await uninterrupted(lambda: self._ask_and_wait(drain=drain))()

    async def _ask_and_wait(self, *, drain: bool) -> None:
        if not drain:
            self._drain_scope.cancel()
        self._end_requested.set()
        if not self.in_own_task:
            try:
                await self._finished.wait()
            except BaseException:
                self._drain_scope.cancel()
                raise

    @property
    def unclosed(self) -> bool:
        """Whether the end has still to be asked for, in this process."""
        return not self.closing and not self.home.forked

    def drop(self, before: Callable[[], object] = lambda: None) -> None:
        """End in order, as nobody can ask for it any more; in any thread and at any time.

        `before` is called first, on the event loop.
        """

        def end() -> None:
            before()
            self._end_requested.set()

        self._post(end)

    def adopt(self, link: Link) -> bool:
        """Take a Link, in place of the one before; False where it has come too late."""
        self.link = link
        if self.ending or self._refuses_links:
            abort(link)
            return False
        return True

    def refuse_links(self) -> None:
        """Abort each Link that still comes up: what waited for one has its error already."""
        self._refuses_links = True

    def spawn(self, function: AsyncFunction) -> None:
        """Start a task that lives until the very end.

        Raises ConnectError once the tasks are being cancelled.
        """

        async def run() -> None:
            try:
                await function()
            except Exception as bug:
                self._record_fault(bug)
                raise

        if self.fault is not None or self._tasks.cancel_scope.cancel_called:
            raise _closed_meanwhile(self.fault)
        self._tasks.start_soon(self._running.counted(uninterrupted(run)))

    def fail(self, bug: Exception) -> None:
        """End because of a bug that its finder, such as a callback of the loop, can't raise."""

        async def raise_bug() -> None:
            self._record_fault(bug)
            raise bug

        if self.fault is not None or self._tasks.cancel_scope.cancel_called:
            _log.error("internal error: while the connection ended", exc_info=bug)
        else:
            self.backend.start_in(self._tasks, raise_bug)

    def spawn_consumer(self, function: AsyncFunction) -> None:
        """Start a task that runs user code: the end waits for it a while, then cancels it."""
        if not self.ending:
            self._consumers.start_soon(
                self._consuming.counted(lambda: self._run_user_code(function))
            )

    async def wait_consumed(self) -> None:
        """Wait until no consumer's task is left."""
        await self._consuming.wait_none()

    async def _root(self, started: anyio.Event) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                try:
                    await self._run(started)
                finally:
                    self._tasks.cancel_scope.cancel()
                    await self._wait_for_cancelled()
        except Exception as bug:
            await self._end_because_of(bug)
        except BaseException as error:
            pass_exit_on(error)
        finally:
            self._finish()

    async def _run(self, started: anyio.Event) -> None:
        call_back = self._running.counted(lambda: self._callbacks.run(self.backend))
        called_back = anyio.Event()

        async def run_callbacks() -> None:
            try:
                await call_back()
            finally:
                called_back.set()

        self._context.run(self._tasks.start_soon, self._run_user_code, run_callbacks)
        self._tasks.start_soon(self._run_consumers, started)
        await started.wait()
        await self._end_requested.wait()
        await self._drain()
        self._consumers.cancel_scope.cancel()
        with anyio.move_on_after(self._close_timeout):  # those that can be cancelled
            await self.wait_consumed()
        await self._end(called_back)

    async def _run_consumers(self, started: anyio.Event) -> None:
        # In a task of its own: a consumer that can't be cancelled, as it waits for a thread,
        # keeps this group from ending, and nothing else.
        try:
            async with anyio.create_task_group() as self._consumers:
                started.set()
                await anyio.sleep_forever()
        except BaseException as error:
            pass_exit_on(error)

    async def _wait_for_cancelled(self) -> None:
        """Wait for tasks that were cancelled; then be over, though some may be left."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._close_timeout) as limit:
                await self.wait_consumed()
                await self._running.wait_none()
            if limit.cancelled_caught:
                _log.warning(
                    "closed, though a handler or a callback still runs: it can't be cancelled "
                    "(does it wait for a thread?)"
                )
                self._finish()

    def _finish(self) -> None:
        if not self.ended:
            if self.link is not None:
                abort(self.link)
            self._end_requested.set()
            self.ending = True
            self._on_ended()
            self._finished.set()

    def _record_fault(self, bug: Exception) -> ConnectionLost:
        """Tell all that wait of a bug, the first one, before tasks are cancelled because of it."""
        if self.fault is None:
            while isinstance(bug, ExceptionGroup):
                bug = bug.exceptions[0]
            self.fault = ConnectionLost(f"internal error: {bug!r}", sent=True)
            self.fault.__cause__ = bug
            self._opening.cancel()
            self.ending = True
            self._on_ended()
        return self.fault

    async def _end_because_of(self, bug: Exception) -> None:
        """End because of a bug, ours or a plugin's: with an error, and the program goes on."""
        _log.error("internal error: the connection is given up", exc_info=bug)
        fault = self._record_fault(bug)
        self._callbacks.post(self._callbacks.error, fault)
        with anyio.move_on_after(self._close_timeout):
            try:
                if self.link is not None:
                    abort(self.link)
                    await self.link.wait_closed()
                await self._run_user_code(self._callbacks.run_due)
            except Exception:
                _log.exception(_NOT_ENDED)

    async def _drain(self) -> None:
        if self._draining is not None and self._drain_timeout > 0:
            with self._drain_scope, anyio.move_on_after(self._drain_timeout):
                await self._draining()
        self.ending = True
        self._opening.cancel()  # not before: what waits for the first connection may go out

    async def _end(self, called_back: anyio.Event) -> None:
        self._on_ending()
        if self.link is not None:
            self.link.close()
            # The Link keeps a limit of its own; this one is for Links that do not.
            with anyio.move_on_after(2 * self._close_timeout):
                await self.link.wait_closed()
        self._callbacks.finish()
        with anyio.move_on_after(self._close_timeout):
            await called_back.wait()

    async def _run_user_code(self, function: AsyncFunction) -> None:
        _own.set(self)
        task = anyio.get_current_task().id
        self._own_tasks.add(task)
        try:
            await function()
        except (KeyboardInterrupt, SystemExit, BaseExceptionGroup) as error:
            pass_exit_on(error)
        finally:
            self._own_tasks.discard(task)


def abort(link: Link) -> None:
    """End a Link at once; what it raises is a bug of its transport, which must stop nothing."""
    try:
        link.abort()
    except Exception:
        _log.exception(_NOT_ENDED)


async def abort_and_wait(link: Link, limit: float) -> None:
    """End a Link at once and wait for that, at most `limit` seconds; can't be cancelled."""
    with anyio.move_on_after(limit, shield=True):
        abort(link)
        try:
            await link.wait_closed()
        except Exception:
            _log.exception(_NOT_ENDED)


def warn_unclosed(client: object, name: str, remedy: str) -> None:
    """Warn of a client that is dropped though it is connected; for its __del__."""
    warnings.warn(
        f"unclosed {name}: nothing refers to it any more, so it is disconnected; use {remedy}",
        ResourceWarning,
        stacklevel=3,
        source=client,
    )


def _closed_meanwhile(fault: ConnectionLost | None) -> ConnectError:
    """What connecting raises if the client has ended before."""
    if fault is None:
        return ConnectError("the client was closed while it was connecting")
    error = ConnectError(str(fault), final=True)
    error.__cause__ = fault.__cause__
    return error


class _Running:
    """Counts the tasks that run."""

    def __init__(self) -> None:
        self._count = 0
        self._none = anyio.Event()

    def counted(self, function: AsyncFunction) -> AsyncFunction:
        """`function`, which counts from now on until it has run."""
        self._count += 1

        async def run() -> None:
            try:
                await function()
            finally:
                self._count -= 1
                if not self._count:
                    self._none.set()
                    self._none = anyio.Event()

        return run

    async def wait_none(self) -> None:
        """Wait until none is left."""
        while self._count:
            await self._none.wait()


# The TaskScope of which the running code is a handler or a callback, or was started by one.
_own: ContextVar[TaskScope | None] = ContextVar("mb_task_scope", default=None)
