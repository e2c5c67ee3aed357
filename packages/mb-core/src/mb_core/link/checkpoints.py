"""Turns of the event loop: giving others theirs, where nothing was waited for."""

from __future__ import annotations

from time import monotonic

from .detect import current_backend

__all__ = ["SLICE", "Turn", "checkpoint"]

SLICE = 0.005
"""User code that never waits gives the event loop a turn after this many seconds."""


async def checkpoint() -> None:
    """Give the event loop a turn, and raise if the task was cancelled. Works without a loop."""
    try:
        backend = current_backend()
    except RuntimeError:
        return
    await backend.checkpoint()


class Turn:
    """When a task that works without waiting has to let others run.

    For paths that are too hot for a checkpoint each time: `take` it when `over` has passed, on the
    clock `time.monotonic()`.
    """

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = 0.0

    async def take(self) -> None:
        """Give the event loop a turn, and begin the next one."""
        await checkpoint()
        self.over = monotonic() + SLICE
