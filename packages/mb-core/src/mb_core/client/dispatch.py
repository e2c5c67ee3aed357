"""Acts on what a Session reports: wakes waiting callers, fills queues, sends replies."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, Protocol

import msgspec

from ..errors import ConnectionLost, InvalidRequestIdError, MBError, RequestTimeoutError
from ..link import Waker
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
    Unmatched,
)
from .brake import Brake
from .callbacks import Callbacks

__all__ = ["Answerer", "Dispatcher", "Uplink"]

_log = logging.getLogger("mb_core.client")


class Uplink(Protocol):
    """The connection over which a Session talks at present."""

    def send(self, message: bytes) -> None: ...
    def answer(self, message: bytes) -> None:
        """Send an answer of the client's own, unless the broker reads none of them."""
        ...

    def greeted(self) -> None:
        """The broker has sent its greeting."""
        ...

    def refused(self, error: MBError) -> bool:
        """The broker reports an error; whether that is in place of its greeting."""
        ...

    def give_up(self, error: MBError) -> None:
        """End the connection, because of `error`."""
        ...

    def unrouted(self, event: NoServiceYet) -> None:
        """Nobody answers a request yet that may be sent again."""
        ...

    async def respond(self, message: Message, payload: Any) -> None: ...
    def answer_now(self, message: Message, payload: Any) -> None: ...


class Answerer(msgspec.Struct, eq=False):
    """The Responder of one received request: its connection, and its time limit.

    `deadline` is when its sender stops waiting, by the event loop's clock; None where it did not
    say.
    """

    _uplink: Uplink
    deadline: float | None

    def respond(self, message: Message, payload: Any) -> Awaitable[None]:
        return self._uplink.respond(message, payload)

    def answer_now(self, message: Message, payload: Any) -> None:
        self._uplink.answer_now(message, payload)


class Dispatcher:
    """Acts on events, in order; called from the event loop, and never blocks."""

    def __init__(self, callbacks: Callbacks, clock: Callable[[], float]) -> None:
        self.uplink: Uplink | None = None
        self.unroutable = 0
        self.late_answers = 0
        self._callbacks = callbacks
        self._clock = clock
        self._brake = Brake()

    def act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, PublicationsReceived):
                messages = event.messages
                for entry in event.subscriptions:
                    entry.consumer.deliver(messages)
                    if entry is not event.subscriptions[-1]:
                        # Each consumer decodes a payload of its own, which it may change.
                        messages = list(map(copy, messages))
            elif isinstance(event, ResponseReceived):
                _wake(event.request.waiter, event.message)
            elif isinstance(event, RequestsReceived):
                self._take(event)
            elif isinstance(event, RequestFailed):
                _wake(event.request.waiter, event.error)
            elif isinstance(event, SendNow):
                if self.uplink is None:
                    continue
                if isinstance(event, AnswerNow):
                    self.uplink.answer(event.message)
                else:
                    self.uplink.send(event.message)
            else:
                self._act_on_news(event)

    def note_late_answer(self, message: Message) -> None:
        """Count and report an answer to `message` that its requester no longer waits for.

        Either it was not sent, or it is the one that the broker refused.
        """
        self.late_answers += 1
        topic = message.topic

        def report(count: int) -> None:
            answers = "1 answer" if count == 1 else f"{count} answers so far"
            text = f"{answers} to {topic!r} came after the time limit of the request"
            error = RequestTimeoutError(text, details={"topic": topic, "count": count})
            self._callbacks.report(error, "not answered", level=logging.WARNING)

        self._callbacks.count(("late", topic.lower()), report)

    def _take(self, event: RequestsReceived) -> None:
        uplink, now = self.uplink, self._clock()
        assert uplink is not None
        for message in event.messages:
            limit = message.timeout
            deadline = now + limit / 1000 if limit is not None else None
            message.responder = Answerer(uplink, deadline)
        event.subscription.consumer.deliver(event.messages)

    def _act_on_news(
        self,
        event: Initialized
        | PeerSilent
        | PublicationsDiscarded
        | PublicationUnheard
        | NoServiceYet
        | Unmatched,
    ) -> None:
        if isinstance(event, PublicationUnheard):
            self.unroutable += 1
            if self._brake.lets(event.topic):
                # Usual where events have no listeners yet: no warning for each of them.
                what = f"a publication of {event.topic!r} reached nobody"
                self._callbacks.report(event.error, what, level=logging.DEBUG)
        elif isinstance(event, Unmatched):
            self._unmatched(event)
        elif isinstance(event, PublicationsDiscarded):
            count = event.count
            were = "1 publication was" if count == 1 else f"{count} publications were"
            text = f"{were} never sent: there was no connection before the client closed"
            self._callbacks.report(ConnectionLost(text, sent=False), "closed")
        elif self.uplink is not None:
            if isinstance(event, Initialized):
                self.uplink.greeted()
            elif isinstance(event, NoServiceYet):
                self.uplink.unrouted(event)
            else:
                text = "the other side gives no sign of life (heartbeat_interval)"
                self.uplink.give_up(ConnectionLost(text, sent=True))

    def _unmatched(self, event: Unmatched) -> None:
        error, message = event.error, event.message
        if isinstance(error, InvalidRequestIdError) and message is not None:
            self.note_late_answer(message)
        elif error is None:
            _log.debug("ignored: %r belongs to no request", event.message)
        elif self.uplink is None or not self.uplink.refused(error):
            self._report(error, message)

    def _report(self, error: MBError, message: Message | None) -> None:
        """Report an error that the broker sends, or, without `message`, one that can't be read."""
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
