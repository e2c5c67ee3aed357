"""The loop thread by itself: posting, calling, and its end."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from mb_core import ConnectError, ConnectionLost, LocalProtocolError
from mb_sync import loop_thread as loop_module
from mb_sync.loop_thread import LoopThread, loop_for
from mb_sync.thread_waiter import ThreadWaiter
from mb_testing import wait_until

from .conftest import own_threads


class LoopUser:
    """One that has nothing to close."""

    def close(self, *, drain: bool) -> Future[None] | None:
        return None

    def unsent(self) -> int:
        return 0

    def abort(self) -> None:
        pass


@pytest.fixture
def user() -> LoopUser:
    return LoopUser()


@pytest.fixture
def loop(user: LoopUser) -> Iterator[LoopThread]:
    loop = loop_for(user)
    yield loop
    end(loop, user)


def end(loop: LoopThread, user: LoopUser) -> None:
    loop.post(lambda: loop.release(user))
    loop._thread.join(5)
    assert own_threads() == []


async def name_of_thread() -> str:
    return threading.current_thread().name


def test_a_call_runs_in_the_loop_and_gives_what_it_returns_or_raises(loop: LoopThread) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("in the loop")

    assert loop.call(name_of_thread) == "mb_sync"
    with pytest.raises(ZeroDivisionError, match="in the loop"):
        loop.call(fail)


def test_all_users_share_one_loop_and_the_next_gets_another(user: LoopUser) -> None:
    first, another = loop_for(user), LoopUser()
    assert loop_for(another) is first
    first.call(released, first, user)
    assert first.call(name_of_thread) == "mb_sync"  # it is used still
    end(first, another)
    second = loop_for(user)
    assert second is not first
    end(second, user)


async def released(loop: LoopThread, user: LoopUser) -> None:
    loop.release(user)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def test_what_is_posted_or_called_sees_the_callers_context(loop: LoopThread) -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(variable.get())

    def ask() -> None:
        variable.set("the caller's")
        loop.post(lambda: seen.append(variable.get()))
        loop.call(look)

    contextvars.Context().run(ask)
    assert seen == ["the caller's"] * 2


def test_what_is_posted_runs_in_the_order_of_each_thread(loop: LoopThread) -> None:
    seen: list[tuple[int, int]] = []

    def post(number: int) -> None:
        for count in range(1_000):
            loop.post(lambda count=count: seen.append((number, count)))  # type: ignore[misc]

    run_together(post, 4)
    loop.call(name_of_thread)
    for number in range(4):
        assert [count for who, count in seen if who == number] == list(range(1_000))


def run_together(function: Callable[[int], object], count: int) -> None:
    """Call `function` in `count` threads, with a number each, and wait for all."""
    threads = [threading.Thread(target=function, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_what_is_posted_at_the_very_end_is_called_or_refused() -> None:
    """Never neither: who has posted a request waits for what becomes of it."""
    for _ in range(30):
        user = LoopUser()
        loop = loop_for(user)
        called: list[int] = []
        posted: list[int] = []

        def post(
            number: int,
            loop: LoopThread = loop,
            called: list[int] = called,
            posted: list[int] = posted,
        ) -> None:
            count = 0
            while loop.post(lambda: called.append(number)):
                count += 1
            posted.append(count)

        ending = threading.Timer(
            0.002, loop.post, [lambda loop=loop, user=user: loop.release(user)]
        )
        ending.start()
        run_together(post, 3)
        loop._thread.join(5)
        assert len(called) == sum(posted)
        ending.join()


def test_a_call_that_the_end_cuts_off_says_that_the_client_is_closed(user: LoopUser) -> None:
    loop = loop_for(user)
    began = threading.Event()
    raised: list[BaseException] = []

    async def wait_for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    def call(number: int) -> None:
        try:
            loop.call(wait_for_ever)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, args=(0,))
    thread.start()
    assert began.wait(5)
    end(loop, user)
    thread.join(5)
    assert repr(raised) == repr([ConnectionLost("the client was closed meanwhile", sent=True)])


def test_after_the_end_a_call_says_what_it_can_without_a_loop(user: LoopUser) -> None:
    loop = loop_for(user)
    end(loop, user)

    async def fail() -> None:
        raise ZeroDivisionError

    async def yield_once() -> str:
        await asyncio.sleep(0)
        return "done"

    async def wait_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    assert loop.call(yield_once) == "done"
    with pytest.raises(ZeroDivisionError):
        loop.call(fail)
    assert loop.submit(yield_once) is None
    assert not loop.post(lambda: None)
    loop.join()


def interrupt_when_it_waits(ident: int) -> None:
    wait_until(lambda: sys._current_frames()[ident].f_code is ThreadWaiter.wait.__code__)
    signal.pthread_kill(ident, signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_call_that_is_interrupted_is_cancelled(loop: LoopThread) -> None:
    cancelled = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    async def wait_for_ever() -> None:
        interrupt_when_it_waits(main)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(KeyboardInterrupt):
        loop.call(wait_for_ever)
    assert cancelled.wait(5)


def test_the_loops_own_thread_must_not_wait_for_itself(loop: LoopThread) -> None:
    async def ask() -> None:
        loop.check()

    with pytest.raises(LocalProtocolError, match="thread of its own event loop"):
        loop.call(ask)
    loop.check()


def test_the_loop_may_post_to_itself(loop: LoopThread) -> None:
    seen = threading.Event()
    loop.post(lambda: loop.post(seen.set))
    assert seen.wait(5)


def test_another_thread_with_the_ident_of_one_that_has_ended_is_another(user: LoopUser) -> None:
    """Idents are given again: the client that is closed says so, and no nonsense."""
    loop = loop_for(user)
    end(loop, user)
    idents: list[int] = []

    def check(number: int) -> None:
        loop.check()
        idents.append(threading.get_ident())

    for _ in range(20):
        run_together(check, 1)
    assert len(idents) == 20


def test_where_no_loop_can_be_made_the_caller_hears_of_it(
    user: LoopUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        loop_for(user)
    monkeypatch.undo()
    end(loop_for(user), user)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_where_its_thread_does_not_start_nothing_is_left(
    error: type[BaseException], user: LoopUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name != "mb_sync" or error is KeyboardInterrupt:
            start(thread)  # it comes while this waits for the thread
        if thread.name == "mb_sync":
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ConnectError if error is RuntimeError else error):
            loop_for(user)
    for thread in threading.enumerate():
        if thread.name in own_threads():
            thread.join(5)
    end(loop_for(user), user)


@pytest.mark.parametrize("module", ["gevent.monkey", "eventlet.patcher"])
def test_a_loop_that_can_not_run_beside_another_says_so(
    module: str, user: LoopUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads are greenlets; they are not here, so only the question is answered as there."""
    patcher = SimpleNamespace(
        is_module_patched=lambda name: True, is_monkey_patched=lambda name: True
    )

    async def connect() -> None:
        with pytest.raises(LocalProtocolError, match="threads are greenlets"):
            loop_for(user)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, patcher)
        asyncio.run(connect())
        end(loop_for(user), user)  # no other loop runs here


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_handler_may_wait_for_the_loop_whatever_it_interrupts(loop: LoopThread) -> None:
    """`signal.signal(SIGTERM, lambda *_: client.close())`, in a program that is busy sending."""
    answers: list[str] = []
    before = signal.signal(signal.SIGALRM, lambda *_: answers.append(loop.call(name_of_thread)))
    try:
        with loop.post_lock:  # the place where it hurts: interrupted while it posts
            signal.raise_signal(signal.SIGALRM)
            assert answers == ["mb_sync"]
            loop.post(lambda: loop.post(lambda: None))
            signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert answers == ["mb_sync"] * 2


