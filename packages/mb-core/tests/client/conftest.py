"""What the tests of the client share: brokers of every kind, and proof that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trustme

from mb_broker import Broker, RunningBroker
from mb_core import MessageBrokerClient
from mb_testing import until

from .scripted import GREETING, ScriptedBroker, scripted_broker

StartBroker = Callable[..., AbstractAsyncContextManager["DoomedBroker"]]
StartTcpServer = Callable[..., AbstractAsyncContextManager["TcpServer"]]


# One transport is enough where transports are not what is tested: tests/matrix and the transport
# suites use all of them.  A test that needs others names them with `indirect`.


@pytest.fixture(params=["tcp"])
def url(request: pytest.FixtureRequest, mb_broker: RunningBroker) -> str:
    """The URL of a broker in a thread."""
    return mb_broker.url_of(request.param)


@pytest.fixture
async def client(mb_broker: RunningBroker) -> AsyncIterator[MessageBrokerClient]:
    """A client of a broker in a thread, whose close does not wait for handlers that hang."""
    async with MessageBrokerClient(mb_broker.url, drain_timeout=100) as connected:
        yield connected


@pytest.fixture
async def leaves_nothing(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """The test ends with the tasks that it began with, and no event loop has complained.

    Exceptions that nobody retrieved are raised by anyio's test runner, warnings are errors; what
    asyncio only logs is looked for here.
    """
    before = _tasks(anyio_backend_name)
    yield
    gc.collect()
    left = {name for task, name in _tasks(anyio_backend_name).items() if task not in before}
    assert not left
    complaints = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" or "internal error" in record.getMessage()
    ]
    assert not complaints


def _tasks(backend: str) -> dict[object, str]:
    if backend == "asyncio":
        # Among them are those in which anyio's test runner runs the fixtures.
        tasks = {task: repr(task) for task in asyncio.all_tasks()}
        return {task: name for task, name in tasks.items() if "TestRunner" not in name}
    found: dict[object, str] = {}
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        found[task] = task.name
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


@dataclass
class DoomedBroker:
    """A broker on the test's own event loop that can be ended at any moment."""

    broker: Broker
    scope: anyio.CancelScope
    ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        return self.broker.url

    async def kill(self) -> None:
        """End it without a drain: its connections are closed, whatever is in flight."""
        self.scope.cancel()
        await self.ended.wait()


async def _serve(urls: tuple[str, ...], *, task_status: anyio.abc.TaskStatus[DoomedBroker]) -> None:
    with anyio.CancelScope() as scope:
        doomed = DoomedBroker(Broker(*urls), scope)
        try:
            async with doomed.broker:
                task_status.started(doomed)
                await anyio.sleep_forever()
        finally:
            doomed.ended.set()


@pytest.fixture
def start_broker() -> StartBroker:
    """Start a broker on the test's own loop; the block's end ends it."""

    @asynccontextmanager
    async def start(*urls: str) -> AsyncIterator[DoomedBroker]:
        async with anyio.create_task_group() as tasks:
            doomed: DoomedBroker = await tasks.start(_serve, urls)
            try:
                yield doomed
            finally:
                await doomed.kill()

    return start


class RestartableBroker:
    """A broker on the test's own loop that is killed, and comes back at the same URL."""

    def __init__(self, url: str, tasks: anyio.abc.TaskGroup) -> None:
        self.url = url
        self._tasks = tasks
        self._running: DoomedBroker | None = None

    async def start(self) -> None:
        self._running = await self._tasks.start(_serve, (self.url,))
        self.url = self._running.url

    async def kill(self) -> None:
        """End it without a drain; nothing happens where it does not run."""
        running, self._running = self._running, None
        if running is not None:
            await running.kill()

    @property
    def connections(self) -> int:
        return self._running.broker.connections if self._running is not None else 0


@pytest.fixture(params=["tcp"])
async def broker(
    request: pytest.FixtureRequest, reserved_port: int
) -> AsyncIterator[RestartableBroker]:
    """A RestartableBroker that runs."""
    url = (
        "memory://" if request.param == "memory" else f"{request.param}://127.0.0.1:{reserved_port}"
    )
    async with anyio.create_task_group() as tasks:
        restartable = RestartableBroker(url, tasks)
        await restartable.start()
        yield restartable
        await restartable.kill()


