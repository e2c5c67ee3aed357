"""A client used on another event loop, in another thread or in a forked process."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import outcome
import pytest

import mb_testing
from mb_broker import Broker, RunningBroker, running
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    TCPSocketClient,
)
from mb_core.url import parse_url

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PATIENCE = 20


class Scene:
    """A client of its own loop, with all that its calls are made on."""

    def __init__(self, url: str, broker: Broker) -> None:
        self.broker = broker
        self.client = MessageBrokerClient(url)
        self.raw = TCPSocketClient()
        self.asked: list[Message] = []
        self.heard: list[Any] = []
        self.errors: list[Exception] = []
        self._answered = anyio.Event()

    def calls(self) -> list[Callable[[], Awaitable[Any]]]:
        client = self.client

        async def on_message() -> None:
            client.on_message(lambda header, payload: None)

        return [
            lambda: client.request("some.question", 1, timeout=1000),
            lambda: client.request("some.question", 1, timeout=1000, retry=True),
            lambda: client.publish("some.event", "from elsewhere"),
            lambda: client.publish("some.event", "from elsewhere", confirm=True),
            lambda: client.subscribe("another.event").__aenter__(),
            lambda: client.subscribe("another.event", handler=print).__aenter__(),
            lambda: client.unsubscribe("some.event"),
            lambda: client.register_service("a", "b"),
            lambda: client.connect(),
            lambda: client.close(),
            lambda: client.run(),
            lambda: client.wait_connected(),
            lambda: client.__aenter__(),
            on_message,
            lambda: anext(self.events),
            lambda: anext(self.waiting),
            lambda: self.events.unsubscribe(),
            lambda: self.asked[0].respond("from elsewhere"),
            lambda: self.raw.send("request:system.heartbeat:1.0.0\n{}"),
            lambda: self.raw.close(),
            lambda: self.broker.drain(),
            lambda: self.broker.abort(),
        ]

    async def begin(self) -> None:
        client = self.client
        client.on_error(self.errors.append)
        await client.connect()
        await self.raw.connect(self.broker.url_of("tcp"))

        async def answer(message: Message) -> None:
            self.asked.append(message)
            await self._answered.wait()

        async def echo(message: Message) -> Any:
            return message.payload

        await client.subscribe("some.question", action="request", handler=answer)
        await client.subscribe("echo.it", action="request", handler=echo, concurrency=10)
        await client.subscribe("some.event", handler=lambda m: self.heard.append(m.payload))
        await client.subscribe("nobodys.event")
        self.events = await client.subscribe("some.event")
        self.waiting = await client.subscribe("silent.event")
        aiter(self.events), aiter(self.waiting)
        await client.publish("some.event", "before", confirm=True)

    async def works_on(self) -> None:
        """All that was there is there, and nothing has come from elsewhere."""
        for number in range(20):
            assert (await self.client.request("echo.it", number)).payload == number
        await self.client.publish("some.event", "behind", confirm=True)
        assert [(await anext(self.events)).payload for _ in range(2)] == ["before", "behind"]
        with anyio.fail_after(PATIENCE):
            while self.heard[:2] != ["before", "behind"]:
                await anyio.lowlevel.checkpoint()
        assert len(self.heard) == 2
        assert self.client.stats().reconnects == 0
        assert self.client.connected
        assert self.errors == []
        assert self.broker.connections == 2


@pytest.fixture(params=["tcp", "ws", "memory"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    urls = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"]
    async with Broker(*urls) as broker:
        scene = Scene(broker.url_of(request.param), broker)
        await scene.begin()
        async with anyio.create_task_group() as tasks:
            answers: list[Any] = []

            async def ask() -> None:
                answers.append((await scene.client.request("some.question", 1)).payload)

            tasks.start_soon(ask)
            while not scene.asked:
                await anyio.lowlevel.checkpoint()
            yield scene
            await scene.asked[0].respond("from home")
            scene._answered.set()
        assert answers == ["from home"]
        await scene.client.close()
        await scene.raw.close()
        # Once it is over there is nothing left that could belong anywhere.
        await anyio.to_thread.run_sync(lambda: anyio.run(scene.client.close, backend="asyncio"))


def outcomes(calls: list[Callable[[], Awaitable[Any]]], backend: str) -> list[str]:
    """What calls raise on an event loop of their own."""

    async def main() -> list[str]:
        texts: list[str] = []
        for call in calls:
            try:
                with anyio.fail_after(PATIENCE):
                    await call()
                texts.append("nothing")
            except LocalProtocolError as error:
                texts.append(str(error))
        return texts

    return anyio.run(main, backend=backend)


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_each_call_on_another_event_loop_says_at_once_what_is_wrong(
    scene: Scene, backend: str
) -> None:
    texts = await anyio.to_thread.run_sync(outcomes, scene.calls(), backend)
    expected = [
        "connected already" if number == 8 else "belongs to another event loop"
        for number in range(len(texts))
    ]
    assert [text for text, part in zip(texts, expected, strict=True) if part not in text] == []
    await scene.works_on()


@pytest.mark.anyio
async def test_a_call_where_no_event_loop_runs_says_so(scene: Scene) -> None:
    def call() -> None:
        coroutine = scene.client.publish("some.event", "from elsewhere")
        with pytest.raises(LocalProtocolError, match=r"another event loop.*run_coroutine_thr"):
            coroutine.send(None)

    await anyio.to_thread.run_sync(call)
    await scene.works_on()


@pytest.mark.anyio
async def test_a_thread_may_use_the_client_on_its_own_loop(scene: Scene) -> None:
    def call() -> Any:
        return anyio.from_thread.run(scene.client.request, "echo.it", "from a thread").payload

    assert await anyio.to_thread.run_sync(call) == "from a thread"
    await scene.works_on()


@pytest.mark.anyio
async def test_a_client_whose_connecting_was_given_up_may_connect_on_another_loop(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient()
    with pytest.raises(ConnectError):
        await client.connect("memory://nobody")

    async def use() -> None:
        await client.connect(mb_broker.url)
        await client.request("system.heartbeat", {})
        await client.close()

    await anyio.to_thread.run_sync(lambda: anyio.run(use))


@pytest.mark.anyio
async def test_what_is_closed_says_so_on_any_loop(mb_broker: RunningBroker) -> None:
    async with MessageBrokerClient(mb_broker.url) as client:
        pass

    async def use() -> None:
        await client.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await client.publish("some.event", 1)
        with pytest.raises(ConnectionLost, match="closed"):
            await client.request("some.question", 1)
        with pytest.raises(ConnectionLost, match="closed"):
            await client.subscribe("some.event")
        await client.run()

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(lambda: anyio.run(use, backend=backend))  # noqa: B023


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_who_waits_on_another_loop_for_a_connect_hears_of_it_at_once(
    mb_broker: RunningBroker, backend: str
) -> None:
    client = MessageBrokerClient(mb_broker.url)
    waits = threading.Event()

    async def wait() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raise_if_it_connects)
            await anyio.wait_all_tasks_blocked()
            waits.set()

    async def raise_if_it_connects() -> None:
        with anyio.fail_after(PATIENCE), pytest.raises(LocalProtocolError, match="another event"):
            await client.wait_connected()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(wait, backend=backend))
        await anyio.to_thread.run_sync(waits.wait)
        await client.connect()
    await client.request("system.heartbeat", {})
    await client.close()


@pytest.mark.anyio
async def test_a_wait_that_was_given_up_on_a_loop_binds_the_client_to_none(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient(mb_broker.url)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await client.wait_connected(1)

    await anyio.to_thread.run_sync(lambda: anyio.run(wait))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait_connected)
        await anyio.wait_all_tasks_blocked()
        await client.connect()
    await client.close()


# Forks


def in_child(function: Callable[[], object]) -> str:
    """What a forked process that calls `function` has to say, which is "fine" at best."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                function()
                answer = "fine"
            except BaseException as error:
                answer = repr(error)
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        watchdog = threading.Timer(PATIENCE, os.kill, [child, 9])
        watchdog.start()
        answer = answers.read()
        watchdog.cancel()
        watchdog.join()
    os.waitpid(child, 0)
    return answer


