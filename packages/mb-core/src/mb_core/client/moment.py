"""Something that happens once, which tasks of several event loops may wait for."""

from __future__ import annotations

import anyio

from ..link import Poster, current_backend
from .turn import checkpoint

__all__ = ["Moment"]


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
