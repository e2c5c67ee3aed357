"""Between the reader and those who consume messages: what waits for whom."""

from __future__ import annotations

from ..errors import ServiceUnavailableError
from ..header import Action
from ..link import Backend, Waker
from ..message import Message
from .consumer import EndError
from .queue import MessageQueue

__all__ = ["Inbox", "refuse"]


class Inbox:
    """A queue, the consumers that wait for it, and its end.

    The reader puts; consumers take from `queue`, and `wait` where it is empty and has not ended.
    What was put before the end is still to be taken.
    """

    __slots__ = ("_idle", "ended", "error", "queue")

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue
        self.ended = False
        self.error: EndError | None = None
        self._idle: list[Waker] = []

    def put(self, messages: list[Message]) -> list[Message]:
        """Queue messages and wake as many consumers; returns those that were dropped."""
        dropped = self.queue.put(messages)
        if self._idle:
            self._wake(len(messages))
        return dropped

    def end(self, error: EndError | None) -> None:
        """Nothing more will come, because of `error` or in order; only the first call counts."""
        if not self.ended:
            self.ended = True
            self.error = error
            self._wake(len(self._idle))

    def refuse(self) -> None:
        """Answer the requests that wait with SERVICE_UNAVAILABLE: nobody will take them."""
        for message in self.queue.remove(Action.REQUEST):
            refuse(message, "the service has just stopped answering this topic")

    def discard(self) -> None:
        """Drop all that waits, as nobody will take it, and answer the requests."""
        self.refuse()
        self.queue.waiting.clear()

    async def wait(self, backend: Backend) -> None:
        """Wait for a message or the end; another consumer may have taken the message.

        When cancelled, a message that came for this consumer wakes another.
        """
        waiter = backend.waiter()
        self.join(waiter)
        try:
            await waiter
        except BaseException:
            if not self.leave(waiter):
                self.wake_another()
            raise

    # For consumers in other threads: these two, and a look at `queue` and `ended` between them.

    def join(self, waiter: Waker) -> None:
        """Have `waiter` woken by what comes from now on, or by the end."""
        self._idle.append(waiter)

    def leave(self, waiter: Waker) -> bool:
        """Take `waiter` back; False where it is woken already."""
        try:
            self._idle.remove(waiter)
        except ValueError:
            return False
        return True

    def wake_another(self) -> None:
        """A consumer that was woken takes no message: another may."""
        self._wake(1)

    def _wake(self, count: int) -> None:
        idle = self._idle
        while count > 0:
            try:
                waiter = idle.pop()
            except IndexError:
                return
            if not waiter.done():
                waiter.set_result(None)
                count -= 1


def refuse(message: Message, reason: str) -> None:
    """Answer a request with SERVICE_UNAVAILABLE; does nothing with a publication."""
    if message.responder is not None:
        message.responder.answer_now(message, ServiceUnavailableError(reason))
