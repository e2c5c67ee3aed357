"""The virtual clock: it jumps where all wait, and stands still where anything else can happen."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from mb_broker import Broker
from mb_core import (
    ConnectError,
    MessageBrokerClient,
    RequestTimeoutError,
    ServiceUnavailableError,
)
from mb_testing import VirtualClock

BACKENDS = ["asyncio", "trio"]
Run = Callable[..., Any]


@contextmanager
def soon(seconds: float = 2.0) -> Iterator[None]:
    """The block takes no real time to speak of, on a machine that may be busy."""
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < seconds


@pytest.fixture(params=BACKENDS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run an async function in virtual time, on each event loop."""
    return lambda main, *args, **options: VirtualClock(**options).run(
        main, *args, backend=request.param
    )


# Time


def test_it_begins_at_nothing_and_moves_by_what_is_waited_for(run: Run) -> None:
    async def main() -> list[float]:
        seen = [anyio.current_time()]
        for seconds in (0.001, 60, 86_400 * 400):
            await anyio.sleep(seconds)
            seen.append(anyio.current_time())
        return seen

    with soon():
        seen = run(main)
    assert seen == pytest.approx([0, 0.001, 60.001, 86_400 * 400 + 60.001])
    assert run(main) == seen


def test_many_sleepers_wake_in_the_order_of_their_times(run: Run) -> None:
    async def main() -> list[tuple[float, int]]:
        woken: list[tuple[float, int]] = []

        async def sleep(number: int) -> None:
            await anyio.sleep(number)
            woken.append((anyio.current_time(), number))

        async with anyio.create_task_group() as tasks:
            for number in (7, 3, 100, 1, 50):
                tasks.start_soon(sleep, number)
        return woken

    assert run(main) == [(each, each) for each in (1, 3, 7, 50, 100)]


def test_computing_takes_no_time(run: Run) -> None:
    async def main() -> float:
        with anyio.fail_after(0.001):
            time.sleep(0.02)  # noqa: ASYNC251 - it computes
            await anyio.lowlevel.checkpoint()
        return anyio.current_time()

    assert run(main) == 0


def test_a_task_that_never_waits_holds_the_time(run: Run) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.001) as scope:
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught

    run(main)


def test_what_comes_at_once_comes_before_a_time_limit(run: Run) -> None:
    near, far = socket.socketpair()

    async def main() -> bytes:
        near.setblocking(False)
        far.send(b"here")
        with anyio.fail_after(0.001):
            await anyio.wait_readable(near)
        return near.recv(10)

    with near, far:
        assert run(main) == b"here"


def test_it_gives_what_main_returns_and_raises_what_it_raises(run: Run) -> None:
    async def add(one: int, two: int) -> int:
        return one + two

    async def fail() -> None:
        raise KeyError("mine")

    assert run(add, 1, 2) == 3
    with pytest.raises(KeyError, match="mine"):
        run(fail)


# Threads


def sleep_and_answer() -> str:
    time.sleep(0.05)
    return "answer"


@pytest.mark.parametrize(
    ("call", "backends"),
    [
        (lambda: anyio.to_thread.run_sync(sleep_and_answer), BACKENDS),
        (lambda: asyncio.to_thread(sleep_and_answer), ["asyncio"]),
        (
            lambda: asyncio.get_running_loop().run_in_executor(None, sleep_and_answer),
            ["asyncio"],
        ),
        (lambda: trio.to_thread.run_sync(sleep_and_answer), ["trio"]),
    ],
    ids=["anyio", "asyncio", "executor", "trio"],
)
def test_while_a_worker_thread_is_busy_the_time_stands_still(
    call: Callable[[], Awaitable[str]], backends: list[str]
) -> None:
    async def main() -> None:
        for _ in range(2):
            with anyio.fail_after(0.001):
                assert await call() == "answer"
        assert anyio.current_time() == 0
        await anyio.sleep(60)
        assert anyio.current_time() == 60

    for backend in backends:
        with soon():
            VirtualClock().run(main, backend=backend)


def test_a_thread_that_calls_back_holds_the_time_until_it_ends(run: Run) -> None:
    async def look() -> float:
        return anyio.current_time()

    def work() -> list[float]:
        seen = []
        for _ in range(5):
            time.sleep(0.005)
            seen.append(anyio.from_thread.run(look))
        return seen

    async def main() -> list[float]:
        with anyio.fail_after(0.001):
            return await anyio.to_thread.run_sync(work)

    assert run(main) == [0] * 5


