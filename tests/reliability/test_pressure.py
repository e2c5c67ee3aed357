"""More than a connection takes: what never left this process is sent by the next one."""

from __future__ import annotations

import itertools
import time
from typing import Any

import anyio
import pytest

from mb_client import ConnectionLost, RequestTimeoutError
from mb_testing.proxy import NORMAL, STALLED, Cut, Direction

from .scene import Scene, scene
from .traffic import MARGIN, PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

# All of them are more than the buffers of the system and the proxy hold: 15 MB.
PAD = "x" * 50_000
COUNT = 300
LARGE: dict[str, Any] = {"max_payload": 100_000, "broker": {"max_payload": 100_000}}


async def fill(stage: Scene, tasks: anyio.abc.TaskGroup) -> None:
    """Publish numbers from 1 until the connection takes no more, each in a task of its own."""
    stage.proxy.set(STALLED, Direction.UP, connections="existing")
    # Event loops differ in the order in which they begin tasks.
    numbers = itertools.count(1)

    async def publish() -> None:
        await stage.far.publish("to.near", {"n": next(numbers), "pad": PAD})

    for _ in range(COUNT):
        tasks.start_soon(publish)
    await anyio.wait_all_tasks_blocked()


async def test_publications_that_never_left_come_behind_those_that_did_in_order() -> None:
    async with scene(**LARGE) as stage:
        async with anyio.create_task_group() as tasks:
            await fill(stage, tasks)
            stage.proxy.cut(Cut.RESET)
            await stage.connects.reaches(2, "the client is connected")
        await stage.far.publish("to.near", COUNT + 1, confirm=True)
        await stage.at_near.has(COUNT + 1)
        received = stage.at_near.order
        assert set(stage.at_near.numbers.values()) == {1}
        assert received == sorted(received)
        # What was lost on the way is of one piece; what followed was taken back, and came.
        lost = sorted(set(range(1, COUNT + 1)) - set(received))
        assert lost == list(range(lost[0], lost[-1] + 1)) if lost else True
        assert COUNT in received
        assert received[0] == 1 or lost[0] == 1


async def test_confirmed_publications_that_never_left_are_confirmed_by_the_next_connection() -> (
    None
):
    async with scene(**LARGE) as stage:
        async with anyio.create_task_group() as tasks:
            stage.proxy.set(STALLED, Direction.UP, connections="existing")
            for number in range(COUNT):

                async def publish(number: int = number) -> None:
                    await stage.by_far.try_once(
                        stage.far, "to.near", number, timeout=20_000, pad=PAD
                    )

                tasks.start_soon(publish)
            await anyio.wait_all_tasks_blocked()
            stage.proxy.cut(Cut.RESET)
        await stage.by_far.check(stage.at_near)
        assert stage.by_far.confirmed, "none was taken back"
        assert stage.by_far.unsure, "none had left"
        assert set(stage.by_far.errors) == {ConnectionLost}
        assert stage.far.stats().pending == 0


async def test_requests_end_in_time_though_their_connection_takes_no_more() -> None:
    async with scene(**LARGE) as stage:
        async with anyio.create_task_group() as tasks:
            await fill(stage, tasks)
            began = time.monotonic()
            with anyio.fail_after(PATIENCE):
                with pytest.raises(RequestTimeoutError):
                    await stage.far.request("near.echo", 1, timeout=200)
                assert time.monotonic() - began < 0.2 + MARGIN
                with pytest.raises(RequestTimeoutError):
                    await stage.far.publish("to.near", 0, confirm=True, timeout=200)
                assert time.monotonic() - began < 2 * (0.2 + MARGIN)
            stage.proxy.set(NORMAL)
        await stage.at_near.has(*range(1, COUNT + 1))


async def test_requests_that_never_left_are_sent_by_the_next_connection_if_they_may() -> None:
    answered: list[int] = []
    failed: dict[int, ConnectionLost] = {}
    numbers = itertools.count()
    async with scene(**LARGE) as stage:

        async def ask() -> None:
            number = next(numbers)
            payload, retry = {"n": number, "pad": PAD}, bool(number % 2)
            try:
                answer = await stage.far.request(
                    "near.length", payload, timeout=20_000, retry=retry
                )
            except ConnectionLost as error:
                failed[number] = error
            else:
                assert answer.payload == len(PAD)
                answered.append(number)

        await stage.near.subscribe(
            "near.length", action="request", handler=lambda m: len(m.payload["pad"])
        )
        async with anyio.create_task_group() as tasks:
            stage.proxy.set(STALLED, Direction.UP, connections="existing")
            for _ in range(COUNT):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            stage.proxy.cut(Cut.RESET)
        assert sorted(answered) == list(range(1, COUNT, 2))
        assert sorted(failed) == list(range(0, COUNT, 2))
        # The first left and the last did not, and their errors say so.
        told = [failed[number].sent for number in sorted(failed)]
        assert told == sorted(told, reverse=True)
        assert set(told) == {True, False}


async def test_a_thousand_requests_in_flight_end_at_once_with_their_connection() -> None:
    count = 1000
    errors: list[ConnectionLost] = []
    async with scene(**LARGE) as stage:
        await stage.near.subscribe("near.slow", action="request", handler=lambda m: anyio.sleep(60))

        async def ask() -> None:
            with pytest.raises(ConnectionLost) as raised:
                await stage.far.request("near.slow", 1, timeout=60_000)
            errors.append(raised.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert stage.far.stats().pending == count
            began = time.monotonic()
            stage.proxy.cut(Cut.RESET)
        assert time.monotonic() - began < 3
        assert len(errors) == len(set(map(id, errors))) == count
        assert stage.far.stats().pending == 0
