"""User code of every kind, for type checkers: mypy and pyright accept all of it; nobody runs this.

`assert_type` says what a call returns.  A line with `type: ignore` is a mistake that both have to
find: mypy reports an ignore that it does not need, and so does pyright.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict, assert_type

import msgspec

import mb_sync
from mb_client import (
    Broker,
    ClientStats,
    ConnectError,
    ForbiddenError,
    MBError,
    Message,
    MessageBrokerClient,
    MessageHeader,
    Registration,
    RequestTimeoutError,
    ResponseError,
    SlowConsumer,
    Subscription,
    TCPSocketClient,
    WebSocketClient,
    running,
)


class Order(msgspec.Struct):
    id: int
    items: list[str] = []


class Weather(TypedDict):
    degrees: float


# Connecting


async def blocks(context: ssl.SSLContext) -> None:
    async with MessageBrokerClient() as client:
        assert_type(client, MessageBrokerClient)
        await client.connect("localhost", 8081, use_tls=True)
    async with MessageBrokerClient(
        ["tls://a:8444", "tls://b:8444"],
        ssl_context=context,
        reconnect=True,
        retry_connect=True,
        heartbeat_interval=None,
    ) as client:
        await client.wait_connected(1_000)
        assert_type(client.connected, bool)
        assert_type(client.user, str | None)
        assert_type(client.stats(), ClientStats)
        await client.run()


def tokens() -> None:
    def plain() -> str:
        return "mb_secret"

    async def later() -> str:
        return "mb_secret"

    def number() -> int:
        return 5

    MessageBrokerClient("tcp://localhost:8081", token="mb_secret")
    MessageBrokerClient("tcp://localhost:8081", token=plain)
    MessageBrokerClient("tcp://localhost:8081", token=later)
    # A type checker has to refuse this one.
    MessageBrokerClient("tcp://localhost:8081", token=number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client = mb_sync.MessageBrokerClient("tcp://localhost:8081", token=later)
    assert_type(client.user, str | None)


class Application(MessageBrokerClient):
    async def greet(self) -> None:
        await self.publish("app.greeting", "hello")


async def subclasses() -> None:
    async with Application("tcp://localhost:8081") as app:
        assert_type(app, Application)
        await app.greet()


# Asking


async def requests(client: MessageBrokerClient) -> None:
    answer = await client.request("order.get", {"id": 7}, timeout=500, retry=True)
    assert_type(answer, Message)
    assert_type(answer.decode(Order), Order)
    assert_type(answer.decode(list[Order])[0].items, list[str])
    assert_type(answer.topic, str)
    assert_type(answer.request_id, str | None)
    assert_type(answer.header, MessageHeader)
    assert_type(await client.request("weather", {}, result=Weather), Weather)
    results = await asyncio.gather(
        client.request("order.get", 1, result=Order), client.request("order.get", 2, result=Order)
    )
    assert_type(results, tuple[Order, Order])
    task = asyncio.create_task(client.request("order.get", 3))
    assert_type(await task, Message)
    await client.request("order.get", 7, "1.0")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.request("order.get", 7, timeout="5 s")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def errors(client: MessageBrokerClient) -> None:
    try:
        await client.publish("order.placed", Order(1), confirm=True)
    except RequestTimeoutError as error:
        assert_type(error.code, str)
    except ForbiddenError as error:
        assert_type(str(error), str)
    except ConnectError as error:
        assert_type(error.final, bool)
    except ResponseError as error:
        assert_type(error.details, Any)
    except MBError:
        pass


# Answering and listening


def plain(message: Message) -> dict[str, object]:
    return {"id": message.payload["id"]}


async def later(message: Message) -> Order:
    return message.decode(Order)


class Kitchen:
    def bake(self, message: Message) -> None:
        raise ResponseError("out of flour", code="NO_FLOUR", details={"bread": 3})


async def subscriptions(client: MessageBrokerClient) -> None:
    await client.register_service("Orders", "Answers order.get")
    assert_type(await client.subscribe("order.get", action="request", handler=plain), Subscription)
    await client.subscribe("order.get", 2, action="both", handler=later, concurrency=8)
    await client.subscribe("bread.bake", action="request", handler=Kitchen().bake)
    await client.subscribe("order.#", handler=lambda message: message.respond(None))
    async with client.subscribe("order.placed", queue_size=None, overflow="drop_oldest") as orders:
        assert_type(orders, Subscription)
        assert_type(orders.dropped, int)
        async for message in orders:
            assert_type(message, Message)
            await message.respond(Order(1))
            break
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.subscribe("in.a.task"))
    async with client.follow_log(["warn", "error"], "^tcp") as entries:
        assert_type(await anext(entries), Message)
    await client.unsubscribe("order.get", action="request")
    client.subscribe("a.b", action="requests")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.subscribe("a.b", overflow="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.subscribe("a.b", plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def callbacks(client: MessageBrokerClient) -> None:
    def failed(error: Exception) -> None:
        if isinstance(error, SlowConsumer):
            print(error.topic)

    assert_type(client.on_error(failed), Registration)

    @client.on_message
    def seen(header: MessageHeader, payload: Any) -> None:
        print(header.topic, payload)

    @client.on_connect
    async def connected() -> None:
        await client.publish("app.here", 1)

    seen.remove()
    connected.remove()
    client.on_disconnect(lambda: None).remove()
    client.on_message(failed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# Brokers, whole messages, threads


async def brokers() -> None:
    async with Broker("tcp://127.0.0.1:0", "memory://", max_payload=65_536) as broker:
        assert_type(broker, Broker)
        assert_type(broker.url, str)
        assert_type(broker.url_of("memory"), str)
    with running("tcp://127.0.0.1:0") as other:
        assert_type(other.url, str)
    Broker(max_payloads=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def whole_messages() -> None:
    async with TCPSocketClient() as tcp, WebSocketClient() as ws:
        assert_type(tcp, TCPSocketClient)
        await tcp.connect("localhost", 8081)
        await ws.connect("ws://localhost:8080")
        ws.on_message(lambda text: print(text.upper()))
        await tcp.send("publish:a.b:1.0.0\n{}")


def threads() -> None:
    with mb_sync.MessageBrokerClient("tcp://localhost:8081") as client:
        assert_type(client, mb_sync.MessageBrokerClient)
        assert_type(client.request("order.get", 7), Message)
        assert_type(client.request("order.get", 7, result=Order), Order)
        client.publish("order.placed", Order(1))
        with client.subscribe("order.placed") as orders:
            assert_type(orders, mb_sync.Subscription)
            assert_type(orders.receive(timeout=100), Message)
            for message in orders:
                assert_type(message, Message)
        client.subscribe("order.get", action="request", handler=plain).unsubscribe()
        client.run()


handlers: list[Callable[[Message], object]] = [plain, later, Kitchen().bake]
waiting: Callable[[MessageBrokerClient], Awaitable[Message]] = lambda client: client.request("a", 1)  # noqa: E731
