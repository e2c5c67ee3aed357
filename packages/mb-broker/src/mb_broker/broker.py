"""The Broker: a Router under Links of every installed transport."""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import anyio
import anyio.abc

from mb_core.client.arguments import check_options
from mb_core.errors import ConnectionLost, LocalProtocolError, MBError
from mb_core.link import (
    Accept,
    Backend,
    DeadlineTimer,
    Home,
    Link,
    LinkHandler,
    Listener,
    StreamOptions,
    current_backend,
)
from mb_core.listening import listen
from mb_core.plugins import Plugins, installed_plugins
from mb_core.url import URL, parse_url
from mb_core.wire import Limits, Site

from .host_metrics import host_metrics
from .http import Visitors, broker_pages
from .options import BrokerOptions, complete_options
from .registry import Service
from .replies import busy_reply
from .round_robin import Turns
from .router import Router, RouterOptions

if TYPE_CHECKING:
    import ssl

    from mb_core.testing import Faults

__all__ = ["Broker", "url_of"]

_log = logging.getLogger("mb_broker")

# Messages of one client that are handled without a look at the time, and the seconds that may be
# spent on those that came together; then the others wait for their turn.
_AT_ONCE = 64
_A_WHILE = 0.002
# Bytes of memory that a message takes beside its own, and its place in a list.
_OVERHEAD = sys.getsizeof(b"") + 8
# Bytes that a stream gives at once, at most.
_CHUNK = 256 * 1024

# Clients receive 16 MiB, header included.
_MAX_ANSWER = 16 * 1024 * 1024 - 1024


