"""Machines that sleep and wake: clients, brokers, or both, longer than their time limits."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mb_broker import RunningBroker
from mb_client import MBError, MessageBrokerClient, NoRouteFoundError, ServiceUnavailableError
from mb_testing import until

from .brokers import ProcessBroker, thread_broker
from .scene import FAST
from .traffic import PATIENCE, Published, Received, Signal, keep_publishing

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

# Milliseconds: how soon a client gives a silent broker up, and a broker a silent client.
INTERVAL = 300
SILENT = {"heartbeat_after": 300, "drop_after": 900}
ARGUMENTS = ("--heartbeat-after", "300", "--drop-after", "900")
# Seconds that are longer than all of them.
ASLEEP = 2.0

# A service that answers, and publishes numbers with confirmation, one line for each outcome.
SERVICE = {
    "async": """
import sys
import anyio
from mb_client import MBError, MessageBrokerClient

async def main(url, interval):
    client = MessageBrokerClient(url, heartbeat_interval=interval, backoff_max=100)
    client.on_connect(lambda: print("connected", flush=True))
    async with client:
        await client.subscribe("echo", action="request", handler=lambda m: m.payload)
        number = 0
        while True:
            number += 1
            try:
                await client.publish("numbers", number, confirm=True, timeout=5000)
            except MBError as error:
                print(number, type(error).__name__, flush=True)
            else:
                print(number, "confirmed", flush=True)
            await anyio.sleep(0.01)

anyio.run(main, sys.argv[1], int(sys.argv[2]), backend=sys.argv[3])
""",
    "sync": """
import sys, time
from mb_core import MBError
from mb_sync import MessageBrokerClient

