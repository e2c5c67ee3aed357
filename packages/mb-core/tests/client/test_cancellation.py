"""Every operation, cancelled at every turn of the loop: nothing is left, and all works on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    Subscription,
)
from mb_testing import until

from .gone_broker import QUICK
from .watching import Watch, known_subscriptions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

# More turns than any of them takes; each has to complete before.
MOST = 200


@dataclass
class Scene:
    """A client that has subscriptions, and is a service, at a broker of the test's own."""

    broker: Any
    client: MessageBrokerClient
    watch: Watch
    handled: list[Any]

    async def works(self) -> None:
        """All that was there before is there, at both sides; nothing waits."""
        client = self.client
        await until(lambda: client.connected)
        await agree(client)
        assert client.stats().pending == 0
        assert client.stats().buffered == client.stats().buffered_bytes == 0
        count = len(self.handled)
        await client.publish("told", count, confirm=True)
        assert (await client.request("asked", count)).payload == count
        await until(lambda: count in self.handled)

    async def lose(self) -> None:
        before = self.watch.moves.count("disconnect")
        await self.broker.kill()
        await self.watch.disconnects(before + 1)


async def agree(client: MessageBrokerClient) -> None:
    """The broker's table of subscriptions is the client's own."""
    assert client._supervisor is not None
    table = client._supervisor.session.subscriptions
    ours = sorted({(entry.action.value, entry.pattern.lower()) for entry in table})
    assert sorted(await known_subscriptions(client)) == ours


@pytest.fixture
async def scene(broker: Any) -> AsyncIterator[Scene]:
    handled: list[Any] = []

    def take(message: Message) -> None:
        handled.append(message.payload)

    async with MessageBrokerClient(broker.url, **QUICK, drain_timeout=0) as client:
        watch = Watch(client)
        await client.subscribe("told", handler=take)
        await client.subscribe("asked", action="request", handler=lambda m: m.payload)
        yield Scene(broker, client, watch, handled)
        await client.close()
        await until(lambda: broker.connections == 0)


@asynccontextmanager
async def cancelled_after(turns: int) -> AsyncIterator[anyio.CancelScope]:
    """Cancels the block after this many turns of the loop; the scope says whether it was caught."""
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            tasks.start_soon(cancel)
            yield scope
        tasks.cancel_scope.cancel()


Operation = Callable[[Scene, int], Awaitable[Any]]
"""An operation; the number is that of the attempt."""


async def request(scene: Scene, attempt: int) -> None:
    assert (await scene.client.request("asked", attempt)).payload == attempt


async def retry(scene: Scene, attempt: int) -> None:
    assert (await scene.client.request("asked", attempt, retry=True)).payload == attempt


async def publish(scene: Scene, attempt: int) -> None:
    await scene.client.publish("told", attempt)


async def confirm(scene: Scene, attempt: int) -> None:
    await scene.client.publish("told", attempt, confirm=True)


async def register(scene: Scene, attempt: int) -> None:
    await scene.client.register_service(f"name {attempt}", "text")


async def subscribe(scene: Scene, attempt: int) -> None:
    async with scene.client.subscribe(f"new.n{attempt}", action="both"):
        pass


async def subscribe_again(scene: Scene, attempt: int) -> None:
    """Beside another consumer of the pattern, which stays."""
    async with scene.client.subscribe("told"):
        pass


async def unsubscribe(scene: Scene, attempt: int) -> None:
    await scene.client.unsubscribe("once")


async def iterate(scene: Scene, attempt: int) -> None:
    """Both ways: with a message that is there, and one that comes."""
    async with scene.client.subscribe("iterated") as events:
        await scene.client.publish("iterated", attempt, confirm=True)
        assert (await anext(events)).payload == attempt


OPERATIONS = [retry, publish, confirm, register, subscribe, subscribe_again, iterate]


def named(operation: Operation) -> str:
    return operation.__name__


