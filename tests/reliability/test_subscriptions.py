"""Subscriptions through losses: the broker knows those that there are, and no others."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import anyio
import pytest

from mb_client import (
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    ServiceUnavailableError,
)
from mb_testing.proxy import NORMAL, Conditions, Cut, Direction

from .scene import Scene, scene
from .traffic import Received, Signal

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]


async def topics_of(name: str, asker: MessageBrokerClient) -> set[tuple[str, str]]:
    """What the broker believes that the service of this name is subscribed to."""
    named: list[str] = []
    with anyio.fail_after(10):
        while len(named) != 1:  # the broker is about to notice the end of the previous one
            services: Any = (await asker.request("system.service.list", {})).payload
            named = [one["id"] for one in services["services"] if one["name"] == name]
    own = named[0]
    topics: Any = (await asker.request("system.topic.list", {})).payload
    return {
        (entry["action"], entry["topic"])
        for entry in topics["topics"]
        if own in [subscriber["serviceId"] for subscriber in entry["subscribers"]]
    }


AT_FIRST = {("publish", "to.far"), ("request", "far.echo")}


async def lose(stage: Scene) -> None:
    """Lose the connection, with no other available."""
    losses = stage.losses.count
    stage.proxy.refuse()
    stage.proxy.cut(Cut.RESET)
    await stage.losses.reaches(losses + 1, "the client has lost its connection")


async def come_back(stage: Scene) -> None:
    connects = stage.connects.count
    stage.proxy.accept()
    await stage.connects.reaches(connects + 1, "the client is connected")


async def test_one_that_is_made_without_a_connection_is_in_force_with_the_next() -> None:
    async with scene() as stage:
        await lose(stage)
        received = Received()
        async with anyio.create_task_group() as tasks:

            async def subscribe() -> None:
                await stage.far.subscribe("late.news", handler=received.take)
                # In force once awaited: this arrives.
                await stage.near.publish("late.news", 1, confirm=True)

            tasks.start_soon(subscribe)
            await anyio.wait_all_tasks_blocked()
            await come_back(stage)
        await received.has(1)
        assert await topics_of("far", stage.near) == AT_FIRST | {("publish", "late.news")}


async def test_one_that_is_ended_without_a_connection_stays_so() -> None:
    async with scene() as stage:
        other = await stage.far.subscribe("other.news", handler=lambda m: None)
        await lose(stage)
        await other.unsubscribe()
        await stage.far.unsubscribe("to.far")
        await come_back(stage)
        assert await topics_of("far", stage.near) == AT_FIRST - {("publish", "to.far")}


async def test_one_that_is_ended_while_it_is_restored_stays_so() -> None:
    async with scene() as stage:
        other = await stage.far.subscribe("other.news", handler=lambda m: None)
        await lose(stage)
        # The broker's answers take their time, so the client waits for them.
        stage.proxy.set(Conditions(delay=300), Direction.DOWN, connections="new")
        before = stage.proxy.stats.received_up
        stage.proxy.accept()
        await stage.proxy.until(lambda stats: stats.received_up > before)
        assert not stage.far.connected
        await other.unsubscribe()
        stage.proxy.set(NORMAL)
        await stage.connects.reaches(2, "the client is connected")
        # What was asked before this is behind it.
        await stage.far.request("system.heartbeat", {})
        assert await topics_of("far", stage.near) == AT_FIRST


async def test_an_iterator_goes_on_with_the_next_connection() -> None:
    async with scene() as stage, stage.far.subscribe("numbers") as events:
        for number in range(5):
            await stage.near.publish("numbers", number, confirm=True)
            async for message in events:
                assert message.payload == number
                break
            waiting: list[Any] = []

            async def wait(waiting: list[Any] = waiting) -> None:
                waiting.append((await anext(events)).payload)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                connects = stage.connects.count
                stage.proxy.cut(Cut.RESET)
                await stage.connects.reaches(connects + 1, "the client is connected")
                await stage.near.publish("numbers", 100 + number, confirm=True)
            assert waiting == [100 + number]


async def test_an_answer_that_comes_after_the_loss_harms_nobody() -> None:
    async with scene() as stage:
        asked, answer = Signal(), anyio.Event()

        async def slow(message: Message) -> str:
            asked()
            await answer.wait()
            return "late"

        await stage.far.subscribe("far.slow", action="request", handler=slow)
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(ServiceUnavailableError):
                    await stage.near.request("far.slow", 1)

            tasks.start_soon(ask)
            await asked.reaches(1, "the service is asked")
            stage.proxy.cut(Cut.RESET)
            await stage.connects.reaches(2, "the client is connected")
        answer.set()
        assert (await stage.near.request("far.slow", 2)).payload == "late"


async def test_whatever_comes_and_goes_between_losses_the_broker_knows_what_is_left() -> None:
    chance = random.Random(7)
    topics = [f"churn.t{n}" for n in range(6)]
    held: dict[tuple[str, str], Any] = {}
    stop = anyio.Event()
    rounds = 0
    async with scene(backoff_min=1, backoff_max=5) as stage:

        async def churn() -> None:
            nonlocal rounds
            while not stop.is_set():
                rounds += 1
                key = chance.choice(["publish", "request"]), chance.choice(topics)
                if key in held:
                    await held.pop(key).unsubscribe()
                else:
                    held[key] = await stage.far.subscribe(
                        key[1], action=key[0], handler=lambda m: m.payload
                    )
                if chance.random() < 0.2:
                    with anyio.move_on_after(chance.random() / 200):
                        await stage.far.subscribe("churn.cancelled", handler=lambda m: None)
                        await stage.far.unsubscribe("churn.cancelled")

        stage.proxy.set(lambda: Conditions(cut_after=chance.randrange(100, 6000)))
        stage.proxy.cut(Cut.RESET)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(churn)
            await stage.proxy.until(lambda stats: stats.accepted > 100)
            stage.proxy.set(NORMAL, connections="new")
            connects = stage.connects.count
            stage.proxy.cut(Cut.RESET)
            await stage.connects.reaches(connects + 1, "the client is connected")
            stop.set()
        # What was cancelled is in force or not, as the client knows; the broker is about to hear.
        with contextlib.suppress(LocalProtocolError):
            await stage.far.unsubscribe("churn.cancelled")
        await stage.far.request("system.heartbeat", {})
        assert await topics_of("far", stage.near) == AT_FIRST | held.keys()
        assert rounds > 50
        for action, topic in held:
            if action == "request":
                assert (await stage.near.request(topic, 1)).payload == 1
