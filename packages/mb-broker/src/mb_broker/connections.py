"""The broker's connections: pass received messages to the Router, and send its outboxes.

Clients take turns, however much each of them sends, and a client that uses more than its share of
memory is disconnected.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.abc

from mb_core.errors import ConnectionLost, MBError
from mb_core.link import Backend, DeadlineTimer, Link, LinkHandler
from mb_core.wire import credentials_of

from .connection import Connection, memory_of
from .options import BrokerSettings
from .registry import Service
from .rejected_client import RejectedClient
from .replies import busy_reply
from .round_robin import RoundRobin
from .router import Router

__all__ = ["Connections"]

_log = logging.getLogger("mb_broker")

# Of one client, messages that are handled without checking the time, and seconds per turn.
_BATCH = 64
_BATCH_SECONDS = 0.002
_READ_SIZE = 256 * 1024  # the most bytes that a stream reads at once


class Connections:
    """The connections of all clients, by their Service; call `start` before the first comes."""

    clock: Callable[[], float]
    timer: DeadlineTimer
    _backend: Backend
    _tasks: anyio.abc.TaskGroup
    _turns: RoundRobin[Connection]
    # Of clients that have to authenticate, so that they can't delay the others: not by their
    # number, and not with tokens that take long to verify.
    _unknown: RoundRobin[Connection]

    def __init__(self, router: Router, settings: BrokerSettings) -> None:
        self.by_service: dict[Service, Connection] = {}
        self._router = router
        self._settings = settings
        # Connections that have not sent a message yet, oldest first.
        self._newcomers: OrderedDict[Service, Connection] = OrderedDict()
        # Stop reading from a client with this many unread bytes until it has read them.
        self._pause_at = settings.max_unread // 4
        # Bytes that were buffered since the total was computed.
        self._unchecked = 0
        self._rejected: set[Link] = set()
        # Connections that did not authenticate and are closing, oldest first.
        self._closing: dict[Service, Link] = {}
        self._idle: anyio.Event | None = None

    def __len__(self) -> int:
        return len(self.by_service)

    def start(self, backend: Backend, tasks: anyio.abc.TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self.clock = backend.time
        self.timer = DeadlineTimer(backend, self._router.next_deadline, self._handle_deadline)
        self._turns = RoundRobin(backend.poster(), self._take_turn)
        self._unknown = RoundRobin(backend.poster(), self._take_turn)

    async def close(self) -> None:
        connections = [each for each in self.by_service.values() if not each.ended]
        for connection in connections:
            connection.link.close("the broker is shutting down")
        for connection in connections:
            await connection.link.wait_closed()
        # Messages of clients that have left are dropped: nobody is there to receive the answers.
        for connection in list(self.by_service.values()):
            self._remove(connection)
        # They were refused and only have to close their side; don't wait for that.
        for link in list(self._rejected):
            link.abort()
            await link.wait_closed()

    async def abort(self) -> None:
        links = [connection.link for connection in self.by_service.values()]
        for link in links:  # all of them first: the loss of one must not be reported to the next
            link.abort()
        for link in links:
            await link.wait_closed()

    async def wait_idle(self) -> None:
        """Wait until no request is outstanding."""
        if self._idle is None:
            self._idle = anyio.Event()
        await self._idle.wait()

    # Connecting and disconnecting

    def accept(self, link: Link) -> LinkHandler:
        if len(self) >= self._settings.max_connections:
            return self._reject(link)
        service = self._router.connect(self.clock(), credentials_of(link))
        connection = Connection(link, service, receive=self.receive, lost=self.link_lost)
        self.by_service[connection.service] = connection
        self._newcomers[connection.service] = connection
        self.flush()
        self.timer.reschedule()
        return connection

    def _reject(self, link: Link) -> LinkHandler:
        """Refuse a client with an error that it can show to its user."""
        text = f"the broker is full: max_connections is {self._settings.max_connections}"
        self._router.metrics.rejected.add(int(self.clock()))
        self.write_log("warn", f"{link.peer} refused: {text}", cause="max_connections")
        self.flush()
        self._rejected.add(link)
        link.send(busy_reply(text))
        link.close(text)
        return RejectedClient(self._rejected, link)

    def handshake_failed(self, peer: str, reason: MBError | None) -> None:
        """Log a connection that ended before it was open."""
        if reason is None:
            text = f"{peer} left without a handshake: a probe, or a page over HTTP"
            self.write_log("debug", text, cause="probe")
        else:
            self._router.metrics.failed.add(int(self.clock()))
            text = str(reason).removeprefix(f"{peer} ")
            self.write_log("warn", f"{peer} refused: {text}", cause="refused")
        self.flush()

    def link_lost(self, connection: Connection, error: MBError | None) -> None:
        connection.ended, connection.error = True, error
        # Handle what it sent before it left, in its turn, unless it exceeded its share.
        if connection.queue and not connection.cut_off:
            self._wait_for_turn(connection)
        else:
            self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        """Remove a client that has left, after its messages were handled."""
        service, peer, error = connection.service, connection.link.peer, connection.error
        del self.by_service[service]
        self._closing.pop(service, None)
        connection.queue.clear()
        connection.queue_size = 0
        self._router.disconnect(service, self.clock())
        newcomer = self._newcomers.pop(service, None) is not None
        # A probe does not read the greeting, so it resets the connection or closes it without a
        # handshake. A connection that sends something else is a client.
        if newcomer and (error is None or isinstance(error, ConnectionLost)):
            level, text, cause = "debug", f"{peer} left without a message: a probe", "probe"
        elif error is None:
            level, text, cause = "info", f"{peer} disconnected", "disconnected"
        else:
            text = str(error)
            if not isinstance(error, ConnectionLost) or peer not in text:
                text = f"the connection to {peer} was closed: {text}"
            level, cause = "warn", "lost"
        self.write_log(level, text, cause=cause, serviceId=service.id)
        self.flush()

    def _log_connected(self, connection: Connection) -> None:
        """Log that a client has connected.

        This is done with its first message, because load balancers open and close a connection
        every few seconds. A client that sends nothing is logged when it is sent a heartbeat
        request.
        """
        text = f"{connection.link.peer} connected"
        self.write_log("info", text, cause="connected", serviceId=connection.service.id)

    # From the clients to the Router

    def receive(self, connection: Connection, messages: list[bytes]) -> None:
        if self._newcomers and self._newcomers.pop(connection.service, None) is not None:
            self._log_connected(connection)
        if connection.queue or connection.stalled:
            connection.queue += messages
            connection.queue_size += memory_of(messages)
            size, limit = connection.queue_size, self._settings.max_unread
            if size > limit and not connection.can_pause:
                waiting = f"{size} bytes from it are waiting"
                text = f"sends too fast: {waiting}, the limit is {limit} (max_unread)"
                self._cut_off(connection.link, text)
            return
        few = len(messages) <= _BATCH
        if not connection.service.grants.known:
            rest = [*messages]
        elif few and (len(messages) == 1 or not self._router.followed):
            rest = self._router.receive(connection.service, messages, self.clock(), costly=0)
        else:
            rest = self._receive_many(connection.service, messages)
        if rest:
            connection.queue = rest
            connection.queue_size = memory_of(rest)
            connection.pause()
            self._count_buffered(connection.queue_size)
            self._wait_for_turn(connection)
        self.flush()
        self.timer.reschedule()

    def _receive_many(self, service: Service, messages: list[bytes]) -> list[bytes]:
        """Handle messages for a few milliseconds; return the rest."""
        now = self.clock()
        end = time.perf_counter() + _BATCH_SECONDS
        size = self._batch_size
        for start in range(0, len(messages), size):
            if time.perf_counter() >= end:
                return messages[start:]
            batch = messages[start : start + size]
            rest = self._router.receive(service, batch, now, costly=0)
            if rest:
                return rest + messages[start + size :]
        return []

    @property
    def _batch_size(self) -> int:
        """Return how many messages are handled without checking the time.

        If they are also sent to followers of the messages or the log, a single one may take long.
        """
        return 1 if self._router.followed else _BATCH

    def _wait_for_turn(self, connection: Connection) -> None:
        turns = self._turns if connection.service.grants.known else self._unknown
        turns.add(connection)

    def _take_turn(self, connection: Connection) -> bool:
        """Handle a batch of the client's messages; return whether more are ready."""
        if not connection.ready:
            return False  # it has disconnected, or has to read first
        queue, size = connection.queue, self._batch_size
        batch = queue[:size]
        del queue[:size]
        connection.queue_size -= memory_of(batch)
        costly = 0 if connection.ended else 1
        rest = self._router.receive(connection.service, batch, self.clock(), costly=costly)
        if connection.ended:
            del rest[:1]  # don't prepare a long answer for nobody
        if rest:
            queue[:0] = rest
            connection.queue_size += memory_of(rest)
        if connection.ended and not queue:
            self._remove(connection)
        self.flush()
        self.timer.reschedule()
        connection.resume()
        return connection.ready

    # From the Router to the clients

    def flush(self) -> None:
        """Send the contents of the Router's outboxes."""
        # Repeat, because disconnecting a client adds to the outboxes.
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
                self.check_unread(link, service, sum(map(len, messages)))
        except ConnectionLost:
            pass  # link_lost reports it
        except Exception:
            # A bug in this link's transport; still send the other outboxes.
            _log.exception("internal error: dropping the link to %s", link.peer)
            link.abort()

    async def _wait_until_read(self, connection: Connection) -> None:
        link = connection.link
        try:
            await link.drain()
        except Exception:
            # A bug in its transport, as in `_send_outbox`.
            _log.exception("internal error: dropping the link to %s", link.peer)
            link.abort()
        connection.stalled = False
        connection.resume()
        if connection.ready:
            self._wait_for_turn(connection)

    # Limits

    def check_unread(
        self, link: Link, service: Service | None = None, added: int = _READ_SIZE
    ) -> None:
        """Check how many bytes wait for a client that does not read, including `added` more."""
        unread, limit = link.unsent, self._settings.max_unread
        if unread > limit:
            waiting = f"{unread} bytes are waiting for it"
            text = f"does not read: {waiting}, the limit is {limit} (max_unread)"
            self._cut_off(link, text)
            return
        if service is not None and unread > self._pause_at:
            connection = self.by_service.get(service)
            if connection is not None and not connection.stalled:
                connection.stall(unread)
                # Usually called in a callback of the loop, when messages have arrived.
                self._backend.start_in(self._tasks, partial(self._wait_until_read, connection))
        self._count_buffered(added)

    def _count_buffered(self, added: int) -> None:
        """Check the total only occasionally, because computing it takes some time."""
        self._unchecked += added
        if self._unchecked * 64 > self._settings.max_unread_total:
            self._unchecked = 0
            self._check_total()

    def _check_total(self) -> None:
        """Disconnect the clients with the most buffered bytes until the total is in the limit."""
        limit = self._settings.max_unread_total
        sizes = {each: size for each in self.by_service.values() if (size := each.buffered)}
        total = sum(sizes.values())
        if total <= limit:
            return
        # Clients that have to authenticate first, so that they can't have others cut off.
        order = sorted(sizes.items(), key=lambda item: (item[0].service.grants.known, -item[1]))
        for connection, size in order:
            if connection.queue_size * 2 > size:
                text = f"sends too fast: {size} bytes from it are waiting"
            else:
                text = f"does not read: {size} bytes are waiting for it"
            text += f", of {total} for all clients, the limit is {limit} (max_unread_total)"
            self._cut_off(connection.link, text)
            total -= size
            if total <= limit:
                return

    def _cut_off(self, link: Link, why: str) -> None:
        """Disconnect a client that takes more than its share."""
        about = {}
        for connection in list(self.by_service.values()):
            if connection.link is link:
                if connection.cut_off:
                    return
                connection.cut_off = True
                if connection.ended:  # its link has no more messages
                    self._remove(connection)
                about["serviceId"] = connection.service.id
        link.abort()
        self._router.metrics.cut_off.add(int(self.clock()))
        self.write_log("warn", f"{link.peer} {why}; it is cut off", cause="cut off", **about)

    def write_log(self, level: str, text: str, *, cause: str | None = None, **fields: Any) -> None:
        second = int(self.clock())
        self._router.log.write(level, "broker", text, cause=cause, second=second, **fields)

    # Time

    def _handle_deadline(self, now: float) -> None:
        self._log_silent_newcomers(now)
        self._router.handle_deadline(now)
        dropped = [each for each in self._router.take_dropped() if not self._has_read(each, now)]
        for service in dropped:
            text = f"{service.link.peer} was silent for too long: dropped"
            self.write_log("info", text, cause="dropped", serviceId=service.id)
        rejected = self._router.take_rejected(now)
        for service, why in rejected:
            text = f"{service.link.peer} {why}: rejected"
            self.write_log("warn", text, cause="rejected", serviceId=service.id)
        self.flush()
        for service in dropped:
            service.link.close("no sign of life")
        for service, why in rejected:
            service.link.close(why)
            self._closing[service] = service.link
            if len(self._closing) > self._settings.max_handshakes:
                # It may take its time to close, and must not keep others from connecting.
                self._closing.pop(next(iter(self._closing))).abort()

    def _log_silent_newcomers(self, now: float) -> None:
        """Log clients that stay connected although they have not sent a message."""
        patience = self._settings.heartbeat_after / 1000
        while self._newcomers:
            service = next(iter(self._newcomers))
            if now < service.connected_at + patience:
                return
            self._log_connected(self._newcomers.pop(service))

    def _has_read(self, service: Service, now: float) -> bool:
        """Return whether a client that we paused has read something since."""
        connection = self.by_service.get(service)
        if connection is None or not connection.stalled:
            return False
        before, connection.unread = connection.unread, connection.link.unsent
        if connection.unread >= before:
            return False
        self._router.keep_alive(service, now)
        return True
