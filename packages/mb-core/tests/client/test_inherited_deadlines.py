"""What a handler sends names its request, and asks for no more time than that has left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_core import Message, MessageBrokerClient, RequestTimeoutError

from .gone_broker import QUICK
from .scripted import VIRTUAL_TIME, ScriptedBroker, ScriptedConnection

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

OUTER = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.fixture
async def client(scripted: ScriptedBroker) -> AsyncIterator[MessageBrokerClient]:
    scripted.answers["inner"] = b"{}"
    async with MessageBrokerClient(scripted.url, **QUICK) as connected:
        yield connected


@pytest.fixture
def connection(scripted: ScriptedBroker, client: MessageBrokerClient) -> ScriptedConnection:
    return scripted.connections[0]


def fields(message: bytes) -> tuple[str | None, int | None]:
    """The parent id and the time limit in a message's header."""
    found = [*message.split(b"\n")[0].decode().split(":"), "", ""]
    return found[4] or None, int(found[5]) if len(found) > 5 and found[5] else None


async def handle(
    client: MessageBrokerClient,
    connection: ScriptedConnection,
    handler: Callable[[Message], Any],
    *,
    message: bytes = f"request:outer:1.0.0:{OUTER}::4000\n{{}}".encode(),
) -> None:
    """Call `handler` with `message`, and wait until it returns."""
    done = anyio.Event()

    async def run(message: Message) -> None:
        try:
            await handler(message)
        finally:
            done.set()

    await client.subscribe("outer", action="both", handler=run)
    connection.send(message)
    with anyio.fail_after(5):
        await done.wait()


# Requests


