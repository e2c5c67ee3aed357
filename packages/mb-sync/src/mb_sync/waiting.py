"""Waiting in one thread for what an event loop does in another."""

from __future__ import annotations

import threading
from typing import Any

from mb_core.client.inbox import Inbox

from .loop import LoopThread

__all__ = ["ThreadWaiter", "wait_for_message"]

_NOTHING = object()


class ThreadWaiter:
    """A value that one thread waits for: what an asyncio.Future is to a task.

    The wait is one for a lock, which Ctrl-C ends at once.
    """

    __slots__ = ("_lock", "result")

    def __init__(self) -> None:
        self.result: Any = _NOTHING
        self._lock = threading.Lock()
        self._lock.acquire()

    def done(self) -> bool:
        return self.result is not _NOTHING

    def set_result(self, result: Any, /) -> None:
        self.result = result
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the value, `timeout` in seconds at most; whether it has come."""
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)


def wait_for_message(inbox: Inbox, loop: LoopThread, timeout: float | None = None) -> bool:
    """Wait until something has come into `inbox`, or its end; False after `timeout` seconds.

    Another consumer may have taken the message.  When interrupted, a message that came for this
    consumer wakes another.
    """
    waiter = ThreadWaiter()
    try:
        inbox.join(waiter)
        # What came just before has woken nobody.
        if inbox.queue.waiting or inbox.ended:
            inbox.leave(waiter)
            return True
        woken = waiter.wait(timeout)
    except BaseException:
        if not inbox.leave(waiter):
            loop.post(inbox.wake_another)
        raise
    return woken or not inbox.leave(waiter)