class Broker:
    """An MB broker in this process, on the running event loop (asyncio or trio).

        async with Broker("tcp://127.0.0.1:0", "ws://127.0.0.1:8080") as broker:
            print(broker.urls)

    Without URLs it listens on memory:// under a new name.  Port 0 asks for a free one; `urls`
    has the real ones.  tls:// and wss:// need an `ssl_context` with the broker's certificate.
    `options` are those of BrokerOptions: limits on what one client may take, and time limits,
    in milliseconds.  What a client does over a limit ends with an error or with its connection,
    never at the cost of others, and the log says which limit it was.  `faults`, for tests, are
    what happens to the connections.

    Raises LocalProtocolError for an invalid option.  Entering raises ConnectError if it can't
    listen on a URL, and PluginError if no plugin supports a URL's scheme; it may be tried again.
    Leaving ends every connection, cancelled or not; a Broker that was left can't be entered again.
    """

    def __init__(
        self,
        *urls: str,
        ssl_context: ssl.SSLContext | None = None,
        plugins: Plugins | None = None,
        faults: Faults | None = None,
        **options: Unpack[BrokerOptions],
    ) -> None:
        self.urls: list[str] = []
        check_options(ssl_context=ssl_context, plugins=plugins, faults=faults)
        self.options = given = complete_options(options)
        self._wanted = [parse_url(url) for url in urls or ("memory://",)]
        self._plugins = plugins
        self._faults = faults
        self._limits = Limits(given["max_payload"], given["max_payload"] + given["max_header"])
        self._streams = StreamOptions(
            handshake_timeout=given["handshake_timeout"] / 1000,
            close_timeout=given["close_timeout"] / 1000,
            max_handshakes=given["max_handshakes"],
            unread=self._look_at,
            refused=self._refused,
            ssl_context=ssl_context,
        )
        self._router = Router(
            RouterOptions(
                max_payload=given["max_payload"],
                max_header=given["max_header"],
                max_answer=min(_MAX_ANSWER, given["max_unread"] * 3 // 4),
                max_subscriptions=given["max_subscriptions"],
                max_subscriptions_total=given["max_subscriptions_total"],
                max_outstanding=given["max_outstanding"],
                request_timeout=given["request_timeout"] / 1000,
                heartbeat_after=given["heartbeat_after"] / 1000,
                drop_after=given["drop_after"] / 1000,
            ),
            host_metrics(),
            _progress,
        )
        pages = broker_pages(
            self._router,
            lambda: self._clock(),
            with_page=given["page"],
            with_metrics=given["metrics"],
        )
        visitors = Visitors(given["origins"], (url.host for url in self._wanted))
        self._site = Site(pages, visitors.forbid)
        self._connections: dict[Service, _Connection] = {}
        # Those that have not sent a message yet, the oldest first.
        self._newcomers: OrderedDict[Service, _Connection] = OrderedDict()
        # Read no more from a client that has left so many bytes unread: it has to read first.
        self._pause_at = given["max_unread"] // 4
        # Bytes that have come to wait since the sum of all that waits was taken.
        self._unsummed = 0
        self._turned_away: set[Link] = set()
        self._listeners: list[Listener] = []
        self._idle: anyio.Event | None = None
        self._tasks: anyio.abc.TaskGroup
        self._home: Home
        self._timer: DeadlineTimer
        self._turns: Turns[_Connection]
        self._clock: Callable[[], float]
        self._accepting: Accept = self._accept

    @property
    def url(self) -> str:
        """The first of `urls`."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """The first URL of this scheme; raises LookupError where the broker has none."""
        return url_of(self.urls, scheme)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Broker:
        if self.urls:
            raise LocalProtocolError("a Broker is entered once: make another one")
        backend = self._backend = current_backend()
        self._clock = backend.time
        self._home = Home(backend)
        self._timer = DeadlineTimer(backend, self._router.next_deadline, self._handle_deadline)
        self._turns = Turns(backend.poster(), self._take_turn)
        self._tasks = anyio.create_task_group()
        if self._faults is not None:
            self._accepting = self._faults.over(self._accept, backend)
        await self._tasks.__aenter__()
        try:
            for url in self._wanted:
                await self._listen(url, backend)
        except BaseException:
            self.urls.clear()
            await self._end()
            raise
        self._tasks.start_soon(self._timer.run)
        if self._faults is not None:
            self._tasks.start_soon(self._faults.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._home.forked:
            return  # the connections are those of the process before the fork
        try:
            if kind is None:
                await self.drain()
        finally:
            await self._end()

    async def drain(self) -> None:
        """Accept nothing new, and wait for the answers to requests in flight, for a while."""
        self._home.check("broker")
        self._router.draining = True
        await self._stop_listening()
        if self._router.outstanding:
            if self._idle is None:
                self._idle = anyio.Event()
            with anyio.move_on_after(self.options["drain_timeout"] / 1000) as scope:
                await self._idle.wait()
            if scope.cancelled_caught:
                count = self._router.outstanding
                text = f"gave up on {count} request{'s'[: count > 1]} in flight (drain_timeout)"
                self._router.journal.write("warn", "broker", text)
                self.flush()

    async def abort(self) -> None:
        """Stop listening and end every connection at once, as a process that is killed does."""
        self._home.check("broker")
        await self._stop_listening()
        for connection in list(self._connections.values()):
            connection.link.abort()
            await connection.link.wait_closed()

    # Listening

    async def _listen(self, url: URL, backend: Backend) -> None:
        plugins = self._plugins if self._plugins is not None else installed_plugins()
        reached, listener = await listen(
            url,
            plugins.transport(url.scheme),
            self._accepting,
            backend=backend,
            limits=self._limits,
            options=self._streams,
            spawn=self._tasks.start_soon,
            site=self._site,
        )
        self._listeners.append(listener)
        self.urls.append(reached.full)

    async def _stop_listening(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            try:
                await listener.close()
            except Exception:
                # A bug in its transport; the others are to be closed.
                _log.exception("internal error: can't stop listening on %s", listener.address)

    def _accept(self, link: Link) -> LinkHandler:
        if len(self._connections) >= self.options["max_connections"]:
            return self._turn_away(link)
        connection = _Connection(self, link, self._router.connect(self._clock()))
        self._connections[connection.service] = connection
        self._newcomers[connection.service] = connection
        self.flush()
        self._timer.reschedule()
        return connection

    def _turn_away(self, link: Link) -> LinkHandler:
        """Refuse a client in words that it can show its user."""
        limit = self.options["max_connections"]
        text = f"the broker is full: max_connections is {limit}"
        self._router.metrics.rejected.add(int(self._clock()))
        self._write("warn", f"{link.peer} refused: {text}", cause="max_connections")
        self.flush()
        self._turned_away.add(link)
        link.send(busy_reply(text))
        link.close(text)
        return _TurnedAway(self._turned_away, link)

    def _refused(self, peer: str, reason: MBError | None) -> None:
        """A connection came to nothing before it was one."""
        if reason is None:
            text = f"{peer} left without a handshake: a probe, or a page over HTTP"
            self._write("debug", text, cause="probe")
        else:
            self._router.metrics.failed.add(int(self._clock()))
            text = str(reason).removeprefix(f"{peer} ")
            self._write("warn", f"{peer} refused: {text}", cause="refused")
        self.flush()

    async def _close_connections(self) -> None:
        connections = [each for each in self._connections.values() if not each.ended]
        for connection in connections:
            connection.link.close("the broker is shutting down")
        for connection in connections:
            await connection.link.wait_closed()
        # What is left of those that had sent much before they left: nobody is there to get it.
        for connection in list(self._connections.values()):
            self._forget(connection)
        # They had their answer, and owe us an end: not to be waited for.
        for link in list(self._turned_away):
            link.abort()
            await link.wait_closed()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stop_listening()
            await self._close_connections()
            if self._faults is not None:
                await self._faults.end()
        self._tasks.cancel_scope.cancel()
        # Not told of an error, which it would wrap into a group.
        await self._tasks.__aexit__(None, None, None)

    # What the connections share

    def receive(self, connection: _Connection, messages: list[bytes]) -> None:
        if self._newcomers and self._newcomers.pop(connection.service, None) is not None:
            self._announce(connection)
        if connection.waiting or connection.stalled:
            connection.waiting += messages
            connection.memory += _memory(messages)
            if not connection.can_pause:
                self._limit_waiting(connection)
            return
        few = len(messages) <= _AT_ONCE
        if few and (len(messages) == 1 or not self._router.followed):
            rest = self._router.receive(connection.service, messages, self._clock(), costly=0)
        else:
            rest = self._take_for_a_while(connection.service, messages)
        if rest:
            connection.waiting = rest
            connection.memory = _memory(rest)
            connection.pause()
            self._count_held(connection.memory)
            self._turns.add(connection)
        self.flush()
        self._timer.reschedule()

    def _take_for_a_while(self, service: Service, messages: list[bytes]) -> list[bytes]:
        """Handle messages for a few milliseconds; return those that are left."""
        now = self._clock()
        end = time.perf_counter() + _A_WHILE
        step = self._step
        for start in range(0, len(messages), step):
            if time.perf_counter() >= end:
                return messages[start:]
            some = messages[start : start + step]
            rest = self._router.receive(service, some, now, costly=0)
            if rest:
                return rest + messages[start + step :]
        return []

    @property
    def _step(self) -> int:
        """Messages that are handled without a look at the time.

        Where each is an event for those who follow the messages or the log, one may take long.
        """
        return 1 if self._router.followed else _AT_ONCE

    def _take_turn(self, connection: _Connection) -> bool:
        """Handle a little of what waits; whether there is more to do now."""
        if not connection.ready:
            return False  # it has ended meanwhile, or has to read first
        waiting, step = connection.waiting, self._step
        some = waiting[:step]
        del waiting[:step]
        connection.memory -= _memory(some)
        costly = 0 if connection.ended else 1
        rest = self._router.receive(connection.service, some, self._clock(), costly=costly)
        if connection.ended:
            del rest[:1]  # a long answer, for nobody
        if rest:
            waiting[:0] = rest
            connection.memory += _memory(rest)
        if connection.ended and not waiting:
            self._forget(connection)
        self.flush()
        self._timer.reschedule()
        connection.resume()
        return connection.ready

    def _limit_waiting(self, connection: _Connection) -> None:
        """Of a transport that can't have its client wait with sending."""
        size, limit = connection.memory, self.options["max_unread"]
        if size > limit:
            text = f"sends too fast: {size} bytes of it wait, the limit is {limit} (max_unread)"
            self._cut_off(connection.link, text)

    async def _wait_until_read(self, connection: _Connection) -> None:
        link = connection.link
        try:
            await link.drain()
        except Exception:
            # A bug in its transport, as in `_send_outbox`.
            _log.exception("internal error: the link to %s is given up", link.peer)
            link.abort()
        connection.stalled = False
        connection.resume()
        if connection.ready:
            self._turns.add(connection)

    def leave(self, connection: _Connection, error: MBError | None) -> None:
        connection.ended, connection.error = True, error
        # What it sent before it left is handled, in its turn; not if it had more than its share.
        if connection.waiting and not connection.cut_off:
            self._turns.add(connection)
        else:
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        """A client has left, and what it had sent is handled."""
        service, peer, error = connection.service, connection.link.peer, connection.error
        del self._connections[service]
        connection.waiting.clear()
        connection.memory = 0
        self._router.disconnect(service, self._clock())
        newcomer = self._newcomers.pop(service, None) is not None
        # A probe does not read the greeting, so it resets the connection, or says no farewell.  One
        # that speaks another protocol is a client.
        if newcomer and (error is None or isinstance(error, ConnectionLost)):
            level, text, cause = "debug", f"{peer} left without a message: a probe", "probe"
        elif error is None:
            level, text, cause = "info", f"{peer} disconnected", "disconnected"
        else:
            text = str(error)
            if not isinstance(error, ConnectionLost) or peer not in text:
                text = f"the connection to {peer} was closed: {text}"
            level, cause = "warn", "lost"
        self._write(level, text, cause=cause, serviceId=service.id)
        self.flush()

    def _announce(self, connection: _Connection) -> None:
        """Write that a client has connected.

        Not when the connection comes about: load balancers open one every few seconds, only to
        close it.  A client sends something soon, and one that stays without is announced when it
        is asked for a sign of life.
        """
        text, service_id = f"{connection.link.peer} connected", connection.service.id
        self._write("info", text, cause="connected", serviceId=service_id)

    def flush(self) -> None:
        """Send what the Router has put into the outboxes."""
        # Again for what was written meanwhile: that a client was cut off.
        while services := self._router.take_output():
            for service in services:
                self._send_outbox(service)
        if self._idle is not None and not self._router.outstanding:
            self._idle.set()

    def _send_outbox(self, service: Service) -> None:
        messages, service.outbox = service.outbox, []
        link: Link = service.link
        try:
            link.send_many(messages)
            if link.congested:
                self._look_at(link, service, sum(map(len, messages)))
        except ConnectionLost:
            pass  # link_lost will say so
        except Exception:
            # Of one link, a bug in its transport; the other outboxes are to go out.
            _log.exception("internal error: the link to %s is given up", link.peer)
            link.abort()

    def _look_at(self, link: Link, service: Service | None = None, more: int = _CHUNK) -> None:
        """See whether too much waits for a client that does not read; `more` bytes came to it."""
        unread, limit = link.unsent, self.options["max_unread"]
        if unread > limit:
            text = f"does not read: {unread} bytes wait for it, the limit is {limit} (max_unread)"
            self._cut_off(link, text)
            return
        if service is not None and unread > self._pause_at:
            connection = self._connections.get(service)
            if connection is not None and not connection.stalled:
                connection.stall(unread)
                # Most often in a callback of the loop, when messages have arrived.
                self._backend.start_in(self._tasks, partial(self._wait_until_read, connection))
        self._count_held(more)

    def _count_held(self, more: int) -> None:
        """Look at the sum of all that waits, now and then: taking it costs a little."""
        self._unsummed += more
        if self._unsummed * 64 > self.options["max_unread_total"]:
            self._unsummed = 0
            self._limit_total()

    def _limit_total(self) -> None:
        """Cut off those for which most waits, as many as it takes."""
        limit = self.options["max_unread_total"]
        held = {each: size for each in self._connections.values() if (size := each.held)}
        total = sum(held.values())
        if total <= limit:
            return
        for connection, size in sorted(held.items(), key=lambda item: -item[1]):
            if connection.memory * 2 > size:
                text = f"sends too fast: {size} bytes of it wait to be handled"
            else:
                text = f"does not read: {size} bytes wait for it"
            text += f", of {total} for all clients, the limit is {limit} (max_unread_total)"
            self._cut_off(connection.link, text)
            total -= size
            if total <= limit:
                return

    def _cut_off(self, link: Link, why: str) -> None:
        """End the connection of a client that takes more than its share."""
        about = {}
        for connection in list(self._connections.values()):
            if connection.link is link:
                if connection.cut_off:
                    return
                connection.cut_off = True
                if connection.ended:  # its link holds nothing any more
                    self._forget(connection)
                about["serviceId"] = connection.service.id
        link.abort()
        self._router.metrics.cut_off.add(int(self._clock()))
        self._write("warn", f"{link.peer} {why}; it is cut off", **about)

    def _write(self, level: str, text: str, *, cause: str | None = None, **fields: Any) -> None:
        second = int(self._clock())
        self._router.journal.write(level, "broker", text, cause=cause, second=second, **fields)

    def _handle_deadline(self, now: float) -> None:
        self._announce_silent(now)
        self._router.handle_deadline(now)
        dropped = [each for each in self._router.take_dropped() if not self._reads(each, now)]
        for service in dropped:
            text = f"{service.link.peer} was silent for too long: dropped"
            self._write("info", text, serviceId=service.id)
        self.flush()
        for service in dropped:
            service.link.close("no sign of life")

    def _announce_silent(self, now: float) -> None:
        """Announce those that stay though they have not sent a message."""
        patience = self.options["heartbeat_after"] / 1000
        while self._newcomers:
            service = next(iter(self._newcomers))
            if now < service.connected_at + patience:
                return
            self._announce(self._newcomers.pop(service))

    def _reads(self, service: Service, now: float) -> bool:
        """Whether a client from which we do not read has itself read something since then."""
        connection = self._connections.get(service)
        if connection is None or not connection.stalled:
            return False
        before, connection.unread = connection.unread, connection.link.unsent
        if connection.unread >= before:
            return False
        self._router.spare(service, now)
        return True


def url_of(urls: Sequence[str], scheme: str) -> str:
    """The first URL of this scheme; raises LookupError where there is none."""
    for url in urls:
        if url.startswith(f"{scheme}://"):
            return url
    raise LookupError(f"this broker listens on {', '.join(urls)}, not on {scheme}://")


def _memory(messages: list[bytes]) -> int:
    """Bytes that messages which wait take: tiny ones many times what they have."""
    return sum(map(len, messages)) + _OVERHEAD * len(messages)


def _progress(service: Service) -> int:
    """How far a client's Link has come; 0 for one that does not say."""
    return getattr(service.link, "progress", 0)


class _Connection:
    """One client's Link and the Service that it is to the Router."""

    def __init__(self, broker: Broker, link: Link, service: Service) -> None:
        self.link = link
        self.service = service
        service.link = link
        service.progress = _progress(service)
        self._broker = broker
        self.waiting: list[bytes] = []  # messages that are not handled yet
        self.memory = 0  # that they take, in bytes: too many to count again and again
        self.stalled = False  # it has to read before anything more is read from it
        self.cut_off = False
        self.ended = False  # it has left; what it sent before is still being handled
        self.error: MBError | None = None  # why
        self.unread = 0  # bytes that it had not read when it was looked at last
        # Links of others may have been written before there was such a thing.
        self.can_pause = hasattr(link, "pause_reading")

    @property
    def held(self) -> int:
        """Bytes that wait for it, or of it."""
        unread = 0 if self.cut_off else self.link.unsent
        return unread + self.memory

    @property
    def ready(self) -> bool:
        """Whether messages wait that may be handled."""
        return bool(self.waiting) and (self.ended or not self.stalled)

    def pause(self) -> None:
        if self.can_pause:
            self.link.pause_reading()

    def resume(self) -> None:
        """Read again, if everything was handled and it may be."""
        if self.can_pause and not self.waiting and not self.stalled:
            self.link.resume_reading()

    def stall(self, unread: int) -> None:
        self.stalled = True
        self.unread = unread
        self.pause()

    def messages_received(self, messages: list[bytes]) -> None:
        self._broker.receive(self, messages)

    def link_lost(self, error: MBError | None) -> None:
        self._broker.leave(self, error)


class _TurnedAway:
    """The handler of a client that was refused because the broker is full: it ignores messages."""

    def __init__(self, turned_away: set[Link], link: Link) -> None:
        self._turned_away = turned_away
        self._link = link

    def messages_received(self, messages: list[bytes]) -> None:
        pass

    def link_lost(self, error: MBError | None) -> None:
        self._turned_away.discard(self._link)
