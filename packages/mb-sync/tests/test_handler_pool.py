"""The threads of handlers by themselves."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from mb_sync import handler_pool as pool_module
from mb_sync.handler_pool import HandlerPool
from mb_testing import wait_until

from .conftest import own_threads

T = TypeVar("T")


def with_pool(main: Callable[[HandlerPool], Awaitable[T]], *, keep_one_thread: bool = False) -> T:
    """Run `main` with a pool; no thread but those within a call is left then."""

    async def run() -> T:
        loop = asyncio.get_running_loop()

        def post(function: Callable[[], object]) -> bool:
            try:
                loop.call_soon_threadsafe(function)
            except RuntimeError:
                return False
            return True

        pool = HandlerPool(post)
        if keep_one_thread:
            pool.keep_one_thread()
        try:
            return await main(pool)
        finally:
            pool.close()
            pool.join()

    return asyncio.run(run())


def no_threads(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_gives_what_the_function_returns_or_raises() -> None:
    async def main(pool: HandlerPool) -> None:
        assert await pool.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 7, 0)

    with_pool(main)
    assert own_threads() == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
def test_what_would_end_something_else_ends_the_call_only(kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind("good bye")

    async def main(pool: HandlerPool) -> None:
        with pytest.raises(RuntimeError, match=f"{kind.__name__} in a handler's thread: good bye"):
            await pool.run(leave)

    with_pool(main)


def test_calls_run_at_the_same_time_and_threads_are_used_again() -> None:
    together = threading.Barrier(8, timeout=5)

    def meet() -> str:
        together.wait()
        return threading.current_thread().name

    async def main(pool: HandlerPool) -> None:
        first = await asyncio.gather(*(pool.run(meet) for _ in range(8)))
        assert len(set(first)) == 8
        again = await asyncio.gather(*(pool.run(meet) for _ in range(8)))
        assert set(again) <= set(own_threads())
        # Those that were not idle yet have had one more started in their place.
        assert len(set(first + again)) < 16

    with_pool(main)
    assert own_threads() == []


def test_a_call_is_made_in_the_context_of_who_asks_and_keeps_its_changes() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def change() -> str:
        before = variable.get()
        variable.set("the call's")
        return before

    async def main(pool: HandlerPool) -> None:
        variable.set("the task's")
        assert await pool.run(change) == "the task's"
        assert await pool.run(change) == "the task's"
        assert variable.get() == "the task's"

    with_pool(main)


def test_a_thread_that_has_nothing_to_do_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_IDLE_TIMEOUT", 0.01)

    async def main(pool: HandlerPool) -> None:
        thread = await pool.run(threading.current_thread)
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
        assert pool.idle == []
        assert not pool.threads
        assert await pool.run(divmod, 7, 2) == (3, 1)  # in another

    with_pool(main)


def test_a_call_that_comes_when_a_thread_is_about_to_end_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads that are idle for no time at all: each call meets one that is ending, or another."""
    monkeypatch.setattr(pool_module, "_IDLE_TIMEOUT", 0)

    async def main(pool: HandlerPool) -> None:
        for number in range(500):
            assert await asyncio.wait_for(pool.run(abs, -number), 5) == number

    with_pool(main)


def test_the_thread_that_stands_by_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_IDLE_TIMEOUT", 0)

    async def main(pool: HandlerPool) -> None:
        monkeypatch.setattr(threading.Thread, "start", no_threads)
        threads = {await pool.run(threading.current_thread) for _ in range(100)}
        assert len(threads) == 1

    with_pool(main, keep_one_thread=True)
    assert own_threads() == []


def test_where_no_thread_can_be_started_those_that_there_are_make_the_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(pool: HandlerPool) -> None:
        monkeypatch.setattr(threading.Thread, "start", no_threads)
        for _ in range(50):
            calls = [pool.run(abs, -number) for number in range(20)]
            assert await asyncio.wait_for(asyncio.gather(*calls), 5) == list(range(20))

    with_pool(main, keep_one_thread=True)


def test_where_there_is_no_thread_at_all_the_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(pool: HandlerPool) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_threads)
            pool.keep_one_thread()  # it can't
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await pool.run(abs, -1)
        assert await pool.run(abs, -1) == 1

    with_pool(main)


def test_a_cancelled_call_goes_on_and_its_outcome_is_nobodys() -> None:
    began, go = threading.Event(), threading.Event()
    ended = threading.Event()

    def work() -> None:
        began.set()
        go.wait(5)
        ended.set()
        raise ValueError("nobody hears it")

    async def main(pool: HandlerPool) -> None:
        task = asyncio.ensure_future(pool.run(work))
        await asyncio.to_thread(began.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await asyncio.to_thread(ended.wait, 5)
        assert await pool.run(abs, -1) == 1

    with_pool(main)


def test_a_call_that_hangs_keeps_nobody_from_closing() -> None:
    began, go = threading.Event(), threading.Event()

    def hang() -> threading.Thread:
        began.set()
        go.wait(5)
        return threading.current_thread()

    async def main(pool: HandlerPool) -> None:
        task = asyncio.ensure_future(pool.run(hang))
        await asyncio.to_thread(began.wait, 5)
        task.cancel()

    with_pool(main)
    assert len(own_threads()) == 1
    [thread] = [each for each in threading.enumerate() if each.name in own_threads()]
    go.set()
    thread.join(5)  # and ends behind its call, for the pool is closed
    assert own_threads() == []


def wait_idle(pool: HandlerPool) -> None:
    wait_until(lambda: len(pool.idle) >= len(pool.threads))


def test_an_idle_thread_holds_nothing_of_its_last_call() -> None:
    class Big:
        pass

    def use(big: Big) -> Any:
        return weakref.ref(big)

    async def main(pool: HandlerPool) -> None:
        reference = await pool.run(use, Big())
        await asyncio.to_thread(wait_idle, pool)
        gc.collect()
        assert reference() is None

    with_pool(main, keep_one_thread=True)
