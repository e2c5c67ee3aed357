"""The parts of a connected client: its Session, tasks, connections and calls."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import anyio

from ..codec import Codec
from ..errors import ConnectionLost, InvalidRequestError, LocalProtocolError, MBError
from ..header import Action
from ..link import DeadlineTimer, Link, checkpoint
from ..options import ClientOptions
from ..session import Outbox, PendingRequest, Session, SessionState, SubscriptionEntry
from ..signals import AsyncFunction
from ..stats import ClientStats
from ..throttle import Throttle
from ..topic import is_system
from ..url import URL
from .callbacks import Callbacks, Run
from .calls import Calls
from .connection import Connection
from .events import EventHandler
from .observers import Observers
from .queue import EndError
from .reconnect import Reconnector, given_up, never_connected
from .tasks import TaskScope

__all__ = ["Supervisor"]

_log = logging.getLogger("mb_core.client")


class Supervisor:
    """Opens and closes a client's connections, and uses the current one to subscribe and publish.

    `urls` are those of one broker, or of interchangeable brokers.
    """

    def __init__(
        self,
        urls: Sequence[URL],
        callbacks: Callbacks,
        options: ClientOptions,
        outbox: Outbox,
        codec: Codec,
        observers: Observers | None,
    ) -> None:
        self.session = session = Session(
            limits=options.limits,
            heartbeat=options.heartbeat_interval,
            outbox=outbox,
            codec=codec,
            early=options.retry_connect,
        )
        self._tasks = TaskScope(
            callbacks,
            options.close_timeout,
            drain_timeout=options.drain_timeout,
            draining=self._drain,
            ending=self._ending,
            ended=self._ended,
        )
        self.backend = self._tasks.backend
        self.home = self._tasks.home
        self._callbacks = callbacks
        self._options = options
        self._observers = observers
        timer = DeadlineTimer(self.backend, session.next_deadline, self._handle_deadline)
        self._timer = timer
        self._events = EventHandler(session, callbacks, timer, self.backend.time)
        self.calls = Calls(
            session,
            self.backend,
            timer,
            observers,
            inherit_deadlines=options.inherit_deadlines,
        )
        self._reconnector = Reconnector(
            urls,
            session,
            self.calls,
            self._events,
            callbacks,
            options,
            self._tasks,
            observers,
            give_up=self._give_up,
        )
        self.turn = self._reconnector.turn
        # The broker answers its own topics at once: milliseconds.
        self._system_limit = round(options.connect_timeout * 1000)
        self._over = anyio.Event()
        self._error: EndError | None = None
        self._dropped = 0
        self._dropped_publishes = 0
        self._forgotten = 0  # subscriptions of a client that was garbage-collected
        self._throttle = Throttle()

    # Opening and closing

    async def open(self) -> None:
        """Connect for the first time. Raises ConnectError or PluginError. If it fails or is
        cancelled, nothing is left.
        """

        async def opening() -> None:
            self._tasks.spawn(self._timer.run)
            try:
                await self._reconnector.open_first()
            except BaseException as error:
                if isinstance(error, MBError) or not self._tasks.closing:
                    self._give_up(never_connected(error))
                raise
            self._tasks.spawn(self._reconnector.run)

        await self._tasks.begin(opening)

    def is_ready(self) -> bool:
        """Return whether there is a connection; raises the error that ended the client."""
        if self.session.state is SessionState.READY:
            return True
        if self._over.is_set():
            raise self._error() if self._error is not None else _closed()
        return False

    async def wait_ready(self) -> None:
        """Wait until there is a connection; raises the error that ends the client instead."""
        while not self.is_ready():
            await self._reconnector.wait_restored()

    @property
    def connection(self) -> Connection:
        """The last established connection, open or not."""
        return self.calls.connection

    @property
    def link(self) -> Link | None:
        """The last established Link, if any."""
        return self._tasks.link

    @property
    def opened(self) -> bool:
        """Whether there was a connection."""
        return self._reconnector.count > 0

    @property
    def why(self) -> MBError | None:
        """Why there is no connection, if that is known."""
        return self._reconnector.why

    async def close(self, *, drain: bool = True) -> None:
        """Shut down cleanly and wait until that is done; see TaskScope.end."""
        await self._tasks.end(drain=drain)

    @property
    def unclosed(self) -> bool:
        """See TaskScope.unclosed."""
        return self._tasks.unclosed

    def drop(self, client: object) -> None:
        """Close because nothing refers to `client` any more; called in any thread, at any time."""
        if self._observers is not None:
            self._observers.keep(client)
        self._tasks.drop(self._count_forgotten)

    def __str__(self) -> str:
        registration = self.session.registration
        name = f" {registration[0]!r}" if registration is not None else ""
        return f"client{name} of {self._reconnector.url}"

    def check_home(self) -> None:
        """Raise LocalProtocolError if the caller is on another loop, unless it has ended."""
        if not self._tasks.ended:
            self.home.check()

    async def wait_over(self) -> None:
        """Wait for the end; raises ConnectionLost unless the client was closed."""
        if self._over.is_set():
            await checkpoint()
        else:
            await self._over.wait()
        if self._error is not None:
            raise self._error()

    @property
    def in_handler(self) -> bool:
        """See TaskScope.in_handler."""
        return self._tasks.in_handler

    @property
    def closing(self) -> bool:
        """Whether closing was requested, or has finished."""
        return self._tasks.closing

    def spawn_consumer(self, function: AsyncFunction) -> None:
        """Start a consumer's task; closing waits for it for a limited time, then cancels it."""
        self._tasks.spawn_consumer(function)

    # Publishing, subscribing, registering

    def ask_to_publish(
        self, topic: str, payload: Any, timeout: int, version: str, parent_id: str | None
    ) -> PendingRequest:
        """Return a publication with confirmation, to be completed like a request to the broker."""
        request = self.session.publish_confirmed(
            topic,
            payload,
            now=self.calls.clock(),
            timeout=timeout,
            version=version,
            parent_id=parent_id,
        )
        if request.in_outbox:
            self.report_dropped_publishes()
        return request

    def publish_encoded(self, message: bytes) -> bool:
        """Publish what Session.encode returned; False if it waits in the outbox.

        Raises ConnectionLost if the outbox has no room.
        """
        encoded = self.session.publish_encoded(message)
        if encoded is not None:
            self.connection.send(encoded)
        return encoded is not None

    def report_dropped_publishes(self) -> None:
        """Report publications that were dropped from the outbox to make room for another."""
        dropped = self.session.outbox.dropped
        if dropped != self._dropped_publishes and self._throttle.allow():
            count, self._dropped_publishes = dropped - self._dropped_publishes, dropped
            were = "1 publication was" if count == 1 else f"{count} publications were"
            text = f"{were} dropped: the buffer is full (publish_buffer)"
            self._callbacks.report(ConnectionLost(text, sent=False), "there is no connection")

    async def register(self, name: str, description: str) -> None:
        """Register, and remember it for later connections; raises what Calls.confirm raises."""
        session = self.session
        await self.calls.confirm(
            session.register(name, description, now=self.calls.clock(), timeout=self._system_limit)
        )
        session.registration = (name, description)

    async def subscribe(self, entry: SubscriptionEntry) -> None:
        """Subscribe; if it fails or is cancelled, the entry is removed."""
        await checkpoint()  # of the running loop, which may be a different one after closing
        if self._tasks.closing:
            raise ConnectionLost("not subscribed: the client is being closed", sent=False)
        self._replace_earlier(entry)
        request = self.session.subscribe(entry, now=self.calls.clock(), timeout=self._system_limit)
        self._events.handle_events(self.session.ask_for_timeouts())
        try:
            await self.calls.confirm(request)
        except BaseException:
            self.unsubscribe_nowait(entry)
            raise

    def entries_of(self, actions: Iterable[Action], topic: str) -> list[SubscriptionEntry]:
        """Return the subscriptions to exactly `topic`; raises LocalProtocolError for none."""
        table = self.session.subscriptions
        entries = [entry for action in actions for entry in table.of(action, topic)]
        if not entries:
            raise LocalProtocolError(f"there is no subscription to {topic!r}")
        return entries

    @property
    def user(self) -> str | None:
        return self._reconnector.user

    async def unsubscribe(self, entries: Iterable[SubscriptionEntry]) -> None:
        """Unsubscribe; when cancelled, the entries are removed, and the request has been sent.

        Raises the first error that the broker answers with.
        """
        requests = [(entry, request) for entry in entries if (request := self._remove(entry))]
        if not requests:
            await checkpoint()
        await self._unsubscribe(requests)

    def unsubscribe_nowait(self, entry: SubscriptionEntry) -> None:
        """Unsubscribe without waiting for the broker's confirmation."""
        request = self._remove(entry)
        if request is not None:
            self.session.cancel(request)
            self.calls.connection.send(request.message)

    def count_dropped(self, count: int) -> None:
        """Count messages that did not fit into a subscription's queue."""
        self._dropped += count

    def stats(self) -> ClientStats:
        session = self.session
        traffic = self._reconnector.traffic()
        return ClientStats(
            connected=session.state is SessionState.READY,
            messages_sent=traffic.messages_sent,
            bytes_sent=traffic.bytes_sent,
            messages_received=traffic.messages_received,
            bytes_received=traffic.bytes_received,
            pending=session.pending,
            buffered=len(session.outbox),
            buffered_bytes=session.outbox.used,
            dropped=self._dropped,
            dropped_publishes=session.outbox.dropped,
            unroutable=self._events.unroutable,
            late_answers=self._callbacks.late_answers,
            reconnects=max(0, self._reconnector.count - 1),
            latency=self.calls.latencies.summary(),
        )

    # Closing

    def _give_up(self, error: EndError) -> None:
        """Prevent any further connection."""
        self._error = error
        self._end_session(error)

    async def _drain(self) -> None:
        """Let handlers finish, and send their answers and buffered messages. First unsubscribe, so
        that the broker sends new requests to other services; requests that were already on their
        way are still handled.
        """
        entries = list(self.session.subscriptions)
        if self.session.state is SessionState.READY:
            keys = {(entry.action, entry.pattern.lower()): entry for entry in entries}
            with anyio.move_on_after(self._options.close_timeout), contextlib.suppress(MBError):
                requests = [(each, self._ask_to_unsubscribe(each)) for each in keys.values()]
                await self._unsubscribe(requests)
        for entry in entries:
            self.session.remove(entry)
            entry.consumer.remove(entry)
        await self._tasks.wait_consumed()
        while self.session.outbox and not self._over.is_set():
            await self._reconnector.wait_restored()

    def _count_forgotten(self) -> None:
        self._forgotten = len({id(entry.consumer) for entry in self.session.subscriptions})

    def _warn_forgotten(self) -> None:
        """Log it, so that a service never stops silently: Python hides ResourceWarnings."""
        count = self._forgotten
        if count:
            _log.warning(
                "the %s was dropped without close(), so %s: keep a reference to the client as "
                "long as its handlers are to be called",
                self,
                "its subscription ends" if count == 1 else f"its {count} subscriptions end",
            )

    def _ending(self) -> None:
        self._warn_forgotten()
        self._reconnector.scope.cancel()
        self._end_session(self._error)

    def _ended(self) -> None:
        if self._tasks.fault is not None:
            self._error = given_up(str(self._tasks.fault), self._tasks.fault.__cause__)
        self._end_session(self._error)

    def _end_session(self, error: EndError | None) -> None:
        reason = str(error()) if error is not None else "the client was closed"
        self._tasks.refuse_links()
        self._events.handle_events(self.session.close(reason))
        for entry in self.session.subscriptions:
            entry.consumer.end(error)
        self._over.set()
        self._reconnector.end()

    # Within

    async def _unsubscribe(self, requests: list[tuple[SubscriptionEntry, PendingRequest]]) -> None:
        """Unsubscribe several entries together; raises the first error.

        A failure status is not an error: the broker did not know the subscription. Neither is a
        lost connection, which ends the subscriptions as well, nor a broker that refuses to end one
        of its feeds: what it still sends is ignored.
        """
        outcomes = await self.calls.complete_all([request for _, request in requests])
        error: MBError | None = None
        for (entry, _), outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, InvalidRequestError) and is_system(entry.pattern.lower()):
                _log.debug("%s can't be unsubscribed: %s", entry.pattern, outcome)
            elif isinstance(outcome, MBError) and not isinstance(outcome, ConnectionLost):
                error = error if error is not None else outcome
        if error is not None:
            raise error

    def _replace_earlier(self, entry: SubscriptionEntry) -> None:
        """End the subscriptions of an earlier call of the same on_connect callback."""
        run: Run | None = entry.consumer.made_by
        if run is not None:
            for other in self.session.subscriptions.of(entry.action, entry.pattern):
                if run.follows(other.consumer.made_by):
                    self.session.remove(other)
                    other.consumer.remove(other)

    def _remove(self, entry: SubscriptionEntry) -> PendingRequest | None:
        """Remove a subscription; return the request for the broker, if it needs one."""
        session = self.session
        alone = session.subscriptions.of(entry.action, entry.pattern) == [entry]
        ready = session.state is SessionState.READY
        request = self._ask_to_unsubscribe(entry) if alone and ready else None
        session.remove(entry)
        return request

    def _ask_to_unsubscribe(self, entry: SubscriptionEntry) -> PendingRequest:
        return self.session.unsubscribe(entry, now=self.calls.clock(), timeout=self._system_limit)

    def _handle_deadline(self, now: float) -> None:
        live = self._reconnector.live
        progress = live.progress if live is not None else 0
        self._events.handle_events(self.session.handle_deadline(now, progress=progress))


def _closed() -> ConnectionLost:
    return ConnectionLost("not connected: the client was closed", sent=False)
