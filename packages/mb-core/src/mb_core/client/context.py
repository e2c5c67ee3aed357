"""What the code that runs is working on, for whatever it sends meanwhile."""

from __future__ import annotations

from contextvars import ContextVar

from ..message import Message

__all__ = ["handled_id", "handling"]

handling: ContextVar[Message | None] = ContextVar("mb_handling", default=None)
"""The message that the running handler was called with; None outside of handlers.

A task that a handler has spawned keeps the message that it was spawned for.
"""


def handled_id() -> str | None:
    """The id of the request that is being handled: the parent of what is sent meanwhile."""
    message = handling.get()
    return message.request_id if message is not None else None
