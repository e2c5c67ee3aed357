"""What the tests of the broker share: raw clients, and a Router with a clock of the test's own."""

from __future__ import annotations

import inspect
import json
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Router, RouterOptions
from mb_broker.access import Access
from mb_broker.registry import Service
from mb_core import MBError
from mb_core.authenticators import NO_CREDENTIALS, Credentials
from mb_core.link import Backend, Link, StreamOptions, current_backend
from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits

GREETING = b"publish:system.initialize:1.0.0\n{}"


def new_id() -> str:
    return str(uuid.uuid4())


def system_request(topic: str, payload: Any) -> tuple[bytes, bytes]:
    """A request to a system topic, and the id that it has."""
    request_id = new_id().encode()
    encoded = json.dumps(payload).encode()
    return b"request:system.%b:1.0.0:%b\n%b" % (topic.encode(), request_id, encoded), request_id


# The Router, without I/O


class Peer:
    """A client of a Router: what it sends is handled at once, what it is sent lies in `inbox`."""

    def __init__(self, bench: Bench, service: Service) -> None:
        self.bench = bench
        self.service = service
        self.inbox: deque[bytes] = deque()

    @property
    def id(self) -> str:
        return self.service.id

    def send(self, *messages: bytes | str) -> None:
        encoded = [text.encode() if isinstance(text, str) else text for text in messages]
        self.bench.router.receive(self.service, encoded, self.bench.now)
        self.bench.deliver()

    def take(self) -> list[bytes]:
        """All that has come since the last call."""
        taken = list(self.inbox)
        self.inbox.clear()
        return taken

    def take_one(self) -> bytes:
        """The only message that has come."""
        (message,) = self.take()
        return message

    def take_error(self) -> dict[str, Any]:
        """The error in the only message that has come."""
        error: dict[str, Any] = json.loads(self.take_one().partition(b"\n")[2])["error"]
        return error

    def ask(self, topic: str, payload: Any) -> Any:
        """Ask a system topic; its answer is the next thing that comes."""
        message, request_id = system_request(topic, payload)
        self.send(message)
        header, _, answer = self.take_one().partition(b"\n")
        assert header == b"response:system.%b:1.0.0:%b" % (topic.encode(), request_id)
        return json.loads(answer)

    def subscribe(self, topic: str, action: str = "publish", **more: Any) -> Peer:
        payload = {"action": action, "topic": topic, **more}
        assert self.ask("topic.subscribe", payload) == {"status": "success"}
        return self

    def leave(self) -> None:
        self.bench.router.disconnect(self.service, self.bench.now)
        self.bench.peers.pop(self.service)
        self.bench.deliver()


