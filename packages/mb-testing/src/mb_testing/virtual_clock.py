"""A clock that moves only when nothing else can happen, on asyncio and trio."""

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
    """Runs async code in virtual time. Waits of minutes end at once, in the right order.

    Example::

        VirtualClock().run(main, backend="trio")

    When all tasks wait, and nothing has arrived from a socket or another thread, the time jumps to
    the next timer of the event loop. Otherwise it stands still, however long the code computes. It
    begins at 0 with each run, as `anyio.current_time()` shows.

    It also stands still while worker threads are busy (`anyio.to_thread`, `asyncio.to_thread`,
    `loop.run_in_executor`, name resolution). It can't see work elsewhere, such as a broker in a
    thread of its own or another process; use `patience` for these. With a broker on the same event
    loop, the result is always the same.

    Args:
        patience: How many milliseconds of real time have to pass without an event before the time
            jumps.

    Raises:
        ValueError: The patience is negative or not finite.
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
        """Run `main(*args)` on a new event loop, and return its result.

        Args:
            main: An async function.
            backend: `"asyncio"` or `"trio"`.

        Raises:
            ValueError: There is no such backend, or it is not installed.
        """
        name, options = self.anyio_backend(backend)
        if name == "trio":
            import trio

            # Not by anyio.run, which used to keep the options from trio.
            return trio.run(main, *args, **options)
        return anyio.run(main, *args, backend=name, backend_options=options)

    def anyio_backend(self, backend: str) -> tuple[str, dict[str, Any]]:
        """Return a backend with a new virtual clock, for anyio's fixture `anyio_backend`.

        The clock is for one event loop.

        Args:
            backend: `"asyncio"` or `"trio"`.

        Returns:
            The backend's name and its options.

        Raises:
            ValueError: There is no such backend, or it is not installed.
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


# On asyncio: a loop with its own time, which its selector moves


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
        # It waits for a thread; in newer Pythons with a time limit.
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
    """Moves the loop's time to the next timer instead of waiting for it."""

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
    """An Instrument of trio: stops the clock while threads are busy."""

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
