"""What core needs of an event loop besides Links: waiters, posters, root tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio

from mb_broker import Broker
from mb_core import MessageBrokerClient
from mb_core.link import Poster, current_backend

pytestmark = pytest.mark.anyio


# Waiters


async def test_a_waiter_gives_what_is_set_while_it_is_awaited() -> None:
    waiter = current_backend().waiter()
    got: list[str] = []

    async def wait() -> None:
        got.append(await waiter)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not waiter.done()
            waiter.set_result("value")
            assert waiter.done()
            assert got == []  # not within set_result
    assert got == ["value"]


async def test_a_waiter_that_was_set_before_gives_its_value_at_once() -> None:
    waiter = current_backend().waiter()
    waiter.set_result(None)
    with anyio.fail_after(5):
        assert await waiter is None


async def test_a_cancelled_waiter_is_done_and_nobody_waits_for_it() -> None:
    waiter = current_backend().waiter()
    with anyio.fail_after(5):
        with anyio.move_on_after(0.01) as scope:
            await waiter
        assert scope.cancelled_caught
        assert waiter.done()


async def test_a_value_that_is_set_as_the_wait_is_cancelled_harms_nothing() -> None:
    waiter = current_backend().waiter()
    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_wait_for, waiter)
                await anyio.wait_all_tasks_blocked()
                waiter.set_result("value")
                scope.cancel()
        assert waiter.done()


async def _wait_for(waiter: Any) -> None:
    await waiter


# Checkpoints


async def test_a_checkpoint_lets_others_run_and_can_be_cancelled() -> None:
    ran: list[str] = []

    async def other() -> None:
        ran.append("other")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(3):
                await current_backend().checkpoint()
            assert ran == ["other"]
        with anyio.CancelScope() as scope:
            scope.cancel()
            await current_backend().checkpoint()
            pytest.fail("not cancelled")
        assert scope.cancelled_caught


# Posters


@pytest.mark.parametrize("from_thread", [True, False], ids=["another thread", "the same"])
async def test_posted_functions_run_later_in_order_in_the_loops_thread(from_thread: bool) -> None:
    post = current_backend().poster()
    ran: list[tuple[int, int]] = []
    done = anyio.Event()

    def post_all() -> None:
        for n in range(100):
            assert post(lambda n=n: ran.append((n, threading.get_ident())))  # type: ignore[misc]
        assert post(done.set)

    with anyio.fail_after(5):
        if from_thread:
            thread = threading.Thread(target=post_all)
            thread.start()
        else:
            post_all()
            assert ran == []
        await done.wait()
        if from_thread:
            await anyio.to_thread.run_sync(thread.join)
    assert ran == [(n, threading.get_ident()) for n in range(100)]


RUNS: dict[str, Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]] = {
    "asyncio": lambda main: asyncio.run(main()),
    "trio": lambda main: trio.run(main),
}


@pytest.mark.parametrize("loop", RUNS)
@pytest.mark.parametrize("from_thread", [True, False], ids=["another thread", "the same"])
def test_posting_to_a_loop_that_has_ended_says_so(loop: str, from_thread: bool) -> None:
    async def main() -> Poster:
        return current_backend().poster()

    def post_late() -> None:
        outcomes.append(post(lambda: outcomes.append(True)))

    post = RUNS[loop](main)
    outcomes: list[bool] = []
    if from_thread:
        thread = threading.Thread(target=post_late)
        thread.start()
        thread.join(5)
    else:
        post_late()
    assert outcomes == [False]


# Root tasks


async def test_a_root_task_is_held_by_no_scope_of_the_caller() -> None:
    backend = current_backend()
    ended = anyio.Event()
    go_on = anyio.Event()

    async def root() -> None:
        await go_on.wait()
        ended.set()

    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group():
                kept = backend.spawn_root(root)
            scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not ended.is_set()
        go_on.set()
        await ended.wait()
    assert kept is not None


@pytest.mark.parametrize("loop", RUNS)
def test_a_root_task_ends_with_its_loop(loop: str) -> None:
    ends: list[str] = []

    async def root() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("cancelled")

    async def main() -> object:
        kept = current_backend().spawn_root(root)
        await anyio.wait_all_tasks_blocked()
        return kept

    RUNS[loop](main)
    assert ends == ["cancelled"]


@pytest.mark.parametrize("loop", RUNS)
def test_a_task_is_started_in_a_group_whoever_runs_the_loop(loop: str) -> None:
    """Also by a callback of asyncio's, of which anyio does not know whose it is."""
    reports: list[dict[str, Any]] = []

    async def main() -> None:
        backend = current_backend()
        post = backend.poster()
        started = anyio.Event()

        async def task() -> None:
            started.set()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                if loop == "asyncio":
                    asyncio.get_running_loop().set_exception_handler(
                        lambda _, context: reports.append(context)
                    )
                    post(lambda: backend.start_in(group, task))
                else:
                    backend.start_in(group, task)
                await started.wait()
            if loop == "asyncio":
                post(lambda: backend.start_in(group, anyio.sleep_forever))
                await anyio.wait_all_tasks_blocked()

    RUNS[loop](main)
    assert reports == []


# Connecting


class _LikeUvloopTransport:
    """A transport that, like uvloop's, does not say that it is closed, and then does nothing."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._dead = False

    def die(self) -> None:
        self._dead = True
        self._transport.set_protocol(asyncio.Protocol())
        self._transport.abort()

    def is_closing(self) -> bool:
        return not self._dead and self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        if self._dead and name in ("resume_reading", "pause_reading", "write", "write_eof"):
            raise RuntimeError("the handler is closed")
        return getattr(self._transport, name)


class _LikeUvloop(asyncio.SelectorEventLoop):
    """A loop that, like uvloop, never calls connection_lost if create_connection is cancelled."""

    async def create_connection(self, factory: Any, *args: Any, **options: Any) -> Any:
        protocol = factory()
        transport, _ = await super().create_connection(asyncio.Protocol, *args, **options)
        transport.set_protocol(protocol)
        like_uvloop: Any = _LikeUvloopTransport(transport)
        protocol.connection_made(like_uvloop)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            like_uvloop.die()
            raise
        return like_uvloop, protocol


@pytest.mark.parametrize("how", ["cancel", "close", "both"])
def test_connecting_can_be_ended_at_any_moment_on_a_loop_that_forgets_its_protocol(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Broker("tcp://127.0.0.1:0") as broker:
            connected = False
            turns = 0
            while not connected:
                client = MessageBrokerClient(broker.url)
                connecting = asyncio.ensure_future(client.connect())
                for _ in range(turns):
                    await asyncio.sleep(0)
                async with asyncio.timeout(5):
                    closing = asyncio.ensure_future(client.close()) if how != "cancel" else None
                    if how == "both":
                        await asyncio.sleep(0)
                    if how != "close":
                        connecting.cancel()
                    await asyncio.wait([connecting])
                    await (closing if closing is not None else client.close())
                    await client.close()
                connected = not connecting.cancelled() and connecting.exception() is None
                turns += 1

    with asyncio.Runner(loop_factory=_LikeUvloop) as runner:
        runner.run(main())
    assert "internal error" not in caplog.text
