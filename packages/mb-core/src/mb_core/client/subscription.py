"""Subscriptions: what the broker sends for a topic pattern, and who consumes it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from copy import copy
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self
from warnings import warn

from ..errors import LocalProtocolError, MBError, ServiceUnavailableError, SlowConsumer
from ..header import Action
from ..link import Backend, Home
from ..message import Message
from ..session import Subscribed
from .brake import Brake
from .callbacks import Callbacks
from .consumer import EndError
from .inbox import Inbox
from .interrupt import AsyncFunction
from .pump import Pump, PumpFactory, check_concurrency
from .queue import MessageQueue
from .turn import Turn, checkpoint

__all__ = ["Driver", "Subscription"]


class Driver(Protocol):
    """What a Subscription needs of its client's connection."""

    @property
    def backend(self) -> Backend: ...

    @property
    def home(self) -> Home: ...

    async def subscribe(self, entry: Subscribed) -> None:
        """Subscribe; when it fails or is cancelled, the entry is gone."""
        ...

    async def unsubscribe(self, entries: Iterable[Subscribed]) -> None:
        """Unsubscribe; when cancelled, the entries are gone here, and the broker was told."""
        ...

    def let_go(self, entry: Subscribed) -> None:
        """Unsubscribe without waiting for the broker's word."""
        ...

    def start(self, function: AsyncFunction) -> None:
        """Start a consumer's task."""
        ...

    def note_dropped(self, count: int) -> None:
        """Count messages that are lost."""
        ...


