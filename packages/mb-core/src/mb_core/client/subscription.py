"""Subscriptions, as user code has them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self
from warnings import warn

from ..errors import LocalProtocolError, MBError
from ..header import Action
from ..link import Home
from ..message import Message
from .callbacks import Callbacks
from .consumer import Driver
from .inbox import Inbox
from .intake import Intake
from .pump import Pump, PumpFactory, check_concurrency
from .queue import MessageQueue
from .turn import Turn, checkpoint

__all__ = ["Subscription"]


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
        log_filter: Mapping[str, Any] | None = None,
    ) -> None:
        check_concurrency(concurrency)
        self.topic = topic
        # It refers to the client, which lives as long as user code holds this.
        self._connected = connected
        self._callbacks = callbacks
        self._handler = handler
        self._intake = Intake(
            callbacks,
            topic,
            actions,
            priority=priority,
            handled=handler is not None,
            concurrency=concurrency,
            queue=queue,
            pump=pump,
            log_filter=log_filter,
        )
        self._awaited = False  # from then on it is that task's, though it may have no driver yet
        self._driver: Driver | None = None
        self._home: Home
        self._coroutine: Any = None  # from the moment when an event loop runs it as one
        self._inbox: Inbox | None = None  # from the first iteration on
        self._turn = Turn()

    def __repr__(self) -> str:
        actions = "+".join(self._intake.actions)
        state = "ended" if self._intake.ended else "active" if self._driver else "not awaited"
        return f"<Subscription {actions} {self.topic!r} {state}>"

    @property
    def dropped(self) -> int:
        """How many messages did not fit into the queue and are lost.

        With several `on_message` handlers, the sum over their queues; `queued` likewise.
        """
        return self._intake.dropped

    @property
    def queued(self) -> int:
        """How many messages wait for their consumer."""
        return self._intake.queued

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
        intake = self._intake
        if intake.in_force and not intake.ended:
            raise LocalProtocolError(
                f"the subscription to {self.topic!r} is ended by 'await subscription.unsubscribe()'"
            )
        if self._driver is None:
            intake.ended = True
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
        self._intake.iterated = self._handler is None
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
            if self._intake.iterated:
                self._intake.refuse_queued()

    async def _start(self) -> Subscription:
        intake = self._intake
        if self._awaited or intake.ended:
            await checkpoint()
            raise LocalProtocolError(
                f"{self!r} was awaited before: enter 'async with client.subscribe(...)' without "
                "await, or iterate what await has given; to subscribe again, call subscribe again"
            )
        self._awaited = True
        try:
            driver = self._driver = await self._connected()
            self._home = driver.home
            intake.prepare(driver, self._handler)
            for entry in intake.entries:
                if not intake.ended:  # by a queue that is full already
                    await driver.subscribe(entry)
        except BaseException as error:
            self.abandon()
            if isinstance(error, Exception):
                await checkpoint()
            raise
        intake.start()
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
            entries = self._intake.entries
            if entries and self._home.running() is not self._home.loop:
                await checkpoint()
                raise self._home.error()
            for entry in entries:
                self._intake.release(entry)
            await self._driver.unsubscribe(entries)
        else:
            await checkpoint()

    def abandon(self) -> None:
        """End at once: the broker is told and not waited for, what is queued has no taker."""
        self._intake.abandon()

    # Iteration

    @property
    def handled(self) -> bool:
        """Whether its messages go to handlers: there is nothing to iterate."""
        return self._intake.handled

    def iterate(self) -> Inbox:
        """Have the messages for iteration: they are taken from this Inbox."""
        inbox = self._inbox = self._intake.iterate()
        return inbox

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
            inbox = self._inbox
            if inbox is None:
                self.__aiter__()
                inbox = self._inbox
            home = self._home
            if home.running() is not home.loop:
                raise home.error()
        except LocalProtocolError:
            await checkpoint()
            raise
        assert inbox is not None and self._driver is not None  # noqa: PT018
        if monotonic() >= self._turn.over:
            await self._turn.take()
        while not inbox.queue.waiting:
            if inbox.ended:
                await checkpoint()
                if inbox.error is not None:
                    raise inbox.error()
                raise StopAsyncIteration
            await inbox.wait(self._driver.backend)
        return inbox.queue.take()

    def __del__(self) -> None:
        begun = getattr(self, "_driver", self) is not None or self._coroutine is not None
        if not begun and not self._intake.ended:
            warn(
                f"client.subscribe({self.topic!r}) was never awaited: nothing was subscribed",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
