"""The driver of a Session: its Link, the tasks around it, and who waits for what."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import anyio

from ..errors import ConnectError, ConnectionLost, MBError, NoRouteFoundError, ResponseError
from ..link import DeadlineTimer, Link, Waiter
from ..message import Message
from ..session import (
    Answered,
    Delivered,
    Event,
    Failed,
    Initialized,
    PendingRequest,
    Reply,
    Requested,
    Session,
    Subscribed,
    Unmatched,
)
from ..url import URL
from .callbacks import Callbacks
from .dial import ConnectionOptions, dial
from .interrupt import AsyncFunction
from .lifetime import Lifetime

__all__ = ["Connection", "Consumer", "EndError"]

_log = logging.getLogger("mb_core.client")

EndError = Callable[[], MBError]
"""Makes the error with which something ended: each who gets it gets one of his own."""


class Consumer(Protocol):
    """What a subscription's messages are given to, from the reader: it only queues them."""

    def deliver(self, messages: list[Message]) -> None: ...
    def deliver_request(self, message: Message) -> None: ...
    def end(self, error: EndError | None) -> None:
        """Nothing more will come, because of `error` or in order."""
        ...


class Connection:
    """Drives a Session over a Link."""

    link: Link

    def __init__(self, session: Session, callbacks: Callbacks, options: ConnectionOptions) -> None:
        self.session = session
        self._callbacks = callbacks
        self._options = options
        self._lifetime = Lifetime(
            callbacks, options.close_timeout, ending=self._ending, ended=self._ended
        )
        self.backend = self._lifetime.backend
        # The broker answers its own topics at once: milliseconds.
        self._system_limit = int(options.connect_timeout * 1000)
        self._greeting: Waiter = self.backend.waiter()
        self._greeted = False
        self._over = anyio.Event()
        self._lost: EndError | None = None
        self._timer = DeadlineTimer(self.backend, session.next_deadline, self._handle_deadline)

    # Opening and closing

    async def open(self, url: URL) -> None:
        """Connect and wait for the broker's greeting.

        Raises ConnectError or PluginError.  When it fails or is cancelled, nothing is left.
        """
        seconds = self._options.connect_timeout
        lifetime = self._lifetime

        async def opening() -> None:
            lifetime.spawn(self._timer.run)
            step = "did not accept the connection"
            try:
                with anyio.fail_after(seconds):
                    await dial(
                        url,
                        self._accept,
                        self._options,
                        backend=self.backend,
                        spawn=lifetime.spawn,
                    )
                    step = "accepted the connection and sent no system.initialize"
                    failure = await self._greeting
            except TimeoutError:
                raise ConnectError(
                    f"{url} {step} within {seconds:g} s: is an MB broker listening there?"
                ) from None
            if failure is not None:
                raise ConnectError(f"{url} ended the connection before its greeting: {failure}")

        await lifetime.begin(opening)

    async def close(self) -> None:
        """End the connection in order and wait until it is over; see Lifetime.end."""
        await self._lifetime.end()

    async def wait_over(self) -> None:
        """Wait for the end of the connection; raises ConnectionLost unless it was closed."""
        await self._over.wait()
        if self._lost is not None:
            raise self._lost()

    def start(self, function: AsyncFunction) -> None:
        """Start a consumer's task; closing cancels it before the Link is closed."""
        self._lifetime.spawn_consumer(function)

    # Sending

    async def complete(self, request: PendingRequest) -> Message:
        """Send a request of the Session's and wait for its outcome.

        Raises ResponseError or ConnectionLost.  When cancelled, the request may have been sent,
        and its response is ignored.
        """
        try:
            self._send(request)
            link = self.link
            if link.congested:
                await link.drain()
            outcome = await request.waiter
        except BaseException:
            self.session.cancel(request)
            raise
        if isinstance(outcome, Message):
            return outcome
        raise outcome

    async def call(self, request: PendingRequest) -> None:
        """Complete a request to the broker itself, whose answer is a status.

        Raises ResponseError where the status is not success, besides what `complete` raises.
        """
        answer = (await self.complete(request)).payload
        status = answer.get("status") if isinstance(answer, dict) else None
        if status != "success":
            raise ResponseError(f"the broker answered {request.topic} with {answer!r}")

    async def subscribe(self, entry: Subscribed) -> None:
        """Subscribe; when it fails or is cancelled, the entry is gone."""
        request = self.session.subscribe(entry, now=time.monotonic(), timeout=self._system_limit)
        try:
            await self.call(request)
        except BaseException:
            self.let_go(entry)
            raise

    async def unsubscribe(self, entries: Iterable[Subscribed]) -> None:
        """Unsubscribe; when cancelled, the entries are gone here, and the broker was told."""
        # A lost connection ends the subscriptions as well; a status of failure means that the
        # broker did not know them.
        with contextlib.suppress(ConnectionLost):
            requests = [request for entry in entries if (request := self._leave(entry))]
            try:
                for request in requests:
                    self._send(request)
                if self.link.congested:
                    await self.link.drain()
                for request in requests:
                    outcome = await request.waiter
                    if isinstance(outcome, MBError):
                        raise outcome
            finally:
                for request in requests:
                    self.session.cancel(request)

    def let_go(self, entry: Subscribed) -> None:
        """Unsubscribe without waiting for the broker's word."""
        request = self._leave(entry)
        if request is not None:
            self.session.cancel(request)
            with contextlib.suppress(ConnectionLost):
                self.link.send(request.message)

    async def respond(self, message: Message, payload: Any) -> None:
        """Answer a received request; see Message.respond."""
        if message.request_key is None:
            message.responder = None
            return
        answer = self.session.respond(message, payload)
        message.responder = None
        self.link.send(answer)
        if self.link.congested:
            await self.link.drain()

    def answer_now(self, message: Message, payload: Any) -> None:
        """Answer a received request from the reader: without back-pressure, if it still can."""
        message.responder = None
        if message.request_key is not None:
            with contextlib.suppress(ConnectionLost):
                self.link.send(self.session.respond(message, payload))

    # The LinkHandler

    def messages_received(self, messages: list[bytes]) -> None:
        self._act(self.session.receive(messages))

    def link_lost(self, error: MBError | None) -> None:
        events = self.session.link_lost(error)
        if not self._lifetime.closing:
            self._lost = _lost_for(self.link.peer, error)
            _log.info("%s", self._lost())
        self._act(events)
        self._end_consumers(self._lost)
        if self._greeted:
            self._callbacks.post(self._callbacks.disconnect)
        elif not self._greeting.done():
            self._greeting.set_result(
                error if error is not None else ConnectError("no reason was given")
            )
        self._over.set()

    # Within

    def _accept(self, link: Link) -> Connection:
        self.link = link
        if self._lifetime.hold(link):
            self.session.link_up()
        else:
            self.session.close()
        return self

    def _ending(self) -> None:
        self._act(self.session.close())
        self._end_consumers(None)

    def _ended(self) -> None:
        self._act(self.session.close())
        self._end_consumers(self._lost)
        self._over.set()

    def _send(self, request: PendingRequest) -> None:
        request.waiter = self.backend.waiter()
        self._timer.look()
        self.link.send(request.message)

    def _leave(self, entry: Subscribed) -> PendingRequest | None:
        return self.session.unsubscribe(entry, now=time.monotonic(), timeout=self._system_limit)

    def _end_consumers(self, error: EndError | None) -> None:
        for entry in self.session.subscriptions:
            entry.consumer.end(error)

    def _act(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delivered):
                for entry in event.subscriptions:
                    entry.consumer.deliver(event.messages)
            elif isinstance(event, Answered):
                _wake(event.request.waiter, event.message)
            elif isinstance(event, Requested):
                event.message.responder = self
                event.subscription.consumer.deliver_request(event.message)
            elif isinstance(event, Failed):
                _wake(event.request.waiter, event.error)
            elif isinstance(event, Reply):
                # Where the connection is closing, link_lost is about to say so.
                with contextlib.suppress(ConnectionLost):
                    self.link.send(event.message)
            elif isinstance(event, Initialized):
                self._initialized()
            else:
                self._unmatched(event)

    def _initialized(self) -> None:
        if not self._greeted:  # a broker may repeat itself
            self._greeted = True
            self._callbacks.post(self._callbacks.connect)
            if not self._greeting.done():
                self._greeting.set_result(None)

    def _unmatched(self, event: Unmatched) -> None:
        if event.error is not None and not self._greeting.done():
            # In place of a greeting: why there is none.
            self._greeting.set_result(event.error)
        elif event.error is None:
            _log.debug("ignored: %r belongs to no request", event.message)
        elif isinstance(event.error, NoRouteFoundError):
            # Usual where events have no listeners yet: no warning for each of them.
            self._callbacks.report(event.error, "unroutable", level=logging.DEBUG)
        else:
            self._callbacks.report(event.error, "the broker reports", level=logging.WARNING)

    def _handle_deadline(self, now: float) -> None:
        self._act(self.session.handle_deadline(now))


def _lost_for(peer: str, error: MBError | None) -> EndError:
    reason = f": {error}" if error is not None else " by the broker"

    def lost() -> ConnectionLost:
        fresh = ConnectionLost(f"the connection to {peer} was closed{reason}", sent=True)
        fresh.__cause__ = error
        return fresh

    return lost


def _wake(waiter: Waiter | None, outcome: Message | MBError) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(outcome)