class Subscription(Coroutine[Any, Any, "Subscription"]):
    """Messages of one topic pattern.  Made by `client.subscribe`, in force once awaited.

    It is a coroutine as well as a context manager: `asyncio.create_task`, the `create_task` and
    `start_soon` of task groups and nurseries, `gather` and `wait_for` take it.

    Three ways to consume it, of which a subscription has one:

    - `await client.subscribe(topic, handler=function)`: the function is called with each Message;
    - `async with client.subscribe(topic) as events: async for message in events: ...`, or
      iterating what `await client.subscribe(topic)` gave;
    - neither: publications go to each of the client's `on_message` handlers, and wait in the
      queue until there is one.  Each handler has a queue of its own, within the same bounds.

    Iteration ends when the subscription or the client is closed, and raises ConnectionLost when
    the connection is lost for good; what was received before still comes.  A cancelled iteration
    loses no message.  Several tasks may iterate: each message goes to one of them.
    """

    def __init__(
        self,
        connected: Callable[[], Awaitable[Driver]],
        callbacks: Callbacks,
        topic: str,
        actions: tuple[Action, ...],
        *,
        priority: float,
        handler: Callable[[Message], Any] | None,
        concurrency: int,
        queue: MessageQueue,
        pump: PumpFactory = Pump,
        log_wishes: Mapping[str, Any] | None = None,
    ) -> None:
        check_concurrency(concurrency)
        self.topic = topic
        self._connected = connected
        self._callbacks = callbacks
        self._handler = handler
        self._concurrency = concurrency
        self._actions = actions
        # What the broker sends for this subscription: empty when it has been let go.
        self._entries = [
            Subscribed(topic, action, priority, self, log_wishes) for action in actions
        ]
        # The first is the iterator's, or the handler's; each further on_message handler has one.
        self._inboxes = [Inbox(queue)]
        # Those of them that still get what comes.
        self._receiving = self._inboxes[:]
        self._make_pump = pump
        self._pumps: list[Pump] = []
        self._awaited = False  # from then on it is that task's, though it may have no driver yet
        self._driver: Driver | None = None
        self._home: Home
        self._in_force = False
        self._coroutine: Any = None  # from the moment when an event loop runs it as one
        self._iterated = False
        self._ended = False
        self._turn = Turn()
        self._dropped_before = 0  # of on_message handlers that were removed
        self._brake = Brake()

    def __repr__(self) -> str:
        actions = "+".join(self._actions)
        state = "ended" if self._ended else "active" if self._driver else "not awaited"
        return f"<Subscription {actions} {self.topic!r} {state}>"

    @property
    def dropped(self) -> int:
        """How many messages did not fit into the queue and are lost.

        With several `on_message` handlers, the sum over their queues; `queued` likewise.
        """
        return self._dropped_before + sum(inbox.queue.dropped for inbox in self._inboxes)

    @property
    def queued(self) -> int:
        """How many messages wait for their consumer."""
        return sum(len(inbox.queue) for inbox in self._inboxes)

    def __await__(self) -> Generator[Any, Any, Subscription]:
        return self._start().__await__()

    # A coroutine, for those who run it as a task

    def send(self, value: Any) -> Any:
        """Run on; called by event loops."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Run on with an error; called by event loops."""
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """Give up a subscription that has not been awaited; called by event loops.

        Raises LocalProtocolError for one that is in force: `unsubscribe` ends that.
        """
        if self._in_force and not self._ended:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is ended by 'await subscription.unsubscribe()'"
            )
        if self._driver is None:
            self._ended = True
        if self._coroutine is not None:
            self._coroutine.close()

    @property
    def cr_frame(self) -> Any:
        return self._as_coroutine().cr_frame

    @property
    def cr_await(self) -> Any:
        return self._as_coroutine().cr_await

    @property
    def cr_code(self) -> Any:
        return self._as_coroutine().cr_code

    @property
    def cr_running(self) -> Any:
        return self._as_coroutine().cr_running

    def _as_coroutine(self) -> Any:
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    # In force

    async def __aenter__(self) -> Self:
        self._iterated = self._handler is None
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._driver is not None and self._home.forked:
            return
        try:
            await self.unsubscribe()
        except MBError as failure:
            if error is None:
                raise
            # What has ended the block is raised, and must not be replaced.
            what = f"{self.topic!r} could not be unsubscribed"
            self._callbacks.report(failure, what, level=logging.WARNING)
        finally:
            if self._iterated:
                self._refuse_queued()

    async def _start(self) -> Subscription:
        if self._awaited or self._ended:
            await checkpoint()
            raise LocalProtocolError(
                f"{self!r} was awaited before: each takes a client.subscribe(...) of its own"
            )
        self._awaited = True
        try:
            driver = self._driver = await self._connected()
            self._home = driver.home
            # Before the first message can come: all of them get it.
            if self._handler is not None:
                self._add_pump(self._handler)
            else:
                self.consume_with_on_message()
            for entry in self._entries:
                if not self._ended:  # by a queue that is full already
                    await driver.subscribe(entry)
        except BaseException as error:
            self.abandon()
            if isinstance(error, Exception):
                await checkpoint()
            raise
        self._in_force = True
        for pump in self._pumps:
            pump.start(driver.backend, driver.start)
        return self

    async def unsubscribe(self) -> None:
        """Receive no more.  What is queued still goes to its consumer.

        Leaving an `async with` block does the same; requests that nobody has taken are answered
        with SERVICE_UNAVAILABLE then.  When cancelled, this side has let go; the broker may still
        send, which is ignored, as it is if the broker refuses to unsubscribe one of its own feeds
        (the reference broker refuses for `system.message`).

        Raises ResponseError for any other refusal, unless the block is left by an error already:
        then `on_error` gets the refusal.
        """
        if self._driver is not None:
            if self._entries and self._home.running() is not self._home.loop:
                await checkpoint()
                raise self._home.error()
            entries = self._entries
            for entry in entries:
                self.release(entry)
            await self._driver.unsubscribe(entries)
        else:
            await checkpoint()

    def release(self, entry: Subscribed, error: EndError | None = None) -> None:
        """Have done with `entry`, because of `error` or in order; the caller tells the broker."""
        self._entries = [other for other in self._entries if other is not entry]
        if not self._entries:
            self.end(error)

    def abandon(self) -> None:
        """End at once: the broker is told and not waited for, what is queued has no taker."""
        self.end(None)
        self._let_go()
        self._refuse_queued()

    # The Consumer: called by the reader

    def deliver(self, messages: list[Message]) -> None:
        receiving = self._receiving
        for inbox in receiving:
            # Each on_message handler decodes a payload of its own, which it may change.
            own = messages if inbox is receiving[0] else list(map(copy, messages))
            dropped = inbox.put(own)
            if dropped:
                self._overflow(inbox, dropped)

    def end(self, error: EndError | None) -> None:
        self._ended = True
        for inbox in self._inboxes:
            inbox.end(error)

    def consume_with_on_message(self) -> None:
        """The client may have a new on_message handler: it takes what has no other consumer.

        The first one takes over what waits; a later one gets what comes from now on.
        """
        if (
            self._handler is None
            and not self._iterated
            and self._driver is not None
            and self._actions == (Action.PUBLISH,)
        ):
            for registration in self._callbacks.message[len(self._pumps) :]:
                self._add_pump(self._callbacks.as_consumer(registration))

    def stop_consuming_with(self, place: int) -> None:
        """The client's on_message handler at `place` among them was removed.

        What waits for it waits for the next one where there is no other.
        """
        if self._handler is not None or place >= len(self._pumps):
            return
        inbox = self._pumps.pop(place).inbox
        others = [each for each in self._inboxes if each is not inbox]
        if self._pumps:
            self._dropped_before += inbox.queue.dropped
        else:
            heir = Inbox(inbox.queue.like())
            heir.queue.dropped = inbox.queue.dropped
            if inbox.ended:
                heir.end(inbox.error)
            others = [heir]
        with contextlib.suppress(IndexError):
            while True:
                message = inbox.queue.take()
                if not self._pumps:
                    others[0].put([message])
        self._inboxes = others
        self._receiving = [each for each in others if not each.ended]
        inbox.end(None)

    # Iteration

    @property
    def handled(self) -> bool:
        """Whether its messages go to handlers: there is nothing to iterate."""
        return self._handler is not None or bool(self._pumps)

    def iterate(self) -> Inbox:
        """Have the messages for iteration: they are taken from this Inbox."""
        self._iterated = True
        return self._inboxes[0]

    def __aiter__(self) -> Subscription:
        if self.handled:
            raise LocalProtocolError(
                f"the messages of {self.topic!r} go to a handler; to iterate, subscribe with "
                "'async with client.subscribe(...) as events' and without handler"
            )
        if self._driver is None:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is not in force: "
                "use 'async with client.subscribe(...) as events'"
            )
        self.iterate()
        return self

    async def __anext__(self) -> Message:
        try:
            if not self._iterated:
                self.__aiter__()
            home = self._home
            if home.running() is not home.loop:
                raise home.error()
        except LocalProtocolError:
            await checkpoint()
            raise
        assert self._driver is not None
        if monotonic() >= self._turn.over:
            await self._turn.take()
        inbox = self._inboxes[0]
        while not inbox.queue.waiting:
            if inbox.ended:
                await checkpoint()
                if inbox.error is not None:
                    raise inbox.error()
                raise StopAsyncIteration
            await inbox.wait(self._driver.backend)
        return inbox.queue.take()

    # Within

    def _add_pump(self, handler: Callable[[Message], Any]) -> None:
        if self._pumps:
            inbox = Inbox(self._inboxes[0].queue.like())
            self._inboxes.append(inbox)
            self._receiving = [*self._receiving, inbox]
        else:
            inbox = self._inboxes[0]
        pump = self._make_pump(inbox, handler, self.topic, self._concurrency, self._callbacks)
        self._pumps.append(pump)
        if self._in_force:
            assert self._driver is not None
            self._home.check()
            pump.start(self._driver.backend, self._driver.start)

    def _overflow(self, inbox: Inbox, dropped: list[Message]) -> None:
        for message in dropped:
            _refuse(message, "the service has too many requests waiting")
        count = self.dropped
        if inbox.queue.overflowed:
            inbox.end(lambda: SlowConsumer(self.topic, count))
            others = [each for each in self._receiving if not each.ended]
            if others:
                # Each on_message handler goes on as long as it keeps up.
                self._receiving = others
            else:
                self._ended = True
                self._let_go()
        assert self._driver is not None
        self._driver.note_dropped(len(dropped))
        if self._brake.lets():
            self._callbacks.report(SlowConsumer(self.topic, count), "messages dropped")

    def _refuse_queued(self) -> None:
        """Nobody will take them: who waits for an answer need not wait for a time limit."""
        for message in self._inboxes[0].queue.remove(Action.REQUEST):
            _refuse(message, "the service has just stopped answering this topic")

    def _let_go(self) -> None:
        """Unsubscribe without waiting for the broker's word."""
        entries, self._entries = self._entries, []
        if self._driver is not None:
            for entry in entries:
                self._driver.let_go(entry)

    def __del__(self) -> None:
        begun = getattr(self, "_driver", self) is not None or self._coroutine is not None
        if not begun and not self._ended:
            warn(
                f"client.subscribe({self.topic!r}) was never awaited: nothing was subscribed",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def _refuse(message: Message, reason: str) -> None:
    if message.responder is not None:
        message.responder.answer_now(message, ServiceUnavailableError(reason))
