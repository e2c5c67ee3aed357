"""A client used on another event loop, or in another thread."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
)

from .other_places import PATIENCE, Scene, broker, outcomes, scene

__all__ = ["broker", "scene"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_each_call_on_another_event_loop_says_at_once_what_is_wrong(
    scene: Scene, backend: str
) -> None:
    texts = await anyio.to_thread.run_sync(outcomes, scene.calls(), backend)
    expected = [
        "already connected" if number == 8 else "belongs to another event loop"
        for number in range(len(texts))
    ]
    assert [text for text, part in zip(texts, expected, strict=True) if part not in text] == []
    await scene.works_on()


@pytest.mark.anyio
async def test_a_call_where_no_event_loop_runs_says_so(scene: Scene) -> None:
    def call() -> None:
        coroutine = scene.client.publish("some.event", "from elsewhere")
        with pytest.raises(LocalProtocolError, match=r"another event loop.*run_coroutine_thr"):
            coroutine.send(None)

    await anyio.to_thread.run_sync(call)
    await scene.works_on()


@pytest.mark.anyio
async def test_a_thread_may_use_the_client_on_its_own_loop(scene: Scene) -> None:
    def call() -> Any:
        return anyio.from_thread.run(scene.client.request, "echo.it", "from a thread").payload

    assert await anyio.to_thread.run_sync(call) == "from a thread"
    await scene.works_on()


@pytest.mark.anyio
async def test_a_client_whose_connecting_was_given_up_may_connect_on_another_loop(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient()
    with pytest.raises(ConnectError):
        await client.connect("memory://nobody")

    async def use() -> None:
        await client.connect(mb_broker.url)
        await client.request("system.heartbeat", {})
        await client.close()

    await anyio.to_thread.run_sync(lambda: anyio.run(use))


@pytest.mark.anyio
async def test_what_is_closed_says_so_on_any_loop(mb_broker: RunningBroker) -> None:
    async with MessageBrokerClient(mb_broker.url) as client:
        pass

    async def use() -> None:
        await client.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await client.publish("some.event", 1)
        with pytest.raises(ConnectionLost, match="closed"):
            await client.request("some.question", 1)
        with pytest.raises(ConnectionLost, match="closed"):
            await client.subscribe("some.event")
        await client.run()

    for backend in ("asyncio", "trio"):
        await anyio.to_thread.run_sync(lambda: anyio.run(use, backend=backend))  # noqa: B023


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_who_waits_on_another_loop_for_a_connect_hears_of_it_at_once(
    mb_broker: RunningBroker, backend: str
) -> None:
    client = MessageBrokerClient(mb_broker.url)
    waits = threading.Event()

    async def wait() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(raise_if_it_connects)
            await anyio.wait_all_tasks_blocked()
            waits.set()

    async def raise_if_it_connects() -> None:
        with anyio.fail_after(PATIENCE), pytest.raises(LocalProtocolError, match="another event"):
            await client.wait_connected()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, lambda: anyio.run(wait, backend=backend))
        await anyio.to_thread.run_sync(waits.wait)
        await client.connect()
    await client.request("system.heartbeat", {})
    await client.close()


@pytest.mark.anyio
async def test_a_wait_that_was_given_up_on_a_loop_binds_the_client_to_none(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient(mb_broker.url)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await client.wait_connected(1)

    await anyio.to_thread.run_sync(lambda: anyio.run(wait))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait_connected)
        await anyio.wait_all_tasks_blocked()
        await client.connect()
    await client.close()
