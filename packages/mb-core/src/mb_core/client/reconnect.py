"""Reconnecting: one Connection after another, with back-off; each restores subscriptions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from ..codec import decode_payload
from ..dialing import current_token
from ..errors import (
    ConnectError,
    ConnectionLost,
    MBError,
    PluginError,
    ResponseError,
    TopicNotSupportedError,
    UnauthorizedError,
)
from ..link import Turn
from ..options import ClientOptions
from ..session import PendingRequest, Session, SessionState, SubscriptionEntry
from ..stats import Traffic
from ..url import URL
from .backoff import Backoff
from .callbacks import Callbacks
from .calls import Calls, check_status
from .connection import Connection, is_final
from .events import EventHandler
from .observers import Observers
from .queue import EndError
from .tasks import TaskScope

__all__ = ["Reconnector", "given_up", "never_connected"]

_log = logging.getLogger("mb_core.client")

_PERMANENT = frozenset(
    {
        "FORBIDDEN",
        "INVALID_REQUEST",
        "MALFORMED_MESSAGE",
        "TOPIC_NOT_SUPPORTED",
        "VERSION_NOT_SUPPORTED",
    }
)
"""Errors of a broker for a request that it will never accept."""


class Reconnector:
    """Opens a Connection, and a new one when it is lost.

    `urls` are the addresses of one broker, or of interchangeable brokers: each round tries them
    all, the last good one first, and then waits. `give_up` is called with an error if the client
    will not connect again.
    """

    def __init__(
        self,
        urls: Sequence[URL],
        session: Session,
        calls: Calls,
        events: EventHandler,
        callbacks: Callbacks,
        options: ClientOptions,
        tasks: TaskScope,
        observers: Observers | None,
        *,
        give_up: Callable[[EndError], None],
    ) -> None:
        self.turn = Turn()  # for those that send without waiting
        self.live: Connection | None = None
        self.count = 0  # of established connections
        self.why: MBError | None = None
        """Why there is no connection: how it was lost, then how the last attempt failed."""
        self.user: str | None = None
        """As whom the client has authenticated."""
        self.scope = anyio.CancelScope()
        """Cancelled when no other connection is wanted."""
        self._restored = anyio.Event()  # replaced by the next connection's
        self._urls = list(urls)
        self._several = len(urls) > 1
        # URLs that are not tried again for the first connection: their errors are final.
        self._hopeless: set[URL] = set()
        self._session = session
        self._calls = calls
        self._events = events
        self._callbacks = callbacks
        self._options = options
        self._tasks = tasks
        self._observers = observers
        self._give_up = give_up
        self._past_traffic = Traffic()  # of closed connections

    @property
    def url(self) -> URL:
        """The address that was used last, or is tried first."""
        return self._urls[0]

    def traffic(self) -> Traffic:
        """The traffic of all connections so far."""
        if self.live is None:
            return self._past_traffic
        return self._past_traffic + self.live.traffic()

    async def wait_restored(self) -> None:
        """Wait for the next connection or the end."""
        await self._restored.wait()

    def end(self) -> None:
        """Stop connecting, and wake all that wait for a connection."""
        self._restored.set()

    async def open_first(self) -> None:
        """Connect for the first time; raises ConnectError or PluginError."""
        try:
            await self._try_each(again=False)
        except ConnectError as error:
            if error.final or not self._options.retry_connect:
                raise
            self._report_failure(error)
            limit = self._options.reconnect_timeout
            try:
                with anyio.fail_after(limit):
                    await self._connect(self._backoff())
            except TimeoutError:
                raise ConnectError(
                    f"no connection within {limit:g} s (reconnect_timeout): {self.why}"
                ) from self.why

    async def run(self) -> None:
        """Connect again whenever the connection is lost."""
        backoff = self._backoff()
        limit = self._options.reconnect_timeout
        with self.scope:
            while True:
                since = self._calls.clock()
                await self._calls.connection.wait_over()
                if not self._options.reconnect:
                    return
                backoff.lasted(self._calls.clock() - since)
                try:
                    with anyio.fail_after(limit):
                        await self._connect(backoff)
                except TimeoutError:
                    self._give_up(_not_restored(f"within {limit:g} s", self.why))
                    return
                except PluginError as error:
                    self._callbacks.report(error, "dropping the connection")
                    self._give_up(given_up(str(error), error))
                    return

    def _backoff(self) -> Backoff:
        return Backoff(self._options.backoff_min, self._options.backoff_max)

    async def _connect(self, backoff: Backoff) -> None:
        """Wait and try until there is a connection. For a first connection, a final error is
        raised. A lost connection is tried again even after final errors: an operator may fix what
        another one broke.
        """
        first = not self.count
        while True:
            delay = backoff.next()
            if self._observers is not None:
                self._observers.reconnecting(delay, self.why)
            await anyio.sleep(delay)
            try:
                await self._try_each(again=True)
            except (ConnectError, PluginError) as error:
                # A broken transport stays broken.
                if isinstance(error, PluginError) or (first and error.final):
                    raise
                self._report_failure(error)
            else:
                return

    async def _try_each(self, *, again: bool) -> None:
        """Try each URL once; raises ConnectError or PluginError if none has connected."""
        first = not self.count
        failures: list[tuple[URL, ConnectError | PluginError]] = []
        for url in [url for url in self._urls if url not in self._hopeless]:
            try:
                connection = await self._open(url, again=again)
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

    async def _open(self, url: URL, *, again: bool) -> Connection:
        """Connect, wait for the broker's greeting, and send what the Session has to restore.

        `again` says that this follows an outage, after which other clients may still be
        reconnecting. Raises ConnectError or PluginError. If it fails or is cancelled, the Link is
        closed.
        """
        token = await current_token(self._options)
        # Set before it is ready, because other threads may send as soon as it is.
        connection = self._calls.connection = Connection(
            self._session,
            self._callbacks,
            self._options,
            self._tasks,
            self.turn,
            observers=self._observers,
            handle_events=self._events.handle_events,
            reschedule=self._calls.timer.reschedule,
            accepted=self._events.use,
            lost=self._lost,
        )
        seconds = self._options.connect_timeout
        step = "did not accept the connection"
        try:
            with anyio.fail_after(seconds):
                await connection.dial(url, token)
                step = "accepted the connection but did not send system.initialize"
                end = await connection.wait_greeted()
                if end is not None:
                    text = f"{url} ended the connection before its greeting: {end}"
                    raise ConnectError(text, final=is_final(end))
                step = "sent its greeting but did not answer the client's requests"
                if token is not None:
                    end = await self._authenticate(connection, url, token)
                end = end or await self._restore(connection, again=again)
                if end is not None:
                    raise ConnectError(f"{url} ended the connection at once: {end}")
        except TimeoutError:
            await connection.end_at_once()
            # The Link may have found an error while waiting for the end of an endless stream.
            found = connection.error().__cause__ if connection.error is not None else None
            if isinstance(found, MBError):
                text = f"the connection to {url} failed: {found}"
                raise ConnectError(text, final=is_final(found)) from None
            raise ConnectError(
                f"{url} {step} within {seconds:g} s: "
                f"is an MB broker listening there for {url.scheme}://?"
            ) from None
        except BaseException:
            await connection.end_at_once()
            raise
        return connection

    # Authenticating

    async def _authenticate(self, connection: Connection, url: URL, token: str) -> MBError | None:
        """Tell the broker which user this is; return the error if the connection did not last.

        Raises ConnectError if the broker rejects the token.
        """
        if (end := self._end_of(connection)) is not None:
            return end
        self.user = None  # until this broker says otherwise
        request = self._session.authenticate(token, now=self._calls.clock(), timeout=self._limit)
        (outcome,) = await self._calls.complete_all([request])
        if isinstance(outcome, ConnectionLost):
            return outcome
        error = check_status(request, outcome)
        if isinstance(error, TopicNotSupportedError):
            if not self.count:
                _log.warning("%s has no access control: the token was not needed", url)
            return None
        if error is not None:
            text = f"{url} refused authentication: {error}"
            if isinstance(error, UnauthorizedError):
                text += "; pass the token of one of the broker's users as token=..."
            raise ConnectError(text, final=is_final(error)) from error
        assert not isinstance(outcome, MBError)
        user = decode_payload(outcome.raw_payload).get("user")
        self.user = user if isinstance(user, str) else None
        return None

    # Restoring subscriptions and the registration

    async def _restore(self, connection: Connection, *, again: bool) -> MBError | None:
        """Restore everything; return the error if the connection did not last."""
        session, clock = self._session, self._calls.clock
        if (end := self._end_of(connection)) is not None:
            return end
        requests = session.restore(now=clock(), timeout=self._limit)
        self._events.handle_events(session.ask_for_timeouts())
        try:
            refused = await self._ask_to_restore(requests)
        except ConnectionLost as error:
            return error
        if (end := self._end_of(connection)) is not None:
            return end
        settling = self._options.settling if again else 0.0
        self._events.handle_events(
            session.restored(clock(), settling=settling, progress=connection.progress)
        )
        self._calls.timer.reschedule()
        if refused:
            self._tasks.spawn(lambda: self._restore_refused(connection, refused))
        return None

    async def _restore_refused(self, connection: Connection, refused: list[Any]) -> None:
        """Repeat what the broker has temporarily refused until it accepts it or the Link is gone.
        The rest of the client works in the meantime.
        """
        backoff = self._backoff()
        while refused:
            await anyio.sleep(backoff.next())
            if connection.over:
                return  # the next connection restores everything
            requests = self._session.restore_again(
                refused, now=self._calls.clock(), timeout=self._limit
            )
            try:
                refused = await self._ask_to_restore(requests)
            except ConnectionLost:
                return

    async def _ask_to_restore(self, requests: list[PendingRequest]) -> list[Any]:
        """Send requests that restore something; return the subjects that are temporarily refused.
        What is refused permanently is dropped. Raises ConnectionLost.
        """
        outcomes = await self._calls.complete_all(requests)
        refused: list[Any] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, ConnectionLost):
                raise outcome
            error = check_status(request, outcome)
            if isinstance(error, ResponseError) and error.code in _PERMANENT:
                self._drop(request.about, error)
            elif error is not None:
                what = f"{_name_of(request.about)} could not be restored, will try again"
                self._callbacks.report(error, what, level=logging.WARNING)
                refused.append(request.about)
        return refused

    def _drop(self, subject: Any, error: MBError) -> None:
        """The broker permanently refused to restore this: report it and carry on."""
        session = self._session
        self._callbacks.report(error, f"{_name_of(subject)} could not be restored")
        if not isinstance(subject, SubscriptionEntry):
            session.registration = None
            return
        for entry in session.subscriptions.of(subject.action, subject.pattern):
            session.remove(entry)
            entry.consumer.remove(entry, lambda: copy.copy(error))

    @property
    def _limit(self) -> int:
        return round(self._options.connect_timeout * 1000)

    def _end_of(self, connection: Connection) -> MBError | None:
        """Return why there is nothing left to restore, if so: it was lost, or closed."""
        if self._session.state is SessionState.RESTORING:
            return None
        return connection.error() if connection.error is not None else ConnectError("it was closed")

    # The outcome of connections

    def _connected(self, connection: Connection, url: URL) -> None:
        self.live = connection
        self.count += 1
        _log.info("connected to %s%s", url, " again" if self.count > 1 else "")
        if self._observers is not None:
            self._observers.connected(url, connection.link.peer, again=self.count > 1)
        self._callbacks.post(self._callbacks.connect)
        self._restored.set()
        self._restored = anyio.Event()

    def _lost(self, connection: Connection) -> None:
        self._past_traffic += connection.traffic()
        if connection is not self.live:
            return  # a failed attempt, which the caller gets as an error
        self.live = None
        assert connection.error is not None
        self.why = connection.error() if connection.broken else None
        if self._observers is not None:
            self._observers.disconnected(self.why)
        self._callbacks.post(self._callbacks.disconnect)
        if self._tasks.ending:
            if connection.broken:
                # The last publications may not have arrived, and no call is left to report it.
                what = "closing was cut short"
                self._callbacks.report(connection.error(), what, level=logging.WARNING)
            return
        if self.why is not None and _is_bug(self.why.__cause__):
            self._callbacks.report(self.why, "an internal error has ended a connection")
        else:
            _log.info("%s", connection.error())
        if not self._options.reconnect:
            self._give_up(connection.error)

    def _report_failure(self, error: ConnectError | PluginError) -> None:
        self.why = error
        self._callbacks.report(error, "could not connect, will try again", level=logging.WARNING)


def given_up(reason: str, cause: BaseException | None) -> EndError:
    """Return the error for a connection that is dropped."""
    return _lost_because(f"the connection was dropped: {reason}", cause, sent=True)


def never_connected(why: BaseException) -> EndError:
    """Return the error for a client whose first connection failed or was cancelled."""
    cause = why if isinstance(why, MBError) else None
    reason = cause if cause is not None else "connect() was cancelled"
    return _lost_because(f"no connection was made: {reason}", cause, sent=False)


def _not_restored(limit: str, why: MBError | None) -> EndError:
    reason = f": {why}" if why is not None else ""
    text = f"the connection was lost and not restored {limit} (reconnect_timeout){reason}"
    return _lost_because(text, why, sent=True)


def _lost_because(text: str, cause: BaseException | None, *, sent: bool) -> EndError:
    def lost() -> ConnectionLost:
        fresh = ConnectionLost(text, sent=sent)
        fresh.__cause__ = cause
        return fresh

    return lost


def _named(url: URL, error: MBError) -> str:
    """Return the error for one of several URLs."""
    text = str(error)
    return text if text.startswith(str(url)) else f"{url}: {text}"


def _name_of(subject: Any) -> str:
    if isinstance(subject, SubscriptionEntry):
        return f"the subscription to {subject.pattern!r}"
    return "the service's registration"


def _is_bug(cause: BaseException | None) -> bool:
    """Return whether a connection ended because of a bug, in this library or its transport."""
    if isinstance(cause, ConnectionLost):
        cause = cause.__cause__
    return cause is not None and not isinstance(cause, MBError | OSError)
