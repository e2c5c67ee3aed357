"""running(): a Broker in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import pytest

import mb_testing
from mb_broker import Broker, Router, RunningBroker, running
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    PluginError,
)
from mb_core.link.memory import MemoryLink
from mb_core.url import parse_url
from mb_testing.faulty_link import FaultyLink


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mb broker"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


def ask(url: str) -> None:
    """Ask the broker at `url` something."""

    async def main() -> None:
        async with MessageBrokerClient(url) as client:
            await client.request("system.heartbeat", {})

    asyncio.run(main())


@pytest.mark.parametrize("host", ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
def test_a_broker_runs_while_the_block_lasts(host: str) -> None:
    with running(host) as broker:
        assert len(threads()) == 1
        ask(broker.url)
        ask(broker.url)
    with pytest.raises(ConnectError):
        ask(broker.url)


def test_it_has_the_arguments_of_a_broker() -> None:
    with running("memory://by-name", "tcp://127.0.0.1:0", max_payload=10) as broker:
        assert broker.url == "memory://by-name"
        assert broker.url_of("tcp").startswith("tcp://127.0.0.1:")
    with pytest.raises(TypeError, match="unknown"):
        running(unknown=1).__enter__()


def test_it_raises_what_entering_a_broker_raises() -> None:
    with running("tcp://127.0.0.1:0") as broker:
        with pytest.raises(ConnectError, match="in use"):
            running(broker.url).__enter__()
        with pytest.raises(ConnectError, match="ssl_context"):
            running("tls://127.0.0.1:0").__enter__()
        with pytest.raises(PluginError, match="carrier-pigeon"):
            running("carrier-pigeon://roof").__enter__()
        with pytest.raises(ConnectError, match="invalid URL"):
            running("nowhere").__enter__()
        assert len(threads()) == 1


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_error_in_the_block_ends_it_and_goes_on(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, running() as broker:
        raise error
    assert caught.value is error
    with pytest.raises(ConnectError):
        ask(broker.url)


def test_many_at_once_know_nothing_of_each_other() -> None:
    with ExitStack() as stack:
        brokers = [stack.enter_context(running()) for _ in range(8)]
        assert len({broker.url for broker in brokers}) == 8
        assert len(threads()) == 8
        for broker in brokers:
            ask(broker.url)


def test_they_may_end_in_any_order() -> None:
    stacks = [ExitStack() for _ in range(3)]
    brokers = [stack.enter_context(running()) for stack in stacks]
    for number in (1, 0, 2):
        ask(brokers[number].url)
        stacks[number].close()
        assert len(threads()) == 2 - (1, 0, 2).index(number)


def test_it_may_be_used_within_an_event_loop() -> None:
    async def main() -> None:
        with running() as broker:
            async with MessageBrokerClient(broker.url) as client:
                await client.request("system.heartbeat", {})

    asyncio.run(main())


def test_a_client_that_reads_late_gets_all_of_it() -> None:
    """Its backlog is waited for in a task, which a callback of asyncio.run()'s loop starts."""
    count, text = 500, "x" * 15_000

    def framed(message: bytes) -> bytes:
        return len(message).to_bytes(4, "big") + message

    async def publish(url: str) -> None:
        async with MessageBrokerClient(url) as client:
            while len((await client.request("system.topic.list", {})).payload["topics"]) == 0:
                pass
            for _ in range(count):
                await client.publish("a.b", text)

    with running("tcp://127.0.0.1:0", max_unread=8_000_000) as broker:
        url = parse_url(broker.url)
        with socket.create_connection((url.host, url.port)) as late, late.makefile("rb") as stream:
            late.sendall(
                framed(
                    b"request:system.topic.subscribe:1.0.0:0f8fad5b-d9cb-469f-a165-70867728950e\n"
                    b'{"action":"publish","topic":"a.b"}'
                )
            )
            asyncio.run(publish(broker.url))
            late.settimeout(20)
            got = 0
            while got < count:
                size = stream.read(4)
                assert size, f"cut off after {got} of {count} messages"
                got += stream.read(int.from_bytes(size, "big")).startswith(b"publish:a.b")


def test_a_client_that_is_still_connected_does_not_hold_it_up() -> None:
    async def main() -> None:
        with running(drain_timeout=0) as broker:
            client = MessageBrokerClient()
            await client.connect(broker.url)
            await client.request("system.heartbeat", {})
        await client.close()

    asyncio.run(main())


# It goes away and comes back


@pytest.mark.parametrize("listen", ["memory://", "tcp://127.0.0.1:0"])
def test_killed_it_answers_nothing(listen: str) -> None:
    """Not even that the service of a request has gone, as it would if it still ran."""

    async def main() -> None:
        asked = anyio.Event()

        async def answer(message: Message) -> None:
            asked.set()
            await anyio.sleep_forever()

        async def lose() -> None:
            with pytest.raises(ConnectionLost) as lost:
                await client.request("a.b", {})
            assert lost.value.sent

        async with (
            MessageBrokerClient(broker.url, drain_timeout=0) as service,
            MessageBrokerClient(broker.url) as client,
            anyio.create_task_group() as tasks,
        ):
            await service.subscribe("a.b", action="request", handler=answer)
            tasks.start_soon(lose)
            await asked.wait()
            broker.kill()
        broker.start()

    with running(listen) as broker:
        for _ in range(20):
            anyio.run(main)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_it_comes_back_at_the_same_urls(end: str) -> None:
    with running("memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0/path") as broker:
        urls = list(broker.urls)
        for _ in range(2):
            getattr(broker, end)()
            getattr(broker, end)()
            assert threads() == []
            for url in urls:
                with pytest.raises(ConnectError):
                    ask(url)
            broker.start()
            assert broker.urls == urls
            for url in urls:
                ask(url)
    assert urls[2].endswith("/path")


