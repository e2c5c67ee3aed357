"""Programs that get signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from mb_broker import Broker, running

PROLOGUE = """
import asyncio, faulthandler, os, signal, sys, threading, time
import anyio
faulthandler.enable()
from mb_core import MessageBrokerClient

url = sys.argv[1]

def say(text):
    print(text, flush=True)

async def say_ready(client):
    # When everything waits: it takes a message that comes back.
    topic = f"ready.p{os.getpid()}"
    await client.subscribe(topic, handler=lambda message: say("ready"))
    await client.publish(topic, {})
"""
EPILOGUE = """
anyio.run(main, backend=sys.argv[2])
"""
Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running("tcp://127.0.0.1:0") as broker:
        yield broker


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def start(broker: Broker, loop: str) -> Iterator[Program]:
    """Start a program, and wait until it has said that it is ready."""
    started: list[subprocess.Popen[str]] = []

    def start(body: str, epilogue: str = EPILOGUE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + body + epilogue, broker.url, loop],
            # A KeyboardInterrupt that is raised within a tracer's own code is lost.
            env={name: text for name, text in os.environ.items() if "COVERAGE" not in name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        first = process.stdout.readline()
        if first != "ready\n":
            raise AssertionError(first + process.communicate(timeout=10)[1])
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, str, int]:
    process.send_signal(number)
    try:
        stdout, stderr = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # the fault handler prints where it hangs
        stdout, stderr = process.communicate()
        raise AssertionError(f"it did not end; it said {stdout!r} and {stderr}") from None
    return stdout, stderr, process.returncode
