"""Bugs, of transports and of our own: none of them looks like an orderly end."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest

from mb_broker import Broker
from mb_core import (
    ConnectError,
    ConnectionLost,
    MessageBrokerClient,
    PluginError,
    Plugins,
    RemoteProtocolError,
    TCPSocketClient,
    hookimpl,
    installed_plugins,
)
from mb_core.client.supervisor import Supervisor
from mb_core.link import Accept, Link
from mb_core.session import Session
from mb_core.url import URL, parse_url

from .absent import QUICK

pytestmark = pytest.mark.anyio


class Bug(Exception):
    pass


class Mine:
    """A transport of somebody else's: memory:// with faults, each at a test's word."""

    scheme = "mine"

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self.failure: BaseException | None = None
        self.sending: Exception | None = None
        self.handlers: list[Any] = []
        self.links: list[Link] = []

    async def connect(self, url: URL, accept: Accept, **settings: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        made: list[Any] = []

        def accept_mine(link: Link) -> Any:
            made.append(_Link(self, link))
            self.handlers.append(accept(made[0]))
            return self.handlers[-1]

        inner: Any = installed_plugins().transport("memory")
        self.links.append(await inner.connect(self.url, accept_mine, **settings))
        return made[0]

    async def listen(self, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError

    @hookimpl
    def mb_register_transports(self) -> list[Mine]:
        return [self]

    def client(self, **options: Any) -> MessageBrokerClient:
        plugins = Plugins()
        plugins.register(self, "mine")
        return MessageBrokerClient("mine://x", plugins=plugins, **QUICK | options)


class _Link:
    def __init__(self, mine: Mine, link: Link) -> None:
        self._mine = mine
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def send(self, message: bytes) -> None:
        if self._mine.sending is not None:
            raise self._mine.sending
        self._link.send(message)


class Errors:
    """What on_error is given."""

    def __init__(self, client: Any) -> None:
        self.all: list[Exception] = []
        self._news = anyio.Event()
        client.on_error(self._add)

    def _add(self, error: Exception) -> None:
        self.all.append(error)
        self._news.set()

    async def first(self) -> Exception:
        while not self.all:
            self._news = anyio.Event()
            await self._news.wait()
        return self.all[0]


def causes(error: BaseException | None) -> list[type[BaseException]]:
    found = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__
    return found


async def test_a_broker_that_is_away_for_a_moment_is_tried_again_whatever_oserror_says_so() -> None:
    with anyio.fail_after(5):
        async with Broker() as broker:
            mine = Mine(broker.url)
            async with mine.client() as client:
                errors = Errors(client)
                mine.failure = ConnectionRefusedError(111, "Connection refused")
                mine.links[0].abort()
                error = await errors.first()
                assert isinstance(error, ConnectError)
                assert causes(error) == [ConnectError, ConnectionRefusedError]
                mine.failure = None
                await client.request("system.heartbeat", {}, retry=True)


@pytest.mark.parametrize("bug", [Bug("oops"), RemoteProtocolError("the gateway makes no sense")])
async def test_a_transport_that_is_at_fault_ends_the_client_with_an_error(bug: Exception) -> None:
    with anyio.fail_after(5):
        async with Broker() as broker:
            mine = Mine(broker.url)
            client = mine.client()
            errors = Errors(client)
            await client.connect()
            events = await client.subscribe("a.b")
            mine.failure = bug
            mine.links[0].abort()
            for waiting in (client.run, lambda: anext(events)):
                with pytest.raises(ConnectionLost) as raised:
                    await waiting()  # type: ignore[operator]
                assert causes(raised.value) == [ConnectionLost, PluginError, type(bug)]
            assert causes(await errors.first()) == [PluginError, type(bug)]
            with pytest.raises(ConnectionLost, match=str(bug)):
                await client.publish("a.b", 1)
            await client.close()


@pytest.mark.parametrize("fault", [Bug("oops"), BrokenPipeError(32, "Broken pipe")])
async def test_a_link_that_can_not_send_is_replaced(fault: Exception) -> None:
    with anyio.fail_after(5):
        async with Broker() as broker:
            mine = Mine(broker.url)
            async with mine.client() as client:
                errors = Errors(client)
                mine.sending = fault
                back = anyio.Event()
                client.on_disconnect(lambda: setattr(mine, "sending", None))
                client.on_connect(lambda: back.set() if len(mine.links) > 1 else None)
                await client.publish("a.b", 1)
                await back.wait()
                await client.request("system.heartbeat", {})
                bugs = [e for e in errors.all if Bug in causes(e)]
                assert bool(bugs) is isinstance(fault, Bug)


async def test_a_bug_in_a_handler_of_the_links_is_reported_and_the_client_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def receive(session: Session, messages: list[bytes]) -> Any:
        monkeypatch.undo()
        raise Bug("oops")

    with anyio.fail_after(5):
        async with (
            Broker("tcp://127.0.0.1:0") as broker,
            MessageBrokerClient(broker.url, **QUICK) as client,
        ):
            errors = Errors(client)
            monkeypatch.setattr(Session, "receive", receive)
            await client.request("system.heartbeat", {}, retry=True)
            assert causes(await errors.first()) == [ConnectionLost, ConnectionLost, Bug]


async def test_a_bug_of_ours_ends_run_iterators_and_calls_with_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> Any:
        raise Bug("oops")

    with anyio.fail_after(5):
        async with Broker("tcp://127.0.0.1:0") as broker:
            monkeypatch.setattr(Supervisor, "_lost", fail)
            client = MessageBrokerClient(broker.url, **QUICK)
            errors = Errors(client)
            await client.connect()
            events = await client.subscribe("a.b")
            assert client._supervisor is not None
            client._supervisor.connection.link.abort()
            for waiting in (client.run, lambda: anext(events)):
                with pytest.raises(ConnectionLost, match=r"internal error.*oops") as raised:
                    await waiting()  # type: ignore[operator]
                assert causes(raised.value) == [ConnectionLost, Bug]
            assert causes(await errors.first()) == [ConnectionLost, Bug]
            with pytest.raises(ConnectionLost, match="internal error"):
                await client.publish("a.b", 1)
            await client.close()


@pytest.mark.parametrize("call", range(4))
async def test_a_bug_in_a_deadline_fails_connect_or_ends_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: int
) -> None:
    """Whichever of the first looks at the deadlines it is in, nothing hangs."""
    looks = itertools.count()
    next_deadline = Session.next_deadline

    def look(session: Session) -> float | None:
        if next(looks) == call:
            raise Bug("oops")
        return next_deadline(session)

    with anyio.fail_after(10):
        async with Broker("tcp://127.0.0.1:0") as broker:
            monkeypatch.setattr(Session, "next_deadline", look)
            client = MessageBrokerClient(broker.url, **QUICK)

            async def use() -> None:
                await client.connect()
                await client.request("system.heartbeat", {})
                await client.run()

            with pytest.raises((ConnectError, ConnectionLost, Bug), match="oops"):
                await use()
            await client.close()
    caplog.clear()


async def test_a_raw_client_hears_of_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any) -> Any:
        raise Bug("oops")

    with anyio.fail_after(5):
        async with Broker("tcp://127.0.0.1:0") as broker:
            client = TCPSocketClient()
            errors = Errors(client)
            await client.connect(broker.url)
            assert client._lifetime is not None
            client._lifetime.fail(Bug("oops"))
            assert causes(await errors.first()) == [ConnectionLost, Bug]
            await client.close()