@pytest.fixture
def reserved_port() -> Iterator[int]:
    """A port that nobody else of this machine gets while nobody listens on it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        if sys.platform != "linux":
            # Elsewhere a socket that is only bound would keep the broker from listening.
            reserved.close()
        yield port


@pytest.fixture(params=["tcp"])
async def scripted(
    request: pytest.FixtureRequest, reserved_port: int
) -> AsyncIterator[ScriptedBroker]:
    """A broker that does what a test tells it to."""
    url = "memory://" if request.param == "memory" else f"tcp://127.0.0.1:{reserved_port}"
    async with scripted_broker(url) as broker:
        yield broker


@pytest.fixture(params=["tcp"])
async def doomed(
    request: pytest.FixtureRequest, start_broker: StartBroker
) -> AsyncIterator[DoomedBroker]:
    """A broker on the test's own event loop."""
    hosts = {"memory": "memory://", "tcp": "tcp://127.0.0.1:0", "ws": "ws://127.0.0.1:0"}
    async with start_broker(hosts[request.param]) as broker:
        yield broker


class TcpServer:
    """A scripted TCP server, for what a broker never does."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.connected = anyio.Event()
        self.disconnected = anyio.Event()
        self.received = b""
        self._stream: anyio.abc.SocketStream | None = None

    async def send(self, *messages: bytes) -> None:
        assert self._stream is not None
        framed = [len(message).to_bytes(4) + message for message in messages]
        await self._stream.send(b"".join(framed))

    async def send_bytes(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.send(data)

    @property
    def messages(self) -> list[bytes]:
        """The whole messages that were received so far."""
        found: list[bytes] = []
        rest = self.received
        while len(rest) >= 4 and len(rest) >= (end := 4 + int.from_bytes(rest[:4])):
            found.append(rest[4:end])
            rest = rest[end:]
        return found

    async def wait_for(self, start: bytes, *, count: int = 1) -> bytes:
        """The message that is number `count` of those that begin with `start`, once it is there."""

        def found() -> list[bytes]:
            return [message for message in self.messages if message.startswith(start)][count - 1 :]

        return (await until(found))[0]

    async def answer(self, request: bytes, payload: bytes = b'{"status":"success"}') -> None:
        """Send a response under the id of `request`, a whole message."""
        topic, version, request_id = request.split(b"\n")[0].split(b":")[1:4]
        await self.send(b"response:%b:%b:%b\n%b" % (topic, version, request_id, payload))

    async def reset(self) -> None:
        """Break the connection: what the client has in flight is lost."""
        assert self._stream is not None
        raw: socket.socket = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()

    async def serve(self, stream: anyio.abc.SocketStream, greeting: bytes | None) -> None:
        self._stream = stream
        async with stream:
            if greeting is not None:
                await self.send(greeting)
            self.connected.set()
            with contextlib.suppress(
                anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError
            ):
                while True:
                    self.received += await stream.receive()
        self.disconnected.set()


@pytest.fixture
def start_tcp_server() -> StartTcpServer:
    """Start a TcpServer that greets its clients, or with `greeting=None` says nothing."""

    @asynccontextmanager
    async def start(greeting: bytes | None = GREETING) -> AsyncIterator[TcpServer]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            server = TcpServer(listener.listeners[0].extra(anyio.abc.SocketAttribute.raw_socket))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, lambda stream: server.serve(stream, greeting))
                yield server
                tasks.cancel_scope.cancel()

    return start


@pytest.fixture
def connect_to_deaf_server() -> Iterator[Callable[..., Any]]:
    """Connect a client to a TCP server that greets and then reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        async def connect(**options: Any) -> MessageBrokerClient:
            client = MessageBrokerClient(f"tcp://127.0.0.1:{listener.getsockname()[1]}", **options)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                await anyio.wait_readable(listener)
                accepted = stack.enter_context(listener.accept()[0])
                accepted.sendall(len(GREETING).to_bytes(4) + GREETING)
            return client

        yield connect


@dataclass
class Certificates:
    """An authority of the tests' own, and TLS settings for both sides."""

    authority: trustme.CA

    def server(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        past = datetime.now(UTC) - timedelta(days=1) if expired else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names, not_after=past).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates(trustme.CA())


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens while the test lasts: bound, and never listened on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
