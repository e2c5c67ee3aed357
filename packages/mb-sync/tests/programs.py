"""Real programs, in processes of their own, with a broker that sees them come and go."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from mb_broker import RunningBroker
from mb_testing import FaultyBroker, running, wait_until

__all__ = ["PATIENCE", "Ended", "Program", "Start", "broker", "saw_all_leave", "starting"]

# Seconds after which what was to come is not coming any more.
PATIENCE = 20

PROLOGUE = """
import atexit, faulthandler, gc, logging, os, signal, sys, threading, time
faulthandler.enable()
# asyncio tells, in Python's development mode, of whatever takes long; here, the machine may.
logging.getLogger("asyncio").setLevel(logging.ERROR)
from mb_core import ConnectionLost, LocalProtocolError
from mb_sync import MessageBrokerClient

url = sys.argv[1]

def say(text):
    # print() would write the end of the line separately, so lines of two threads could mix.
    sys.stdout.write(f"{text}\\n")
    sys.stdout.flush()

def say_ready_when_waiting():
    # For the loop, and for nothing else.
    from mb_sync.thread_waiter import ThreadWaiter
    main = threading.main_thread().ident
    def watch():
        while sys._current_frames()[main].f_code is not ThreadWaiter.wait.__code__:
            time.sleep(0.001)
        os.write(1, b"ready\\n")  # without the lock of sys.stdout, for which the exit would wait
    threading.Thread(target=watch, daemon=True).start()
"""


class Ended(NamedTuple):
    """What a program has written, its exit status, and how long its end took, in seconds."""

    stdout: str
    stderr: str
    status: int
    seconds: float


class Program:
    """A program that is running; it gets the broker's URL, and may say "ready"."""

    def __init__(self, body: str, url: str, *options: str) -> None:
        # A KeyboardInterrupt that is raised within a tracer's own code is lost.
        environment = {name: text for name, text in os.environ.items() if "COVERAGE" not in name}
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", PROLOGUE + body, url],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._since = time.monotonic()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if first != "ready\n":
            raise AssertionError(first + self.process.communicate(timeout=10)[1])

    def interrupt(self, number: int = signal.SIGINT) -> Ended:
        """Send a signal, and wait for the end, which is timed from then on."""
        self._since = time.monotonic()
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Ended:
        try:
            stdout, stderr = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # the fault handler prints where it hangs
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"it did not end; it said {stdout!r} and {stderr}") from None
        seconds = time.monotonic() - self._since
        return Ended(stdout, stderr, self.process.returncode, seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Program]


@contextlib.contextmanager
def starting(broker: RunningBroker) -> Iterator[Start]:
    """Give a function that starts programs; with `ready`, it waits until they say that."""
    started: list[Program] = []

    def start(body: str, *options: str, ready: bool = True) -> Program:
        program = Program(body, broker.url, *options)
        started.append(program)
        if ready:
            program.wait_ready()
        return program

    try:
        yield start
    finally:
        for program in started:
            program.kill()


@pytest.fixture(scope="module")
def broker() -> Iterator[FaultyBroker]:
    """One that would log clients that disconnect without a WebSocket close."""
    with running("ws://127.0.0.1:0") as broker:
        yield broker


def saw_all_leave(broker: RunningBroker, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether nobody is connected any more, and everybody has said good-bye."""
    wait_until(lambda: not broker.connections, timeout=PATIENCE)
    complaints = [record for record in caplog.records if record.name.startswith("mb_broker")]
    return complaints == []
