"""What the code that runs is working on, for whatever it sends meanwhile."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from ..message import handling

__all__ = ["Run", "handled_id", "handling", "running"]


class Run(NamedTuple):
    """One call of an on_connect callback, by which what it sets up is known.

    A new call sets it up again, so that replaces what an earlier call of `callback` has set up.
    """

    callback: int
    number: int

    def follows(self, other: Run | None) -> bool:
        return other is not None and self.callback == other.callback and self.number > other.number


running: ContextVar[Run | None] = ContextVar("mb_running", default=None)
"""The call of an on_connect callback that the code belongs to; None elsewhere."""


def handled_id() -> str | None:
    """The id of the request that is being handled: the parent of what is sent meanwhile."""
    message = handling.get()
    return message.request_id if message is not None else None
