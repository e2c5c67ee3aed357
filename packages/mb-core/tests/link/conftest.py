"""What the tests of links share: links of every kind in pairs, raw peers, certificates."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme

from mb_core.errors import MBError
from mb_core.link import Accept, Address, Link, Listener, Spawn, StreamOptions, current_backend
from mb_core.url import URL
from mb_core.wire import Limits, Wire
from mb_tcp import LengthPrefixWire
from mb_ws import client_wire, server_wire

LIMITS = Limits(max_message=100_000)


class Handler:
    """Keeps what a Link gives it, and holds the Link to the order of its calls."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.messages: list[bytes] = []
        self.lost = anyio.Event()
        self.error: MBError | None = None
        self._news = anyio.Event()

    def messages_received(self, messages: list[bytes]) -> None:
        assert messages
        assert not self.lost.is_set()
        self.messages += messages
        self._news.set()

    def link_lost(self, error: MBError | None) -> None:
        assert not self.lost.is_set()
        self.error = error
        self.lost.set()
        self._news.set()

    async def receive(self, count: int = 1) -> list[bytes]:
        """All that came, as soon as there are `count` messages."""
        while len(self.messages) < count:
            assert not self.lost.is_set(), f"the link was lost: {self.error}"
            self._news = anyio.Event()
            await self._news.wait()
        return self.messages

    async def end(self) -> MBError | None:
        """Wait for the end of the link, and give its reason."""
        await self.lost.wait()
        await self.link.wait_closed()
        return self.error


@dataclass
class Server:
    """A Listener, and the handlers of the Links that it accepted."""

    listener: Listener
    handlers: list[Any] = field(default_factory=list)
    accepted: anyio.Event = field(default_factory=anyio.Event)

    @property
    def address(self) -> Address:
        return self.listener.address

    async def handler(self, index: int = 0) -> Any:
        """The handler of a Link, as soon as it is accepted."""
        while len(self.handlers) <= index:
            self.accepted = anyio.Event()
            await self.accepted.wait()
        return self.handlers[index]


class Net:
    """Opens Links of one kind: tcp, ws, tls or wss."""

    def __init__(self, kind: str, ca: trustme.CA, tasks: anyio.abc.TaskGroup) -> None:
        self.kind = kind
        self.secure = kind in ("tls", "wss")
        self.backend = current_backend()
        self.links: list[Link] = []
        self.listeners: list[Listener] = []
        self._ca = ca
        self._tasks = tasks

    def client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context

    def server_context(self, **certificate: Any) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        names = certificate.pop("names", ["localhost", "127.0.0.1", "::1"])
        self._ca.issue_cert(*names, **certificate).configure_cert(context)
        return context

    def client_wire(self) -> Wire:
        if self.kind in ("tcp", "tls"):
            return LengthPrefixWire(LIMITS)
        return client_wire(URL("ws", "localhost", None, ""), LIMITS)

    def server_wire(self) -> Wire:
        return LengthPrefixWire(LIMITS) if self.kind in ("tcp", "tls") else server_wire(LIMITS)

    async def listen(
        self,
        handler: Callable[[Link], Any] = Handler,
        *,
        address: Address = ("127.0.0.1", 0),
        wire: Callable[[], Wire] | None = None,
        **options: Any,
    ) -> Server:
        def accept(link: Link) -> Any:
            self.links.append(link)
            made = handler(link)
            server.handlers.append(made)
            server.accepted.set()
            return made

        if self.secure:
            options.setdefault("ssl_context", self.server_context())
        listener = await self.backend.listen(
            address,
            wire if wire is not None else self.server_wire,
            accept,
            options=StreamOptions(**options),
            spawn=self._tasks.start_soon,
        )
        self.listeners.append(listener)
        server = Server(listener)
        return server

    async def connect(
        self,
        address: Address,
        handler: Callable[[Link], Any] = Handler,
        **options: Any,
    ) -> Any:
        """Connect, and give the handler; its Link is as `handler` made it."""
        handlers: list[Any] = []

        def accept(link: Link) -> Any:
            self.links.append(link)
            handlers.append(handler(link))
            return handlers[-1]

        if self.secure:
            options.setdefault("ssl_context", self.client_context())
            options.setdefault("server_hostname", "localhost")
        await self.dial(address, accept, **options)
        return handlers[0]

    async def dial(
        self,
        address: Address,
        accept: Accept,
        *,
        wire: Wire | None = None,
        spawn: Spawn | None = None,
        **options: Any,
    ) -> Link:
        return await self.backend.connect(
            address,
            wire if wire is not None else self.client_wire(),
            accept,
            options=StreamOptions(**options),
            spawn=spawn if spawn is not None else self._tasks.start_soon,
        )

    async def pair(self, **options: Any) -> tuple[Handler, Handler]:
        """The client's and the server's handler of a connection."""
        server = await self.listen(**options)
        return await self.connect(server.address, **options), await server.handler()

    async def raw(self, server: Server) -> anyio.abc.ByteStream:
        """A stream to a server that speaks no wire; of secure kinds, behind TLS."""
        host, port = server.address
        if not self.secure:
            return await anyio.connect_tcp(host, port)
        return await anyio.connect_tcp(
            host, port, ssl_context=self.client_context(), tls_hostname="localhost"
        )

    @asynccontextmanager
    async def raw_server(
        self, serve: Callable[[anyio.abc.SocketStream], Any]
    ) -> AsyncIterator[Address]:
        """A server that handles accepted plain streams as scripted."""
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            address = listener.listeners[0].extra(anyio.abc.SocketAttribute.local_address)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                yield (address[0], address[1])
                tasks.cancel_scope.cancel()


class Tools:
    """What test files can't import from here."""

    Handler = Handler
    limits = LIMITS

    @staticmethod
    def reset(stream: anyio.abc.ByteStream) -> None:
        """Make the end of a stream a reset of its connection."""
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @staticmethod
    async def read_to_end(stream: anyio.abc.ByteStream) -> bytes:
        """All that comes until the other side ends."""
        received = bytearray()
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                received += await stream.receive()
        return bytes(received)


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["tcp", "ws", "tls", "wss"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of links; a test narrows it with `kinds = pytest.mark.parametrize("kind", ...)`."""
    name: str = request.param
    return name


@pytest.fixture
async def net(kind: str, ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Net]:
    """Links of a kind.  At the end nothing is left of them, and no event loop has complained."""
    async with anyio.create_task_group() as tasks:
        net = Net(kind, ca, tasks)
        yield net
        for listener in net.listeners:
            await listener.close()
        for link in net.links:
            link.abort()
        with anyio.fail_after(5):
            for link in net.links:
                await link.wait_closed()
        tasks.cancel_scope.cancel()
    gc.collect()  # sockets that were not closed warn now
    assert [r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio"] == []


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the links have logged, at WARNING or above."""
    caplog.set_level(logging.DEBUG, "mb_core.link")

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "mb_core.link" and record.levelno >= logging.WARNING
        ]

    return messages


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens while the test lasts: bound, and never listened on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def has_ipv6() -> None:
    """Skips the test where the machine has no IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind((str(ipaddress.IPv6Address(1)), 0))
    except OSError:
        pytest.skip("no IPv6 here")
