"""Bugs, in transports and in the library: none of them looks like an orderly end."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_core import (
    ConnectError,
    ConnectionLost,
    MBError,
    MessageBrokerClient,
    PluginError,
    Plugins,
    RemoteProtocolError,
    TCPSocketClient,
    hookimpl,
    installed_plugins,
)
from mb_core.client.reconnect import Reconnector
from mb_core.link import Accept, Link
from mb_core.session import Session
from mb_core.url import URL, parse_url
from mb_testing import until

from .gone_broker import QUICK
from .watching import Watch

pytestmark = pytest.mark.anyio


class Bug(Exception):
    pass


class Mine:
    """A transport of somebody else's: memory:// with faults, each at a test's word."""

    scheme = "mine"

    def __init__(self, url: str) -> None:
        self.url = parse_url(url)
        self.failure: BaseException | None = None
        self.late_failure: Exception | None = None  # when it has given the Link
        self.sending: Exception | None = None
        self.draining: Exception | None = None
        self.tasks: anyio.abc.TaskGroup | None = None  # in which it connects late
        self.proceed = anyio.Event()
        self.ending: set[str] = set()  # methods that fail
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
        if self.tasks is not None:

            async def connect_late() -> None:
                await self.proceed.wait()
                self.links.append(await inner.connect(self.url, accept_mine, **settings))

            self.tasks.start_soon(connect_late)
            await anyio.sleep_forever()
        self.links.append(await inner.connect(self.url, accept_mine, **settings))
        if self.late_failure is not None:
            raise self.late_failure
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

    @property
    def congested(self) -> bool:
        return self._mine.draining is not None or self._link.congested

    async def drain(self) -> None:
        if self._mine.draining is not None:
            raise self._mine.draining
        await self._link.drain()

    def take_unsent(self) -> list[bytes]:
        return self._end("take_unsent", [])

    def close(self) -> None:
        self._end("close", None)

    def abort(self) -> None:
        if "never" not in self._mine.ending:
            self._end("abort", None)

    async def wait_closed(self) -> None:
        if "never" in self._mine.ending:
            await anyio.sleep_forever()
        await self._link.wait_closed()
        self._end("wait_closed", None)

    def _end(self, name: str, result: Any) -> Any:
        found = getattr(self._link, name)() if name != "wait_closed" else None
        if name in self._mine.ending:
            raise OSError(107, f"{name}: not connected")
        return found if result is not None else None


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


@pytest.mark.parametrize("fault", [Bug("oops"), ConnectionResetError(104, "reset")])
async def test_a_link_that_fails_to_drain_is_a_lost_connection_for_who_waits(
    fault: Exception,
) -> None:
    with anyio.fail_after(5):
        async with Broker() as broker, MessageBrokerClient(broker.url) as other:
            mine = Mine(broker.url)
            client = mine.client()
            watch = Watch(client)
            async with client:
                responding: list[BaseException] = []

                async def answer(message: Any) -> None:
                    mine.draining = fault
                    try:
                        await message.respond("done")
                    except ConnectionLost as error:
                        responding.append(error)

                await client.subscribe("a.b", action="request", handler=answer)
                await watch.connects(1)
                mine.draining = fault
                with pytest.raises(ConnectionLost, match="broke") as raised:
                    await client.publish("a.b", 1)
                assert causes(raised.value) == [ConnectionLost, type(fault)]
                mine.draining = None
                await watch.connects(2)
                with pytest.raises(MBError):
                    await other.request("a.b", 1)
                await until(lambda: responding)
                assert causes(responding[0]) == [ConnectionLost, type(fault)]
                mine.draining = None
                await watch.connects(3)


async def test_a_link_that_comes_up_when_its_client_has_given_up_is_aborted() -> None:
    with anyio.fail_after(10):
        async with Broker() as broker, anyio.create_task_group() as tasks:
            mine = Mine(broker.url)
            async with mine.client(reconnect_timeout=50) as client:
                mine.tasks = tasks
                mine.links[0].abort()
                with pytest.raises(ConnectionLost, match="not restored"):
                    await client.run()
                mine.proceed.set()
                await until(lambda: len(mine.links) > 1 and not broker.connections)
                assert not client.connected
                with pytest.raises(ConnectionLost, match="not restored"):
                    await client.request("system.heartbeat", {})


@pytest.mark.parametrize("method", ["take_unsent", "close", "abort"])
async def test_a_link_that_fails_to_end_keeps_nobody_waiting(method: str) -> None:
    with anyio.fail_after(5):
        async with Broker() as broker:
            mine = Mine(broker.url)
            client = mine.client(reconnect=False)
            await client.connect()
            mine.ending = {method}
            if method == "abort":
                mine.links[0].abort()
            await client.close()
            with pytest.raises(ConnectionLost):
                await client.publish("a.b", 1)


@pytest.mark.parametrize("method", ["abort", "wait_closed", "never"])
async def test_a_link_that_fails_to_end_holds_up_no_connect(method: str) -> None:
    with anyio.fail_after(10):
        async with Broker() as broker:
            mine = Mine(broker.url)
            mine.late_failure = ConnectionResetError(104, "Connection reset by peer")
            mine.ending = {method}
            with pytest.raises(ConnectError, match="reset by peer"):
                await mine.client(close_timeout=100).connect()
            async with anyio.create_task_group() as tasks:
                client = mine.client(close_timeout=100, retry_connect=True)
                errors = Errors(client)
                tasks.start_soon(client.connect)
                assert "reset by peer" in str(await errors.first())
                mine.late_failure = None
                mine.ending.clear()
                await client.wait_connected()
            await client.request("system.heartbeat", {})
            await client.close()


async def test_a_raw_client_that_can_not_send_has_lost_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any) -> Any:
        raise BrokenPipeError(32, "Broken pipe")

    with anyio.fail_after(5):
        async with Broker("tcp://127.0.0.1:0") as broker:
            client = TCPSocketClient()
            await client.connect(broker.url)
            assert client._tasks is not None
            monkeypatch.setattr(type(client._tasks.link), "send", fail)
            with pytest.raises(ConnectionLost, match="Broken pipe") as raised:
                await client.send("publish:a.b:1.0.0\n1")
            assert causes(raised.value) == [ConnectionLost, BrokenPipeError]
            await client.close()


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
            monkeypatch.setattr(Reconnector, "_lost", fail)
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
            assert client._tasks is not None
            client._tasks.fail(Bug("oops"))
            assert causes(await errors.first()) == [ConnectionLost, Bug]
            await client.close()
