"""Requests and their responses, and cancelling them."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    LocalProtocolError,
    MalformedMessageError,
    MBError,
    Message,
    MessageBrokerClient,
    MessageTooLarge,
    NoRouteFoundError,
    RemoteProtocolError,
)

from .error_types import CODES, PARENT
from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]
MAX_PAYLOAD = 16_384


# Asking and answering


async def test_an_answer_comes_back_over_every_transport(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
            await service.subscribe("echo.it", action="request", handler=lambda m: m.payload)
            payload = {"text": "grüße 😀", "numbers": [1, -2.5, 2**53], "none": None}
            answer = await client.request("echo.it", payload)
            assert answer.payload == payload
            assert answer.topic == "echo.it"


async def test_a_client_may_ask_itself(client: MessageBrokerClient) -> None:
    await client.subscribe("double", action="request", handler=lambda m: 2 * m.payload)
    with anyio.fail_after(5):
        assert (await client.request("double", 21)).payload == 42


async def test_answers_find_their_requests_in_any_order(mb_broker: RunningBroker) -> None:
    async with MessageBrokerClient(mb_broker.url) as service:
        waiting: list[Message] = []
        answers: dict[int, Any] = {}

        async with (
            service.subscribe("later", action="request") as requests,
            MessageBrokerClient(mb_broker.url) as client,
            anyio.create_task_group() as tasks,
        ):

            async def ask(number: int) -> None:
                answers[number] = (await client.request("later", number)).payload

            for number in range(50):
                tasks.start_soon(ask, number)
            with anyio.fail_after(5):
                while len(waiting) < 50:
                    waiting.append(await anext(requests))
                for message in reversed(waiting):
                    await message.respond(message.payload * 10)
        assert answers == {number: number * 10 for number in range(50)}


@pytest.mark.parametrize("payload", [None, {}, [], "", 0, False, "ü\n\u2028", [[[]]], 10**18])
async def test_any_json_is_a_payload_and_an_answer(
    client: MessageBrokerClient, payload: Any
) -> None:
    await client.subscribe("echo", action="request", handler=lambda m: m.payload)
    with anyio.fail_after(5):
        assert (await client.request("echo", payload)).payload == payload


class Attributes(dict[str, Any]):
    """A dictionary with attributes: it says that it has whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


async def test_an_answer_is_awaited_only_if_its_class_can_be(client: MessageBrokerClient) -> None:
    await client.subscribe("a.b", action="request", handler=lambda m: Attributes(degrees=3))
    assert (await client.request("a.b", None)).payload == {"degrees": 3}


async def test_an_answer_is_decoded_into_a_type(client: MessageBrokerClient) -> None:
    @dataclasses.dataclass
    class Weather:
        city: str
        degrees: float

    await client.subscribe("weather", action="request", handler=lambda m: Weather("Oslo", -3.5))
    with anyio.fail_after(5):
        answer = await client.request("weather", {})
    assert answer.decode(Weather) == Weather("Oslo", -3.5)
    with pytest.raises(RemoteProtocolError):
        answer.decode(list[int])


async def test_topics_are_matched_without_regard_to_case(client: MessageBrokerClient) -> None:
    await client.subscribe("Weather.Current", action="request", handler=lambda m: m.topic)
    with anyio.fail_after(5):
        assert (await client.request("wEATHER.cURRENT", {})).payload == "wEATHER.cURRENT"


async def test_version_parent_id_and_time_limit_stand_on_the_wire(start_tcp_server: Start) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    lambda: client.request(
                        "a.b", {"x": 1}, timeout=777, version="2.1.0-beta", parent_id=PARENT
                    )
                )
                request = await server.wait_for(b"request:a.b:")
                await server.answer(request)
        head, _, body = request.partition(b"\n")
        fields = head.decode().split(":")
        assert fields[:3] == ["request", "a.b", "2.1.0-beta"]
        assert fields[4:] == [PARENT, "777"]
        assert body == b'{"x":1}'


@pytest.mark.parametrize("timeout", [1, 3_600_000])
async def test_time_limits_may_be_at_their_limits(
    client: MessageBrokerClient, timeout: int
) -> None:
    with anyio.fail_after(5):
        await client.request("system.heartbeat", {}, timeout=timeout)


