"""A client's tasks: one root task contains all others."""

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
from ..signals import AsyncFunction, pass_exit_on, uninterrupted
from .callbacks import Callbacks

__all__ = ["TaskScope", "abort", "abort_and_wait", "warn_unclosed"]

_log = logging.getLogger("mb_core.client")

_NOT_ENDED = "internal error: the connection could not be ended"


class TaskScope:
    """Runs a connection's tasks, and shuts them down cleanly. The root task belongs to the event
    loop, not to a scope of the user. So a client can be connected in one function and closed in
    another, on trio and on asyncio, and an error in one does not cancel the other.

    Shutdown has three steps, each with a time limit in seconds: `draining` lets running work
    finish; then consumers are cancelled, `ending` is called and the Link is closed; finally `ended`
    is called, whatever the reason.
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
        self.fault: ConnectionLost | None = None  # the bug that ended it
        self._refuses_links = False  # whether new Links are rejected
        self.ending = False  # whether the Link is about to be closed, or was
        self._on_ending = ending
        self._on_ended = ended
        # The callbacks' task has the context variables of the caller of connect.
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
        """Whether shutdown was requested."""
        return self._end_requested.is_set()

    @property
    def ended(self) -> bool:
        """Whether shutdown is complete."""
        return self._finished.is_set()

    @property
    def in_own_task(self) -> bool:
        """Whether the caller is one of the connection's tasks: a handler or a callback. Tasks in
        their task groups, which they wait for, count as well; background tasks that they started do
        not.
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
        """Whether the caller is a handler or a callback, or was started by one."""
        return _own.get() is self

    async def begin(self, opening: AsyncFunction) -> None:
        """Start the root task and await `opening`; if that fails, end everything at once. Raises
        ConnectError if shutdown was requested in the meantime.
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
            fault = self.fault  # and not an error from closing the Link
            if self.link is not None:
                abort(self.link)  # nothing was sent yet, so no closing handshake is needed
            self._drain_scope.cancel()
            self._end_requested.set()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()
            if fault is not None and isinstance(error, ConnectError):
                raise _closed_meanwhile(fault) from fault.__cause__
            raise

    async def end(self, *, drain: bool = True) -> None:
        """Shut down cleanly, and wait until that is complete; safe to call twice.

        Raises LocalProtocolError on another event loop than that of `begin`, unless it is complete.
        Without `drain`, or if this is cancelled, the first step is skipped or cut short, and
        shutdown continues in the background. If called from one of the connection's tasks, which
        run the user's handlers and callbacks, it does not wait, because shutdown waits for them.
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
        """Whether shutdown still has to be requested, in this process."""
        return not self.closing and not self.home.forked

    def drop(self, before: Callable[[], object] = lambda: None) -> None:
        """Shut down cleanly because nobody can request it any more; called in any thread, at any
        time.

        `before` is called first, on the event loop.
        """

        def end() -> None:
            before()
            self._end_requested.set()

        self._post(end)

    def adopt(self, link: Link) -> bool:
        """Take a new Link; return False if it is too late."""
        self.link = link
        if self.ending or self._refuses_links:
            abort(link)
            return False
        return True

    def refuse_links(self) -> None:
        """Abort Links that are still being opened: those who waited for one already have the
        error."""
        self._refuses_links = True

    def spawn(self, function: AsyncFunction) -> None:
        """Start a task that lives until shutdown is complete. Raises ConnectError once tasks are
        being cancelled.
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
        """Shut down because of a bug that was found where it can't be raised, such as in a
        callback."""

        async def raise_bug() -> None:
            self._record_fault(bug)
            raise bug

        if self.fault is not None or self._tasks.cancel_scope.cancel_called:
            _log.error("internal error: while the connection ended", exc_info=bug)
        else:
            self.backend.start_in(self._tasks, raise_bug)

    def spawn_consumer(self, function: AsyncFunction) -> None:
        """Start a task that runs user code; shutdown waits for it for a limited time, then cancels
        it."""
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
        # In a separate task: a consumer that can't be cancelled because it waits for a thread keeps
        # only this group from ending.
        try:
            async with anyio.create_task_group() as self._consumers:
                started.set()
                await anyio.sleep_forever()
        except BaseException as error:
            pass_exit_on(error)

    async def _wait_for_cancelled(self) -> None:
        """Wait for cancelled tasks; then finish, even if some are left."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self._close_timeout) as limit:
                await self.wait_consumed()
                await self._running.wait_none()
            if limit.cancelled_caught:
                _log.warning(
                    "closed while a handler or a callback is still running: it can't be cancelled "
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
        """Report the first bug to all waiting calls, before tasks are cancelled because of it."""
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
        """Shut down with an error because of a bug, in this library or a plugin; the program
        continues."""
        _log.error("internal error: dropping the connection", exc_info=bug)
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
        # Not earlier: messages that wait for the first connection may still be sent.
        self._opening.cancel()

    async def _end(self, called_back: anyio.Event) -> None:
        self._on_ending()
        if self.link is not None:
            self.link.close()
            # The Link has its own limit; this one is for Links that do not.
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
    """Abort a Link; an error here is a bug in its transport, and is only logged."""
    try:
        link.abort()
    except Exception:
        _log.exception(_NOT_ENDED)


async def abort_and_wait(link: Link, limit: float) -> None:
    """Abort a Link and wait for that, at most `limit` seconds; can't be cancelled."""
    with anyio.move_on_after(limit, shield=True):
        abort(link)
        try:
            await link.wait_closed()
        except Exception:
            _log.exception(_NOT_ENDED)


def warn_unclosed(client: object, name: str, remedy: str) -> None:
    """Warn about a client that is dropped while it is connected; for its __del__."""
    warnings.warn(
        f"unclosed {name}: nothing refers to it any more, so it is disconnected; use {remedy}",
        ResourceWarning,
        stacklevel=3,
        source=client,
    )


def _closed_meanwhile(fault: ConnectionLost | None) -> ConnectError:
    """Return the error for connecting if the client has ended."""
    if fault is None:
        return ConnectError("the client was closed while it was connecting")
    error = ConnectError(str(fault), final=True)
    error.__cause__ = fault.__cause__
    return error


class _Running:
    """Counts running tasks."""

    def __init__(self) -> None:
        self._count = 0
        self._none = anyio.Event()

    def counted(self, function: AsyncFunction) -> AsyncFunction:
        """Return `function` wrapped so that it counts from now on until it has finished."""
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


# The TaskScope whose handler or callback is running, or has started the running code.
_own: ContextVar[TaskScope | None] = ContextVar("mb_task_scope", default=None)