@needs_fork
@pytest.mark.anyio
async def test_each_call_in_a_forked_process_says_at_once_what_is_wrong(scene: Scene) -> None:
    def call_all() -> None:
        texts = outcomes(scene.calls(), "asyncio")
        wrong = [text for text in texts if "was forked from" not in text]
        assert len(wrong) == 1, wrong
        assert "connected already" in wrong[0]
        assert not scene.client.connected

    def fork() -> str:
        return in_child(call_all)

    assert await anyio.to_thread.run_sync(fork) == "fine"
    await scene.works_on()


@needs_fork
@pytest.mark.anyio
async def test_leaving_blocks_in_a_forked_process_does_nothing(scene: Scene) -> None:
    async def leave() -> None:
        await scene.client.__aexit__(None, None, None)
        await scene.raw.__aexit__(None, None, None)
        await scene.events.__aexit__(None, None, None)
        await scene.broker.__aexit__(None, None, None)

    def fork() -> str:
        return in_child(lambda: anyio.run(leave))

    assert await anyio.to_thread.run_sync(fork) == "fine"
    await scene.works_on()


@needs_fork
@pytest.mark.anyio
async def test_on_the_very_loop_a_fork_is_a_fork(scene: Scene) -> None:
    """In the midst of a task; what was sent in the same turn leaves the parent, and once."""

    def drive(coroutine: Any) -> None:
        coroutine.send(None)
        while True:  # past the checkpoint before the error
            coroutine.send(outcome.Value(None))

    def call() -> None:
        for function in scene.calls()[:3]:
            coroutine: Any = function()
            with pytest.raises(LocalProtocolError, match="was forked from"):
                drive(coroutine)
        gc.collect()

    await scene.client.publish("nobodys.event", 1)
    assert in_child(call) == "fine"
    await scene.works_on()


