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
    """Messages of one topic pattern, in force since `client.subscribe` returned it.

    Three ways to consume it, of which a subscription has one:

    - `client.subscribe(topic, handler=function)`: the function is called with each Message, in
      a thread;
    - `for message in client.subscribe(topic): ...`, or `receive` with a time limit, and
      `with client.subscribe(topic) as events: ...` to unsubscribe at the end of the block;
    - neither: publications go to each of the client's `on_message` handlers, and wait in the
      queue until there is one.  Each handler has a queue of its own, within the same bounds.

    Iteration ends when the subscription or the client is closed, and raises ConnectionLost when
    the connection is lost for good; what was received before still comes.  Several threads may
    iterate: each message goes to one of them.  A subscription that was iterated ends with the
    last reference to it: `for` that is left by `break` needs no `with`.
    """

    def __init__(self, subscription: mb_core.Subscription, loop: LoopThread) -> None:
        self._subscription = subscription
        self._loop = loop
        self._queue: MessageQueue | None = None  # from the first iteration on

    def __repr__(self) -> str:
        return repr(self._subscription)

    @property
    def topic(self) -> str:
        return self._subscription.topic

    @property
    def dropped(self) -> int:
        """How many messages did not fit into the queue and are lost.

        With several `on_message` handlers, the sum over their queues; `queued` likewise.
        """
        return self._subscription.dropped

    @property
    def queued(self) -> int:
        """How many messages wait for their consumer."""
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
        """Receive no more.  What is queued still goes to its consumer.

        Leaving a `with` block does the same; requests that nobody has taken are answered with
        SERVICE_UNAVAILABLE then.  When interrupted, this side has let go; the broker may still
        send, which is ignored.
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
        """Wait for the next message, at most `timeout` milliseconds; None waits for ever.

        0 does not wait.  Raises TimeoutError when the time is over, LocalProtocolError for another
        kind of timeout and where nothing more will come because the subscription was ended, and
        what iteration raises.
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
