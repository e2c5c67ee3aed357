"""The Broker: a Router under Links of every installed transport."""

from __future__ import annotations

import logging
import ssl
import time
from types import TracebackType

import anyio
import anyio.abc

from mb_core.errors import ConnectError, ConnectionLost, LocalProtocolError, MBError
from mb_core.header import MAX_HEADER
from mb_core.link import Backend, DeadlineTimer, Link, Listener, StreamOptions, current_backend
from mb_core.plugins import Plugins, installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import URL, parse_url
from mb_core.wire import DEFAULT_MAX_PAYLOAD, Limits

from .registry import Service
from .router import Router, RouterOptions

__all__ = ["Broker"]

_log = logging.getLogger("mb_broker")


class Broker:
    """An MB broker in this process, on the running event loop (asyncio or trio).

        async with Broker("tcp://127.0.0.1:0", "ws://127.0.0.1:8080") as broker:
            print(broker.urls)

    Without URLs it listens on memory:// under a new name.  Port 0 asks for a free one; `urls`
    has the real ones.  Times are in milliseconds: `request_timeout` for requests that name no
    limit; `heartbeat_after` and `drop_after` for silent clients; `drain_timeout` for requests in
    flight when the block is left.  `max_payload` is in bytes.  tls:// and wss:// need an
    `ssl_context` with the broker's certificate.

    Entering raises ConnectError where a URL can't be listened on, PluginError where no plugin
    speaks its scheme; it may be tried again.  Leaving ends every connection, cancelled or not;
    a Broker that was left is not entered again.
    """

    def __init__(
        self,
        *urls: str,
        ssl_context: ssl.SSLContext | None = None,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        request_timeout: int = 5_000,
        heartbeat_after: int = 30_000,
        drop_after: int = 60_000,
        drain_timeout: int = 5_000,
        plugins: Plugins | None = None,
    ) -> None:
        self.urls: list[str] = []
        self._wanted = [parse_url(url) for url in urls or ("memory://",)]
        self._ssl_context = ssl_context
        self._limits = Limits(max_payload, max_payload + MAX_HEADER)
        self._plugins = plugins
        self._drain_timeout = drain_timeout / 1000
        self._router = Router(
            RouterOptions(
                max_payload=max_payload,
                request_timeout=request_timeout / 1000,
                heartbeat_after=heartbeat_after / 1000,
                drop_after=drop_after / 1000,
            )
        )
        self._connections: set[_Connection] = set()
        self._listeners: list[Listener] = []
        self._idle: anyio.Event | None = None
        self._tasks: anyio.abc.TaskGroup
        self._timer: DeadlineTimer

    @property
    def url(self) -> str:
        """The first of `urls`."""
        return self.urls[0]

    def url_of(self, scheme: str) -> str:
        """The first URL of this scheme; raises LookupError where the broker has none."""
        for url in self.urls:
            if url.startswith(f"{scheme}://"):
                return url
        raise LookupError(f"this broker listens on {', '.join(self.urls)}, not on {scheme}://")

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def __aenter__(self) -> Broker:
        if self.urls:
            raise LocalProtocolError("a Broker is entered once: make another one")
        backend = current_backend()
        self._timer = DeadlineTimer(backend, self._router.next_deadline, self._handle_deadline)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            for url in self._wanted:
                await self._listen(url, backend)
        except BaseException:
            self.urls.clear()
            await self._end()
            raise
        self._tasks.start_soon(self._timer.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.drain()
        finally:
            await self._end()

    async def drain(self) -> None:
        """Accept nothing new, and wait for the answers to requests in flight, for a while."""
        self._router.draining = True
        await self._stop_listening()
        if self._router.outstanding:
            if self._idle is None:
                self._idle = anyio.Event()
            with anyio.move_on_after(self._drain_timeout) as scope:
                await self._idle.wait()
            if scope.cancelled_caught:
                _log.warning("%d requests in flight are given up", self._router.outstanding)

    # Listening

    async def _listen(self, url: URL, backend: Backend) -> None:
        plugins = self._plugins if self._plugins is not None else installed_plugins()
        transport = plugins.transport(url.scheme)
        if not isinstance(transport, WireTransport):
            listener = await transport.listen(
                url, self._accept, backend=backend, limits=self._limits
            )
            self._listeners.append(listener)
            self.urls.append(f"{url.scheme}://{listener.address[0]}")
            return
        if transport.secure and self._ssl_context is None:
            raise ConnectError(f"{url} needs an ssl_context with the broker's certificate")
        port = url.port if url.port is not None else transport.default_port
        listener = await backend.listen(
            (url.host, port),
            lambda: transport.server(self._limits),
            self._accept,
            options=StreamOptions(ssl_context=self._ssl_context if transport.secure else None),
            spawn=self._tasks.start_soon,
        )
        self._listeners.append(listener)
        self.urls.append(str(URL(url.scheme, url.host, listener.address[1], url.path)))

    async def _stop_listening(self) -> None:
        while self._listeners:
            listener = self._listeners.pop()
            try:
                await listener.close()
            except Exception:
                # A bug in its transport; the others are to be closed.
                _log.exception("internal error: can't stop listening on %s", listener.address)

    def _accept(self, link: Link) -> _Connection:
        connection = _Connection(self, link, self._router.connect(time.monotonic()))
        self._connections.add(connection)
        self.flush()
        self._timer.look()
        return connection

    async def _close_connections(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.link.close("the broker is shutting down")
        for connection in connections:
            await connection.link.wait_closed()

    async def _end(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._stop_listening()
            await self._close_connections()
        self._tasks.cancel_scope.cancel()
        # Not told of an error, which it would wrap into a group.
        await self._tasks.__aexit__(None, None, None)

    # What the connections share

    def receive(self, service: Service, messages: list[bytes]) -> None:
        self._router.receive(service, messages, time.monotonic())
        self.flush()
        self._timer.look()

    def leave(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._router.disconnect(connection.service)
        self.flush()

    def flush(self) -> None:
        """Send what the Router has put into the outboxes."""
        for service in self._router.take_output():
            messages, service.outbox = service.outbox, []
            try:
                service.link.send_many(messages)
            except ConnectionLost:
                pass  # link_lost will say so
            except Exception:
                # Of one link, a bug in its transport; the other outboxes are to go out.
                _log.exception("internal error: the link to %s is given up", service.link.peer)
                service.link.abort()
        if self._idle is not None and not self._router.outstanding:
            self._idle.set()

    def _handle_deadline(self, now: float) -> None:
        self._router.handle_deadline(now)
        self.flush()
        for service in self._router.take_dropped():
            _log.info("%s was silent for too long: dropped", service.link.peer)
            service.link.close("no sign of life")


class _Connection:
    """One client's Link and the Service that it is to the Router."""

    def __init__(self, broker: Broker, link: Link, service: Service) -> None:
        self.link = link
        self.service = service
        service.link = link
        self._broker = broker

    def messages_received(self, messages: list[bytes]) -> None:
        self._broker.receive(self.service, messages)

    def link_lost(self, error: MBError | None) -> None:
        if error is not None:
            _log.warning("connection from %s ended: %s", self.link.peer, error)
        self._broker.leave(self)
