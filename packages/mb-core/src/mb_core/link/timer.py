"""One timer for many deadlines of a state machine."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from .contract import Backend, Waiter

__all__ = ["DeadlineTimer"]


class DeadlineTimer:
    """Calls `handle(now)` when `next_deadline()` is reached, by the Backend's clock.

    It is not moved when its deadline is discarded: it then fires once for nothing, while moving it
    would cost time for each request.
    """

    def __init__(
        self,
        backend: Backend,
        next_deadline: Callable[[], float | None],
        handle: Callable[[float], None],
    ) -> None:
        self._backend = backend
        self._clock = backend.time
        self._next_deadline = next_deadline
        self._handle = handle
        self._wakeup: Waiter | None = None
        self._set_for = float("inf")

    def reschedule_if_earlier(self, deadline: float) -> None:
        """Call this after a deadline was added, which may be the next one."""
        if deadline < self._set_for and self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def reschedule(self) -> None:
        """Call this after deadlines may have been added."""
        deadline = self._next_deadline()
        if deadline is not None:
            self.reschedule_if_earlier(deadline)

    async def run(self) -> None:
        """Handle deadlines until cancelled."""
        while True:
            self._handle(self._clock())
            deadline = self._next_deadline()
            self._set_for = deadline if deadline is not None else float("inf")
            self._wakeup = self._backend.waiter()
            with anyio.move_on_after(self._set_for - self._clock()):
                await self._wakeup
            # If the loop was busy or the process was stopped, read what has arrived in the meantime
            # first. asyncio notices it in the first turn, and calls its readers after this task.
            await self._backend.checkpoint()
            await self._backend.checkpoint()
