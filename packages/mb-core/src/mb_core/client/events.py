"""Handles the Session's events: wakes waiting callers, fills queues, sends replies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy

from ..errors import ConnectionLost, InvalidRequestIdError, MBError
from ..link import DeadlineTimer, Waker
from ..message import Message
from ..session import (
    AnswerNow,
    Event,
    Initialized,
    NoServiceYet,
    PeerSilent,
    PublicationsDiscarded,
    PublicationsReceived,
    PublicationUnheard,
    RequestFailed,
    RequestsReceived,
    ResponseReceived,
    SendNow,
    Session,
    SubscriptionsEnded,
    Unmatched,
)
from ..throttle import Throttle
from .callbacks import Callbacks
from .connection import Connection, Responder

__all__ = ["EventHandler"]

_log = logging.getLogger("mb_core.client")


class EventHandler:
    """Handles events in order; called from the event loop, and never blocks."""

    def __init__(
        self,
        session: Session,
        callbacks: Callbacks,
        timer: DeadlineTimer,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._timer = timer
        self._connection: Connection | None = None
        self.unroutable = 0
        self._callbacks = callbacks
        self._clock = clock
        self._throttle = Throttle()

    def use(self, connection: Connection) -> None:
        """Answer over this connection from now on."""
        self._connection = connection

    def handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, PublicationsReceived):
                messages = event.messages
                for entry in event.subscriptions:
                    entry.consumer.deliver(messages)
                    if entry is not event.subscriptions[-1]:
                        # Each consumer decodes its own copy of the payload, which it may change.
                        messages = list(map(copy, messages))
            elif isinstance(event, ResponseReceived):
                _wake(event.request.waiter, event.message)
            elif isinstance(event, RequestsReceived):
                self._take(event)
            elif isinstance(event, RequestFailed):
                _wake(event.request.waiter, event.error)
            elif isinstance(event, SendNow):
                if self._connection is None:
                    continue
                if isinstance(event, AnswerNow):
                    self._connection.answer(event.message)
                else:
                    self._connection.send(event.message)
            else:
                self._handle_rare(event)

    def _take(self, event: RequestsReceived) -> None:
        connection, now = self._connection, self._clock()
        assert connection is not None
        for message in event.messages:
            limit = message.timeout
            deadline = now + limit / 1000 if limit is not None else None
            message.responder = Responder(connection, deadline)
        event.subscription.consumer.deliver(event.messages)

    def _handle_rare(
        self,
        event: Initialized
        | PeerSilent
        | PublicationsDiscarded
        | PublicationUnheard
        | SubscriptionsEnded
        | NoServiceYet
        | Unmatched,
    ) -> None:
        if isinstance(event, PublicationUnheard):
            self.unroutable += 1
            if self._throttle.allow(event.topic):
                # Common when events have no subscribers yet, so this is not a warning.
                what = f"a publication of {event.topic!r} reached nobody"
                self._callbacks.report(event.error, what, level=logging.DEBUG)
        elif isinstance(event, Unmatched):
            self._unmatched(event)
        elif isinstance(event, SubscriptionsEnded):
            error = event.error
            for entry in event.subscriptions:
                what = f"the subscription to {entry.pattern!r} has ended"
                self._callbacks.report(error, what)
                entry.consumer.remove(entry, lambda: copy(error))
        elif isinstance(event, PublicationsDiscarded):
            count = event.count
            were = "1 publication was" if count == 1 else f"{count} publications were"
            text = f"{were} never sent: there was no connection before the client closed"
            self._callbacks.report(ConnectionLost(text, sent=False), "closed")
        elif self._connection is not None:
            if isinstance(event, Initialized):
                self._connection.greeted()
            elif isinstance(event, NoServiceYet):
                now = self._clock()
                self.handle_events(self._session.retry_later(event.request, event.error, now=now))
                self._timer.reschedule()
            else:
                text = "no reply to the heartbeat from the other side (heartbeat_interval)"
                self._connection.give_up(ConnectionLost(text, sent=True))

    def _unmatched(self, event: Unmatched) -> None:
        error, message = event.error, event.message
        if isinstance(error, InvalidRequestIdError) and message is not None:
            self._callbacks.late_answer(message)
        elif error is None:
            _log.debug("ignored: %r belongs to no request", event.message)
        elif self._connection is None or not self._connection.refused(error):
            self._report(error, message)

    def _report(self, error: MBError, message: Message | None) -> None:
        """Report an error from the broker or, without `message`, an unreadable one."""
        if message is None:
            kind, what = "", "ignored"
        else:
            kind, what = message.topic.lower(), "the broker reports"

        def report(count: int) -> None:
            text = what if count == 1 else f"{what} (message {count} of this kind)"
            self._callbacks.report(error, text, level=logging.WARNING)

        self._callbacks.count(("reported", type(error), kind), report)


def _wake(waiter: Waker | None, outcome: Message | MBError) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(outcome)
