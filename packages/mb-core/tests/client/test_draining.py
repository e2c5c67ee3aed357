"""Closing lets running work finish."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    Message,
    MessageBrokerClient,
    ServiceUnavailableError,
    Subscription,
)
from mb_testing import until

from .gone_broker import QUICK, Outcome
from .scripted import ScriptedBroker
from .watching import Gate

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

ASKED = b"request:%b:1.0.0:0f8fad5b-d9cb-469f-a165-%012d\n%d"


# Handlers


async def test_a_handler_that_runs_at_the_exit_finishes_and_its_answer_goes_out(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client, anyio.create_task_group() as tasks:
            service = MessageBrokerClient(url)
            await service.connect()
            await service.subscribe("work", action="request", handler=gate)
            request = Outcome(tasks, lambda: client.request("work", 1))
            await gate.entered.wait()
            tasks.start_soon(service.close)
            await anyio.wait_all_tasks_blocked()
            assert not request.over
            gate.opened.set()
            assert (await request.succeeds()).payload == 1
    assert gate.cancelled == 0


async def test_messages_that_are_queued_at_the_exit_are_handled(url: str) -> None:
    handled: list[Any] = []
    told: list[Any] = []

    async def slowly(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        handled.append(message.payload)

    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("handled", handler=slowly)
            await client.subscribe("told")
            for number in range(100):
                await client.publish("handled", number)
                await client.publish("told", number, confirm=number == 99)
            # on_message handlers are consumers as well.
            client.on_message(lambda header, payload: told.append(payload))
    assert handled == told == list(range(100))


async def test_what_a_handler_sends_while_its_client_closes_goes_out(url: str) -> None:
    gate = Gate()
    answers: list[Any] = []

    async def handler(message: Message) -> None:
        await gate(message)
        answers.append((await service.request("double", 21)).payload)
        await service.publish("news", "published", confirm=True)
        await service.publish("news", "and published")

    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client, client.subscribe("news") as news:
            await client.subscribe("double", action="request", handler=lambda m: 2 * m.payload)
            service = MessageBrokerClient(url)
            await service.connect()
            await service.subscribe("work", handler=handler)
            await client.publish("work", 1, confirm=True)
            await gate.entered.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(service.close)
                await anyio.wait_all_tasks_blocked()
                gate.opened.set()
            assert [(await anext(news)).payload for _ in range(2)] == [
                "published",
                "and published",
            ]
    assert answers == [42]


async def test_requests_that_cross_the_unsubscription_are_handled(
    scripted: ScriptedBroker,
) -> None:
    handled: list[Any] = []
    scripted.answers["system.topic.unsubscribe"] = None
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK | {"close_timeout": 5_000})
        await client.connect()
        await client.subscribe(
            "work", action="request", handler=lambda m: handled.append(m.payload)
        )
        await client.subscribe("news", handler=lambda m: handled.append(m.payload))
        connection = scripted.connections[0]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            asked = b"request:system.topic.unsubscribe"
            await connection.wait_for(asked, 2)
            connection.send(ASKED % (b"work", 1, 1), b"publish:news:1.0.0\n2")
            assert (await connection.wait_for(b"response:work:")).endswith(b"\nnull")
            for request in connection.starting(asked):
                connection.answer(request)
    assert sorted(handled) == [1, 2]
    assert connection.starting(b"response:work:") == [
        b"response:work:1.0.0:0f8fad5b-d9cb-469f-a165-000000000001\nnull"
    ]


async def test_requests_that_come_behind_the_unsubscription_are_refused_at_once(
    scripted: ScriptedBroker,
) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK)
        await client.connect()
        await client.subscribe("work", action="request", handler=gate)
        connection = scripted.connections[0]
        connection.send(ASKED % (b"work", 1, 1))
        await gate.entered.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await connection.wait_for(b"request:system.topic.unsubscribe")
            await anyio.wait_all_tasks_blocked()
            connection.send(ASKED % (b"work", 2, 2))
            assert b"SERVICE_UNAVAILABLE" in await connection.wait_for(b"response:work:")
            gate.opened.set()
    assert gate.handled == [1]


async def test_the_broker_asks_others_from_the_exit_on(mb_broker: RunningBroker) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(mb_broker.url) as other,
            MessageBrokerClient(mb_broker.url) as client,
            anyio.create_task_group() as tasks,
        ):
            service = MessageBrokerClient(mb_broker.url)
            await service.connect()
            await service.subscribe("work", 5, action="request", handler=gate)
            await other.subscribe("work", 1, action="request", handler=lambda m: "the other")
            request = Outcome(tasks, lambda: client.request("work", "the first"))
            await gate.entered.wait()
            tasks.start_soon(service.close)
            while await responders(client, "work") > 1:
                pass
            for _ in range(5):
                assert (await client.request("work", {})).payload == "the other"
            gate.opened.set()
            assert (await request.succeeds()).payload == "the first"


async def responders(client: MessageBrokerClient, topic: str) -> int:
    """How many answer `topic`, to the broker."""
    listed = (await client.request("system.topic.subscriptions", {})).payload["subscriptions"]
    (found,) = [each for each in listed if each["topic"] == topic]
    return len(found["subscribers"])


async def test_iterators_end_behind_what_was_queued(url: str) -> None:
    got: list[Any] = []

    async def iterate(events: Subscription) -> None:
        async for message in events:
            await anyio.lowlevel.checkpoint()
            got.append(message.payload)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, MessageBrokerClient(url) as client:
            events = await client.subscribe("a")
            for number in range(50):
                await client.publish("a", number, confirm=number == 49)
            tasks.start_soon(iterate, events)
    assert got == list(range(50))


async def test_what_an_iterator_has_in_hand_is_answered_while_the_client_closes(
    mb_broker: RunningBroker,
) -> None:
    """The block of the client is left behind those of its subscriptions."""
    with anyio.fail_after(5):
        async with MessageBrokerClient(mb_broker.url) as client, anyio.create_task_group() as tasks:
            async with MessageBrokerClient(mb_broker.url) as service:
                async with service.subscribe("work", action="request") as requests:
                    request = Outcome(tasks, lambda: client.request("work", 1))
                    message = await anext(requests)
                    refused = Outcome(tasks, lambda: client.request("work", 2))
                    await until(lambda: requests.queued == 1)
                await message.respond("in time")
            assert (await request.succeeds()).payload == "in time"
            await until(lambda: refused.over)
            assert isinstance(refused.error, ServiceUnavailableError)


# The limit


async def test_a_handler_that_does_not_end_is_cancelled_after_drain_timeout(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            service = MessageBrokerClient(url, drain_timeout=200)
            await service.connect()
            await service.subscribe("work", action="request", handler=gate)
            async with anyio.create_task_group() as tasks:
                request = Outcome(tasks, lambda: client.request("work", 1))
                await gate.entered.wait()
                begun = time.monotonic()
                await service.close()
                assert 0.19 < time.monotonic() - begun < 4
                await until(lambda: request.over)
            assert isinstance(request.error, ServiceUnavailableError)
    assert gate.cancelled == 1


async def test_a_drain_timeout_of_nothing_cancels_at_once(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with MessageBrokerClient(url, drain_timeout=0) as client:
            await client.subscribe("work", handler=gate)
            await client.publish("work", 1)
            await client.publish("work", 2, confirm=True)
            await gate.entered.wait()
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
    assert gate.cancelled == 1
    assert gate.handled == []


async def test_a_broker_that_does_not_confirm_the_unsubscription_is_not_waited_for_long(
    scripted: ScriptedBroker,
) -> None:
    """No longer than `close_timeout`; and handlers are still waited for."""
    gate = Gate()
    scripted.answers["system.topic.unsubscribe"] = None
    with anyio.fail_after(5):
        client = MessageBrokerClient(scripted.url, **QUICK, drain_timeout=60_000)
        await client.connect()
        await client.subscribe("work", handler=gate)
        scripted.connections[0].send(b"publish:work:1.0.0\n1")
        await gate.entered.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.close)
            await anyio.sleep(0.4)  # twice the close_timeout
            gate.opened.set()
    assert gate.handled == [1]
    assert gate.cancelled == 0


async def test_a_client_without_anything_to_drain_closes_at_once(
    scripted: ScriptedBroker,
) -> None:
    async def never(message: Message) -> None: ...

    with anyio.fail_after(2):
        async with MessageBrokerClient(scripted.url, **QUICK, drain_timeout=60_000) as client:
            await client.subscribe("idle", handler=never)
            await client.subscribe("idle.too", action="request", handler=never)
            await client.subscribe("iterated")
            client.on_message(lambda header, payload: None)


# How the block is left


async def test_a_block_that_is_cancelled_does_not_wait_for_handlers(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            async with MessageBrokerClient(url, drain_timeout=60_000) as client:
                await client.subscribe("work", handler=gate)
                await client.publish("work", 1)
                await gate.entered.wait()
                scope.cancel()
                await client.run()
        await client.close()
    assert gate.cancelled == 1


async def test_a_block_that_is_cancelled_around_a_task_group_does_not_wait_for_handlers(
    url: str,
) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as outer:

            async def program() -> None:
                nonlocal client
                async with (
                    MessageBrokerClient(url, drain_timeout=60_000) as client,
                    anyio.create_task_group() as tasks,
                ):
                    await client.subscribe("work", handler=gate)
                    await client.publish("work", 1)
                    tasks.start_soon(client.run)

            client = MessageBrokerClient(url)
            outer.start_soon(program)
            await gate.entered.wait()
            outer.cancel_scope.cancel()
        await client.close()
    assert gate.cancelled == 1


async def test_a_block_that_is_left_with_an_error_drains(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def program() -> None:
                with pytest.raises(KeyError, match="mine"):
                    await fail()

            async def fail() -> None:
                async with MessageBrokerClient(url) as client:
                    await client.subscribe("work", handler=gate)
                    await client.publish("work", 1)
                    await gate.entered.wait()
                    raise KeyError("mine")

            tasks.start_soon(program)
            await gate.entered.wait()
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
    assert gate.handled == [1]
    assert gate.cancelled == 0


async def test_of_two_who_close_both_wait_for_the_drain(url: str) -> None:
    gate = Gate()
    closed: list[bool] = []
    with anyio.fail_after(5):
        client = MessageBrokerClient(url)
        await client.connect()
        await client.subscribe("work", handler=gate)
        await client.publish("work", 1)
        await gate.entered.wait()

        async def close() -> None:
            await client.close()
            closed.append(bool(gate.handled))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(close)
            await anyio.wait_all_tasks_blocked()
            assert closed == []
            gate.opened.set()
    assert closed == [True, True]


async def test_a_close_that_is_cancelled_cuts_the_drain_short(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        client = MessageBrokerClient(url, drain_timeout=60_000)
        await client.connect()
        await client.subscribe("work", handler=gate)
        await client.publish("work", 1)
        await gate.entered.wait()
        with anyio.move_on_after(0.05):
            await client.close()
        await client.close()
    assert gate.cancelled == 1


async def test_requests_that_wait_at_the_exit_fail_when_the_drain_is_over(url: str) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with MessageBrokerClient(url, drain_timeout=0) as service:
            await service.subscribe("never", action="request", handler=Gate())
            client = MessageBrokerClient(url)
            await client.connect()
            await client.subscribe("work", handler=gate)
            await client.publish("work", 1)
            await gate.entered.wait()
            async with anyio.create_task_group() as tasks:
                request = Outcome(tasks, lambda: client.request("never", {}))
                tasks.start_soon(client.close)
                await anyio.wait_all_tasks_blocked()
                assert not request.over
                gate.opened.set()
                assert (await request.lost()).sent