def test_the_loop_ends_even_though_somebody_posts_at_that_moment(user: LoopUser) -> None:
    loop = loop_for(user)
    tried = threading.Event()

    async def release() -> None:
        loop.release(user)
        tried.set()

    with loop.post_lock:
        loop.submit(release)
        assert tried.wait(5)
        assert loop.post(lambda: None)  # not yet
    loop._thread.join(5)
    assert not loop.post(lambda: None)
    assert own_threads() == []


def test_who_comes_at_the_last_moment_keeps_the_loop_alive(user: LoopUser) -> None:
    loop, late = loop_for(user), LoopUser()
    tried = threading.Event()

    async def release() -> None:
        loop.release(user)
        tried.set()

    with loop.post_lock:
        loop.submit(release)
        assert tried.wait(5)
        assert loop_for(late) is loop
    assert loop.call(name_of_thread) == "mb_sync"
    end(loop, late)


def test_at_exit_all_users_leave_together_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First all drain; what has not ended with that is cut short."""
    monkeypatch.setattr(loop_module, "_EXIT_TIMEOUT", 0.3)
    told: list[tuple[str, bool]] = []

    class Leaving:
        def __init__(self, name: str, *, hangs: bool) -> None:
            self.name = name
            self.hangs = hangs
            self.left: Future[None] = Future()

        def unsent(self) -> int:
            return 0

        def abort(self) -> None:
            raise AssertionError("not necessary")

        def close(self, *, drain: bool) -> Future[None]:
            told.append((self.name, drain))
            if not (drain and self.hangs):
                used.post(self.end)
            return self.left

        def end(self) -> None:
            used.release(self)
            self.left.set_result(None)

    for each in (Leaving("quick", hangs=False), Leaving("slow", hangs=True)):
        used = loop_for(each)
    loop_module._close_all()
    assert sorted(told) == [("quick", True), ("slow", False), ("slow", True)]
    assert own_threads() == []


@pytest.mark.parametrize(
    ("unsent", "aborted"), [([9, 9], True), ([9, 5, 3, 3], True), ([9, 5], False)]
)
def test_at_exit_a_broker_has_time_as_long_as_it_takes_what_it_is_sent(
    unsent: list[int], aborted: bool, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(loop_module, "_EXIT_TIMEOUT", 0.05)

    class Slow:
        def __init__(self) -> None:
            self.left: Future[None] = Future()
            self.aborted = False

        def close(self, *, drain: bool) -> Future[None]:
            return self.left

        def unsent(self) -> int:
            if len(unsent) == 1 and not aborted:
                loop.post(self.end)
            return unsent.pop(0)

        def abort(self) -> None:
            self.aborted = True
            self.end()

        def end(self) -> None:
            loop.release(self)
            self.left.set_result(None)

    slow = Slow()
    loop = loop_for(slow)
    loop_module._close_all()
    assert slow.aborted == aborted
    assert unsent == []
    assert ("what was published last may not have arrived" in caplog.text) == aborted
    assert own_threads() == []