def test_a_thread_of_ones_own_is_waited_for_with_patience(run: Run) -> None:
    async def main() -> float:
        near, far = socket.socketpair()
        near.setblocking(False)

        def answer() -> None:
            time.sleep(0.02)
            far.send(b".")

        with near, far:
            thread = threading.Thread(target=answer)
            thread.start()
            with anyio.move_on_after(1):
                await anyio.wait_readable(near)
            thread.join()
        return anyio.current_time()

    assert run(main) == 1
    assert run(main, patience=10_000) == 0


def test_patience_is_real_time_for_each_jump(run: Run) -> None:
    async def main() -> None:
        for _ in range(3):
            await anyio.sleep(60)

    began = time.perf_counter()
    run(main, patience=20)
    assert time.perf_counter() - began >= 0.06


# The library


def test_a_limit_of_the_librarys_takes_no_time(run: Run) -> None:
    async def main() -> None:
        async with Broker("memory://") as broker, MessageBrokerClient(broker.url) as client:
            await client.subscribe(
                "never", action="request", handler=lambda _: anyio.sleep_forever()
            )
            with pytest.raises(RequestTimeoutError):
                await client.request("never", {}, timeout=3_600_000)
            assert 3600 <= anyio.current_time() < 3601
            assert client.stats().reconnects == 0

    with soon():
        run(main)


@pytest.mark.parametrize(
    ("scheme", "patience", "seconds"),
    [("memory://", 0, 3600), ("tcp://127.0.0.1:0", 5, 120), ("ws://127.0.0.1:0", 5, 120)],
)
def test_an_idle_while_passes_with_all_its_heartbeats(
    run: Run, scheme: str, patience: float, seconds: int
) -> None:
    async def main() -> int:
        async with Broker(scheme) as broker, MessageBrokerClient(broker.url) as client:
            before = client.stats().messages_sent
            await anyio.sleep(seconds)
            assert client.connected
            assert client.stats().reconnects == 0
            return client.stats().messages_sent - before

    with soon(10):
        # After 15 s of silence, which is checked every 15 s.
        assert seconds / 30 <= run(main, patience=patience) <= seconds / 15


def test_back_off_waits_for_minutes_and_is_random_within_its_bounds(run: Run) -> None:
    async def main() -> list[float]:
        tried: list[float] = []
        client = MessageBrokerClient(
            "memory://nobody",
            retry_connect=True,
            backoff_min=1_000,
            backoff_max=600_000,
            reconnect_timeout=3_600_000,
        )
        client.on_error(lambda _: tried.append(anyio.current_time()))
        with pytest.raises(ConnectError, match="reconnect_timeout"):
            await client.connect()
        assert anyio.current_time() == pytest.approx(3600)
        return tried

    with soon():
        tried = run(main)
    waits = [later - before for before, later in itertools.pairwise(tried)]
    assert len(waits) >= 9
    assert all(wait <= min(600, 2**n) for n, wait in enumerate(waits))
    assert max(waits) > 15


def test_a_service_that_is_closed_drains_for_as_long_as_it_may(run: Run) -> None:
    async def main() -> float:
        async with Broker("memory://") as broker, MessageBrokerClient(broker.url) as client:
            service = MessageBrokerClient(broker.url, drain_timeout=300_000)
            await service.connect()
            asked = anyio.Event()

            async def hang(message: object) -> None:
                asked.set()
                await anyio.sleep_forever()

            await service.subscribe("slow", action="request", handler=hang)
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(ServiceUnavailableError):
                        await client.request("slow", {}, timeout=600_000)

                tasks.start_soon(ask)
                await asked.wait()
                began = anyio.current_time()
                await service.close()
                return anyio.current_time() - began

    with soon():
        assert run(main) == pytest.approx(300, abs=0.01)


# What can't be


def test_arguments_that_cant_be_say_what_can() -> None:
    async def main() -> None: ...

    with pytest.raises(ValueError, match="'asyncio' or 'trio'"):
        VirtualClock().run(main, backend="curio")
    for patience in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"patience .*milliseconds"):
            VirtualClock(patience=patience)


def test_without_trio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio.testing", None)
    with pytest.raises(ValueError, match=r"pip install 'mb-core\[trio\]'"):
        VirtualClock().anyio_backend("trio")
