"""Publications on their way from the threads of the program to the event loop."""

from __future__ import annotations

from collections import deque

from mb_core.client.callbacks import Callbacks
from mb_core.client.supervisor import Supervisor
from mb_core.errors import MBError
from mb_core.session import SessionState

from .loop import LoopThread

__all__ = ["Handover"]

_MOST = 1_000
"""Messages that wait for the loop before a thread waits for it, too."""
_MOST_BYTES = 1_048_576


class Handover:
    """Takes whole messages from any thread and passes them on in order.

    The loop is woken once for a burst.  Where the connection is not ready, or does not keep up,
    the thread waits for the loop instead: then errors are raised, and memory is bounded.
    """

    def __init__(self, supervisor: Supervisor, callbacks: Callbacks, loop: LoopThread) -> None:
        self._supervisor = supervisor
        self._session = supervisor.session
        self._callbacks = callbacks
        self._loop = loop
        self._waiting: deque[bytes] = deque()
        # The bytes of them, roughly: threads add to it at the same time.
        self._bytes = 0
        self._announced = False  # whether the loop is about to pass on

    def publish(self, message: bytes) -> None:
        """Publish what Session.encode gave; raises ConnectionLost as Session.publish does."""
        waiting = self._waiting
        if (
            self._session.state is not SessionState.READY
            or len(waiting) >= _MOST
            or self._bytes >= _MOST_BYTES
            or self._supervisor.connection.link.congested
        ):
            self._loop.call(self._publish, message)
            return
        waiting.append(message)
        self._bytes += len(message)
        if not self._announced and not self._announce():
            self._pass_on()

    def _announce(self) -> bool:
        """Have the loop pass on what waits; False where it has ended."""
        # Whatever is asked of the loop by a thread that finds this announced comes behind it.
        with self._loop.gate:
            self._announced = True
            try:
                return self._loop.post(self._pass_on)
            except BaseException:
                self._announced = False  # interrupted: the next one announces
                raise

    # In the loop

    async def _publish(self, message: bytes) -> None:
        self._pass_on()
        supervisor = self._supervisor
        if self._session.publish_encoded(message) is None:
            supervisor.look_at_buffer()
            return
        supervisor.connection.send(message)
        await supervisor.connection.link.drain()

    def _pass_on(self) -> None:
        # In this order: who adds a message from now on announces it.
        self._announced = False
        self._bytes = 0
        waiting = self._waiting
        session, supervisor = self._session, self._supervisor
        while True:
            try:
                message = waiting.popleft()
            except IndexError:  # not looked for before: where the loop has ended, many pass on
                return
            try:
                if session.publish_encoded(message) is None:
                    supervisor.look_at_buffer()
                else:
                    supervisor.connection.send(message)
            except MBError as error:
                # In between the connection was lost, and the buffer is full; or it was closed.
                text = "a publication was not sent"
                self._callbacks.report(error.with_traceback(None), text)
