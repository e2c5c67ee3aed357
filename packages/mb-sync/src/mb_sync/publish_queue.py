"""Pass publications from the threads of the program to the event loop."""

from __future__ import annotations

import threading
from collections import deque

from mb_core.errors import ConnectionLost, MBError
from mb_core.hosted_client import Callbacks, Supervisor
from mb_core.session import SessionState
from mb_core.throttle import Throttle

from .loop_thread import LoopThread

__all__ = ["PublishQueue"]

_MAX_MESSAGES = 1_000
"""With this many messages waiting, threads wait for the loop."""
_MAX_BYTES = 1_048_576


class PublishQueue:
    """Takes encoded messages from any thread, and has the loop publish them in order.

    The loop is woken once for a burst.  If the connection does not keep up, the thread waits for
    the loop, so memory is bounded; if there is no connection, the thread checks itself whether the
    buffer has room.
    """

    def __init__(self, supervisor: Supervisor, callbacks: Callbacks, loop: LoopThread) -> None:
        self._supervisor = supervisor
        self._session = supervisor.session
        self._callbacks = callbacks
        self._loop = loop
        self._waiting: deque[bytes] = deque()
        # The bytes of them, roughly: threads add to it at the same time.
        self._bytes = 0
        self._scheduled = False  # whether the loop is about to publish what waits
        # Held while publications go to the buffer, so that each finds the room that it sees.
        # Reentrant for signal handlers and destructors.
        self._lock = threading.RLock()
        self._throttle = Throttle()

    def publish(self, message: bytes) -> None:
        """Publish what Session.encode returned; raises ConnectionLost as Session.publish does.

        In the loop's own thread, where a logging handler may publish what the loop logs, nothing
        can be waited for.
        """
        waiting = self._waiting
        if self._session.state is not SessionState.READY:
            # Don't ask the loop: it may wait for a lock that this thread holds, such as that of a
            # logging handler which publishes.
            with self._lock:
                self._session.check_room(len(message), self._bytes)
                self._add(message)
        elif (
            len(waiting) >= _MAX_MESSAGES
            or self._bytes >= _MAX_BYTES
            or self._supervisor.connection.link.congested
        ):
            if not self._loop.is_current():
                self._loop.call(self._publish, message)
                return
            if len(waiting) >= _MAX_MESSAGES or self._bytes >= _MAX_BYTES:
                raise ConnectionLost(
                    "not published: the event loop has too much to send (a handler of its log "
                    "records can't wait for it)",
                    sent=False,
                )
            self._add(message)
        else:
            self._add(message)
        if not self._scheduled and not self._schedule_flush():
            self._flush()

    def _add(self, message: bytes) -> None:
        self._waiting.append(message)
        self._bytes += len(message)

    def _schedule_flush(self) -> bool:
        """Have the loop publish what waits; return False if it has ended."""
        # Holding the lock, so what another thread posts after it has seen this comes later.
        with self._loop.post_lock:
            self._scheduled = True
            try:
                return self._loop.post(self._flush)
            except BaseException:
                self._scheduled = False  # interrupted: the next thread schedules it
                raise

    # In the loop

    async def _publish(self, message: bytes) -> None:
        self._flush()
        supervisor = self._supervisor
        if supervisor.publish_encoded(message):
            await supervisor.connection.drain()
        else:
            supervisor.report_dropped_publishes()

    def _flush(self) -> None:
        buffered = False
        failure: MBError | None = None
        with self._lock:
            # In this order: a thread that adds a message from now on schedules again.
            self._scheduled = False
            self._bytes = 0
            waiting = self._waiting
            supervisor = self._supervisor
            while True:
                try:
                    message = waiting.popleft()
                except (
                    IndexError
                ):  # not checked before: once the loop has ended, many threads flush
                    break
                try:
                    if not supervisor.publish_encoded(message):
                        buffered = True
                except MBError as error:
                    # Meanwhile the connection was lost, and the buffer is full; or it was closed.
                    failure = error
        # Without the lock: handlers of these log records may publish.
        if buffered:
            supervisor.report_dropped_publishes()
        if failure is not None and self._throttle.allow():
            self._callbacks.report(failure.with_traceback(None), "publications were not sent")