class Bench:
    """A Router, its clients, and the time."""

    def __init__(self, options: RouterOptions | None = None, access: Access | None = None) -> None:
        # Of each client's Link, where a test says so.
        self.progress: dict[Service, int] = {}
        self.router = Router(
            options, progress=lambda service: self.progress.get(service, 0), access=access
        )
        self.now = 1000.0
        self.peers: dict[Service, Peer] = {}
        self.dropped: list[Peer] = []
        self.rejected: list[tuple[Peer, str]] = []

    def join(self, credentials: Credentials = NO_CREDENTIALS) -> Peer:
        """A client that has been greeted."""
        peer = self.connect(credentials)
        assert peer.take() == [GREETING]
        return peer

    def connect(self, credentials: Credentials = NO_CREDENTIALS) -> Peer:
        service = self.router.connect(self.now, credentials)
        peer = self.peers[service] = Peer(self, service)
        self.deliver()
        return peer

    def advance(self, seconds: float) -> None:
        """Let time pass, with the Router called when it asks for it."""
        end = self.now + seconds
        while (deadline := self.router.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.router.handle_deadline(self.now)
            rejected = self.router.take_rejected(self.now)
            self.rejected += [(self.peers[service], why) for service, why in rejected]
            after = self.router.next_deadline()
            assert after is None or after > deadline, "the Router asks for the same time again"
            self.deliver()
        self.now = end

    def deliver(self) -> None:
        for service in self.router.take_output():
            messages, service.outbox = service.outbox, []
            if (peer := self.peers.get(service)) is not None:
                peer.inbox += messages
        for service in self.router.take_dropped():
            self.dropped.append(self.peers[service])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def new_bench() -> Callable[..., Bench]:
    """Make a Bench whose Router has the given options."""
    return lambda **options: Bench(RouterOptions(**options))


# Real connections


class RawClient:
    """A client that says what it is told to, and shows what comes; the handler of a Link."""

    def __init__(self) -> None:
        self.link: Link
        self.inbox: deque[bytes] = deque()
        self.lost = anyio.Event()
        self.error: MBError | None = None
        self._news = anyio.Event()

    def accept(self, link: Link) -> RawClient:
        self.link = link
        return self

    def messages_received(self, messages: list[bytes]) -> None:
        assert messages
        assert not self.lost.is_set()
        self.inbox += messages
        self._wake()

    def link_lost(self, error: MBError | None) -> None:
        assert not self.lost.is_set()
        self.error = error
        self.lost.set()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def send(self, *messages: bytes | str) -> None:
        self.link.send_many([text.encode() if isinstance(text, str) else text for text in messages])

    async def receive(self) -> bytes:
        """The next message."""
        while not self.inbox:
            assert not self.lost.is_set(), f"the connection was lost: {self.error}"
            await self._news.wait()
        return self.inbox.popleft()

    async def ask(self, topic: str, payload: Any) -> Any:
        """Ask a system topic; its answer is the next thing that comes."""
        message, request_id = system_request(topic, payload)
        self.send(message)
        header, _, answer = (await self.receive()).partition(b"\n")
        assert header == b"response:system.%b:1.0.0:%b" % (topic.encode(), request_id)
        return json.loads(answer)

    async def subscribe(self, topic: str, action: str = "publish") -> None:
        answer = await self.ask("topic.subscribe", {"action": action, "topic": topic})
        assert answer == {"status": "success"}

    async def is_served(self) -> None:
        """The broker answers, and what it answers is the next thing that comes."""
        assert await self.ask("heartbeat", {}) == {"status": "success"}

    async def close(self) -> None:
        self.link.close()
        await self.link.wait_closed()


@pytest.fixture
def raw_client() -> type[RawClient]:
    return RawClient


Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect a RawClient to a URL of any scheme; it has been greeted unless `greeted=False`."""
    clients: list[RawClient] = []
    async with anyio.create_task_group() as tasks:

        async def connect(url: str, *, greeted: bool = True, **options: Any) -> RawClient:
            client = RawClient()
            await dial(client, url, current_backend(), tasks, **options)
            clients.append(client)
            if greeted:
                assert await client.receive() == GREETING
            return client

        yield connect
        for client in clients:
            client.link.abort()
        for client in clients:
            await client.link.wait_closed()
        tasks.cancel_scope.cancel()


async def dial(
    client: RawClient,
    text: str,
    backend: Backend,
    tasks: anyio.abc.TaskGroup,
    *,
    limits: Limits | None = None,
    **options: Any,
) -> None:
    url = parse_url(text)
    limits = limits if limits is not None else Limits()
    transport = installed_plugins().transport(url.scheme)

    if isinstance(transport, WireTransport):
        assert url.port is not None
        await backend.connect(
            (url.host, url.port),
            transport.client(url, limits),
            client.accept,
            options=StreamOptions(**options),
            spawn=tasks.start_soon,
        )
    else:
        await transport.connect(url, client.accept, backend=backend, limits=limits)


Reports = Callable[[], list[str]]


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Reports:
    """What event loops and the library have reported above a warning.

    That a client's message was refused is not among it.
    """

    def found() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.get_records("call")
            if (record.levelno >= logging.ERROR and "error" not in getattr(record, "mb", {}))
            or (record.name == "asyncio" and record.levelno > logging.DEBUG)
        ]

    return found


@pytest.fixture(autouse=True)
def nothing_is_reported(request: pytest.FixtureRequest, reports: Reports) -> Iterator[None]:
    """No such thing is reported, but for tests that ask for `reports` and look for themselves."""
    yield
    if "reports" not in inspect.signature(request.function).parameters:
        assert reports() == []
