"""Wait in one thread for an event loop in another."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mb_core.hosted_client import MessageQueue

__all__ = ["ThreadWaiter", "wait_for_message"]

_NOTHING = object()

_SLICE = 0.1 if sys.platform == "win32" else 0.5
"""Seconds for which the main thread waits for a lock at a time, so that Ctrl-C ends the wait.

Windows does not wake it for a signal.  Other systems do, unless the signal comes just before the
wait begins: then Python has not seen it yet, and the system has nothing to interrupt.
"""


class ThreadWaiter:
    """A value that one thread waits for, as a task waits for an asyncio.Future.

    It waits for a lock.  Ctrl-C ends the wait, at once or after `_SLICE`.
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
        """Wait for the value for at most `timeout` seconds; return whether there is one."""
        in_one = threading.get_ident() != threading.main_thread().ident
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
            in_one = in_one or timeout <= _SLICE
        if in_one:
            return self._lock.acquire(timeout=-1 if timeout is None else timeout)
        if self._lock.acquire(timeout=_SLICE):
            return True
        return self._wait_in_slices(timeout - _SLICE if timeout is not None else float("inf"))

    def _wait_in_slices(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        while True:
            left = max(0.0, until - time.monotonic())
            if self._lock.acquire(timeout=min(left, _SLICE)):
                return True
            if left <= _SLICE:
                return False


def wait_for_message(
    queue: MessageQueue,
    post: Callable[[Callable[[], object]], object],
    timeout: float | None = None,
) -> bool:
    """Wait until something has come into `queue`, or its end; False after `timeout` seconds.

    Another consumer may have taken the message.  When interrupted, a message that came for this
    consumer wakes another: `post` has a function called in the event loop.
    """
    waiter = ThreadWaiter()
    try:
        queue.add_waiter(waiter)
        # A message that arrived just before has woken nobody.
        if queue.waiting or queue.ended:
            queue.remove_waiter(waiter)
            return True
        woken = waiter.wait(timeout)
    except BaseException:
        if not queue.remove_waiter(waiter):
            post(queue.wake_another)
        raise
    return woken or not queue.remove_waiter(waiter)
