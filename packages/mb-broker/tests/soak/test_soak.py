"""A broker in a process of its own under a thousand clients, good and bad: nothing is left of them.

Takes a minute or two, so it runs when asked for: `pytest -m soak packages/mb-broker/tests/soak`.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import psutil
import pytest

from mb_core import MBError, Message, MessageBrokerClient
from mb_testing import until

pytestmark = pytest.mark.soak

GROUPS = 100
PUBLICATIONS = 500  # of each group, in each round
REQUESTS = 250  # and as many responses
ROUNDS = 2
STALLED, HALF_OPEN, GARBAGE, LEAVING = 50, 50, 50, 50  # beside 8 good ones in each group
GOOD = GROUPS * 8
CONNECTIONS = GOOD + STALLED + HALF_OPEN + GARBAGE + LEAVING
MESSAGES = GROUPS * (PUBLICATIONS + 2 * REQUESTS) * ROUNDS

LIMITS = {
    "--max-unread": 1_000_000,
    "--handshake-timeout": 5_000,
    "--close-timeout": 2_000,
    "--heartbeat-after": 10_000,
    "--drop-after": 20_000,
}
PAD = "x" * 200
# Seconds within which everything has to have arrived, or to have ended.
PATIENCE = 60
MEGABYTE = 1024 * 1024


@pytest.fixture
def many_files() -> Iterator[None]:
    """Files enough for all connections, here and in the processes that are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * CONNECTIONS
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Served:
    """A broker's process: its URLs, what it logged, and what it holds."""

    process: subprocess.Popen[str]
    tcp: str
    ws: str
    log: list[str] = field(default_factory=list)

    @property
    def tcp_port(self) -> int:
        return int(self.tcp.rpartition(":")[2])

    @property
    def ws_port(self) -> int:
        return int(self.ws.strip("/").rpartition(":")[2])

    def memory(self) -> int:
        size: int = psutil.Process(self.process.pid).memory_info().rss
        return size

    def files(self) -> int:
        count: int = psutil.Process(self.process.pid).num_fds()
        return count


