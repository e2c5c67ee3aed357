"""Turns of the event loop: giving others theirs, and being woken in one's own."""

from __future__ import annotations

from time import monotonic

import anyio

from .contract import Poster
from .detect import current_backend

__all__ = ["SLICE", "Moment", "Turn", "checkpoint"]

SLICE = 0.005
"""User code that never waits gives the event loop a turn after this many seconds."""


async def checkpoint() -> None:
    """Let the event loop have a turn, and cancellation arrive; nothing where no loop runs."""
    try:
        backend = current_backend()
    except RuntimeError:
        return
    await backend.checkpoint()


class Turn:
    """When a task that works without waiting has to let others run.

    On paths that are too hot for a checkpoint each time: `take` it where `over` has passed, by
    `time.monotonic()`.
    """

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = 0.0

    async def take(self) -> None:
        await checkpoint()
        self.over = monotonic() + SLICE


class Moment:
    """An event before a client has a loop of its own: each waiting task is woken in its own loop.

    anyio.Event belongs to one loop; set in another thread, it would not wake that.
    """

    def __init__(self) -> None:
        self._come = False
        self._waiting: list[tuple[Poster, anyio.Event]] = []

    async def wait(self) -> None:
        """Wait until it has come; when cancelled, nothing changes."""
        event = anyio.Event()
        waiting = (current_backend().poster(), event)
        self._waiting.append(waiting)
        try:
            if self._come:  # not before the append: `come` may be called in another thread
                await checkpoint()
            else:
                await event.wait()
        finally:
            self._waiting.remove(waiting)

    def come(self) -> None:
        """Let all who wait go on."""
        self._come = True
        for post, event in list(self._waiting):
            post(event.set)
