"""What the code that runs is working on, for whatever it sends meanwhile."""

from __future__ import annotations

from contextvars import ContextVar

from ..message import Message

__all__ = ["handling"]

handling: ContextVar[Message | None] = ContextVar("mb_handling", default=None)
"""The message that the running handler was called with; None outside of handlers.

A task that a handler has spawned keeps the message that it was spawned for.
"""
