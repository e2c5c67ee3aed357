"""Time that passes only when nothing else can happen, on asyncio and trio."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from trio.testing import MockClock

__all__ = ["VirtualClock"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualClock:
    """Runs async code in virtual time: waits of minutes are over in no time, in their order.

        VirtualClock().run(main, backend="trio")

    When all tasks wait, and nothing has come from a socket or another thread, the time jumps to
    the next timer, be it of the library's, of anyio's, asyncio's or trio's.  Meanwhile it stands
    still, however long the code computes.  It begins at 0 with each run: `anyio.current_time()`.

    It stands still, too, while worker threads are busy (`anyio.to_thread`, `asyncio.to_thread`,
    `loop.run_in_executor`, name resolution).  It can't know of work elsewhere: a broker in a
    thread of its own, another process.  Where a test waits for such, `patience` is for how many
    milliseconds of real time nothing must have happened before the time jumps; better is a broker
    on the same event loop, with which 0 is enough and the outcome always the same.
    """

    def __init__(self, *, patience: float = 0) -> None:
        if not 0 <= patience < math.inf:
            raise ValueError(f"invalid patience {patience!r}: milliseconds, 0 or more")
        self._patience = patience / 1000

    def run(
        self,
        main: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        backend: str = "asyncio",
    ) -> T:
        """Run `main(*args)` on a new event loop, "asyncio" or "trio"; give what it returns.

        Raises what it raises, and ValueError for another backend.
        """
        name, options = self.anyio_backend(backend)
        if name == "trio":
            import trio

            # Not by anyio.run, which used to keep the options from trio.
            return trio.run(main, *args, **options)
        return anyio.run(main, *args, backend=name, backend_options=options)

    def anyio_backend(self, backend: str) -> tuple[str, dict[str, Any]]:
        """Name and options of a backend, as the fixture `anyio_backend` of anyio gives them.

        For one event loop: each call makes another clock.
        """
        if backend == "asyncio":
            return backend, {"loop_factory": lambda: _VirtualLoop(self._patience)}
        if backend == "trio":
            try:
                from trio.testing import MockClock
            except ImportError as error:
                text = "trio is not installed: pip install 'mb-core[trio]'"
                raise ValueError(text) from error
            clock = MockClock(autojump_threshold=self._patience)
            return backend, {"clock": clock, "instruments": [_ThreadWatch(clock)]}
        raise ValueError(f"unknown backend {backend!r}: 'asyncio' or 'trio'")


# On asyncio: a loop with a time of its own, which its selector moves


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, patience: float) -> None:
        self.now = 0.0
        self._calls = 0  # of executors, under way
        super().__init__(_JumpingSelector(self, patience))

    def time(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
        # The loop calls what is due within a nanosecond: after months, the clock is too coarse.
        if self.now + 1e-9 == self.now:
            self.now = math.nextafter(self.now, math.inf)

    def threads_are_busy(self) -> bool:
        if self._calls:
            return True
        limiter = anyio.to_thread.current_default_thread_limiter()
        return limiter.borrowed_tokens > 0

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._calls += 1
        future.add_done_callback(self._call_ended)
        return future

    def _call_ended(self, future: object) -> None:
        self._calls -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        # It waits for a thread, and in newer Pythons not for ever.
        with self._busy():
            await super().shutdown_default_executor(*args)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """In place of waiting for a timer, moves the loop's time to it."""

    def __init__(self, loop: _VirtualLoop, patience: float) -> None:
        super().__init__()
        self._loop = loop
        self._patience = patience

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        if timeout > 0 and self._loop.threads_are_busy():
            return super().select(None)  # their end wakes the loop
        found = super().select(self._patience if timeout > 0 else 0)
        if not found:
            self._loop.move(max(timeout, 0))
        return found


# On trio: its MockClock, kept from jumping while threads work


class _ThreadWatch:
    """An Instrument of trio's."""

    def __init__(self, clock: MockClock) -> None:
        import trio

        self._clock = clock
        self._patience = clock.autojump_threshold
        self._limiter = trio.to_thread.current_default_thread_limiter

    def after_task_step(self, task: object) -> None:
        # Calls of threads begin and end in steps of tasks.
        threshold = math.inf if self._limiter().borrowed_tokens else self._patience
        if threshold != self._clock.autojump_threshold:
            self._clock.autojump_threshold = threshold