# Callbacks run in another thread. print() writes the end of the line separately, so the lines of
# two threads could mix.
def say(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()

client = MessageBrokerClient(sys.argv[1], heartbeat_interval=int(sys.argv[2]), backoff_max=100)
client.on_connect(lambda: say("connected"))
with client:
    client.subscribe("echo", action="request", handler=lambda m: m.payload)
    number = 0
    while True:
        number += 1
        try:
            client.publish("numbers", number, confirm=True, timeout=5000)
        except MBError as error:
            say(f"{number} {type(error).__name__}")
        else:
            say(f"{number} confirmed")
        time.sleep(0.01)
""",
}


class Service:
    """SERVICE in a process of its own, and what it has printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.outcomes: list[tuple[int, str]] = []
        self.connects = Signal()
        self.news = Signal()

    async def read(self) -> None:
        """Read what it prints, as long as it runs."""
        stdout = self.process.stdout
        assert stdout is not None
        while line := await anyio.to_thread.run_sync(stdout.readline, abandon_on_cancel=True):
            if line == "connected\n":
                self.connects()
            else:
                number, outcome = line.split()
                self.outcomes.append((int(number), outcome))
                self.news()

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def check(self, received: Received) -> None:
        """Each number has one outcome, and those that are confirmed have arrived, once."""
        assert [number for number, _ in self.outcomes] == list(range(1, len(self.outcomes) + 1))
        confirmed = [number for number, outcome in self.outcomes if outcome == "confirmed"]
        await received.has(*confirmed)
        assert {received.numbers[number] for number in confirmed} == {1}
        assert {outcome for _, outcome in self.outcomes} <= {"confirmed", "ConnectionLost"}


@contextmanager
def service(kind: str, url: str) -> Iterator[Service]:
    program = SERVICE["sync" if kind == "sync" else "async"]
    with subprocess.Popen(
        [sys.executable, "-c", program, url, str(INTERVAL), kind],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Service(process)
        finally:
            process.kill()


async def dropped(broker: RunningBroker) -> None:
    """Wait until the broker has only one client."""
    await until(lambda: broker.connections == 1, timeout=PATIENCE)


async def answered(client: MessageBrokerClient) -> None:
    """Ask until the service answers."""

    async def is_answered() -> bool:
        try:
            assert (await client.request("echo", 1, timeout=1000)).payload == 1
        except MBError:
            return False
        return True

    await until(is_answered, timeout=PATIENCE)


@pytest.mark.parametrize("front_end", ["async", "sync"])
async def test_a_client_that_slept_is_back_when_it_wakes(
    front_end: str, anyio_backend_name: str
) -> None:
    kind = anyio_backend_name if front_end == "async" else "sync"
    received = Received()
    with thread_broker(**SILENT) as broker, service(kind, broker.url) as asleep:
        async with (
            MessageBrokerClient(broker.url, **FAST | {"heartbeat_interval": INTERVAL}) as client,
            anyio.create_task_group() as tasks,
        ):
            await client.subscribe("numbers", handler=received.take)
            tasks.start_soon(asleep.read)
            await asleep.connects.reaches(1, "the service is connected")
            await asleep.news.reaches(5, "a publication has an outcome")
            asleep.suspend()
            await dropped(broker)
            with pytest.raises((NoRouteFoundError, ServiceUnavailableError)):
                await client.request("echo", 1)
            asleep.resume()
            await asleep.connects.reaches(2, "the service is connected again")
            await answered(client)
            await asleep.news.reaches(asleep.news.count + 5, "a publication has an outcome")
            asleep.process.kill()
            await anyio.to_thread.run_sync(asleep.process.wait)
            tasks.cancel_scope.cancel()
        # Of what it published as it fell asleep, nothing was lost without a word.
        await asleep.check(received)


async def test_clients_of_a_broker_that_slept_are_back_when_it_wakes() -> None:
    received, published, stop = Received(), Published(), anyio.Event()
    lost, back = Signal(), Signal()
    options = FAST | {"heartbeat_interval": INTERVAL}
    with ProcessBroker("tcp", *ARGUMENTS) as broker:
        reader = MessageBrokerClient(broker.url, **options)
        writer = MessageBrokerClient(broker.url, **options)
        for client in (reader, writer):
            client.on_disconnect(lost)
            client.on_connect(back)
        async with reader, writer, anyio.create_task_group() as tasks:
            await reader.subscribe("numbers", handler=received.take)
            await reader.subscribe("echo", action="request", handler=lambda m: m.payload)

            async def publish() -> None:
                await keep_publishing(writer, "numbers", published, stop, timeout=5000)

            tasks.start_soon(publish)
            await received.news.reaches(5, "a publication arrives")
            broker.suspend()
            await lost.reaches(2, "a client has given the broker up")
            broker.resume()
            await back.reaches(4, "a client is connected")
            await answered(writer)
            before = len(published.confirmed)
            await received.news.until(
                lambda: len(published.confirmed) > before, "a publication is confirmed"
            )
            stop.set()
        # In its sleep the broker had messages of connections that have ended since: it may have
        # passed them on to a reader that was not there any more.
        assert set(received.numbers.values()) == {1}
        assert (
            published.attempts.keys() == published.confirmed | published.unsent | published.unsure
        )


@pytest.mark.parametrize("front_end", ["async", "sync"])
async def test_a_client_and_its_broker_that_slept_together_go_on(
    front_end: str, anyio_backend_name: str
) -> None:
    kind = anyio_backend_name if front_end == "async" else "sync"
    with ProcessBroker("tcp", *ARGUMENTS) as broker, service(kind, broker.url) as asleep:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asleep.read)
            await asleep.news.reaches(5, "a publication has an outcome")
            broker.suspend()
            asleep.suspend()
            await anyio.sleep(ASLEEP)  # nothing is awake to notify us when it was long enough
            asleep.resume()
            broker.resume()
            async with MessageBrokerClient(broker.url, **FAST) as client:
                await answered(client)
            before = asleep.news.count
            await asleep.news.reaches(before + 5, "a publication has an outcome")
            asleep.process.kill()
            await anyio.to_thread.run_sync(asleep.process.wait)
            tasks.cancel_scope.cancel()
        numbers = [number for number, _ in asleep.outcomes]
        assert numbers == list(range(1, len(numbers) + 1))
        outcomes: Any = {outcome for _, outcome in asleep.outcomes}
        assert outcomes <= {"NoRouteFoundError", "ConnectionLost"}
