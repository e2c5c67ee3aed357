"""Yield to the event loop in code that did not wait for anything."""

from __future__ import annotations

from time import monotonic

from .detect import current_backend

__all__ = ["SLICE", "Turn", "checkpoint"]

SLICE = 0.005
"""User code that never waits yields to the event loop after this many seconds."""


async def checkpoint() -> None:
    """Yield to the event loop, and raise if the task was cancelled. Works without a loop."""
    try:
        backend = current_backend()
    except RuntimeError:
        return
    await backend.checkpoint()


class Turn:
    """Decides when a task that works without waiting has to let others run.

    For hot paths, where a checkpoint each time is too expensive: `take` one when `time.monotonic()`
    has passed `over`.
    """

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = 0.0

    async def take(self) -> None:
        """Yield to the event loop, and start the next slice of time."""
        await checkpoint()
        self.over = monotonic() + SLICE
