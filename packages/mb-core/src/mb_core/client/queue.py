"""A subscription's queue: bounded, with an overflow policy and waiting consumers."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from ..errors import LocalProtocolError, MBError, ServiceUnavailableError
from ..header import Action
from ..link import Backend, Waker
from ..message import Message

__all__ = ["DEFAULT_QUEUE_BYTES", "EndError", "MessageQueue", "Overflow", "refuse"]

DEFAULT_QUEUE_BYTES = 64 * 1024 * 1024
"""The most bytes of payloads that wait for a slow consumer."""


EndError = Callable[[], MBError]
"""Creates the error with which something ended: a new one each time it is raised."""


class Overflow(StrEnum):
    """What happens to a message that does not fit into a subscription's queue.

    The values can be passed as strings: `subscribe(topic, overflow="error")`.
    """

    DROP_NEWEST = "drop_newest"
    """The message is dropped."""
    DROP_OLDEST = "drop_oldest"
    """The oldest messages are dropped to make room."""
    ERROR = "error"
    """The message is dropped, and the subscription ends with `SlowConsumer`."""


class MessageQueue:
    """The queue of messages between a connection and a subscription's consumers.

    `take` returns the oldest message, and raises IndexError if there is none. Consumers look at
    `waiting`, and `wait` if it is empty and the queue has not `ended`. Messages that were put
    before the end can still be taken.

    `size` limits the number of messages and `size_bytes` the bytes of their payloads; None for no
    limit. A message that is larger than `size_bytes` fits into an empty queue. With the policy
    `error`, a full queue sets `overflowed` and takes no more messages.
    """

    __slots__ = (
        "_added",
        "_bytes",
        "_counted",
        "_first",
        "_idle",
        "_lengths",
        "_most",
        "_most_bytes",
        "dropped",
        "ended",
        "error",
        "overflow",
        "overflowed",
        "size",
        "size_bytes",
        "take",
        "waiting",
    )

    def __init__(
        self, size: int | None, overflow: str, size_bytes: int | None = DEFAULT_QUEUE_BYTES
    ) -> None:
        self._most = _bound("queue_size", size, "messages")
        self._most_bytes = _bound("queue_bytes", size_bytes, "bytes")
        try:
            self.overflow = Overflow(overflow)
        except ValueError:
            choices = ", ".join(repr(choice.value) for choice in Overflow)
            raise LocalProtocolError(f"invalid overflow {overflow!r}: one of {choices}") from None
        self.size = size
        self.size_bytes = size_bytes
        self.dropped = 0
        self.overflowed = False
        self.waiting: deque[Message] = deque()
        self.take = self.waiting.popleft
        self.ended = False
        self.error: EndError | None = None
        self._idle: list[Waker] = []  # of consumers
        # Consumers pop from the deque directly, so `_bytes` is an upper bound. The others are the
        # lengths that were counted when messages did not seem to fit, their sum, and the index of
        # the first of them among all messages ever added.
        self._bytes = 0
        self._lengths: deque[int] = deque()
        self._counted = 0
        self._first = 0
        self._added = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def like(self) -> MessageQueue:
        """Return an empty queue with the same bounds and policy."""
        return type(self)(self.size, self.overflow, self.size_bytes)

    def put(self, messages: list[Message]) -> list[Message]:
        """Add messages in order and wake as many consumers.

        Returns those that were dropped, of these or of older ones.
        """
        dropped = self._put(messages)
        if self._idle:
            self._wake(len(messages))
        return dropped

    def _put(self, messages: list[Message]) -> list[Message]:
        waiting = self.waiting
        total = self._bytes if waiting else 0
        for message in messages:
            total += len(message.raw_payload)
        if total > self._most_bytes or len(waiting) + len(messages) > self._most or self.overflowed:
            return self.put_one_by_one(messages)
        waiting.extend(messages)
        self._added += len(messages)
        self._bytes = total
        return []

    def end(self, error: EndError | None) -> None:
        """End the queue, because of `error` or in an orderly way; only the first call counts."""
        if not self.ended:
            self.ended = True
            self.error = error
            self._wake(len(self._idle))

    def refuse_requests(self) -> None:
        """Answer waiting requests with SERVICE_UNAVAILABLE, because nobody will take them."""
        for message in self.remove(Action.REQUEST):
            refuse(message, "the service has just stopped answering this topic")

    def discard(self) -> None:
        """Drop all waiting messages, because nobody will take them, and answer the requests."""
        self.refuse_requests()
        self.waiting.clear()

    def remove(self, action: Action) -> list[Message]:
        """Remove and return the messages of one action; the others keep their order."""
        found = [message for message in self.waiting if message.action is action]
        kept = [message for message in self.waiting if message.action is not action]
        self.waiting.clear()
        self.waiting.extend(kept)
        self._lengths.clear()
        self._counted = 0
        return found

    async def wait(self, backend: Backend) -> None:
        """Wait for a message or the end; another consumer may have taken the message.

        When cancelled, a message that came for this consumer wakes another.
        """
        waiter = backend.waiter()
        self.add_waiter(waiter)
        try:
            await waiter
        except BaseException:
            if not self.remove_waiter(waiter):
                self.wake_another()
            raise

    # For consumers in other threads: these two, and a look at `waiting` and `ended` between them.

    def add_waiter(self, waiter: Waker) -> None:
        """Wake `waiter` at the next message, or at the end."""
        self._idle.append(waiter)

    def remove_waiter(self, waiter: Waker) -> bool:
        """Remove `waiter`; return False if it was already woken."""
        try:
            self._idle.remove(waiter)
        except ValueError:
            return False
        return True

    def wake_another(self) -> None:
        """Wake another consumer, because one that was woken takes no message."""
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

    def put_one_by_one(self, messages: list[Message]) -> list[Message]:
        """Add messages that may not all fit; return those that were dropped."""
        waiting, lengths = self.waiting, self._lengths
        dropped: list[Message] = []
        self._count()
        for message in messages:
            length = len(message.raw_payload)
            if self.overflow is Overflow.DROP_OLDEST:
                while not self._fits(length):
                    dropped.append(waiting.popleft())
                    self._counted -= lengths.popleft()
            elif self.overflowed or not self._fits(length):
                self.overflowed = self.overflow is Overflow.ERROR
                dropped.append(message)
                continue
            waiting.append(message)
            lengths.append(length)
            self._added += 1
            self._counted += length
        self._first = self._added - len(waiting)
        self._bytes = self._counted
        self.dropped += len(dropped)
        return dropped

    def _fits(self, length: int) -> bool:
        count = len(self.waiting)
        return count == 0 or (count < self._most and self._counted + length <= self._most_bytes)

    def _count(self) -> None:
        """Forget the lengths of taken messages, and count those added since."""
        waiting, lengths = self.waiting, self._lengths
        first = self._added - len(waiting)
        for _ in range(min(first - self._first, len(lengths))):
            self._counted -= lengths.popleft()
        self._first = first
        unknown = itertools.islice(reversed(waiting), len(waiting) - len(lengths))
        found = [len(message.raw_payload) for message in unknown]
        lengths.extend(reversed(found))
        self._counted += sum(found)


def _bound(name: str, bound: int | None, of: str) -> int:
    if bound is None:
        return sys.maxsize
    if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
        raise LocalProtocolError(
            f"invalid {name} {bound!r}: expected a whole number of {of}, at least 1, "
            "or None for no limit"
        )
    return bound


def refuse(message: Message, reason: str) -> None:
    """Answer a request with SERVICE_UNAVAILABLE; ignore publications."""
    if message.responder is not None:
        message.responder.answer_now(message, ServiceUnavailableError(reason))
