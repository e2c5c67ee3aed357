"""Subscriptions of the blocking client."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import mb_core
from mb_core.errors import LocalProtocolError
from mb_core.header import check_timeout
from mb_core.hosted_client import MessageQueue
from mb_core.message import Message

from .loop_thread import LoopThread
from .thread_runner import BlockingResponder
from .thread_waiter import wait_for_message

__all__ = ["Subscription"]


class Subscription:
    """The messages of a topic or pattern, from `client.subscribe`.

    There are three ways to consume them; choose one for each subscription:

    - Pass a handler: `client.subscribe(topic, handler=function)`. It is called with each `Message`,
      in a thread.
    - Iterate: `for message in client.subscribe(topic)`, or call `receive`. Enter it with `with` to
      unsubscribe at the end of the block.
    - Neither: publications go to each of the client's `on_message` handlers, and wait in the queue
      until there is one. Each handler has a queue of its own.

    Iteration ends when the subscription or the client is closed. If the connection is lost for
    good, it raises `ConnectionLost`. In both cases, messages that were received before come first.
    If several threads iterate, each message goes to one of them.

    A subscription that was iterated ends when nothing refers to it any more, so a `for` loop that
    is left by `break` needs no `with`.
    """

    def __init__(self, subscription: mb_core.Subscription, loop: LoopThread) -> None:
        self._subscription = subscription
        self._loop = loop
        self._queue: MessageQueue | None = None  # from the first iteration on

    def __repr__(self) -> str:
        return repr(self._subscription)

    @property
    def topic(self) -> str:
        """The topic or pattern that was subscribed to."""
        return self._subscription.topic

    @property
    def dropped(self) -> int:
        """How many messages were lost because a queue was full."""
        return self._subscription.dropped

    @property
    def queued(self) -> int:
        """How many messages are waiting for their consumer."""
        return self._subscription.queued

    def __enter__(self) -> Self:
        if not self._subscription.handled:
            self._iterate()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._loop.forked:
            self._loop.check()
            self._loop.call(self._subscription.__aexit__, kind, error, traceback)

    def unsubscribe(self) -> None:
        """Unsubscribe. Messages that are already queued still go to their consumer.

        Leaving a `with` block does the same. Queued requests that nothing will take are then
        answered with SERVICE_UNAVAILABLE.

        Raises:
            ResponseError: The broker refused. If the block is left by an error, that error is
                raised, and this one goes to `on_error`.

        If interrupted, the subscription has ended, but the broker may not have confirmed it.
        """
        self._loop.check()
        self._loop.call(self._subscription.unsubscribe)

    def __iter__(self) -> Subscription:
        self._iterate()
        return self

    def __next__(self) -> Message:
        message = self._next()
        if message is None:
            raise StopIteration
        return message

    def receive(self, timeout: int | None = None) -> Message:
        """Wait for the next message.

        Args:
            timeout: Time limit in milliseconds; 0 to return or raise at once, None to wait forever.

        Raises:
            TimeoutError: No message came within the time limit.
            LocalProtocolError: The subscription has ended, so no more messages will come; or a
                handler consumes its messages; or the time limit is invalid.
            ConnectionLost: The connection is lost for good.
            SlowConsumer: The queue was full, with `overflow="error"`.
        """
        if timeout is not None and (type(timeout) is not int or timeout != 0):
            check_timeout(timeout)
        message = self._next(timeout)
        if message is None:
            raise LocalProtocolError(
                f"nothing more will come: the subscription to {self.topic!r} was ended"
            )
        return message

    # Internals

    def _iterate(self) -> MessageQueue:
        if self._subscription.handled:
            raise LocalProtocolError(
                f"the messages of {self.topic!r} go to a handler: iterate subscriptions of a "
                "client that has no on_message handlers, and subscribe without handler"
            )
        self._loop.check()
        self._queue = self._subscription.iterate()
        return self._queue

    def _next(self, timeout: int | None = None) -> Message | None:
        """Return the next message; None after the last one, unless that was an error."""
        queue = self._queue or self._iterate()
        self._loop.check()  # in a forked process, what is queued belongs to the parent
        until = None if timeout is None else time.monotonic() + timeout / 1000
        while True:
            ended = (
                queue.ended
            )  # read before the queue: what came before the end is still to be taken
            try:
                message = queue.take()
            except IndexError:
                if ended:
                    break
            else:
                if message.responder is not None:
                    message.responder = BlockingResponder(message.responder, self._loop)
                return message
            left = None if until is None else max(0.0, until - time.monotonic())
            if not wait_for_message(queue, self._loop.post, left):
                raise TimeoutError(f"no message of {self.topic!r} came within {timeout} ms")
        if queue.error is not None:
            raise queue.error()
        return None

    def __del__(self) -> None:
        queue: Any = getattr(self, "_queue", None)
        if queue is not None and not queue.ended:
            self._loop.post(self._subscription.unsubscribe_nowait)
