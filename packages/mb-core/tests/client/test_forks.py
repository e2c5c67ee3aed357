"""A client and a broker used in a forked process."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import outcome
import pytest

import mb_testing
from mb_broker import RunningBroker, running
from mb_core import (
    ConnectError,
    LocalProtocolError,
    MessageBrokerClient,
)
from mb_core.url import parse_url

from .other_places import PATIENCE, Scene, broker, outcomes, scene

__all__ = ["broker", "scene"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


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
        wrong = [text for text in texts if "belongs to the parent process" not in text]
        assert len(wrong) == 1, wrong
        assert "already connected" in wrong[0]
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
            with pytest.raises(LocalProtocolError, match="belongs to the parent process"):
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
            with pytest.raises(LocalProtocolError, match="belongs to the parent process"):
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
            with pytest.raises(
                LocalProtocolError, match=r"this broker belongs to the parent process"
            ):
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
