"""Subscriptions: the queue between the reader and the code that consumes messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any
from warnings import warn

from ..errors import (
    InternalError,
    LocalProtocolError,
    MBError,
    MessageTooLarge,
    ProtocolError,
    ResponseError,
    ServiceUnavailableError,
    SlowConsumer,
)
from ..header import Action
from ..link import Waiter
from ..message import Message
from ..session import Subscribed
from .callbacks import Callbacks, call, failure
from .consumer import EndError
from .queue import MessageQueue
from .supervisor import Supervisor

__all__ = ["Subscription"]

# A consumer that never waits gives the event loop a turn after this many seconds.
_SLICE = 0.005
# An iterator does not look at the clock for each message: it counts.
_TAKEN_IN_A_ROW = 64
# Seconds between two reports of a slow consumer.
_REPORT_EVERY = 1.0


class Subscription:
    """Messages of one topic pattern.  Made by `client.subscribe`, in force once awaited.

    Three ways to consume it, of which a subscription has one:

    - `await client.subscribe(topic, handler=function)`: the function is called with each Message;
    - `async with client.subscribe(topic) as events: async for message in events: ...`, or
      iterating what `await client.subscribe(topic)` gave;
    - neither: publications go to the client's `on_message` handlers, and wait in the queue
      until there is one.

    Iteration ends when the subscription or the client is closed, and raises ConnectionLost when
    the connection is lost; what was received before still comes.  A cancelled iteration loses
    no message.  Several tasks may iterate: each message goes to one of them.
    """

    def __init__(
        self,
        connected: Callable[[], Supervisor],
        callbacks: Callbacks,
        topic: str,
        actions: tuple[Action, ...],
        *,
        priority: float,
        handler: Callable[[Message], Any] | None,
        concurrency: int,
        queue: MessageQueue,
    ) -> None:
        self.topic = topic
        self._connected = connected
        self._callbacks = callbacks
        self._handler = handler
        self._concurrency = concurrency
        self._queue = queue
        self._actions = actions
        # What the broker sends for this subscription: empty when it has been let go.
        self._entries = [Subscribed(topic, action, priority, self) for action in actions]
        self._idle: list[Waiter] = []
        self._connection: Supervisor | None = None
        self._iterated = False
        self._ended = False
        self._error: EndError | None = None
        self._taken = 0
        self._reported_at = float("-inf")

    def __repr__(self) -> str:
        actions = "+".join(self._actions)
        state = "ended" if self._ended else "active" if self._connection else "not awaited"
        return f"<Subscription {actions} {self.topic!r} {state}>"

    @property
    def dropped(self) -> int:
        """How many messages did not fit into the queue and are lost."""
        return self._queue.dropped

    @property
    def queued(self) -> int:
        """How many messages wait for their consumer."""
        return len(self._queue)

    # In force

    def __await__(self) -> Generator[Any, Any, Subscription]:
        return self._start().__await__()

    async def __aenter__(self) -> Subscription:
        self._iterated = self._handler is None
        return await self._start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.unsubscribe()
        finally:
            if self._iterated:
                self._refuse_queued()

    async def _start(self) -> Subscription:
        if self._connection is not None or self._ended:
            raise LocalProtocolError(
                f"{self!r} was awaited before: each takes a client.subscribe(...) of its own"
            )
        try:
            connection = self._connection = self._connected()
            for entry in self._entries:
                await connection.subscribe(entry)
        except BaseException:
            self._ended = True
            self._let_go()
            raise
        if self._handler is not None:
            self._start_pumps(connection)
        else:
            self.consume_with_on_message()
        return self

    async def unsubscribe(self) -> None:
        """Receive no more.  What is queued still goes to its consumer.

        Leaving an `async with` block does the same; requests that nobody has taken are answered
        with SERVICE_UNAVAILABLE then.  When cancelled, this side has let go; the broker may still
        send, which is ignored.
        """
        if self._connection is not None:
            entries = self._entries
            for entry in entries:
                self.release(entry)
            await self._connection.unsubscribe(entries)

    def release(self, entry: Subscribed, error: EndError | None = None) -> None:
        """Have done with `entry`; the caller tells the broker."""
        self._entries = [other for other in self._entries if other is not entry]
        if not self._entries:
            self.end(error)

    # The Consumer: called by the reader

    def deliver(self, messages: list[Message]) -> None:
        dropped = self._queue.put(messages)
        if dropped:
            self._overflow(dropped)
        self._wake(len(messages))

    def deliver_request(self, message: Message) -> None:
        self.deliver([message])

    def end(self, error: EndError | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake(len(self._idle))

    def consume_with_on_message(self) -> None:
        """The client has its first on_message handler: take what has no other consumer."""
        if (
            self._handler is None
            and not self._iterated
            and self._connection is not None
            and self._callbacks.message
            and self._actions == (Action.PUBLISH,)
        ):
            self._handler = self._callbacks.take_message
            self._start_pumps(self._connection)

    # Iteration

    def __aiter__(self) -> Subscription:
        if self._handler is not None:
            raise LocalProtocolError(
                f"the messages of {self.topic!r} go to a handler; to iterate, subscribe with "
                "'async with client.subscribe(...) as events' and without handler"
            )
        if self._connection is None:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is not in force: "
                "use 'async with client.subscribe(...) as events'"
            )
        self._iterated = True
        return self

    async def __anext__(self) -> Message:
        if not self._iterated:
            self.__aiter__()
        assert self._connection is not None
        self._taken += 1
        if self._taken >= _TAKEN_IN_A_ROW:
            self._taken = 0
            await self._connection.backend.checkpoint()
        while not self._queue:
            if self._ended:
                if self._error is not None:
                    raise self._error()
                raise StopAsyncIteration
            await self._wait()
        return self._queue.take()

    # Handlers

    def _start_pumps(self, connection: Supervisor) -> None:
        for _ in range(self._concurrency):
            connection.start(self._pump)

    async def _pump(self) -> None:
        """Call the handler with one message after the other."""
        assert self._connection is not None
        assert self._handler is not None
        handler = self._handler
        queue = self._queue
        clock = time.monotonic
        checkpoint = self._connection.backend.checkpoint
        until = clock() + _SLICE
        while True:
            while queue:
                message = queue.take()
                if message.responder is not None:
                    await self._answer(message)
                else:
                    try:
                        result = handler(message)
                        if result is not None and hasattr(result, "__await__"):
                            await result
                    except BaseException as error:
                        self._failed(failure(error))
                if clock() > until:
                    await checkpoint()
                    until = clock() + _SLICE
            if self._ended:
                return
            await self._wait()
            until = clock() + _SLICE

    async def _answer(self, message: Message) -> None:
        """Call the handler with a request and send what it returns or raises."""
        assert self._handler is not None
        try:
            result = await call(self._handler, message)
        except ResponseError as error:
            result = error
        except BaseException as error:
            self._failed(failure(error))
            result = InternalError("the service failed; its log says why")
        if message.responder is None:
            return  # the handler has responded itself
        try:
            try:
                await message.respond(result)
            except (ProtocolError, MessageTooLarge) as error:
                self._failed(error)
                await message.respond(InternalError("the service's answer can't be sent"))
        except MBError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        name = getattr(self._handler, "__qualname__", repr(self._handler))
        self._callbacks.report(error, f"the handler {name} of {self.topic!r} failed")

    # Within

    async def _wait(self) -> None:
        """Wait for a message or the end."""
        assert self._connection is not None
        waiter = self._connection.backend.waiter()
        self._idle.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self._idle:
                self._idle.remove(waiter)
            else:
                self._wake(1)  # the message is for another
            raise

    def _wake(self, count: int) -> None:
        idle = self._idle
        while idle and count > 0:
            waiter = idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _overflow(self, dropped: list[Message]) -> None:
        for message in dropped:
            self._refuse(message, "the service has too many requests waiting")
        count = self._queue.dropped
        error = SlowConsumer(self.topic, count)
        if self._queue.overflowed:
            self.end(lambda: SlowConsumer(self.topic, count))
            self._let_go()
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY:
            self._reported_at = now
            self._callbacks.report(error, "messages dropped")

    def _refuse(self, message: Message, reason: str) -> None:
        if message.responder is not None and self._connection is not None:
            message.responder.answer_now(message, ServiceUnavailableError(reason))

    def _refuse_queued(self) -> None:
        """Nobody iterates any more: who waits for an answer need not wait for a time limit."""
        if Action.REQUEST not in self._actions:
            return
        messages = [self._queue.take() for _ in range(len(self._queue))]
        for message in messages:
            self._refuse(message, "the service has just stopped answering this topic")
        self._queue.put([message for message in messages if message.action is Action.PUBLISH])

    def _let_go(self) -> None:
        """Unsubscribe without waiting for the broker's word."""
        entries, self._entries = self._entries, []
        if self._connection is not None:
            for entry in entries:
                self._connection.let_go(entry)

    def __del__(self) -> None:
        if getattr(self, "_connection", self) is None and not self._ended:
            warn(
                f"client.subscribe({self.topic!r}) was never awaited: nothing was subscribed",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
