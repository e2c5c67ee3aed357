"""Waiting for what the loop does: hand-overs of messages by the thousand, and their races."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from mb_core import Action, Message, MessageHeader, create_message, parse_message
from mb_core.hosted_client import MessageQueue
from mb_sync import thread_waiter as waiting
from mb_sync.loop_thread import LoopThread
from mb_sync.thread_queue import ThreadQueue
from mb_sync.thread_waiter import ThreadWaiter, wait_for_message


def message(number: int = 0) -> Message:
    return parse_message(create_message(MessageHeader(Action.PUBLISH, "a.b"), number))


class Loop(LoopThread):
    """One whose thread is that of the test."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], object]] = []

    def post(self, function: Callable[[], object]) -> bool:
        self.posted.append(function)
        return True


@pytest.fixture(params=[0.001, 1000.0], ids=["in slices", "at once"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are much longer than a slice, and much shorter."""
    monkeypatch.setattr(waiting, "_SLICE", request.param)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("timeout", [None, 5, 10**15])
def test_a_value_is_waited_for(timeout: float | None) -> None:
    waiter = ThreadWaiter()
    assert not waiter.done()
    timer = threading.Timer(0.02, waiter.set_result, [17])
    timer.start()
    assert waiter.wait(timeout)
    assert waiter.done()
    assert waiter.result == 17
    timer.join()


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_value_that_does_not_come_is_not_waited_for_longer(timeout: float) -> None:
    waiter = ThreadWaiter()
    began = time.monotonic()
    assert not waiter.wait(timeout)
    assert timeout <= time.monotonic() - began < 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("timeout", [None, 30])
def test_a_signal_that_does_not_wake_the_thread_ends_the_wait_all_the_same(
    timeout: float | None,
) -> None:
    """As one does that comes just before the wait begins; here, another thread gets it."""
    waiter = ThreadWaiter()
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        waiter.wait(timeout)
    assert time.monotonic() - began < 10
    timer.join()


# Messages


def queue_of(size: int | None = None, overflow: str = "drop_newest") -> MessageQueue:
    return ThreadQueue(size, overflow)


def test_what_is_there_already_is_not_waited_for() -> None:
    queue = queue_of()
    queue.put([message()])
    assert wait_for_message(queue, Loop().post, 0)
    queue.take()
    assert not wait_for_message(queue, Loop().post, 0)
    queue.end(None)
    assert wait_for_message(queue, Loop().post)
    assert queue._idle == []


class Rushing(ThreadWaiter):
    """A waiter for which something happens when its wait begins."""

    happens: Callable[[], object]

    def wait(self, timeout: float | None = None) -> bool:
        type(self).happens()
        return super().wait(timeout)


def test_one_that_comes_when_the_time_is_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of()

    class Late(Rushing):
        def wait(self, timeout: float | None = None) -> bool:
            assert not super().wait(timeout)
            queue.put([message()])
            return False

    Late.happens = lambda: None
    monkeypatch.setattr(waiting, "ThreadWaiter", Late)
    assert wait_for_message(queue, Loop().post, 0)
    assert len(queue) == 1


@pytest.mark.parametrize("woken", [True, False])
def test_who_is_interrupted_leaves_no_message_without_a_taker(
    woken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, loop, other = queue_of(), Loop(), ThreadWaiter()
    queue.add_waiter(other)

    class Interrupted(Rushing):
        pass

    def interrupt() -> None:
        if woken:
            queue.put([message()])  # the one who came last is woken
            assert not other.done()
        raise KeyboardInterrupt

    Interrupted.happens = staticmethod(interrupt)
    monkeypatch.setattr(waiting, "ThreadWaiter", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        wait_for_message(queue, loop.post)
    for function in loop.posted:
        function()
    assert other.done() is woken
    assert queue._idle == ([] if woken else [other])


def consume(queue: MessageQueue, seen: list[int], *, timeout: float | None) -> None:
    loop = Loop()
    while True:
        ended = queue.ended
        try:
            seen.append(queue.take().payload)
        except IndexError:
            if ended:
                return
            wait_for_message(queue, loop.post, timeout)


@pytest.mark.parametrize("timeout", [None, 0.0005])
@pytest.mark.parametrize("consumers", [1, 4])
def test_of_thousands_of_handovers_each_message_is_seen_once(
    consumers: int, timeout: float | None
) -> None:
    """In bursts with pauses between them, so that consumers come and go all the time."""
    queue = queue_of()
    seen: list[list[int]] = [[] for _ in range(consumers)]
    threads = [
        threading.Thread(target=consume, args=(queue, own), kwargs={"timeout": timeout})
        for own in seen
    ]
    for thread in threads:
        thread.start()
    numbers = iter(range(5_000))
    for burst in range(1_000):
        queue.put([message(next(numbers)) for _ in range(burst % 9 + 1)])
    rest = [message(number) for number in numbers]
    queue.put(rest)
    queue.end(None)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(number for own in seen for number in own) == list(range(5_000))
    assert all(own == sorted(own) for own in seen)
    assert queue._idle == []


def test_each_of_many_messages_wakes_somebody_who_waits() -> None:
    """One at a time, and the next when it was taken: a lost wake-up would be the end of it."""
    queue = queue_of()
    taken = threading.Semaphore(0)

    def take() -> None:
        while not (queue.ended and not queue.waiting):
            try:
                queue.take()
            except IndexError:
                wait_for_message(queue, Loop().post)
            else:
                taken.release()

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3_000):
        queue.put([message()])
        assert taken.acquire(timeout=5)
    queue.end(None)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
