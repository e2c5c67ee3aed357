"""Keeps a client connected: one Session, and one Connection after the other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import anyio

from ..codec import Codec
from ..errors import (
    ConnectError,
    ConnectionLost,
    InvalidRequestError,
    MBError,
    PluginError,
    RequestTimeoutError,
)
from ..header import check_timeout
from ..link import DeadlineTimer, Link, Waker
from ..message import Message
from ..session import Outbox, PendingRequest, Session, SessionState, SubscriptionEntry
from ..topic import is_system
from ..url import URL
from .backoff import Backoff
from .brake import Brake
from .callbacks import Callbacks
from .connection import Connection, check_status
from .consumer import EndError
from .context import Run, handling
from .dial import ConnectionOptions
from .dispatch import Dispatcher
from .interrupt import AsyncFunction
from .lifetime import Lifetime
from .observing import Observers
from .stats import ClientStats, Latencies, Traffic
from .turn import Turn, checkpoint
from .upkeep import UpkeepOptions

__all__ = ["Supervisor"]

_log = logging.getLogger("mb_core.client")


class Supervisor:
    """Opens a Connection, and another when it is lost; everything a client does goes through it.

    `urls` are those of one broker's addresses, or of brokers that do for each other: each round
    tries them all, the last good one first, and waits before the next.
    """

    def __init__(
        self,
        urls: Sequence[URL],
        callbacks: Callbacks,
        options: ConnectionOptions,
        upkeep: UpkeepOptions,
        outbox: Outbox,
        codec: Codec,
        observers: Observers | None,
        *,
        inherit_deadlines: bool,
    ) -> None:
        self.session = Session(
            limits=options.limits,
            heartbeat=upkeep.heartbeat_interval,
            outbox=outbox,
            codec=codec,
            early=upkeep.retry_connect,
        )
        # The last that came about, alive or not.
        self.connection: Connection
        self._live: Connection | None = None
        self._urls = list(urls)
        self._several = len(urls) > 1
        # Those that the first connection is not tried at again: their errors are final.
        self._hopeless: set[URL] = set()
        self._callbacks = callbacks
        self._options = options
        self._upkeep = upkeep
        self._observers = observers
        self._inherit_deadlines = inherit_deadlines
        self._lifetime = Lifetime(
            callbacks,
            options.close_timeout,
            drain_timeout=upkeep.drain_timeout,
            draining=self._drain,
            ending=self._ending,
            ended=self._ended,
        )
        self.backend = self._lifetime.backend
        self.home = self._lifetime.home
        self.clock = self.backend.time
        self._dispatcher = Dispatcher(callbacks, self.clock)
        # The broker answers its own topics at once: milliseconds.
        self._system_limit = round(options.connect_timeout * 1000)
        self._timer = DeadlineTimer(self.backend, self.session.next_deadline, self._handle_deadline)
        self.turn = Turn()  # of those that send without waiting
        self._over = anyio.Event()
        self._error: EndError | None = None
        self._restored = anyio.Event()  # replaced by the next connection's
        self._keeping = anyio.CancelScope()
        self._traffic = Traffic()  # of the connections that are over
        self._dropped = 0
        self._connections = 0
        # Why there is no connection: how the last one was lost, then how the last try failed.
        self._why: MBError | None = None
        self._latencies = Latencies()
        self._dropped_publishes = 0
        self._forgotten = 0  # subscriptions of a client that was dropped
        self._brake = Brake()

    # Opening and closing

    async def open(self) -> None:
        """Connect, for the first time.

        Raises ConnectError or PluginError.  When it fails or is cancelled, nothing is left.
        """

        async def opening() -> None:
            self._lifetime.spawn(self._timer.run)
            try:
                await self._open_first()
            except BaseException as error:
                if isinstance(error, MBError) or not self._lifetime.closing:
                    self._give_up(_never_connected(error))
                raise
            self._lifetime.spawn(self._keep_up)

        await self._lifetime.begin(opening)

    def is_ready(self) -> bool:
        """Whether there is a connection; raises what has ended the client."""
        if self.session.state is SessionState.READY:
            return True
        if self._over.is_set():
            error = self._error or _closed
            raise error()
        return False

    async def wait_ready(self) -> None:
        """Wait until there is a connection; raises what ends the client instead."""
        while not self.is_ready():
            await self._restored.wait()

    @property
    def link(self) -> Link | None:
        """The last Link that came about, if any."""
        return self._lifetime.link

    @property
    def opened(self) -> bool:
        """Whether there was a connection."""
        return self._connections > 0

    @property
    def why(self) -> MBError | None:
        """Why there is no connection, where that is known."""
        return self._why

    async def close(self, *, drain: bool = True) -> None:
        """End in order and wait until it is over; see Lifetime.end."""
        await self._lifetime.end(drain=drain)

    @property
    def unclosed(self) -> bool:
        """See Lifetime.unclosed."""
        return self._lifetime.unclosed

    def drop(self, client: object) -> None:
        """Close by itself, as nobody refers to `client` any more; in any thread, at any time."""
        if self._observers is not None:
            self._observers.keep(client)
        self._lifetime.drop(self._count_forgotten)

    def __str__(self) -> str:
        registration = self.session.registration
        name = f" {registration[0]!r}" if registration is not None else ""
        return f"client{name} of {self._urls[0]}"

    def check_home(self) -> None:
        """Raise LocalProtocolError if the caller runs elsewhere, unless all is over."""
        if not self._lifetime.ended:
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
    def concerned(self) -> bool:
        """See Lifetime.concerned."""
        return self._lifetime.concerned

    @property
    def closing(self) -> bool:
        """Whether it was asked to close, or has ended."""
        return self._lifetime.closing

    def start(self, function: AsyncFunction) -> None:
        """Start a consumer's task; closing waits for it a while, then cancels it."""
        self._lifetime.spawn_consumer(function)

    # Sending

    def ask(
        self,
        topic: str,
        payload: Any,
        timeout: int,
        version: str,
        parent_id: str | None,
        retry: bool,
    ) -> PendingRequest:
        """A request to be completed, which inherits what it can from the one being handled."""
        now = self.clock()
        current = handling.get()
        if current is not None:
            if parent_id is None:
                parent_id = current.request_id
            deadline = current.deadline if self._inherit_deadlines else None
            if deadline is not None and deadline < now + check_timeout(timeout) / 1000:
                timeout = int((deadline - now) * 1000)
                if timeout < 1:
                    raise RequestTimeoutError(
                        f"{topic!r} was not requested: the time of {current.topic!r}, which is "
                        "being handled, is over (inherit_deadlines)"
                    )
        return self.session.request(
            topic,
            payload,
            now=now,
            timeout=timeout,
            version=version,
            parent_id=parent_id,
            retry=retry,
        )

    def ask_to_publish(
        self, topic: str, payload: Any, timeout: int, version: str, parent_id: str | None
    ) -> PendingRequest:
        """A publication with confirmation, to be completed as a request to the broker itself."""
        request = self.session.publish_confirmed(
            topic, payload, now=self.clock(), timeout=timeout, version=version, parent_id=parent_id
        )
        if request.in_outbox:
            self.look_at_buffer()
        return request

    async def complete(self, request: PendingRequest) -> Message:
        """Send a request of the Session's, or let it wait, and wait for its outcome.

        Raises ResponseError or ConnectionLost.  When cancelled, the request may have been sent,
        and its response is ignored.
        """
        waiter = self.backend.waiter()
        try:
            self.begin(request, waiter)
            if waiter.done():  # awaiting it gives the loop no turn
                await self.backend.checkpoint()
            outcome = await waiter
        except BaseException:
            self.abandon(request)
            raise
        self.finish(request, outcome)
        if isinstance(outcome, Message):
            return outcome
        raise outcome

    def begin(self, request: PendingRequest, waiter: Waker) -> None:
        """The first half of `complete`: `waiter` is given a Message or an MBError, once.

        Then comes `finish`, or `abandon` if the caller does not wait for that.
        """
        request.waiter = waiter
        self._timer.reschedule_if_earlier(request.given_up_at)
        if request.outbox_key is None:
            # A caller that waits for its answer needs no back-pressure, and has a deadline.
            self.connection.send(request.message)

    def finish(self, request: PendingRequest, outcome: Message | MBError) -> None:
        """Note a request's outcome."""
        if self._observers is not None:
            self._observers.finished(request, outcome, self.clock())
        if isinstance(outcome, Message):
            self._latencies.add(self.clock() - request.began)

    def abandon(self, request: PendingRequest) -> None:
        """Nobody waits for this request any more; its response is ignored."""
        self.session.cancel(request)
        if self._observers is not None:
            self._observers.finished(request, None, self.clock())

    async def call(self, request: PendingRequest) -> None:
        """Complete a request to the broker itself, whose answer is a status.

        Raises ResponseError where the status is not success, besides what `complete` raises.
        """
        error = check_status(request, await self.complete(request))
        if error is not None:
            raise error

    def look_at_buffer(self) -> None:
        """A publication waits in the outbox: did it take the place of others?"""
        dropped = self.session.outbox.dropped
        if dropped != self._dropped_publishes and self._brake.lets():
            count, self._dropped_publishes = dropped - self._dropped_publishes, dropped
            were = "1 publication was" if count == 1 else f"{count} publications were"
            text = f"{were} dropped: the buffer is full (publish_buffer)"
            self._callbacks.report(ConnectionLost(text, sent=False), "there is no connection")

    async def register(self, name: str, description: str) -> None:
        """Register, and remember it for the next connection; raises what `call` raises."""
        session = self.session
        await self.call(
            session.register(name, description, now=self.clock(), timeout=self._system_limit)
        )
        session.registration = (name, description)

    async def subscribe(self, entry: SubscriptionEntry) -> None:
        """Subscribe; when it fails or is cancelled, the entry is gone."""
        await checkpoint()  # of the running loop, which may be another one when all is over
        if self._lifetime.closing:
            raise ConnectionLost("not subscribed: the client is being closed", sent=False)
        self._replace_earlier(entry)
        request = self.session.subscribe(entry, now=self.clock(), timeout=self._system_limit)
        self._dispatcher.act(self.session.ask_for_timeouts())
        try:
            await self.call(request)
        except BaseException:
            self.let_go(entry)
            raise

    async def unsubscribe(self, entries: Iterable[SubscriptionEntry]) -> None:
        """Unsubscribe; when cancelled, the entries are gone here, and the broker was told."""
        await self._tell([(entry, request) for entry in entries if (request := self._leave(entry))])

    def let_go(self, entry: SubscriptionEntry) -> None:
        """Unsubscribe without waiting for the broker's confirmation."""
        request = self._leave(entry)
        if request is not None:
            self.session.cancel(request)
            self.connection.send(request.message)

    def note_dropped(self, count: int) -> None:
        """Messages did not fit into a subscription's queue."""
        self._dropped += count

    def stats(self) -> ClientStats:
        session = self.session
        traffic = self._traffic
        if self._live is not None:
            traffic = traffic + self._live.traffic()
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
            unroutable=self._dispatcher.unroutable,
            late_answers=self._dispatcher.late_answers,
            reconnects=max(0, self._connections - 1),
            latency=self._latencies.summary(),
        )

    # Keeping up

    async def _keep_up(self) -> None:
        """Connect again whenever the connection is lost."""
        backoff = Backoff(self._upkeep.backoff_min, self._upkeep.backoff_max)
        limit = self._upkeep.reconnect_timeout
        with self._keeping:
            while True:
                since = self.clock()
                await self.connection.wait_over()
                if not self._upkeep.reconnect:
                    return
                backoff.lasted(self.clock() - since)
                try:
                    with anyio.fail_after(limit):
                        await self._connect(backoff)
                except TimeoutError:
                    self._give_up(_not_restored(f"within {limit:g} s", self._why))
                    return
                except PluginError as error:
                    self._callbacks.report(error, "the connection is given up")
                    self._give_up(_given_up(str(error), error))
                    return

    async def _open_first(self) -> None:
        try:
            await self._try_each(again=False)
        except ConnectError as error:
            if error.final or not self._upkeep.retry_connect:
                raise
            self._report_failure(error)
            await self._retry_first()

    async def _retry_first(self) -> None:
        limit = self._upkeep.reconnect_timeout
        try:
            with anyio.fail_after(limit):
                await self._connect(Backoff(self._upkeep.backoff_min, self._upkeep.backoff_max))
        except TimeoutError:
            raise ConnectError(
                f"no connection within {limit:g} s (reconnect_timeout): {self._why}"
            ) from self._why

    async def _connect(self, backoff: Backoff) -> None:
        """Wait and try until there is a connection.

        A first connection is not tried any more after an error that is final, which is raised.
        One that is lost is: what an operator has broken since, an operator can repair.
        """
        first = not self._connections
        while True:
            delay = backoff.next()
            if self._observers is not None:
                self._observers.reconnecting(delay, self._why)
            await anyio.sleep(delay)
            try:
                await self._try_each(again=True)
            except (ConnectError, PluginError) as error:
                # A transport that is at fault stays so.
                if isinstance(error, PluginError) or (first and error.final):
                    raise
                self._report_failure(error)
            else:
                return

    async def _try_each(self, *, again: bool) -> None:
        """Try each URL once; raises ConnectError or PluginError where none has connected."""
        first = not self._connections
        failures: list[tuple[URL, ConnectError | PluginError]] = []
        for url in [url for url in self._urls if url not in self._hopeless]:
            # Known before it is ready: other threads may send as soon as it is.
            connection = self.connection = Connection(
                self.session,
                self._dispatcher,
                self._callbacks,
                self._options,
                self._upkeep,
                self._lifetime,
                again=again,
                observers=self._observers,
                turn=self.turn,
                look=self._timer.reschedule,
                lost=self._lost,
            )
            try:
                await connection.open(url)
            except (ConnectError, PluginError) as error:
                failures.append((url, error))
                if first and (isinstance(error, PluginError) or error.final):
                    self._hopeless.add(url)
            else:
                self._hopeless.clear()
                self._urls.remove(url)
                self._urls.insert(0, url)
                self._connected(connection, url)
                return
        if not self._several:
            raise failures[0][1]
        text = "; ".join(_named(url, error) for url, error in failures)
        final = self._hopeless.issuperset(self._urls)
        raise ConnectError(f"no broker was reached: {text}", final=final)

    def _connected(self, connection: Connection, url: URL) -> None:
        self.connection = self._live = connection
        self._connections += 1
        _log.info("connected to %s%s", url, " again" if self._connections > 1 else "")
        if self._observers is not None:
            peer = connection.link.peer
            self._observers.connected(url, peer, again=self._connections > 1)
        self._callbacks.post(self._callbacks.connect)
        self._restored.set()
        self._restored = anyio.Event()

    def _lost(self, connection: Connection) -> None:
        self._traffic += connection.traffic()
        if connection is not self._live:
            return  # a failed try, which its caller is told by an error
        self._live = None
        assert connection.error is not None
        self._why = connection.error() if connection.broken else None
        if self._observers is not None:
            self._observers.disconnected(self._why)
        self._callbacks.post(self._callbacks.disconnect)
        if self._lifetime.ending:
            if connection.broken:
                # What was published last may not have arrived, and no call is left to say so.
                what = "closing was cut short"
                self._callbacks.report(connection.error(), what, level=logging.WARNING)
            return
        if self._why is not None and _is_bug(self._why.__cause__):
            self._callbacks.report(self._why, "an internal error has ended a connection")
        else:
            _log.info("%s", connection.error())
        if not self._upkeep.reconnect:
            self._give_up(connection.error)

    def _give_up(self, error: EndError) -> None:
        """There will be no other connection."""
        self._error = error
        self._end_session(error)

    def _report_failure(self, error: ConnectError | PluginError) -> None:
        self._why = error
        self._callbacks.report(error, "could not connect, will try again", level=logging.WARNING)

    # Closing

    async def _drain(self) -> None:
        """Let what has begun come to its end: handlers, their answers, what waits to be sent.

        The broker is told first that nothing more is wanted, so that it asks others from now on;
        what has crossed that is handled as well.
        """
        entries = list(self.session.subscriptions)
        if self.session.state is SessionState.READY:
            keys = {(entry.action, entry.pattern.lower()): entry for entry in entries}
            with anyio.move_on_after(self._options.close_timeout), contextlib.suppress(MBError):
                await self._tell([(each, self._ask_to_leave(each)) for each in keys.values()])
        for entry in entries:
            self.session.remove(entry)
            entry.consumer.release(entry)
        await self._lifetime.wait_consumed()
        while self.session.outbox and not self._over.is_set():
            await self._restored.wait()

    def _count_forgotten(self) -> None:
        self._forgotten = len({id(entry.consumer) for entry in self.session.subscriptions})

    def _tell_forgotten(self) -> None:
        """A service that stops must not do so in silence: Python hides ResourceWarnings."""
        count = self._forgotten
        if count:
            _log.warning(
                "the %s was dropped without close(), so %s: keep a reference to the client as "
                "long as its handlers are to be called",
                self,
                "its subscription ends" if count == 1 else f"its {count} subscriptions end",
            )

    def _ending(self) -> None:
        self._tell_forgotten()
        self._keeping.cancel()
        self._end_session(self._error)

    def _ended(self) -> None:
        if self._lifetime.fault is not None:
            self._error = _given_up(str(self._lifetime.fault), self._lifetime.fault.__cause__)
        self._end_session(self._error)

    def _end_session(self, error: EndError | None) -> None:
        reason = str(error()) if error is not None else "the client was closed"
        self._lifetime.take_no_more()
        self._dispatcher.act(self.session.close(reason))
        for entry in self.session.subscriptions:
            entry.consumer.end(error)
        self._over.set()
        self._restored.set()

    # Within

    async def _tell(self, leaving: list[tuple[SubscriptionEntry, PendingRequest]]) -> None:
        """Tell the broker together what is no longer wanted, and wait for all outcomes.

        Then raises the first error.  A status of failure is not one: the broker did not know the
        subscription.  Nor is a lost connection, which ends the subscriptions as well, nor that
        the broker does not let go of a feed of its own: what it still sends is ignored.
        """
        error: MBError | None = None
        if not leaving:
            await checkpoint()
        try:
            for _, request in leaving:
                request.waiter = self.backend.waiter()
                self.connection.send(request.message)
            self._timer.reschedule()
            for entry, request in leaving:
                outcome = await request.waiter
                if isinstance(outcome, InvalidRequestError) and is_system(entry.pattern.lower()):
                    _log.debug("%s can't be unsubscribed: %s", entry.pattern, outcome)
                elif isinstance(outcome, MBError) and not isinstance(outcome, ConnectionLost):
                    error = error if error is not None else outcome
        finally:
            for _, request in leaving:
                self.session.cancel(request)
        if error is not None:
            raise error

    def _replace_earlier(self, entry: SubscriptionEntry) -> None:
        """End what an earlier call of the same on_connect callback has subscribed to."""
        run: Run | None = entry.consumer.made_by
        if run is not None:
            for other in self.session.subscriptions.of(entry.action, entry.pattern):
                if run.follows(other.consumer.made_by):
                    self.session.remove(other)
                    other.consumer.release(other)

    def _leave(self, entry: SubscriptionEntry) -> PendingRequest | None:
        """Forget a subscription; the request that tells the broker, where it has to know."""
        session = self.session
        alone = session.subscriptions.of(entry.action, entry.pattern) == [entry]
        ready = session.state is SessionState.READY
        request = self._ask_to_leave(entry) if alone and ready else None
        session.remove(entry)
        return request

    def _ask_to_leave(self, entry: SubscriptionEntry) -> PendingRequest:
        return self.session.unsubscribe(entry, now=self.clock(), timeout=self._system_limit)

    def _handle_deadline(self, now: float) -> None:
        progress = self._live.progress if self._live is not None else 0
        self._dispatcher.act(self.session.handle_deadline(now, progress=progress))


