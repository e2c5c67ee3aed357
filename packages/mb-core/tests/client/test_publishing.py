"""Publications, and every way in which a call of the client can fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    InvalidRequestError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    RequestTimeoutError,
    ResponseError,
    ServiceUnavailableError,
)

from .error_types import CODES, PARENT
from .scripted import VIRTUAL_TIME
from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Errors: each is one exception, with its attributes


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.code)
async def test_an_error_of_the_service_is_the_class_of_its_code(
    client: MessageBrokerClient, kind: type[ResponseError]
) -> None:
    sent = kind("because", details={"n": [1]})

    def refuse(message: Message) -> None:
        raise sent

    await client.subscribe("refuse", action="request", handler=refuse)
    with anyio.fail_after(5), pytest.raises(ResponseError) as raised:
        await client.request("refuse", {})
    error = raised.value
    assert type(error) is kind
    assert (error.code, error.message, error.timestamp, error.details) == (
        kind.code,
        "because",
        sent.timestamp,
        {"n": [1]},
    )


async def test_a_code_of_the_services_own_arrives_as_it_is(client: MessageBrokerClient) -> None:
    def refuse(message: Message) -> None:
        raise ResponseError("no money", code="PAYMENT_REQUIRED")

    await client.subscribe("refuse", action="request", handler=refuse)
    with anyio.fail_after(5), pytest.raises(ResponseError, match="PAYMENT_REQUIRED: no money"):
        await client.request("refuse", {})


async def test_a_request_that_nobody_answers_has_no_route(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            with pytest.raises(NoRouteFoundError, match=r"nobody\.here"):
                await client.request("nobody.here", {})


async def test_a_service_that_takes_too_long_is_a_timeout(mb_broker: RunningBroker) -> None:
    async def slow(message: Message) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with MessageBrokerClient(mb_broker.url, drain_timeout=0) as client:
            await client.subscribe("slow", action="request", handler=slow)
            with pytest.raises(RequestTimeoutError) as raised:
                await client.request("slow", {}, timeout=20)
            assert "targetServiceId" in raised.value.details  # the broker's error, not ours


async def test_a_service_that_leaves_without_an_answer_is_unavailable_at_once(
    mb_broker: RunningBroker,
) -> None:
    """At once when it has left: until then, `drain_timeout`, it may still answer."""
    asked = anyio.Event()

    async def never(message: Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    service = MessageBrokerClient(mb_broker.url, drain_timeout=100)
    await service.connect()
    await service.subscribe("leave", action="request", handler=never)
    async with MessageBrokerClient(mb_broker.url) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(ServiceUnavailableError):
                        await client.request("leave", {})

                tasks.start_soon(ask)
                await asked.wait()
                await service.close()


async def test_a_system_request_that_is_refused_is_the_brokers_error(
    client: MessageBrokerClient,
) -> None:
    with anyio.fail_after(5), pytest.raises(ResponseError) as raised:
        await client.request("system.service.register", {"name": ""})
    assert isinstance(raised.value, InvalidRequestError)


async def test_an_answer_with_an_error_key_is_data(client: MessageBrokerClient) -> None:
    await client.subscribe("echo", action="request", handler=lambda m: m.payload)
    for payload in ({"error": "none"}, {"error": {"code": 1, "message": "x"}}, "error:"):
        with anyio.fail_after(5):
            assert (await client.request("echo", payload)).payload == payload


@pytest.mark.parametrize(
    "answer",
    [b'{"status":"failure"}', b"[]", b"null", b'"success"', b"{}"],
    ids=bytes.decode,
)
async def test_a_status_that_is_no_success_is_an_error(
    start_tcp_server: Start, answer: bytes
) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        calls: list[tuple[bytes, Callable[[], Any]]] = [
            (b"request:system.service.register", lambda: client.register_service("a", "b")),
            (b"request:system.topic.subscribe", lambda: client.subscribe("a.b")),
            (b"publish:a.b:", lambda: client.publish("a.b", {}, confirm=True)),
        ]
        for start, call in calls:

            async def attempt(call: Callable[[], Any] = call) -> None:
                with pytest.raises(ResponseError):
                    await call()

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(attempt)
                    await server.answer(await server.wait_for(start), answer)


async def test_the_errors_of_a_dead_connection_are_not_shared(doomed: Any) -> None:
    """Each caller gets an exception of its own: one that is raised twice grows its traceback."""
    errors: list[BaseException] = []
    async with MessageBrokerClient(doomed.url, reconnect=False) as client:
        await client.subscribe("never", action="request")
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def fail(call: Callable[[], Any]) -> None:
                    with pytest.raises(ConnectionLost) as lost:
                        await call()
                    errors.append(lost.value)

                for _ in range(3):
                    tasks.start_soon(fail, lambda: client.request("never", {}))
                    tasks.start_soon(fail, client.run)
                await client.request("system.heartbeat", {})
                await doomed.kill()
            await fail(client.run)
            await fail(client.run)
    assert len(errors) == 8
    assert len({id(error) for error in errors}) == 8


# Publishing


async def test_a_publication_reaches_every_subscriber_and_its_publisher(url: str) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(url) as one,
            MessageBrokerClient(url) as two,
            one.subscribe("news") as first,
            two.subscribe("news") as second,
        ):
            await one.publish("news", {"n": 1})
            for events in (first, second):
                message = await anext(events)
                assert message.payload == {"n": 1}
                assert message.header.action == "publish"


async def test_a_confirmed_publication_was_passed_on(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client, client.subscribe("news") as events:
            await client.publish("news", 1, confirm=True)
            # It is already in the queue: the broker's confirmation arrives after it.
            assert events.queued == 1


async def test_a_confirmed_publication_without_subscribers_raises(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            with pytest.raises(NoRouteFoundError):
                await client.publish("nobody.listens", {}, confirm=True)


async def test_a_publication_without_subscribers_is_told_to_on_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    told = anyio.Event()
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            client.on_error(lambda error: (errors.append(error), told.set()))
            await client.publish("nobody.listens", {})
            await told.wait()
            assert [type(error) for error in errors] == [NoRouteFoundError]
            await client.request("system.heartbeat", {})
    # It is usual where events have no listeners yet: no warning for each.
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@VIRTUAL_TIME
async def test_a_confirmation_that_never_comes_is_a_timeout(start_tcp_server: Start) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5), pytest.raises(RequestTimeoutError, match="within 20 ms"):
            await client.publish("a.b", {}, confirm=True, timeout=20)
        # A time limit on a publication would be refused by the broker.
        assert (await server.wait_for(b"publish:")).partition(b"\n")[0].count(b":") == 3


async def test_version_and_parent_id_of_a_publication_stand_on_the_wire(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5):
            await client.publish("a.b", 1, version="3.0.0", parent_id=PARENT)
            message = await server.wait_for(b"publish:a.b:")
    assert message == f"publish:a.b:3.0.0::{PARENT}\n1".encode()


async def test_publishing_without_end_lets_other_tasks_run(url: str) -> None:
    ran = 0
    with anyio.fail_after(10):
        async with MessageBrokerClient(url) as client, anyio.create_task_group() as tasks:

            async def watch() -> None:
                nonlocal ran
                while True:
                    await anyio.lowlevel.checkpoint()
                    ran += 1

            tasks.start_soon(watch)
            for _ in range(500):
                await client.publish("a.b", "x" * 1000)
            tasks.cancel_scope.cancel()
    assert ran >= 5
