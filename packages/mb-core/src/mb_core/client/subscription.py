"""Subscriptions, as used by programs and as known to the connection."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from copy import copy
from time import monotonic
from types import TracebackType
from typing import Any, Self
from warnings import warn

from ..errors import LocalProtocolError, MBError, SlowConsumer
from ..header import Action
from ..link import Home, Turn, checkpoint
from ..message import Message
from ..options import check_concurrency
from ..session import SubscriptionEntry
from ..throttle import Throttle
from .callbacks import Callbacks, running
from .queue import EndError, MessageQueue, refuse
from .runner import Runner, RunnerFactory, with_header
from .supervisor import Supervisor

__all__ = ["Consumer", "Subscription"]


# Read by event loops and debuggers.
_OF_COROUTINES = frozenset({"cr_await", "cr_code", "cr_frame", "cr_running"})


class Subscription(Coroutine[Any, Any, "Subscription"]):
    """The messages of a topic or pattern, from `client.subscribe`.

    Await it to subscribe, or enter it with `async with`. As it is a coroutine,
    `asyncio.create_task`, `gather`, `wait_for`, task groups and nurseries accept it, too.

    There are three ways to consume the messages; choose one for each subscription:

    - Pass a handler: `await client.subscribe(topic, handler=function)`. It is called with each
      `Message`.
    - Iterate: `async with client.subscribe(topic) as events`, then `async for message in events`.
    - Neither: publications go to each of the client's `on_message` handlers, and wait in the queue
      until there is one. Each handler has a queue of its own.

    Iteration ends when the subscription or the client is closed. If the connection is lost for
    good, it raises `ConnectionLost`. In both cases, messages that were received before come first.
    If several tasks iterate, each message goes to one of them. Cancelling an iteration loses no
    message.

    Attributes:
        topic: The topic or pattern that was subscribed to.
    """

    def __init__(self, connected: Callable[[], Awaitable[Supervisor]], consumer: Consumer) -> None:
        self.topic = consumer.topic
        # This keeps the client alive as long as user code holds the subscription.
        self._connected = connected
        self._consumer = consumer
        self._awaited = False  # from then on it belongs to that task, even before it is connected
        self._supervisor: Supervisor | None = None
        self._home: Home
        self._coroutine: Any = None  # set when an event loop runs it as a task
        self._queue: MessageQueue | None = None  # from the first iteration on
        self._turn = Turn()

    def __repr__(self) -> str:
        actions = "+".join(self._consumer.actions)
        state = "not awaited" if self._supervisor is None else "active"
        state = "ended" if self._consumer.ended else state
        return f"<Subscription {actions} {self.topic!r} {state}>"

    @property
    def dropped(self) -> int:
        """How many messages were lost because a queue was full."""
        return self._consumer.dropped

    @property
    def queued(self) -> int:
        """How many messages are waiting for their consumer."""
        return self._consumer.queued

    def __await__(self) -> Generator[Any, Any, Subscription]:
        return self._start().__await__()

    # The coroutine protocol, for running it as a task

    def send(self, value: Any) -> Any:
        """Continue the coroutine; called by event loops."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in the coroutine; called by event loops."""
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """Discard a subscription that was not awaited; called by event loops.

        Raises LocalProtocolError if it is in force: `unsubscribe` ends it then.
        """
        consumer = self._consumer
        if consumer.in_force and not consumer.ended:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is ended by 'await subscription.unsubscribe()'"
            )
        if self._supervisor is None:
            consumer.ended = True
        if self._coroutine is not None:
            self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        if name in _OF_COROUTINES:
            return getattr(self._as_coroutine(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _as_coroutine(self) -> Any:
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    # In force

    async def __aenter__(self) -> Self:
        self._consumer.iterated = not self._consumer.has_handler
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._supervisor is not None and self._home.forked:
            return
        try:
            await self.unsubscribe()
        except MBError as failure:
            if error is None:
                raise
            # The error that ended the block is raised, and must not be replaced.
            what = f"{self.topic!r} could not be unsubscribed"
            self._consumer.callbacks.report(failure, what, level=logging.WARNING)
        finally:
            if self._consumer.iterated:
                self._consumer.refuse_queued()

    async def _start(self) -> Subscription:
        consumer = self._consumer
        if self._awaited or consumer.ended:
            await checkpoint()
            raise LocalProtocolError(
                f"{self!r} was awaited before: enter 'async with client.subscribe(...)' without "
                "await, or iterate what await has given; to subscribe again, call subscribe again"
            )
        self._awaited = True
        try:
            supervisor = self._supervisor = await self._connected()
            self._home = supervisor.home
            consumer.prepare(supervisor)
            for entry in consumer.entries:
                if not consumer.ended:  # by a queue that is full already
                    await supervisor.subscribe(entry)
        except BaseException as error:
            self.unsubscribe_nowait()
            if isinstance(error, Exception):
                await checkpoint()
            raise
        consumer.start()
        return self

    async def unsubscribe(self) -> None:
        """Unsubscribe. Messages that are already queued still go to their consumer.

        Leaving an `async with` block does the same. Queued requests that nothing will take are then
        answered with SERVICE_UNAVAILABLE.

        Raises:
            ResponseError: The broker refused. If the block is left by an error, that error is
                raised, and this one goes to `on_error`.

        If cancelled, the subscription has ended, but the broker may not have confirmed it.
        """
        if self._supervisor is not None:
            entries = self._consumer.entries
            if entries and self._home.running() is not self._home.loop:
                await checkpoint()
                raise self._home.error()
            for entry in entries:
                self._consumer.remove(entry)
            await self._supervisor.unsubscribe(entries)
        else:
            await checkpoint()

    def unsubscribe_nowait(self) -> None:
        """Unsubscribe without waiting for the broker; queued messages are not consumed."""
        self._consumer.end(None)
        self._consumer.unsubscribe_nowait()
        self._consumer.refuse_queued()

    # Iteration

    @property
    def handled(self) -> bool:
        """Whether its messages go to handlers, so that it can't be iterated."""
        return self._consumer.handled

    def iterate(self) -> MessageQueue:
        """Claim the messages for iteration, and return the queue to take them from."""
        queue = self._queue = self._consumer.iterate()
        return queue

    def __aiter__(self) -> Subscription:
        if self.handled:
            raise LocalProtocolError(
                f"the messages of {self.topic!r} go to a handler; to iterate, subscribe with "
                "'async with client.subscribe(...) as events' and without handler"
            )
        if self._supervisor is None:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is not in force: "
                "use 'async with client.subscribe(...) as events'"
            )
        self.iterate()
        return self

    async def __anext__(self) -> Message:
        try:
            queue = self._queue
            if queue is None:
                self.__aiter__()
                queue = self._queue
            home = self._home
            if home.running() is not home.loop:
                raise home.error()
        except LocalProtocolError:
            await checkpoint()
            raise
        assert queue is not None and self._supervisor is not None  # noqa: PT018
        if monotonic() >= self._turn.over:
            await self._turn.take()
        while not queue.waiting:
            if queue.ended:
                await checkpoint()
                if queue.error is not None:
                    raise queue.error()
                raise StopAsyncIteration
            await queue.wait(self._supervisor.backend)
        return queue.take()

    def __del__(self) -> None:
        begun = getattr(self, "_supervisor", self) is not None or self._coroutine is not None
        if not begun and not self._consumer.ended:
            warn(
                f"client.subscribe({self.topic!r}) was never awaited: nothing was subscribed",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


class Consumer:
    """Queues a subscription's messages for an iterator or for handlers; called by the reader. The
    connection refers to this; only user code refers to the Subscription, which refers to the
    client. So a subscription keeps its client alive only as long as user code keeps the
    subscription.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        topic: str,
        actions: tuple[Action, ...],
        *,
        priority: float,
        handler: Callable[[Message], Any] | None,
        concurrency: int,
        queue: MessageQueue,
        make_runner: RunnerFactory,
        log_filter: Mapping[str, Any] | None = None,
    ) -> None:
        check_concurrency(concurrency)
        self.callbacks = callbacks
        self.topic = topic
        self.actions = actions
        # The entries in the Session's table; empty once it is unsubscribed.
        self.entries = [
            SubscriptionEntry(topic, action, priority, self, log_filter) for action in actions
        ]
        # The call of an on_connect callback that has subscribed, if one has.
        self.made_by = running.get()
        self.has_handler = handler is not None  # of its own
        self.in_force = False
        self.iterated = False
        self.ended = False
        self._handler = handler  # until it is prepared
        self._supervisor: Supervisor | None = None
        self._concurrency = concurrency
        # The first is for the iterator or the handler; each further on_message handler has its own.
        self._queues = [queue]
        # Those that still get messages.
        self._receiving = [queue]
        self._make_runner = make_runner
        self._runners: list[Runner] = []
        self._dropped_before = 0  # of on_message handlers that were removed
        self._throttle = Throttle()

    @property
    def dropped(self) -> int:
        return self._dropped_before + sum(queue.dropped for queue in self._queues)

    @property
    def queued(self) -> int:
        return sum(map(len, self._queues))

    @property
    def handled(self) -> bool:
        """Whether its messages go to handlers, so that there is nothing to iterate."""
        return self.has_handler or bool(self._runners)

    def iterate(self) -> MessageQueue:
        """Return the queue for iteration; from now on, messages are only taken from there."""
        self.iterated = True
        return self._queues[0]

    def prepare(self, supervisor: Supervisor) -> None:
        """Prepare for the first message, so that the handler or on_message handlers get all."""
        self._supervisor = supervisor
        handler, self._handler = self._handler, None
        if handler is not None:
            self._add_runner(handler)
        else:
            self.consume_with_on_message()

    def start(self) -> None:
        """Start calling the handlers, because the subscription is active."""
        self.in_force = True
        for runner in self._runners:
            self._start_runner(runner)

    def refuse_queued(self) -> None:
        """Drop the messages, and answer the requests among them so that nobody waits."""
        self._queues[0].refuse_requests()

    def unsubscribe_nowait(self) -> None:
        """Unsubscribe without waiting for the broker's confirmation."""
        entries, self.entries = self.entries, []
        if self._supervisor is not None:
            for entry in entries:
                self._supervisor.unsubscribe_nowait(entry)

    def deliver(self, messages: list[Message]) -> None:
        """Queue messages in order; the objects are not shared with other consumers."""
        receiving = self._receiving
        for queue in receiving:
            # Each on_message handler decodes its own copy of the payload, which it may change.
            own = messages if queue is receiving[0] else list(map(copy, messages))
            dropped = queue.put(own)
            if dropped:
                self._overflow(queue, dropped)

    def remove(self, entry: SubscriptionEntry, error: EndError | None = None) -> None:
        """End `entry`, because of `error` or in an orderly way."""
        self.entries = [other for other in self.entries if other is not entry]
        if not self.entries:
            self.end(error)

    def end(self, error: EndError | None) -> None:
        """End all entries."""
        self.ended = True
        for queue in self._queues:
            queue.end(error)

    def consume_with_on_message(self) -> None:
        """Start new on_message handlers of the client on messages without another consumer. The
        first one takes over waiting messages; later ones get only new messages.
        """
        if (
            not self.has_handler
            and not self.iterated
            and self._supervisor is not None
            and self.actions == (Action.PUBLISH,)
        ):
            for registration in self.callbacks.message[len(self._runners) :]:
                self._add_runner(with_header(registration, self.callbacks))

    def stop_consuming_with(self, index: int) -> None:
        """Handle the removal of the client's on_message handler at `index`. If there is no other,
        waiting messages wait for the next one.
        """
        if self.has_handler or index >= len(self._runners):
            return
        queue = self._runners.pop(index).queue
        others = [each for each in self._queues if each is not queue]
        if self._runners:
            self._dropped_before += queue.dropped
        else:
            heir = queue.like()
            heir.dropped = queue.dropped
            if queue.ended:
                heir.end(queue.error)
            others = [heir]
        with contextlib.suppress(IndexError):
            while True:
                message = queue.take()
                if not self._runners:
                    others[0].put([message])
        self._queues = others
        self._receiving = [each for each in others if not each.ended]
        queue.end(None)

    def _add_runner(self, handler: Callable[[Message], Any]) -> None:
        queue = self._queues[0]
        if self._runners:
            queue = queue.like()
            self._queues.append(queue)
            self._receiving = [*self._receiving, queue]
        runner = self._make_runner(queue, handler, self.topic, self._concurrency, self.callbacks)
        self._runners.append(runner)
        if self.in_force:
            assert self._supervisor is not None
            self._supervisor.home.check()
            self._start_runner(runner)

    def _start_runner(self, runner: Runner) -> None:
        assert self._supervisor is not None
        runner.start(self._supervisor.backend, self._supervisor.spawn_consumer)

    def _overflow(self, queue: MessageQueue, dropped: list[Message]) -> None:
        for message in dropped:
            refuse(message, "the service has too many requests waiting")
        count = self.dropped
        if queue.overflowed:
            topic = self.topic
            queue.end(lambda: SlowConsumer(topic, count))
            others = [each for each in self._receiving if not each.ended]
            if others:
                # Each on_message handler continues as long as it keeps up.
                self._receiving = others
            else:
                self.ended = True
                self.unsubscribe_nowait()
        assert self._supervisor is not None
        self._supervisor.count_dropped(len(dropped))
        if self._throttle.allow():
            self.callbacks.report(SlowConsumer(self.topic, count), "messages dropped")
