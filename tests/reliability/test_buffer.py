"""Publications without a connection: they wait, within a bound, and go in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mb_client import ConnectionLost
from mb_testing.proxy import Cut

from .scene import Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]


@asynccontextmanager
async def disconnected(**options: Any) -> AsyncIterator[Scene]:
    async with scene(**options) as stage:
        stage.proxy.refuse()
        stage.proxy.cut(Cut.RESET)
        await stage.losses.reaches(1, "the client has lost its connection")
        assert not stage.far.connected
        yield stage


async def come_back(stage: Scene) -> None:
    """Connect again, and see the end of what was buffered."""
    stage.proxy.accept()
    await stage.connects.reaches(2, "the client is connected")
    assert stage.far.stats().buffered == 0
    await stage.far.publish("to.near", -1, confirm=True)
    await stage.at_near.has(-1)


async def test_they_arrive_once_and_in_order_whether_confirmed_or_not() -> None:
    async with disconnected() as stage:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                if number % 2:
                    await stage.far.publish("to.near", number)
                else:

                    async def confirmed(number: int = number) -> None:
                        assert await stage.by_far.try_once(
                            stage.far, "to.near", number, timeout=20_000
                        )

                    tasks.start_soon(confirmed)
                    await anyio.wait_all_tasks_blocked()
            assert stage.far.stats().buffered == 200
            await come_back(stage)
        assert stage.at_near.order == [*range(200), -1]
        assert stage.by_far.confirmed == set(range(0, 200, 2))


async def test_a_full_buffer_refuses_and_keeps_what_it_has() -> None:
    async with disconnected(publish_buffer=2000) as stage:
        while stage.far.stats().buffered_bytes < 1960:
            await stage.far.publish("to.near", stage.far.stats().buffered)
        taken = stage.far.stats().buffered
        with pytest.raises(ConnectionLost, match="publish_buffer") as raised:
            await stage.far.publish("to.near", "one that is longer than what is left")
        assert not raised.value.sent
        stats = stage.far.stats()
        assert stats.buffered == taken > 10
        assert stats.buffered_bytes <= 2000
        await come_back(stage)
        assert stage.at_near.order == [*range(taken), -1]


async def test_a_full_buffer_makes_room_where_it_may_drop_the_oldest() -> None:
    async with disconnected(publish_buffer=2000, buffer_overflow="drop_oldest") as stage:
        for number in range(100, 400):
            await stage.far.publish("to.near", number)
        stats = stage.far.stats()
        assert stats.buffered + stats.dropped_publishes == 300
        await come_back(stage)
        assert stage.at_near.order == [*range(400 - stats.buffered, 400), -1]
        assert any(
            isinstance(error, ConnectionLost) and "dropped" in str(error) for error in stage.errors
        )


@pytest.mark.parametrize("end", ["time-out", "cancellation"])
async def test_what_its_publisher_has_given_up_is_not_sent_any_more(end: str) -> None:
    async with disconnected() as stage:
        if end == "time-out":
            with pytest.raises(ConnectionLost) as raised:
                await stage.far.publish("to.near", 1, confirm=True, timeout=50)
            assert not raised.value.sent
        else:
            with anyio.move_on_after(0.02) as scope:
                await stage.far.publish("to.near", 1, confirm=True)
            assert scope.cancelled_caught
        assert (stage.far.stats().buffered, stage.far.stats().pending) == (0, 0)
        await come_back(stage)
        assert stage.at_near.order == [-1]


async def test_what_was_buffered_goes_back_if_the_next_connection_breaks_as_well() -> None:
    """The buffer is sent once it can be, and counts as unsent only as far as it never left."""
    async with disconnected() as stage:
        for number in range(100):
            await stage.far.publish("to.near", number)
        stage.proxy.hang()
        await stage.proxy.until(lambda stats: stats.accepted == 2)
        stage.proxy.cut(Cut.RESET)
        await come_back(stage)
        assert stage.at_near.order == [*range(100), -1]


async def test_a_request_without_retry_does_not_wait() -> None:
    async with disconnected() as stage:
        with pytest.raises(ConnectionLost) as raised:
            await stage.far.request("near.echo", 1)
        assert not raised.value.sent
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                answer = await stage.far.request("near.echo", 2, retry=True)
                assert answer.payload == 2

            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert stage.far.stats().pending == 1
            await come_back(stage)
