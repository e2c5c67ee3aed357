"""A subscription's queue: bounded, with a policy for what does not fit."""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from ..errors import LocalProtocolError
from ..message import Message

__all__ = ["DEFAULT_QUEUE_BYTES", "MessageQueue", "Overflow"]

DEFAULT_QUEUE_BYTES = 64 * 1024 * 1024


class Overflow(StrEnum):
    """What a full queue does with one message more."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    ERROR = "error"


class MessageQueue:
    """Messages between the reader and a consumer.

    `size` is in messages, None for no bound.  `overflowed` is set by the policy `error`: the
    queue takes nothing from then on.
    """

    __slots__ = ("_messages", "dropped", "overflow", "overflowed", "size", "take")

    def __init__(
        self, size: int | None, overflow: str, size_bytes: int | None = DEFAULT_QUEUE_BYTES
    ) -> None:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise LocalProtocolError(
                f"invalid queue_size {size!r}: a number of messages from 1, or None for no bound"
            )
        try:
            self.overflow = Overflow(overflow)
        except ValueError:
            choices = ", ".join(repr(choice.value) for choice in Overflow)
            raise LocalProtocolError(f"invalid overflow {overflow!r}: one of {choices}") from None
        self.size = size
        self.dropped = 0
        self.overflowed = False
        self._messages: deque[Message] = deque()
        self.take = self._messages.popleft

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, messages: list[Message]) -> list[Message]:
        """Add messages in order; returns those that were dropped, of these or of older ones."""
        queue = self._messages
        if not self.overflowed and (self.size is None or len(queue) + len(messages) <= self.size):
            queue.extend(messages)
            return []
        dropped = self._put_some(messages)
        self.dropped += len(dropped)
        return dropped

    def _put_some(self, messages: list[Message]) -> list[Message]:
        queue = self._messages
        if self.overflowed or self.size is None:
            return messages
        room = self.size - len(queue)
        if self.overflow is Overflow.DROP_OLDEST:
            queue.extend(messages)
            return [queue.popleft() for _ in range(len(messages) - room)]
        queue.extend(messages[:room])
        self.overflowed = self.overflow is Overflow.ERROR
        return messages[room:]