@pytest.mark.parametrize("operation", [request, *OPERATIONS], ids=named)
async def test_it_may_be_cancelled_at_any_turn(scene: Scene, operation: Operation) -> None:
    with anyio.fail_after(30):
        for turns in range(MOST):
            async with cancelled_after(turns) as scope:
                await operation(scene, turns)
            await scene.works()
            if not scope.cancelled_caught:
                break
        else:
            raise AssertionError(f"it was not complete after {MOST} turns")
        # What each side knows is what the next connection begins with.
        await scene.lose()
        await scene.broker.start()
        await scene.works()


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
async def test_it_may_be_cancelled_at_any_turn_while_the_connection_is_lost(
    scene: Scene, operation: Operation
) -> None:
    with anyio.fail_after(30):
        for turns in range(12):
            await scene.lose()
            async with cancelled_after(turns) as scope:
                await operation(scene, turns)
            assert scope.cancelled_caught or operation is publish
            await scene.broker.start()
            await scene.works()


@pytest.mark.parametrize("broker", ["memory", "tcp"], indirect=True)
@pytest.mark.parametrize("operation", [*OPERATIONS, unsubscribe], ids=named)
async def test_it_may_be_cancelled_at_any_turn_while_the_connection_comes_back(
    scene: Scene, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    with anyio.fail_after(60):
        for turns in range(MOST):
            await scene.client.subscribe("once")
            await scene.lose()
            await scene.broker.start()
            async with cancelled_after(turns) as scope:
                await operation(scene, turns)
            await scene.works()
            if operation is not unsubscribe:
                await scene.client.unsubscribe("once")
            if not scope.cancelled_caught and scene.watch.moves[-1] == "connect":
                return
    raise AssertionError(f"it was not complete after {MOST} turns")


@pytest.mark.parametrize("broker", ["memory", "tcp"], indirect=True)
@pytest.mark.parametrize("cancelled", [False, True], ids=["completed", "cancelled"])
@pytest.mark.parametrize("operation", [*OPERATIONS, unsubscribe], ids=named)
async def test_it_may_begin_at_any_turn_while_the_connection_comes_back(
    scene: Scene, operation: Operation, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the link, before the greeting, in the midst of the restore, and behind it."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    with anyio.fail_after(60):
        for turns in range(40):
            await scene.client.subscribe("once")
            await scene.lose()
            await scene.broker.start()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            with anyio.CancelScope() as scope:
                if cancelled:
                    scope.cancel()
                await operation(scene, turns)
            await scene.works()
            if operation is not unsubscribe:
                await scene.client.unsubscribe("once")


async def test_unsubscribing_may_be_cancelled_at_any_turn(scene: Scene) -> None:
    """This side has let go, and the broker has been or will be notified."""
    with anyio.fail_after(30):
        for turns in range(MOST):
            events = await scene.client.subscribe("left", action="both")
            async with cancelled_after(turns) as scope:
                await events.unsubscribe()
            with pytest.raises(StopAsyncIteration):
                await anext(events)
            await scene.works()
            if not scope.cancelled_caught:
                break
        with pytest.raises(LocalProtocolError, match="no subscription"):
            await scene.client.unsubscribe("left")


async def test_a_cancelled_iteration_loses_no_message(scene: Scene) -> None:
    got: list[Any] = []

    async def take(events: Subscription) -> None:
        # Nothing can come between: the message is taken and kept in one step.
        got.append((await anext(events)).payload)

    with anyio.fail_after(30):
        async with scene.client.subscribe("counted") as events:
            for turns in range(40):
                async with cancelled_after(turns % 20):
                    await scene.client.publish("counted", turns)
                    await take(events)
            await scene.client.publish("counted", "last", confirm=True)
            while got[-1:] != ["last"]:
                await take(events)
    numbers = got[:-1]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(set(numbers))
    # Each that the client had taken on was sent.
    assert numbers[0] <= 1
    assert events.queued == 0


async def test_an_iteration_that_is_cancelled_while_the_connection_comes_back_loses_no_message(
    scene: Scene,
) -> None:
    with anyio.fail_after(30):
        async with scene.client.subscribe("counted") as events:
            for turns in range(30):
                await scene.lose()
                await scene.broker.start()
                async with cancelled_after(turns) as scope:
                    await anext(events)
                assert scope.cancelled_caught
                await scene.works()
                await scene.client.publish("counted", turns, confirm=True)
                assert (await anext(events)).payload == turns


async def test_run_may_be_cancelled_at_any_turn(scene: Scene) -> None:
    with anyio.fail_after(10):
        for turns in range(10):
            async with cancelled_after(turns) as scope:
                await scene.client.run()
            assert scope.cancelled_caught
        await scene.works()
        await scene.lose()
        for turns in range(10):
            async with cancelled_after(turns):
                await scene.client.run()
        await scene.broker.start()
        await scene.works()


@pytest.mark.parametrize("broker", ["memory", "tcp", "ws"], indirect=True)
async def test_connecting_may_be_cancelled_at_any_turn(broker: Any) -> None:
    with anyio.fail_after(30):
        for turns in range(MOST):
            client = MessageBrokerClient(broker.url, **QUICK)
            async with cancelled_after(turns) as scope:
                await client.connect()
            if scope.cancelled_caught:
                await until(lambda: broker.connections == 0)
                with pytest.raises(LocalProtocolError, match="not connected"):
                    await client.request("system.heartbeat", {})
                await client.connect()  # as if nothing had been
            await client.request("system.heartbeat", {})
            await client.close()
            if not scope.cancelled_caught:
                return
    raise AssertionError(f"it was not complete after {MOST} turns")


async def test_connecting_again_and_again_may_be_cancelled_at_any_turn(broker: Any) -> None:
    await broker.kill()
    with anyio.fail_after(30):
        for turns in range(40):
            client = MessageBrokerClient(broker.url, **QUICK, retry_connect=True)
            async with cancelled_after(turns) as scope:
                await client.connect()
            assert scope.cancelled_caught
        await broker.start()
        await client.connect()
        await client.request("system.heartbeat", {})
        await client.close()


@pytest.mark.parametrize("drain_timeout", [0, 5_000])
@pytest.mark.parametrize("lost", [False, True], ids=["connected", "lost"])
async def test_closing_may_be_cancelled_at_any_turn(
    broker: Any, drain_timeout: int, lost: bool
) -> None:
    """It goes on by itself; who calls it again waits for the end."""
    with anyio.fail_after(30):
        for turns in range(60):
            client = MessageBrokerClient(broker.url, **QUICK, drain_timeout=drain_timeout)
            watch = Watch(client)
            await client.connect()
            await client.subscribe("told", action="both", handler=lambda m: None)
            async with client.subscribe("iterated") as events:
                if lost:
                    await broker.kill()
                    await watch.disconnects(1)
                    if turns % 2:
                        await client.publish("told", "never")
                async with cancelled_after(turns) as scope:
                    await client.close()
                await client.close()
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
            assert client.stats().pending == client.stats().buffered == 0
            with pytest.raises(ConnectionLost, match="the client was closed"):
                await client.publish("told", {})
            await client.run()
            if lost:
                await broker.start()
            await until(lambda: broker.connections == 0)
            if not scope.cancelled_caught and not lost:
                return


async def test_a_block_may_be_cancelled_at_any_turn(broker: Any) -> None:
    """Whatever it is doing: connecting, subscribing, asking, leaving."""

    async def program() -> None:
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            await client.register_service("name", "text")
            await client.subscribe("told", action="both", handler=lambda m: m.payload)
            async with client.subscribe("iterated") as events:
                await client.publish("iterated", 1)
                await client.request("told", 2)
                await client.publish("told", 3, confirm=True)
                await anext(events)

    with anyio.fail_after(30):
        for turns in range(3 * MOST):
            async with cancelled_after(turns) as scope:
                try:
                    await program()
                except ConnectError as error:
                    raise AssertionError("nobody has closed it") from error
            await until(lambda: broker.connections == 0)
            if not scope.cancelled_caught:
                return
    raise AssertionError(f"it was not complete after {3 * MOST} turns")
