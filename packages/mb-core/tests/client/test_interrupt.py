"""Ctrl-C and sys.exit() in user code that the connection's own tasks run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_core.signals import pass_exit_on, uninterrupted


@pytest.fixture(scope="module")
def broker() -> Iterator[RunningBroker]:
    with running("tcp://127.0.0.1:0") as broker:
        yield broker


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


# Ctrl-C anywhere


ANYWHERE = """
import logging, signal, sys
import trio, trio.testing
from mb_core import MessageBrokerClient

logging.disable()  # of handlers that are cancelled

class Lines:
    \"\"\"Raises SIGINT at one of the lines that the main task runs, or when it waits.\"\"\"

    def __init__(self, number):
        self.left = number
        self.at = ""

    async def start(self):
        self.task = trio.lowlevel.current_task()
        trio.lowlevel.spawn_system_task(self.interrupt_waiting)
        sys.settrace(self.enter)

    async def interrupt_waiting(self):
        await trio.testing.wait_all_tasks_blocked(0.1)
        sys.settrace(None)
        if not self.at:
            signal.raise_signal(signal.SIGINT)

    def enter(self, frame, event, argument):
        return self.line if frame.f_code.co_filename != "<string>" else None

    def line(self, frame, event, argument):
        try:
            mine = trio.lowlevel.current_task() is self.task
        except RuntimeError:
            return self.line
        if event == "line" and mine:
            self.left -= 1
            if not self.left:
                self.at = frame.f_code.co_qualname
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.line

async def stop(lines):
    async with MessageBrokerClient(sys.argv[1], drain_timeout=3_600_000) as client:
        begun = trio.Event()
        async def hang(message):
            begun.set()
            await trio.sleep_forever()
        await client.subscribe("a.hang", handler=hang)
        await client.publish("a.hang", {})
        await begun.wait()
        await lines.start()
        raise KeyboardInterrupt

async def run(lines):
    async with MessageBrokerClient(sys.argv[1]) as client:
        await lines.start()
        await client.run()

number, places = 0, set()
while True:
    number += 1
    lines = Lines(number)
    try:
        trio.run(globals()[sys.argv[2]], lines)
    except KeyboardInterrupt:
        pass
    if not lines.at:
        break
    places.add(lines.at)
print("Event.wait" in places)
"""


@pytest.mark.parametrize("what", ["stop", "run"])
def test_ctrl_c_at_any_line_of_what_waits_on_trio_raises_keyboard_interrupt(
    what: str, broker: RunningBroker
) -> None:
    """trio's own waits can't bear it everywhere: they broke down when they were woken."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ANYWHERE, broker.url, what],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("True\n", 0), result.stderr


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
