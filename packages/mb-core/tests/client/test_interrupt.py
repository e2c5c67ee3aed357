"""Ctrl-C and sys.exit() in user code that the connection's own tasks run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_core.client.interrupt import pass_exit_on, uninterrupted


@pytest.mark.anyio
async def test_only_interrupts_are_passed_on() -> None:
    errors: list[BaseException] = [ExceptionGroup("two", [ValueError()]), GeneratorExit()]
    for error in errors:
        with pytest.raises(type(error)) as raised:
            pass_exit_on(error)
        assert raised.value is error


@pytest.mark.anyio
async def test_a_task_that_is_not_to_be_interrupted_runs_all_the_same() -> None:
    ran: list[Any] = []

    async def function() -> None:
        ran.append(1)

    await uninterrupted(function)()
    assert ran == [1]


# sys.exit()


PROGRAM = """
import anyio, sys, threading, time
from mb_core import MessageBrokerClient, TCPSocketClient

def leave(*args):
    sys.exit(3)

async def leave_later(*args):
    await anyio.lowlevel.checkpoint()
    sys.exit(3)

async def leave_from_group(*args):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave_later)
        tasks.start_soon(anyio.sleep_forever)

async def main():
    client = MessageBrokerClient(sys.argv[1])
    async with client:
        BODY

async def wait():
    try:
        await anyio.sleep_forever()
    finally:
        print("ended", flush=True)

anyio.run(main, backend=sys.argv[2])
"""

HANDLERS = ["leave", "leave_later", "leave_from_group"]

BODIES = {
    "handler": """
        await client.subscribe("some.event", handler=HANDLER)
        await client.publish("some.event", 1)
        await wait()
""",
    "responder": """
        await client.subscribe("some.question", action="request", handler=HANDLER)
        try:
            await client.request("some.question", 1)
        finally:
            print("ended", flush=True)
""",
    "on_message": """
        client.on_message(HANDLER)
        await client.subscribe("some.event")
        await client.publish("some.event", 1)
        await wait()
""",
    "on_error": """
        client.on_error(HANDLER)
        await client.publish("nobodys.event", 1)
        await wait()
""",
    "raw": """
        async with TCPSocketClient() as raw:
            raw.on_message(HANDLER)
            await raw.connect(sys.argv[1])
            await wait()
""",
    "run": """
        await client.subscribe("some.event", handler=HANDLER)
        await client.publish("some.event", 1)
        try:
            await client.run()
        finally:
            print("ended", flush=True)
""",
    # Which raises a group of the error.
    "in a task group": """
        await client.subscribe("some.event", handler=HANDLER)
        async with anyio.create_task_group() as tasks, anyio.create_task_group():
            tasks.start_soon(client.publish, "some.event", 1)
            await wait()
""",
    # trio can't abort such a wait.
    "while the main task waits for a thread": """
        await client.subscribe("some.event", handler=HANDLER)
        await client.publish("some.event", 1)
        await anyio.to_thread.run_sync(time.sleep, 0.2)
        await wait()
""",
}


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sys_exit_in_user_code_ends_the_program_with_its_status(
    backend: str, body: str, handler: str, broker: RunningBroker
) -> None:
    program = PROGRAM.replace("BODY", body.strip()).replace("HANDLER", handler)
    result = subprocess.run(
        [sys.executable, "-c", program, broker.url, backend],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    cancelled_in_thread = "to_thread" in body and backend == "asyncio"
    assert result.stdout == ("" if cancelled_in_thread else "ended\n")
    assert (result.stderr, result.returncode) == ("", 3)
