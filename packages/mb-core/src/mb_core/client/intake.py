"""What a subscription receives, and its consumer: the half that the connection refers to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from ..errors import SlowConsumer
from ..header import Action
from ..message import Message
from ..session import SubscriptionEntry
from .brake import Brake
from .callbacks import Callbacks
from .consumer import Driver, EndError
from .context import running
from .inbox import Inbox, refuse
from .pump import Pump, PumpFactory
from .queue import MessageQueue

__all__ = ["Intake"]


class Intake:
    """The Consumer of a Subscription: queues its messages for an iterator, or for handlers.

    The connection refers to this, and only user code to the Subscription, which refers to the
    client: so a subscription keeps its client alive only as long as user code keeps it.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        topic: str,
        actions: tuple[Action, ...],
        *,
        priority: float,
        handled: bool,
        concurrency: int,
        queue: MessageQueue,
        pump: PumpFactory,
        log_filter: Mapping[str, Any] | None,
    ) -> None:
        self.topic = topic
        self.actions = actions
        # What the broker sends for this subscription: empty when it has been let go.
        self.entries = [
            SubscriptionEntry(topic, action, priority, self, log_filter) for action in actions
        ]
        self.made_by = running.get()
        self.driver: Driver | None = None
        self.in_force = False
        self.iterated = False
        self.ended = False
        self._callbacks = callbacks
        self._has_handler = handled  # of its own
        self._concurrency = concurrency
        # The first is the iterator's, or the handler's; each further on_message handler has one.
        self._inboxes = [Inbox(queue)]
        # Those of them that still get what comes.
        self._receiving = self._inboxes[:]
        self._make_pump = pump
        self._pumps: list[Pump] = []
        self._dropped_before = 0  # of on_message handlers that were removed
        self._brake = Brake()

    @property
    def dropped(self) -> int:
        return self._dropped_before + sum(inbox.queue.dropped for inbox in self._inboxes)

    @property
    def queued(self) -> int:
        return sum(len(inbox.queue) for inbox in self._inboxes)

    @property
    def handled(self) -> bool:
        """Whether its messages go to handlers: there is nothing to iterate."""
        return self._has_handler or bool(self._pumps)

    def iterate(self) -> Inbox:
        """Have the messages for iteration: they are taken from this Inbox."""
        self.iterated = True
        return self._inboxes[0]

    def prepare(self, driver: Driver, handler: Callable[[Message], Any] | None) -> None:
        """Be ready for the first message: `handler` or the on_message handlers get all of them."""
        self.driver = driver
        if handler is not None:
            self._add_pump(handler)
        else:
            self.consume_with_on_message()

    def start(self) -> None:
        """Start to call the handlers: the subscription is in force."""
        assert self.driver is not None
        self.in_force = True
        for pump in self._pumps:
            pump.start(self.driver.backend, self.driver.start)

    def abandon(self) -> None:
        """End at once: the broker is told and not waited for, what is queued has no taker."""
        self.end(None)
        self._let_go()
        self.refuse_queued()

    def refuse_queued(self) -> None:
        """Nobody will take them: answer the requests among them, so that nobody waits in vain."""
        self._inboxes[0].refuse()

    # The Consumer: called by the reader

    def deliver(self, messages: list[Message]) -> None:
        receiving = self._receiving
        for inbox in receiving:
            # Each on_message handler decodes a payload of its own, which it may change.
            own = messages if inbox is receiving[0] else list(map(copy, messages))
            dropped = inbox.put(own)
            if dropped:
                self._overflow(inbox, dropped)

    def release(self, entry: SubscriptionEntry, error: EndError | None = None) -> None:
        self.entries = [other for other in self.entries if other is not entry]
        if not self.entries:
            self.end(error)

    def end(self, error: EndError | None) -> None:
        self.ended = True
        for inbox in self._inboxes:
            inbox.end(error)

    def consume_with_on_message(self) -> None:
        if (
            not self._has_handler
            and not self.iterated
            and self.driver is not None
            and self.actions == (Action.PUBLISH,)
        ):
            for registration in self._callbacks.message[len(self._pumps) :]:
                self._add_pump(self._callbacks.as_consumer(registration))

    def stop_consuming_with(self, place: int) -> None:
        if self._has_handler or place >= len(self._pumps):
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
        if self.in_force:
            assert self.driver is not None
            self.driver.home.check()
            pump.start(self.driver.backend, self.driver.start)

    def _overflow(self, inbox: Inbox, dropped: list[Message]) -> None:
        for message in dropped:
            refuse(message, "the service has too many requests waiting")
        count = self.dropped
        if inbox.queue.overflowed:
            topic = self.topic
            inbox.end(lambda: SlowConsumer(topic, count))
            others = [each for each in self._receiving if not each.ended]
            if others:
                # Each on_message handler goes on as long as it keeps up.
                self._receiving = others
            else:
                self.ended = True
                self._let_go()
        assert self.driver is not None
        self.driver.note_dropped(len(dropped))
        if self._brake.lets():
            self._callbacks.report(SlowConsumer(self.topic, count), "messages dropped")

    def _let_go(self) -> None:
        """Unsubscribe without waiting for the broker's confirmation."""
        entries, self.entries = self.entries, []
        if self.driver is not None:
            for entry in entries:
                self.driver.let_go(entry)