async def test_a_request_made_in_a_handler_has_its_parent_id_and_no_more_time(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    await handle(client, connection, lambda m: client.request("inner", {}))
    parent, limit = fields(await connection.wait_for(b"request:inner:"))
    assert parent == OUTER
    assert limit is not None
    assert 3_000 < limit <= 4_000


async def test_a_shorter_time_limit_stays_as_it_is(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    await handle(client, connection, lambda m: client.request("inner", {}, timeout=700))
    assert fields(await connection.wait_for(b"request:inner:")) == (OUTER, 700)


@VIRTUAL_TIME
async def test_the_time_gets_shorter_as_it_passes(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        assert message.deadline is not None
        await client.request("inner", 1)
        await anyio.sleep(message.deadline - anyio.current_time() - 3.8)
        await client.request("inner", 2)

    await handle(client, connection, handler)
    limits = [fields(each)[1] for each in connection.starting(b"request:inner:")]
    assert limits[1] is not None
    assert limits[0] is not None
    assert limits[1] <= 3_800 < limits[0]


async def test_an_explicit_parent_id_comes_first(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        await client.request("inner", {}, parent_id=OTHER)
        await client.publish("inner", {}, parent_id=OTHER)

    await handle(client, connection, handler)
    for start in (b"request:inner:", b"publish:inner:"):
        assert fields(await connection.wait_for(start))[0] == OTHER


@VIRTUAL_TIME
async def test_where_nothing_is_left_it_is_a_timeout_and_nothing_is_sent(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    errors: list[RequestTimeoutError] = []

    async def handler(message: Message) -> None:
        assert message.deadline is not None
        await anyio.sleep(message.deadline - anyio.current_time() + 0.001)
        for retry in (False, True):
            with pytest.raises(RequestTimeoutError, match="inherit_deadlines") as over:
                await client.request("inner", {}, retry=retry)
            errors.append(over.value)
        await client.publish("inner", "a publication has no time limit")

    message = f"request:outer:1.0.0:{OUTER}::50\n{{}}".encode()
    await handle(client, connection, handler, message=message)
    await connection.wait_for(b"publish:inner:")
    assert connection.starting(b"request:inner:") == []
    assert len(errors) == 2
    assert client.stats().pending == 0
    assert "'outer'" in str(errors[0])


async def test_the_time_of_a_sender_that_named_none_is_not_inherited(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    message = f"request:outer:1.0.0:{OUTER}\n{{}}".encode()
    await handle(client, connection, lambda m: client.request("inner", {}), message=message)
    assert fields(await connection.wait_for(b"request:inner:")) == (OUTER, 30_000)


async def test_after_the_answer_the_senders_time_is_no_limit_any_more(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        await message.respond("early")
        await client.request("inner", {})

    await handle(client, connection, handler)
    assert fields(await connection.wait_for(b"request:inner:")) == (OUTER, 30_000)


async def test_deadlines_may_be_left_alone(scripted: ScriptedBroker) -> None:
    scripted.answers["inner"] = b"{}"
    async with MessageBrokerClient(scripted.url, **QUICK, inherit_deadlines=False) as client:
        await handle(client, scripted.connections[0], lambda m: client.request("inner", {}))
        request = await scripted.connections[0].wait_for(b"request:inner:")
    assert fields(request) == (OUTER, 30_000)  # the trace joins up all the same


# Publications


@pytest.mark.parametrize("confirm", [False, True])
async def test_a_publication_made_in_a_handler_has_its_parent_id(
    client: MessageBrokerClient, connection: ScriptedConnection, confirm: bool
) -> None:
    def handler(message: Message) -> Any:
        return client.publish("inner", {}, confirm=confirm)

    await handle(client, connection, handler)
    assert fields(await connection.wait_for(b"publish:inner:")) == (OUTER, None)


async def test_the_handler_of_a_publication_passes_its_id_on_where_it_has_one(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        await client.request("inner", {}, timeout=900)
        await client.publish("inner", {})

    message = f"publish:outer:1.0.0:{OUTER}\n{{}}".encode()
    await handle(client, connection, handler, message=message)
    await connection.wait_for(b"publish:inner:")
    assert fields(connection.starting(b"request:inner:")[0]) == (OUTER, 900)
    assert fields(connection.starting(b"publish:inner:")[0]) == (OUTER, None)


async def test_the_handler_of_a_publication_without_an_id_passes_nothing_on(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    message = b"publish:outer:1.0.0\n{}"
    await handle(client, connection, lambda m: client.request("inner", {}), message=message)
    assert fields(await connection.wait_for(b"request:inner:")) == (None, 30_000)


# Where it reaches


async def test_tasks_that_a_handler_starts_inherit_as_it_does(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.request, "inner", 1)
            tasks.start_soon(client.request, "inner", 2)

    await handle(client, connection, handler)
    for each in connection.starting(b"request:inner:"):
        parent, limit = fields(each)
        assert parent == OUTER
        assert limit is not None
        assert limit <= 4_000


async def test_a_plain_function_that_hands_work_on_passes_its_id_on(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async with anyio.create_task_group() as tasks:

        def handler(message: Message) -> None:
            tasks.start_soon(client.publish, "inner", {})

        await client.subscribe("outer", action="request", handler=handler)
        connection.send(f"request:outer:1.0.0:{OUTER}::4000\n{{}}".encode())
        with anyio.fail_after(5):
            published = await connection.wait_for(b"publish:inner:")
    assert fields(published)[0] == OUTER


async def test_outside_of_handlers_nothing_is_inherited(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    working, go_on = anyio.Event(), anyio.Event()

    async def handler(message: Message) -> None:
        working.set()
        await go_on.wait()

    await client.subscribe("outer", action="request", handler=handler)
    connection.send(f"request:outer:1.0.0:{OUTER}::4000\n{{}}".encode())
    with anyio.fail_after(5):
        await working.wait()
        await client.request("inner", {})
        await client.publish("inner", {})
        go_on.set()
        await connection.wait_for(b"response:outer:")
        await client.request("inner", {})
    for each in connection.starting(b"request:inner:"):
        assert fields(each) == (None, 30_000)
    assert fields(await connection.wait_for(b"publish:inner:")) == (None, None)


async def test_who_iterates_inherits_nothing(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    with anyio.fail_after(5):
        async with client.subscribe("outer", action="request") as requests:
            connection.send(f"request:outer:1.0.0:{OUTER}::4000\n{{}}".encode())
            message = await anext(requests)
            await client.request("inner", {})
            await message.respond({})
    assert fields(await connection.wait_for(b"request:inner:")) == (None, 30_000)


async def test_each_call_of_a_handler_has_its_own_message(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def handler(message: Message) -> None:
        await anyio.sleep(0.001)
        await client.request("inner", {})

    ids = [f"{number:08d}-d9cb-469f-a165-70867728950e" for number in range(20)]
    with anyio.fail_after(5):
        await client.subscribe("outer", action="request", handler=handler, concurrency=3)
        for request_id in ids:
            connection.send(f"request:outer:1.0.0:{request_id}::4000\n{{}}".encode())
        await connection.wait_for(b"response:outer:", len(ids))
    parents = [fields(each)[0] for each in connection.starting(b"request:inner:")]
    assert sorted(parents, key=str) == ids


async def test_a_subscription_made_in_a_handler_does_not_inherit_from_it(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async def subscribe(message: Message) -> None:
        await client.subscribe("news", handler=lambda m: client.publish("inner", {}))

    await handle(client, connection, subscribe)
    connection.send(b"publish:news:1.0.0\n{}")
    with anyio.fail_after(5):
        assert fields(await connection.wait_for(b"publish:inner:")) == (None, None)


async def test_callbacks_inherit_nothing(
    client: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    client.on_error(lambda error: client.publish("inner", str(error)))

    async def fail(message: Message) -> None:
        raise KeyError("mine")

    await handle(client, connection, fail)
    with anyio.fail_after(5):
        assert fields(await connection.wait_for(b"publish:inner:")) == (None, None)


async def test_the_trace_joins_up_in_the_brokers_audit_feed(url: str) -> None:
    seen: dict[str, Message] = {}
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(url) as auditor,
            MessageBrokerClient(url) as service,
            MessageBrokerClient(url) as client,
            auditor.subscribe("system.message") as feed,
        ):

            async def outer(message: Message) -> Any:
                seen["outer"] = message
                return (await service.request("inner", {})).payload

            await service.subscribe("outer", action="request", handler=outer)
            await service.subscribe("inner", action="request", handler=lambda m: "the answer")
            assert (await client.request("outer", {})).payload == "the answer"
            async for entry in feed:
                header = entry.payload["message"]["header"]
                if header["topic"] == "inner" and "from" in entry.payload:
                    break
    assert header["parentRequestId"] == seen["outer"].request_id


async def test_the_time_gets_shorter_from_service_to_service(url: str) -> None:
    left: list[float | None] = []
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:

            async def outer(message: Message) -> Any:
                return (await service.request("inner", {})).payload

            def inner(message: Message) -> str:
                left.append(message.deadline)
                return "the answer"

            await service.subscribe("outer", action="request", handler=outer)
            await service.subscribe("inner", action="request", handler=inner)
            begun = anyio.current_time()
            await client.request("outer", {}, timeout=2_000)
    assert left[0] is not None
    assert left[0] - begun < 2.5