@pytest.fixture
def served(many_files: None) -> Iterator[Served]:
    command = [sys.executable, "-m", "mb_tools", "serve", "--tcp-port", "0", "--ws-port", "0"]
    command += [part for name, value in LIMITS.items() for part in (name, str(value))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        tcp, ws = (process.stdout.readline().strip() for _ in range(2))
        served = Served(process, tcp, ws)
        # A log that nobody reads would stop the broker.
        reader = threading.Thread(target=served.log.extend, args=(process.stderr,))
        reader.start()
        try:
            yield served
        finally:
            process.kill()
            reader.join()


# The good


@dataclass
class Group:
    """Eight clients with topics of their own, which are sure of every message."""

    number: int
    clients: list[MessageBrokerClient]
    seen: list[list[int]] = field(default_factory=lambda: [[], [], []])
    errors: list[Exception] = field(default_factory=list)

    async def open(self, urls: tuple[str, str]) -> None:
        for n, client in enumerate(self.clients):
            client.on_error(self.errors.append)
            await client.connect(urls[n % 2])
        for seen, client in zip(self.seen, self.clients[:3], strict=True):
            await client.subscribe(f"soak.g{self.number}.+", handler=self._seer(seen))
        for client in self.clients[3:5]:
            await client.subscribe(
                f"soak.g{self.number}.ask", action="request", handler=lambda m: m.payload["n"] + 1
            )

    async def work(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._publish)
            for client in self.clients[6:]:
                tasks.start_soon(self._ask, client, REQUESTS // 2)
        for seen in self.seen:
            await until(self._has_all(seen), timeout=PATIENCE)
            assert seen == list(range(PUBLICATIONS))
        assert self.errors == []

    async def close(self) -> None:
        for client in self.clients:
            await client.close()

    @staticmethod
    def _has_all(seen: list[int]) -> Callable[[], Awaitable[bool]]:
        async def has_all() -> bool:
            return len(seen) >= PUBLICATIONS

        return has_all

    @staticmethod
    def _seer(seen: list[int]) -> Callable[[Message], None]:
        return lambda message: seen.append(message.payload["n"])

    async def _publish(self) -> None:
        for n in range(PUBLICATIONS):
            await self.clients[5].publish(f"soak.g{self.number}.news", {"n": n, "pad": PAD})
            if n % 20 == 0:
                await anyio.lowlevel.checkpoint()

    async def _ask(self, client: MessageBrokerClient, count: int) -> None:
        for n in range(count):
            answer = await client.request(f"soak.g{self.number}.ask", {"n": n})
            assert answer.payload == n + 1


# The bad


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4) + message


SUBSCRIBE = framed(
    b'request:system.topic.subscribe:1.0.0\n{"action":"publish","topic":"soak.bulk"}'
)


def plain_socket(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    return made


async def flood_the_stalled(publisher: MessageBrokerClient, cut_off: int) -> None:
    """Publish what they do not read until all of them are cut off."""
    while await metric(publisher, "connection.cutoff.total") < cut_off:
        for _ in range(20):
            await publisher.publish("soak.bulk", "x" * 16_000)


async def send_garbage(port: int, seed: int, stop: anyio.Event) -> None:
    """Connect and send what is nothing, again and again."""
    chance = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                for _ in range(chance.randrange(1, 5)):
                    await stream.send(chance.randbytes(chance.randrange(1, 5000)))
                await stream.receive()
        await anyio.sleep(chance.random() / 5)


async def come_and_go(url: str, seed: int, stop: anyio.Event) -> None:
    """Subscribe, ask, and be gone in the middle of it."""
    chance = random.Random(seed)
    topic = f"soak.leaving.t{seed % 10}"
    while not stop.is_set():
        client = MessageBrokerClient(url)
        client.on_error(lambda error: None)
        with contextlib.suppress(MBError):
            await client.connect()
            await client.subscribe(topic, action="request", handler=lambda m: anyio.sleep(9))
            with anyio.move_on_after(chance.random() / 5):
                await client.request(topic, {"n": 1}, timeout=2000)
        await client.close()


async def reset_in_the_middle(port: int, seed: int, stop: anyio.Event) -> None:
    """Half a message, and a reset."""
    chance = random.Random(seed)
    while not stop.is_set():
        with contextlib.suppress(OSError, anyio.BrokenResourceError):
            stream = await anyio.connect_tcp("127.0.0.1", port)
            raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.send(SUBSCRIBE + SUBSCRIBE[: chance.randrange(len(SUBSCRIBE))])
            await stream.aclose()
        await anyio.sleep(chance.random() / 5)


# All of them


async def metric(client: MessageBrokerClient, name: str) -> float:
    answer = await client.request("system.metrics", {"paramFilter": {}})
    value: float = answer.payload["metrics"][name]
    return value


async def play_a_round(served: Served, observer: MessageBrokerClient, number: int) -> None:
    urls = (served.tcp, served.ws)
    groups = [Group(n, [MessageBrokerClient() for _ in range(8)]) for n in range(GROUPS)]
    for group in groups:
        await group.open(urls)
    stop = anyio.Event()
    with contextlib.ExitStack() as sockets:
        for _ in range(STALLED):
            sockets.enter_context(plain_socket(served.tcp_port)).sendall(SUBSCRIBE)
        for n in range(HALF_OPEN):
            half = plain_socket(served.tcp_port if n % 2 else served.ws_port)
            sockets.enter_context(half).sendall(
                b"\0\0\0\x09half" if n % 2 else b"GET / HTTP/1.1\r\nHost: half"
            )
        async with anyio.create_task_group() as tasks:
            for n in range(GARBAGE):
                port = served.tcp_port if n % 2 else served.ws_port
                tasks.start_soon(send_garbage, port, n, stop)
            for n in range(LEAVING):
                if n % 2:
                    tasks.start_soon(come_and_go, urls[n % 4 // 2], n, stop)
                else:
                    tasks.start_soon(reset_in_the_middle, served.tcp_port, n, stop)
            async with anyio.create_task_group() as good:
                good.start_soon(flood_the_stalled, observer, STALLED * number)
                for group in groups:
                    good.start_soon(group.work)
            active = await metric(observer, "connection.active")
            assert active >= GOOD + 1  # nobody good was lost
            stop.set()

        # Those that are silent are dropped, those that never shook hands given up.
        async def only_the_good() -> bool:
            return await metric(observer, "connection.active") == GOOD + 1

        await until(only_the_good, timeout=PATIENCE)
    async with anyio.create_task_group() as closing:
        for group in groups:
            closing.start_soon(group.close)


async def is_as_before(observer: MessageBrokerClient, served: Served, files: int) -> None:
    async def alone() -> bool:
        return await metric(observer, "connection.active") == 1

    async def no_files() -> bool:
        return served.files() <= files

    await until(alone, timeout=PATIENCE)
    await until(no_files, timeout=PATIENCE)
    topics: Any = (await observer.request("system.topic.list", {})).payload
    assert topics == {"topics": []}
    services: Any = (await observer.request("system.service.list", {})).payload
    assert len(services["services"]) == 1


async def soak(served: Served) -> None:
    async with MessageBrokerClient(served.tcp) as observer:
        files = served.files()
        memory: list[int] = []
        for number in range(1, ROUNDS + 1):
            await play_a_round(served, observer, number)
            await is_as_before(observer, served, files)
            memory.append(served.memory())
        # The first round fills caches and the allocator's arenas; another adds nothing.
        assert memory[-1] < memory[0] + 4 * MEGABYTE, memory
        found: Any = (await observer.request("system.metrics", {})).payload["metrics"]
    assert found["router.message.count"] >= MESSAGES >= 200_000
    assert found["connection.connected.total"] >= ROUNDS * CONNECTIONS >= ROUNDS * 1000
    assert found["connection.cutoff.total"] == ROUNDS * STALLED
    assert found["connection.failed.total"] >= ROUNDS * HALF_OPEN / 2
    assert found["connection.rejected.total"] == 0


def test_the_good_are_served_and_nothing_is_left_of_the_bad(served: Served) -> None:
    async def limited() -> None:
        with anyio.fail_after(170):
            await soak(served)

    anyio.run(limited)
    served.process.send_signal(signal.SIGTERM)
    # No request is outstanding: else the end would wait for it, and say so.
    assert served.process.wait(4) == os.EX_OK
    cut_off = [line for line in served.log if "(max_unread); it is cut off" in line]
    assert len(cut_off) == ROUNDS * STALLED
    assert not [line for line in served.log if "internal error" in line or "Traceback" in line]
    assert not [line for line in served.log if "gave up on" in line]
