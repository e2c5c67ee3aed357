"""A queue: who of those that wait is woken, and that no message is left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core import ConnectionLost, Message, parse_message
from mb_core.client.queue import MessageQueue
from mb_core.link import current_backend

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


def messages(*numbers: int) -> list[Message]:
    return [parse_message(f"publish:a:1.0.0\n{number}") for number in numbers]


def queue_of(size: int | None = None, overflow: str = "drop_newest") -> MessageQueue:
    return MessageQueue(size, overflow)


async def take(queue: MessageQueue) -> int | None:
    """What a consumer does: the next message, or None behind the last."""
    while not queue:
        if queue.ended:
            return None
        await queue.wait(current_backend())
    number: int = queue.take().payload
    return number


async def turns(count: int) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


class Consumers:
    """Tasks that take one message each."""

    def __init__(self, queue: MessageQueue, tasks: anyio.abc.TaskGroup, count: int) -> None:
        self.got: list[int | None] = []
        self.scopes = [anyio.CancelScope() for _ in range(count)]
        self.waiting = count
        for scope in self.scopes:
            tasks.start_soon(self._take, queue, scope)

    async def _take(self, queue: MessageQueue, scope: anyio.CancelScope) -> None:
        with scope:
            self.got.append(await take(queue))
        self.waiting -= 1


async def test_who_waits_is_woken_by_a_message() -> None:
    queue = queue_of()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            consumers = Consumers(queue, tasks, 1)
            await anyio.wait_all_tasks_blocked()
            assert queue.put(messages(1)) == []
    assert consumers.got == [1]


async def test_as_many_are_woken_as_there_are_messages() -> None:
    queue = queue_of()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            consumers = Consumers(queue, tasks, 4)
            await anyio.wait_all_tasks_blocked()
            queue.put(messages(1, 2))
            await anyio.wait_all_tasks_blocked()
            assert consumers.waiting == 2
            queue.put(messages(3, 4))
    assert consumers.got == [1, 2, 3, 4]


async def test_what_was_put_while_nobody_waited_is_taken_at_once() -> None:
    queue = queue_of()
    queue.put(messages(1, 2))
    assert [await take(queue), await take(queue)] == [1, 2]


async def test_what_does_not_fit_is_given_back() -> None:
    queue = queue_of(2)
    assert [message.payload for message in queue.put(messages(1, 2, 3))] == [3]
    assert queue.dropped == 1


async def test_the_end_wakes_everybody_and_what_was_put_before_still_comes() -> None:
    queue = queue_of()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            consumers = Consumers(queue, tasks, 3)
            await anyio.wait_all_tasks_blocked()
            queue.put(messages(1))
            queue.end(None)
    assert sorted(consumers.got, key=str) == [1, None, None]
    assert await take(queue) is None


async def test_only_the_first_end_counts() -> None:
    queue = queue_of()
    queue.end(lambda: ConnectionLost("first", sent=True))
    queue.end(None)
    assert queue.ended
    assert queue.error is not None
    assert str(queue.error()) == "first"


async def test_consumers_that_were_cancelled_are_forgotten() -> None:
    queue = queue_of()
    async with anyio.create_task_group() as tasks:
        consumers = Consumers(queue, tasks, 3)
        await anyio.wait_all_tasks_blocked()
        for scope in consumers.scopes:
            scope.cancel()
    assert queue._idle == []


TURNS = range(5)


@pytest.mark.parametrize("first", ["messages", "cancellation"])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_whoever_is_cancelled_at_whatever_point_no_message_waits_for_somebody_who_waits(
    count: int, first: str
) -> None:
    """Three consumers, one or two of them cancelled: the others take what there is."""
    everybody = range(3)
    some = [each for size in (1, 2) for each in itertools.combinations(everybody, size)]
    with anyio.fail_after(20):
        for cancelled, before, between in itertools.product(some, TURNS, TURNS):
            queue = queue_of()
            async with anyio.create_task_group() as tasks:
                consumers = Consumers(queue, tasks, 3)
                await turns(before)

                def cancel(
                    consumers: Consumers = consumers, cancelled: tuple[int, ...] = cancelled
                ) -> None:
                    for number in cancelled:
                        consumers.scopes[number].cancel()

                def put(queue: MessageQueue = queue) -> None:
                    queue.put(messages(*range(count)))

                steps: list[Callable[[], None]] = [put, cancel]
                if first == "cancellation":
                    steps.reverse()
                steps[0]()
                await turns(between)
                steps[1]()
                await anyio.wait_all_tasks_blocked()
                assert not (queue and consumers.waiting)
                # Each once, and in order, by any consumer.
                left = [message.payload for message in queue.waiting]
                assert sorted([*consumers.got, *left]) == list(range(count))
                assert left == sorted(left)
                queue.end(None)


@pytest.mark.parametrize("first", ["messages", "cancellation"])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_asyncios_own_cancellation_leaves_no_message_behind_either(
    anyio_backend_name: str, count: int, first: str
) -> None:
    """It reaches a task that was woken already, which anyio's does not."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own")
    for cancelled, before, between in itertools.product(range(3), TURNS, TURNS):
        queue = queue_of()
        tasks = [asyncio.ensure_future(take(queue)) for _ in range(3)]
        await turns(before)
        if first == "messages":
            queue.put(messages(*range(count)))
            await turns(between)
        tasks[cancelled].cancel()
        if first == "cancellation":
            await turns(between)
            queue.put(messages(*range(count)))
        await anyio.wait_all_tasks_blocked()
        assert not queue or all(task.done() for task in tasks)
        left: list[Any] = [message.payload for message in queue.waiting]
        queue.end(None)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        numbers = [each for each in outcomes if isinstance(each, int)]
        assert sorted([*numbers, *left]) == list(range(count))
