"""A thousand connections lost, one after the other: nothing that was confirmed is lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from mb_client import ConnectionLost, MessageBrokerClient
from mb_testing.proxy import NORMAL, Conditions, Cut

from .scene import Scene, scene
from .traffic import Published

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]

CUTS = 1000
PUBLISHERS = 4
QUICK: dict[str, Any] = {"backoff_min": 1, "backoff_max": 5}


async def insist(
    client: MessageBrokerClient,
    topic: str,
    published: Published,
    numbers: Callable[[], int],
    stop: anyio.Event,
) -> None:
    """Publish one number after the other, each until it is confirmed."""
    while not stop.is_set():
        number = numbers()
        while not await published.try_once(client, topic, number, timeout=5000):
            await anyio.lowlevel.checkpoint()


async def cut_at_any_byte(stage: Scene, count: int) -> None:
    """Let each connection live for so many bytes that some are lost while they are restored."""
    chance = random.Random(count)

    def short_lived() -> Conditions:
        return Conditions(cut_after=chance.randrange(1, 4000))

    stage.proxy.set(short_lived)
    await stage.proxy.until(lambda stats: stats.accepted > count, timeout=60)
    stage.proxy.set(NORMAL, connections="new")
    # The last of the short-lived, unless it is gone already.
    stage.proxy.cut(Cut.RESET)


async def cut_whenever_connected(stage: Scene, count: int) -> None:
    """End each connection as soon as it is there, in order and by resets."""
    for number, how in zip(range(1, count + 1), itertools.cycle(Cut), strict=False):
        await stage.connects.reaches(number, "the client is connected")
        stage.proxy.cut(how)


@pytest.mark.parametrize("cut", [cut_at_any_byte, cut_whenever_connected])
async def test_no_confirmed_message_is_lost_and_none_comes_twice_but_by_a_second_try(
    cut: Callable[[Scene, int], Awaitable[None]],
) -> None:
    numbers = partial(next, itertools.count(1))
    stop = anyio.Event()
    async with scene(**QUICK) as stage:
        async with anyio.create_task_group() as tasks:
            for _ in range(PUBLISHERS):
                tasks.start_soon(insist, stage.far, "to.near", stage.by_far, numbers, stop)
                tasks.start_soon(insist, stage.near, "to.far", stage.by_near, numbers, stop)
            await cut(stage, CUTS // 2)
            stop.set()
        # Its answer can only come over a connection behind the last cut.
        await stage.far.request("near.echo", 0, timeout=20_000, retry=True)
        await stage.works_both_ways()
        await stage.by_far.check(stage.at_near)
        assert stage.by_far.confirmed == stage.by_far.attempts.keys()
        # The cuts went through the middle of it.
        assert len(stage.by_far.confirmed) > CUTS // 10
        assert stage.by_far.errors[ConnectionLost] > CUTS // 20
        for number, times in stage.at_far.numbers.items():
            assert times <= stage.by_near.attempts[number]
        assert stage.proxy.stats.accepted > CUTS // 2
        assert stage.losses.count == stage.connects.count - 1
