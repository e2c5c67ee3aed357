"""A subscription's queue that is filled in one thread and emptied in others."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mb_core.header import Action
from mb_core.hosted_client import DEFAULT_QUEUE_BYTES, MessageQueue
from mb_core.message import Message

__all__ = ["ThreadQueue"]


class ThreadQueue(MessageQueue):
    """A MessageQueue whose `take` may be called in any thread.

    Adding to it where there is room needs no lock: that appends, and taking only makes more room.
    """

    __slots__ = ("_lock",)

    def __init__(
        self, size: int | None, overflow: str, size_bytes: int | None = DEFAULT_QUEUE_BYTES
    ) -> None:
        super().__init__(size, overflow, size_bytes)
        # Reentrant, because a signal handler that takes may interrupt a thread that takes.
        self._lock = threading.RLock()
        self.take = _locked(self._lock, self.waiting.popleft)

    def remove(self, action: Action) -> list[Message]:
        with self._lock:
            return super().remove(action)

    def put_one_by_one(self, messages: list[Message]) -> list[Message]:
        with self._lock:
            return super().put_one_by_one(messages)


def _locked(lock: threading.RLock, take: Callable[[], Message]) -> Callable[[], Message]:
    def take_alone() -> Message:
        with lock:
            return take()

    return take_alone
