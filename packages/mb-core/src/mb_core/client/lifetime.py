"""The life of a client's connection: one root task that holds all others, from start to end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar, copy_context

import anyio
import anyio.abc
import anyio.lowlevel

from ..errors import ConnectError
from ..link import Backend, Home, Link, current_backend
from .callbacks import Callbacks
from .interrupt import AsyncFunction, pass_interrupt_on, uninterrupted

__all__ = ["Lifetime"]

_log = logging.getLogger("mb_core.client")


class Lifetime:
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
        self._callbacks = callbacks
        self._close_timeout = close_timeout
        self._drain_timeout = drain_timeout
        self._draining = draining
        self.ending = False  # whether the Link is about to be closed, or was
        self._on_ending = ending
        self._on_ended = ended
        # The callbacks' task belongs to who connects, not to the loop: so do its variables.
        self._context = copy_context()
        self._opening = anyio.CancelScope()
        self._asked = anyio.Event()
        self._drain_scope = anyio.CancelScope()
        self._consuming = 0
        self._consumed = anyio.Event()
        self._finished = anyio.Event()
        self._tasks: anyio.abc.TaskGroup
        self._consumers: anyio.abc.TaskGroup
        self._root_task: object = None

    @property
    def closing(self) -> bool:
        """Whether the end was asked for."""
        return self._asked.is_set()

    @property
    def ended(self) -> bool:
        """Whether it is all over."""
        return self._finished.is_set()

    @property
    def inside(self) -> bool:
        """Whether what runs are the connection's own tasks: its handlers and callbacks."""
        return _own.get() is self

    async def begin(self, opening: AsyncFunction) -> None:
        """Start the root task and await `opening`; if that fails, end everything at once.

        Raises ConnectError where the end was asked for meanwhile.
        """
        started = anyio.Event()
        self._root_task = self.backend.spawn_root(lambda: self._root(started))
        try:
            with self._opening:
                await started.wait()
                await anyio.lowlevel.checkpoint_if_cancelled()
                await opening()
            if self._opening.cancelled_caught:
                raise ConnectError("the client was closed while it was connecting")
        except BaseException:
            if self.link is not None:
                self.link.abort()  # nothing was sent: there is no farewell to wait for
            self._drain_scope.cancel()
            self._asked.set()
            with anyio.CancelScope(shield=True):
                await self._finished.wait()
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
        if not drain:
            self._drain_scope.cancel()
        self._asked.set()
        self._opening.cancel()
        if not self.inside:
            try:
                await self._finished.wait()
            except BaseException:
                self._drain_scope.cancel()
                raise

    def hold(self, link: Link) -> bool:
        """Take a Link, in place of the one before; False where it has come too late."""
        self.link = link
        if self.ending:
            link.abort()
        return not self.ending

    def spawn(self, function: AsyncFunction) -> None:
        """Start a task that lives until the very end."""
        self._tasks.start_soon(uninterrupted(function))

    def spawn_consumer(self, function: AsyncFunction) -> None:
        """Start a task that runs user code: the end waits for it a while, then cancels it."""
        if not self.ending:
            self._consuming += 1
            self._consumers.start_soon(self._consume, function)

    async def wait_consumed(self) -> None:
        """Wait until no consumer's task is left."""
        while self._consuming:
            self._consumed = anyio.Event()
            await self._consumed.wait()

    async def _root(self, started: anyio.Event) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                called_back = anyio.Event()

                async def call_back() -> None:
                    try:
                        await self._callbacks.run(self.backend)
                    finally:
                        called_back.set()

                self._context.run(self._tasks.start_soon, self._as_own, call_back)
                async with anyio.create_task_group() as self._consumers:
                    started.set()
                    await self._asked.wait()
                    await self._drain()
                    self._consumers.cancel_scope.cancel()
                await self._end(called_back)
                self._tasks.cancel_scope.cancel()
        except Exception:
            # A bug of ours; the connection ends, the program does not.
            _log.exception("internal error: the connection is given up")
        except BaseException as error:
            pass_interrupt_on(error)
        finally:
            if self.link is not None:
                self.link.abort()
            self._asked.set()
            self.ending = True
            self._on_ended()
            self._finished.set()

    async def _drain(self) -> None:
        if self._draining is not None and self._drain_timeout > 0:
            with self._drain_scope, anyio.move_on_after(self._drain_timeout):
                await self._draining()
        self.ending = True

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

    async def _consume(self, function: AsyncFunction) -> None:
        try:
            await self._as_own(function)
        finally:
            self._consuming -= 1
            if not self._consuming:
                self._consumed.set()

    async def _as_own(self, function: AsyncFunction) -> None:
        _own.set(self)
        try:
            await function()
        except (KeyboardInterrupt, BaseExceptionGroup) as error:
            pass_interrupt_on(error)


# The Lifetime to which the running task belongs.
_own: ContextVar[Lifetime | None] = ContextVar("mb_lifetime", default=None)