@needs_fork
def test_a_loop_that_a_fork_runs_on_is_not_the_one_on_which_it_was_connected() -> None:
    """Connected before the fork by run_until_complete, and used behind it in the same way."""
    with running("tcp://127.0.0.1:0") as broker:
        loop = asyncio.new_event_loop()
        client = MessageBrokerClient(broker.url)
        loop.run_until_complete(client.connect())

        def use() -> None:
            with pytest.raises(LocalProtocolError, match="was forked from"):
                loop.run_until_complete(client.request("system.heartbeat", {}))

        assert in_child(use) == "fine"
        loop.run_until_complete(client.request("system.heartbeat", {}))
        assert broker.connections == 1
        loop.run_until_complete(client.close())
        loop.close()


@needs_fork
def test_a_broker_in_a_thread_does_not_run_in_a_forked_process() -> None:
    with mb_testing.running("tcp://127.0.0.1:0", "memory://") as broker:

        async def connect() -> None:
            with pytest.raises(ConnectError, match="no broker in this process"):
                await MessageBrokerClient(broker.url_of("memory")).connect()

        async def ask() -> None:
            async with MessageBrokerClient(broker.url) as client:
                await client.request("system.heartbeat", {})

        def use() -> None:
            broker.faults.clear()
            assert broker.connections == 0
            broker.kill()
            broker.stop()
            with pytest.raises(LocalProtocolError, match=r"this broker.*was forked from"):
                broker.start()
            anyio.run(connect)
            anyio.run(ask)  # the parent's

        assert in_child(use) == "fine"
        anyio.run(ask)


@needs_fork
def test_a_forked_process_does_not_keep_a_port_that_its_parent_has_left() -> None:
    with running("tcp://127.0.0.1:0") as broker:
        near, far = socket.socketpair()
        child = os.fork()
        if child == 0:
            try:
                near.close()
                far.sendall(b"forked")
                far.recv(1)  # until the parent has seen enough
            finally:
                os._exit(0)
        far.close()
        with near:
            assert near.recv(6) == b"forked"
            broker.stop()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", parse_url(broker.url).port or 0))
        os.waitpid(child, 0)


# Ways to end


PROGRAM = """
import anyio, gc, os, signal, sys, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from mb_core import MessageBrokerClient
url, backend = sys.argv[1:]

def say(text):
    print(text, flush=True)

async def check(client, events):
    for number in range(20):
        assert (await client.request("echo.it", number)).payload == number
        await client.publish("some.event", number)
        assert (await anext(events)).payload == number
    assert client.stats().reconnects == 0

async def main():
    client = MessageBrokerClient(url)
    await client.connect()
    client.on_error(lambda error: say(f"error {{error}}"))
    await client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
    events = aiter(await client.subscribe("some.event"))
    await check(client, events)
    await client.publish("some.event", "in the turn of the fork")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # asyncio complains of what is left behind
        {end}
    assert (await anext(events)).payload == "in the turn of the fork"
    # Not in a thread: that would be the event loop's to wait for.
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        await check(client, events)
    status = os.waitstatus_to_exitcode(ended[1])
    await check(client, events)
    assert events.queued == 0
    await client.close()
    say(f"status {{status}}")

anyio.run(main, backend=backend)
"""

# Without running the event loop on, which the fork shares with its parent.
AT_ONCE = {
    "os._exit": ("os._exit(3)", 3),
    "all forgotten": ("del client, events; gc.collect(); os._exit(3)", 3),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)", -15),
    "another program": ("os.execv(sys.executable, [sys.executable, '-c', 'exit(3)'])", 3),
}
# asyncio survives that in the parent, trio does not (by itself, without any client).
RUNNING_ON = {
    "sys.exit": ("sys.exit(3)", 3),
    "sys.exit when all was forgotten": ("del client, events; gc.collect(); sys.exit(3)", 3),
    "an error": ("raise ValueError", 1),
    "a use that is refused": ("await client.request('echo.it', 1)", 1),
}


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running("tcp://127.0.0.1:0", "ws://127.0.0.1:0") as broker:
        yield broker


@needs_fork
@pytest.mark.parametrize("scheme", ["tcp", "ws"])
@pytest.mark.parametrize(
    ("backend", "end", "status"),
    [
        *[pytest.param("asyncio", *AT_ONCE[end], id=f"asyncio-{end}") for end in AT_ONCE],
        *[pytest.param("trio", *AT_ONCE[end], id=f"trio-{end}") for end in AT_ONCE],
        *[pytest.param("asyncio", *RUNNING_ON[end], id=f"asyncio-{end}") for end in RUNNING_ON],
    ],
)
def test_however_a_forked_process_ends_its_parent_goes_on(
    end: str, status: int, backend: str, scheme: str, broker: RunningBroker
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end), broker.url_of(scheme), backend],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == (f"status {status}\n", "", 0)