def test_its_port_stays_its_own_while_it_is_away() -> None:
    with running("tcp://127.0.0.1:0") as broker:
        broker.kill()
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", parse_url(broker.url).port))
        broker.start()
        ask(broker.url)


def test_a_restart_takes_milliseconds_though_clients_are_connected() -> None:
    async def main(broker: RunningBroker) -> None:
        lost, back = anyio.Event(), anyio.Event()
        client = MessageBrokerClient(broker.url, backoff_min=1, backoff_max=10)
        client.on_disconnect(lambda: lost.set())
        async with client:
            client.on_connect(lambda: back.set())
            began = time.perf_counter()
            broker.restart()  # from the client's own event loop, which can't say goodbye
            assert time.perf_counter() - began < 2
            with anyio.fail_after(5):
                await lost.wait()
                await back.wait()
                await client.request("system.heartbeat", {})

    for url in ("memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"):
        with running(url) as broker:
            anyio.run(main, broker)


def test_stopping_in_order_lets_requests_in_flight_be_answered() -> None:
    async def main(broker: RunningBroker) -> None:
        async with (
            MessageBrokerClient(broker.url, reconnect=False) as service,
            MessageBrokerClient(broker.url, reconnect=False) as client,
            anyio.create_task_group() as tasks,
        ):
            asked, stopping = anyio.Event(), anyio.Event()

            async def answer(message: Message) -> str:
                asked.set()
                await stopping.wait()
                return "answered"

            async def ask() -> None:
                assert (await client.request("slow", {})).payload == "answered"

            async def stop() -> None:
                stopping.set()
                await anyio.to_thread.run_sync(broker.stop)

            await service.subscribe("slow", action="request", handler=answer)
            tasks.start_soon(ask)
            await asked.wait()
            tasks.start_soon(stop)

    with running() as broker:
        anyio.run(main, broker)


def test_it_starts_with_other_options_where_they_are_given() -> None:
    async def publish(url: str) -> None:
        async with MessageBrokerClient(url) as client:
            await client.publish("a", "0123456789", confirm=True)

    with running(max_payload=5) as broker:
        broker.restart(max_payload=100)
        with pytest.raises(NoRouteFoundError):
            asyncio.run(publish(broker.url))
        broker.restart()
        with pytest.raises(NoRouteFoundError):
            asyncio.run(publish(broker.url))
        with pytest.raises(TypeError, match="max_paylod"):
            broker.restart(max_paylod=1)
        assert threads() == []


def test_while_it_runs_it_is_not_started_again() -> None:
    with (
        running() as broker,
        pytest.raises(LocalProtocolError, match=r"call stop\(\) or kill\(\) before start\(\)"),
    ):
        broker.start()


@pytest.mark.parametrize("where", ["in the block", "in leaving"])
def test_a_broker_that_fails_says_so_in_its_thread(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    reported: list[str] = []

    def report(arguments: threading.ExceptHookArgs) -> None:
        reported.extend(traceback.format_exception(arguments.exc_value))
        failed.set()

    def fail(*args: object) -> None:
        raise KeyError("mine")

    monkeypatch.setattr(threading, "excepthook", report)
    with running():
        if where == "in leaving":
            monkeypatch.setattr(Broker, "drain", fail)
    if where == "in the block":
        monkeypatch.setattr(Router, "handle_deadline", fail)
        with running():
            assert failed.wait(5)
    assert "KeyError: 'mine'" in "".join(reported)


def test_its_connections_are_plain_unless_something_wraps_them() -> None:
    """As those of a Broker: only tests that inject faults pay for them."""

    async def connected_link(broker: RunningBroker) -> type:
        async with MessageBrokerClient(broker.url):
            [connection] = broker._broker._connections.by_service
            return type(connection.link)

    with running() as broker:
        assert anyio.run(connected_link, broker) is MemoryLink
    faults = mb_testing.Faults()
    with mb_testing.running(faults=faults) as faulty:
        assert faulty.faults is faults
        assert anyio.run(connected_link, faulty) is FaultyLink


def test_faults_may_still_be_given_by_their_old_name() -> None:
    faults = mb_testing.Faults()
    with (
        pytest.warns(DeprecationWarning, match=r"use mb_testing\.running"),
        running(faults=faults) as broker,
    ):
        assert broker.faults is faults  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"use wrap_accept=faults\.wrap_accept"):
        Broker(faults=faults)


def test_where_faults_come_from_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as broker:
        for name, text in (("faults", "use mb_testing.running"), ("fault", "no attribute 'fault'")):
            with pytest.raises(AttributeError, match=text):
                getattr(broker, name)
    monkeypatch.setitem(sys.modules, "mb_testing", None)
    with (
        pytest.warns(DeprecationWarning, match=r"use mb_testing\.running"),
        pytest.raises(ImportError, match="pip install mb-testing"),
    ):
        running(faults=object())


@pytest.mark.parametrize("wrong", [7, "faults", object()])
def test_what_can_not_wrap_connections_is_an_error(wrong: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"invalid wrap_accept .*: expected a function"):
        Broker("memory://", wrap_accept=wrong)


def test_importing_it_imports_nothing_for_tests() -> None:
    program = (
        "import sys, mb_broker\n"
        "with mb_broker.running('memory://', 'tcp://127.0.0.1:0'): pass\n"
        "sys.exit('mb_testing' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
