"""What the running handler was called with."""

from __future__ import annotations

from contextvars import ContextVar

from ..message import Message

__all__ = ["handling"]

handling: ContextVar[Message | None] = ContextVar("mb_handling", default=None)
"""The message that the running handler was called with; None outside of handlers."""
