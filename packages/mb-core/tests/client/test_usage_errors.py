"""Mistakes out of habits from other libraries: each raises, and says what to write."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta
from typing import Any

import anyio
import pytest

from mb_broker import RunningBroker
from mb_core import (
    LocalProtocolError,
    MessageBrokerClient,
    Subscription,
    TCPSocketClient,
    WebSocketClient,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


def handle(message: object) -> None:
    raise AssertionError("nothing is sent")


# Arguments


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (
            (1000,),
            {},
            (
                "invalid response_handler 1000: expected a function (a time limit is passed by its "
                "name: timeout=1000)"
            ),
        ),
        (("json",), {}, "invalid response_handler 'json': expected a function"),
        (
            (),
            {"timeout": 0.5},
            (
                "invalid timeout 0.5: expected whole milliseconds from 1 to 3600000 "
                "(0.5 seconds are 500)"
            ),
        ),
        (
            (),
            {"timeout": timedelta(seconds=2)},
            (
                "invalid timeout datetime.timedelta(seconds=2): expected whole milliseconds from 1 "
                "to 3600000 (this duration is 2000)"
            ),
        ),
        (
            (),
            {"timeout": "1000"},
            "invalid timeout '1000': expected whole milliseconds from 1 to 3600000",
        ),
        (
            (),
            {"timeout": None},
            "invalid timeout None: expected whole milliseconds from 1 to 3600000",
        ),
    ],
)
async def test_a_wrong_argument_of_request_raises_before_anything_is_sent(
    client: MessageBrokerClient, arguments: Any, options: Any, text: str
) -> None:
    await client.subscribe("calc.double", action="request", handler=handle)
    sent = client.stats().messages_sent
    with pytest.raises(LocalProtocolError) as raised:
        await client.request("calc.double", 21, *arguments, **options)
    assert str(raised.value) == text
    assert client.stats().messages_sent == sent


async def test_a_wrong_time_limit_raises_within_a_handler_too(client: MessageBrokerClient) -> None:
    async def ask(message: object) -> Any:
        with pytest.raises(LocalProtocolError, match="invalid timeout '9': expected whole"):
            await client.request("a.b", 1, timeout="9")  # type: ignore[arg-type]
        return "raised"

    await client.subscribe("outer.a", action="request", handler=ask)
    assert (await client.request("outer.a", 1)).payload == "raised"


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (
            (handle,),
            {},
            (
                "invalid priority handle: expected a number (pass a handler by its name: "
                "handler=handle)"
            ),
        ),
        (
            ("request",),
            {},
            (
                "invalid priority 'request': expected a number (pass an action by its name: "
                "action='request')"
            ),
        ),
        (("high",), {}, "invalid priority 'high': expected a number"),
        ((True,), {}, "invalid priority True: expected a number"),
        ((float("nan"),), {}, "invalid priority nan: expected a number"),
        ((), {"handler": 7}, "invalid handler 7: expected a function"),
        (
            (),
            {"action": "subscribe"},
            "invalid action 'subscribe': one of 'publish', 'request', 'both'",
        ),
        ((), {"action": ["publish"]}, "invalid action ['publish']: one of 'publish', 'request', "),
    ],
)
async def test_a_wrong_argument_of_subscribe_says_what_was_meant(
    client: MessageBrokerClient, arguments: Any, options: Any, text: str
) -> None:
    with pytest.raises(LocalProtocolError) as raised:
        client.subscribe("a.b", *arguments, **options)
    assert str(raised.value).startswith(text)


async def test_a_handler_that_was_called_is_not_one(client: MessageBrokerClient) -> None:
    async def handler() -> None: ...

    called = handler()
    with pytest.raises(LocalProtocolError, match="it was called; pass the function itself"):
        client.subscribe("a.b", handler=called)  # type: ignore[arg-type]
    called.close()


@pytest.mark.parametrize(
    "name",
    ["connect_timeout", "close_timeout", "drain_timeout", "reconnect_timeout", "backoff_min"],
)
async def test_a_time_limit_in_seconds_is_named(name: str) -> None:
    options: dict[str, Any] = {name: 2.5}
    with pytest.raises(LocalProtocolError, match=rf"invalid {name} 2.5: .*\(2.5 seconds are 2500"):
        MessageBrokerClient(**options)


# Handlers of events


@pytest.mark.parametrize("kind", [MessageBrokerClient, TCPSocketClient, WebSocketClient])
@pytest.mark.parametrize("name", ["on_message", "on_connect", "on_disconnect", "on_error"])
async def test_a_handler_is_not_assigned(kind: Any, name: str) -> None:
    client = kind()
    with pytest.raises(
        LocalProtocolError, match=rf"{name} is a method, .* call client\.{name}\(handler\)$"
    ):
        setattr(client, name, handle)
    with pytest.raises(LocalProtocolError, match=f"invalid {name} handler None: .* it was called"):
        getattr(client, name)(None)
    with pytest.raises(LocalProtocolError, match=f"invalid {name} handler 7: expected a function"):
        getattr(client, name)(7)


# Closed clients, and blocks


async def test_a_closed_client_is_not_entered_or_connected_again(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    async with client:
        pass
    text = "this client was closed and can't be used again: create a new one"
    with pytest.raises(LocalProtocolError, match=text):
        async with client:
            raise AssertionError("entered")
    with pytest.raises(LocalProtocolError, match=text):
        await client.connect()


async def test_a_block_within_the_block_raises_and_closes_nothing(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    async with client:
        with pytest.raises(LocalProtocolError, match="in a 'with' block already"):
            async with client:
                raise AssertionError("entered")
        assert (await client.request("system.heartbeat", {})).payload == {"status": "success"}


async def test_a_client_that_is_connected_may_be_entered(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient()
    await client.connect(mb_broker.url)
    async with client:
        assert client.connected
    assert not client.connected


async def test_a_block_whose_connect_failed_may_be_tried_again(mb_broker: RunningBroker) -> None:
    url = mb_broker.url_of("tcp")
    client = MessageBrokerClient(url)
    mb_broker.stop()
    with pytest.raises(Exception, match="nobody listens"):
        async with client:
            raise AssertionError("entered")
    mb_broker.start()
    async with client:
        assert client.connected


# Subscribing as a coroutine


async def subscribed(client: MessageBrokerClient) -> list[str]:
    answer = await client.request("system.service.subscriptions", {})
    return [each["topic"] for each in answer.payload["subscriptions"]]


async def test_a_task_group_starts_a_subscription(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    handled = anyio.Event()

    def take(message: Any) -> None:
        got.append(message.payload)
        handled.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.subscribe, "a.b")
        tasks.start_soon(functools.partial(client.subscribe, "a.c", handler=take))
    assert await subscribed(client) == ["a.b", "a.c"]
    await client.publish("a.c", 7, confirm=True)
    with anyio.fail_after(5):
        await handled.wait()
    assert got == [7]


async def test_a_task_group_reports_the_error_of_a_subscription(
    client: MessageBrokerClient,
) -> None:
    subscription = client.subscribe("a.b")
    await subscription
    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: subscription)
    assert "was awaited before" in str(raised.value.exceptions[0])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_s_own_ways_to_run_a_coroutine_take_a_subscription(
    client: MessageBrokerClient,
) -> None:
    first = await asyncio.create_task(client.subscribe("a.b"))
    assert isinstance(first, Subscription)
    assert first.topic == "a.b"
    async with asyncio.TaskGroup() as tasks:
        second = tasks.create_task(client.subscribe("a.c"))
    assert second.result().topic == "a.c"
    await asyncio.gather(client.subscribe("a.d"), client.subscribe("a.e"))
    await asyncio.wait_for(client.subscribe("a.f"), 5)
    assert await subscribed(client) == [*("a.b", "a.c", "a.d", "a.e", "a.f")]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_before_it_began_subscribes_nothing(
    client: MessageBrokerClient,
) -> None:
    task = asyncio.create_task(client.subscribe("a.b"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await subscribed(client) == []


async def test_closing_a_subscription_names_what_ends_it(client: MessageBrokerClient) -> None:
    client.subscribe("a.b").close()  # as a coroutine that is not wanted: without a warning
    subscription = await client.subscribe("a.b")
    with pytest.raises(LocalProtocolError, match=r"is ended by 'await subscription.unsubscribe"):
        subscription.close()
    await subscription.unsubscribe()
    subscription.close()