def _named(url: URL, error: MBError) -> str:
    """The error of one URL among several."""
    text = str(error)
    return text if text.startswith(str(url)) else f"{url}: {text}"


def _closed() -> ConnectionLost:
    return ConnectionLost("not connected: the client was closed", sent=False)


def _never_connected(why: BaseException) -> EndError:
    reason = str(why) if isinstance(why, MBError) else "connect() was cancelled"

    def lost() -> ConnectionLost:
        fresh = ConnectionLost(f"no connection was made: {reason}", sent=False)
        fresh.__cause__ = why if isinstance(why, MBError) else None
        return fresh

    return lost


def _not_restored(limit: str, why: MBError | None) -> EndError:
    reason = f": {why}" if why is not None else ""

    def lost() -> ConnectionLost:
        fresh = ConnectionLost(
            f"the connection was lost and not restored {limit} (reconnect_timeout){reason}",
            sent=True,
        )
        fresh.__cause__ = why
        return fresh

    return lost


def _given_up(reason: str, cause: BaseException | None) -> EndError:
    def given_up() -> ConnectionLost:
        fresh = ConnectionLost(f"the connection was given up: {reason}", sent=True)
        fresh.__cause__ = cause
        return fresh

    return given_up


def _is_bug(cause: BaseException | None) -> bool:
    """Whether what has ended a connection is a bug, of ours or of its transport's."""
    if isinstance(cause, ConnectionLost):
        cause = cause.__cause__
    return cause is not None and not isinstance(cause, MBError | OSError)