@pytest.mark.parametrize("timeout", [0, -1, 3_600_001, 1.5, "5", True, None, math.inf])
async def test_bad_time_limits_are_refused(client: MessageBrokerClient, timeout: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid timeout"):
        await client.request("a.b", {}, timeout=timeout)
    with pytest.raises(LocalProtocolError, match="invalid timeout"):
        await client.publish("a.b", {}, confirm=True, timeout=timeout)


@pytest.mark.parametrize(
    "options",
    [{"version": "1.0"}, {"version": ""}, {"parent_id": "1"}, {"parent_id": PARENT.upper()}],
    ids=str,
)
async def test_bad_header_fields_are_refused(
    client: MessageBrokerClient, options: dict[str, Any]
) -> None:
    for confirm in (False, True):
        with pytest.raises(LocalProtocolError):
            await client.publish("a.b", {}, confirm=confirm, **options)
    with pytest.raises(LocalProtocolError):
        await client.request("a.b", {}, **options)


@pytest.mark.parametrize("topic", ["", "a..b", "a.+", "#", "1a", "a.b.c.d.e.f", "a b", "ä", None])
async def test_bad_topics_are_refused(client: MessageBrokerClient, topic: Any) -> None:
    with pytest.raises(LocalProtocolError, match="topic"):
        await client.request(topic, {})
    with pytest.raises(LocalProtocolError, match="topic"):
        await client.publish(topic, {})
    with pytest.raises(LocalProtocolError, match="topic"):
        await client.publish(topic, {}, confirm=True)


@pytest.mark.parametrize(
    "payload",
    [object, {1: {2: object}}, msgspec.Raw(b"{\n}"), "\ud800"],
    ids=["a type", "a type within", "two lines", "a surrogate"],
)
async def test_payloads_that_are_no_json_are_refused(
    client: MessageBrokerClient, payload: Any
) -> None:
    for send in (client.request, client.publish):
        with pytest.raises(LocalProtocolError):
            await send("a.b", payload)


async def test_a_payload_may_have_the_limit_and_not_a_byte_more(url: str) -> None:
    largest = "x" * (MAX_PAYLOAD - 2)
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            assert (await client.request("echo", largest)).payload == largest
            for send in (client.request, client.publish):
                with pytest.raises(MessageTooLarge) as refused:
                    await send("echo", largest + "x")
                assert (refused.value.size, refused.value.limit) == (MAX_PAYLOAD + 1, MAX_PAYLOAD)
            await client.request("system.heartbeat", {})


async def test_a_broker_with_a_lower_limit_says_so(start_broker: Start) -> None:
    async with (
        start_broker("tcp://127.0.0.1:0") as broker,
        MessageBrokerClient(broker.url, max_payload=MAX_PAYLOAD + 100) as client,
    ):
        # As the reference broker does, ours looks for a responder first.
        await client.subscribe("a.b", action="request", handler=lambda message: None)
        with anyio.fail_after(5), pytest.raises(MalformedMessageError, match="limit is 16384"):
            await client.request("a.b", "x" * MAX_PAYLOAD)


async def test_a_registered_service_is_listed_by_its_last_name(mb_broker: RunningBroker) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(mb_broker.url) as client:
            await client.register_service("one", "the first name")
            await client.register_service("x" * 36, "y" * 1024)
            listed = (await client.request("system.service.list", {})).payload["services"]
            assert [service["name"] for service in listed] == ["x" * 36]


@pytest.mark.parametrize(
    ("name", "description"),
    [("", "d"), ("n", ""), ("n" * 37, "d"), ("n", "d" * 1025), (1, "d"), ("n", None)],
)
async def test_bad_service_names_are_refused(
    client: MessageBrokerClient, name: Any, description: Any
) -> None:
    with pytest.raises(LocalProtocolError, match="invalid service"):
        await client.register_service(name, description)


# The response handler


async def test_a_plain_response_handler_gets_the_payload_before_request_returns(
    client: MessageBrokerClient,
) -> None:
    await client.subscribe("echo", action="request", handler=lambda m: m.payload)
    got: list[Any] = []
    with anyio.fail_after(5):
        answer = await client.request("echo", {"a": 1}, got.append)
    assert got == [{"a": 1}]
    assert answer.payload == {"a": 1}


async def test_an_async_response_handler_is_awaited(client: MessageBrokerClient) -> None:
    await client.subscribe("echo", action="request", handler=lambda m: m.payload)
    got: list[Any] = []

    async def handler(payload: Any) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(payload)

    with anyio.fail_after(5):
        await client.request("echo", [1], response_handler=handler)
    assert got == [[1]]


async def test_a_response_handler_is_not_called_for_an_error(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    with anyio.fail_after(5), pytest.raises(NoRouteFoundError):
        await client.request("nobody", {}, got.append)
    assert got == []


async def test_an_error_says_for_which_topic_nobody_answers(client: MessageBrokerClient) -> None:
    async def forward(message: Message) -> None:
        await client.request("nobody", {})

    with anyio.fail_after(5):
        await client.subscribe("forward", action="request", handler=forward)
        for topic in ("nobody", "forward"):
            with pytest.raises(NoRouteFoundError) as caught:
                await client.request(topic, {})
            assert caught.value.details == {"topic": "nobody"}


async def test_what_a_response_handler_raises_reaches_the_caller(
    client: MessageBrokerClient,
) -> None:
    def handler(payload: Any) -> None:
        raise KeyError("mine")

    with anyio.fail_after(5), pytest.raises(KeyError, match="mine"):
        await client.request("system.heartbeat", {}, handler)


async def test_an_answer_that_is_no_json_raises_where_it_is_read(
    client: MessageBrokerClient,
) -> None:
    async def respond(message: Message) -> Any:
        return msgspec.Raw(b"so much for JSON")

    await client.subscribe("prose", action="request", handler=respond)
    with anyio.fail_after(5):
        answer = await client.request("prose", {})
        assert answer.raw_payload == b"so much for JSON"
        with pytest.raises(RemoteProtocolError, match="is not valid JSON"):
            _ = answer.payload
        with pytest.raises(RemoteProtocolError, match="is not valid JSON"):
            await client.request("prose", {}, lambda payload: None)


# Cancellation


async def test_a_cancelled_request_leaves_the_connection_usable(url: str) -> None:
    async def slow(message: Message) -> Any:
        if message.payload == "slow":
            await anyio.sleep_forever()
        return message.payload

    with anyio.fail_after(5):
        async with MessageBrokerClient(url, drain_timeout=0) as client:
            await client.subscribe("a.b", action="request", handler=slow, concurrency=100)
            for turns in range(8):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.request, "a.b", "slow")
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            assert (await client.request("a.b", "quick")).payload == "quick"


@pytest.mark.parametrize("answer", [b"{}", b'error:{"code":"FORBIDDEN","message":"no"}'])
async def test_the_answer_to_a_cancelled_request_is_ignored(
    start_tcp_server: Start, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    errors: list[Exception] = []
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        client.on_error(errors.append)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.request, "a.b", {})
                request = await server.wait_for(b"request:a.b:")
                tasks.cancel_scope.cancel()
            await server.answer(request, answer)
            await server.send(b"request:system.heartbeat:1.0.0\n{}")
            await server.wait_for(b"response:system.heartbeat")
            await anyio.wait_all_tasks_blocked()
    assert errors == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_request_cancelled_before_its_first_turn_may_have_been_sent(
    client: MessageBrokerClient,
) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.request("system.heartbeat", {})
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        await client.request("system.heartbeat", {})


async def test_who_sends_to_a_deaf_broker_waits_and_can_be_cancelled(
    connect_to_deaf_server: Any,
) -> None:
    with anyio.fail_after(5):
        client = await connect_to_deaf_server(close_timeout=100)
        sent = 0
        with anyio.move_on_after(0.2):
            while True:
                await client.publish("a.b", "x" * 10_000)
                sent += 1
        assert sent < 2_000  # bounded: by the system's buffers and ours
        for call in (
            lambda: client.publish("a.b", {}),
            lambda: client.request("a.b", {}),
            lambda: client.subscribe("a.b"),
        ):
            with anyio.move_on_after(0.01) as scope:
                await call()
            assert scope.cancelled_caught
        await client.close()


async def test_every_error_is_of_one_tree() -> None:
    for kind in [*CODES, ConnectionLost, MessageTooLarge, LocalProtocolError, RemoteProtocolError]:
        assert issubclass(kind, MBError)
        assert not issubclass(kind, ExceptionGroup)
