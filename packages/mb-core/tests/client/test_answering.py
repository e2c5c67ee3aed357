"""What handlers return and raise, and what the requester gets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    RemoteProtocolError,
    RequestTimeoutError,
    Subscription,
)
from mb_testing import until

from .watching import Start, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Answering


async def test_what_a_handler_returns_is_the_answer(url: str) -> None:
    async def waiting(message: Message) -> Any:
        await anyio.lowlevel.checkpoint()
        return [message.payload]

    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
            await service.subscribe("plain", action="request", handler=lambda m: [m.payload])
            await service.subscribe("async", action="request", handler=waiting)
            await service.subscribe("nothing", action="request", handler=lambda m: None)
            for topic, answer in (("plain", [1]), ("async", [1]), ("nothing", None)):
                assert (await client.request(topic, 1)).payload == answer


async def test_a_returned_error_is_sent_like_a_raised_one(client: MessageBrokerClient) -> None:
    await client.subscribe("a.b", action="request", handler=lambda m: ForbiddenError("no"))
    with anyio.fail_after(5), pytest.raises(ForbiddenError, match="no"):
        await client.request("a.b", {})


async def test_any_other_exception_is_an_internal_error_without_its_text(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    client.on_error(errors.append)

    async def handler(message: Message) -> None:
        raise RuntimeError("the password is 1234")

    with anyio.fail_after(5):
        await client.subscribe("a.b", action="request", handler=handler)
        with pytest.raises(InternalError) as raised:
            await client.request("a.b", {})
        await until(lambda: errors)
    assert "1234" not in str(raised.value)
    assert raised.value.details is None
    assert str(errors[0]) == "the password is 1234"
    assert "RuntimeError: the password is 1234" in caplog.text  # with its traceback


@pytest.mark.parametrize(
    "answer", [object(), "x" * 20_000, msgspec.Raw(b"{\n}")], ids=["object", "large", "lines"]
)
async def test_an_answer_that_cant_be_sent_is_an_internal_error(
    client: MessageBrokerClient, answer: Any
) -> None:
    errors: list[Exception] = []
    client.on_error(errors.append)
    await client.subscribe("a.b", action="request", handler=lambda m: answer)
    with anyio.fail_after(5):
        with pytest.raises(InternalError, match="can't be sent"):
            await client.request("a.b", {})
        await until(lambda: errors)
    assert "1234" not in str(errors[0])


async def test_a_service_whose_limit_is_below_any_error_goes_on(mb_broker: RunningBroker) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(mb_broker.url, max_payload=60) as service,
            MessageBrokerClient(mb_broker.url) as client,
        ):
            handler: Callable[[Message], Any] = lambda m: "x" * m.payload  # noqa: E731
            await service.subscribe("x", action="request", handler=handler)
            with pytest.raises(RequestTimeoutError):
                await client.request("x", 100, timeout=50)
            assert (await client.request("x", 1)).payload == "x"


async def test_answers_wait_where_the_connection_is_congested(url: str) -> None:
    answers: list[int] = []

    async def ask(client: MessageBrokerClient) -> None:
        answers.append(len((await client.request("large", {})).payload))

    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as service, MessageBrokerClient(url) as client:
            await service.subscribe("large", action="request", handler=lambda m: "x" * 16_000)
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(ask, client)
    assert answers == [16_000] * 50


async def test_a_large_error_arrives_without_its_details(client: MessageBrokerClient) -> None:
    def refuse(message: Message) -> None:
        raise ForbiddenError("no" * 20_000, details=["x" * 20_000])

    await client.subscribe("a.b", action="request", handler=refuse)
    with anyio.fail_after(5), pytest.raises(ForbiddenError, match="nono"):
        await client.request("a.b", {})


async def test_a_handler_may_respond_itself_and_then_work_on(
    client: MessageBrokerClient,
) -> None:
    worked_on = anyio.Event()
    errors: list[Exception] = []

    async def handler(message: Message) -> str:
        await message.respond("at once")
        with pytest.raises(LocalProtocolError, match="answered already"):
            await message.respond("again")
        worked_on.set()
        return "too late"

    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", action="request", handler=handler)
        assert (await client.request("a.b", {})).payload == "at once"
        await worked_on.wait()
        await settle(client)
    assert errors == []


async def test_an_answer_that_was_refused_may_be_given_again(client: MessageBrokerClient) -> None:
    async def handler(message: Message) -> None:
        with pytest.raises(LocalProtocolError):
            await message.respond(object())
        await message.respond("fits")

    await client.subscribe("a.b", action="request", handler=handler)
    with anyio.fail_after(5):
        assert (await client.request("a.b", {})).payload == "fits"


async def test_a_publication_cant_be_answered(client: MessageBrokerClient) -> None:
    with anyio.fail_after(5):
        async with client.subscribe("a.b") as events:
            await client.publish("a.b", {})
            message = await anext(events)
            with pytest.raises(LocalProtocolError, match="only requests can"):
                await message.respond({})
        answer = await client.request("system.heartbeat", {})
        with pytest.raises(LocalProtocolError, match="only requests can"):
            await answer.respond({})


@pytest.mark.parametrize(
    "way", ["returned", "by hand", "by hand, and caught", "a request of its own"]
)
async def test_an_answer_after_the_connection_is_lost_is_not_sent_and_no_failure(
    doomed: Any, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    raised: list[ConnectionLost] = []
    started = anyio.Event()
    go_on = anyio.Event()
    caplog.set_level(logging.DEBUG, "mb_core.client")

    async def handler(message: Message) -> str:
        started.set()
        await go_on.wait()
        if way == "a request of its own":
            raise ConnectionLost("no answer to 'c.d': the connection was closed", sent=True)
        if way == "by hand, and caught":
            with pytest.raises(ConnectionLost) as lost:
                await message.respond({})
            raised.append(lost.value)
        elif way == "by hand":
            await message.respond({})
        return "too late"

    def not_answered() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.msg.startswith("not answered")]

    with anyio.fail_after(5):
        async with MessageBrokerClient(doomed.url) as service:
            service.on_error(errors.append)
            await service.subscribe("a.b", action="request", handler=handler)
            async with (
                MessageBrokerClient(doomed.url) as client,
                anyio.create_task_group() as tasks,
            ):

                async def ask() -> None:
                    with pytest.raises(ConnectionLost):
                        await client.request("a.b", {})

                tasks.start_soon(ask)
                await started.wait()
                await doomed.kill()
            go_on.set()
            await until(lambda: not_answered() or raised)
    assert [error.sent for error in raised] == [False] * (way == "by hand, and caught")
    assert [record.levelno for record in not_answered()] == [logging.DEBUG] * (not raised)
    assert [record for record in caplog.records if record.exc_info] == []
    # The broker's end is reported; that the handler was not answered is not.
    assert [error for error in errors if "a.b" in str(error) or "c.d" in str(error)] == []


async def test_a_request_without_an_id_is_handled_and_not_answered(
    start_tcp_server: Start,
) -> None:
    async with (
        start_tcp_server() as server,
        MessageBrokerClient(server.url, drain_timeout=0) as service,
    ):
        got: list[Any] = []

        def handler(message: Message) -> str:
            got.append(message.payload)
            return "nobody waits for this"

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def subscribe() -> None:
                    await service.subscribe("a.b", action="request", handler=handler)

                tasks.start_soon(subscribe)
                await server.answer(await server.wait_for(b"request:system.topic.subscribe"))
            await server.send(b"request:a.b:1.0.0\n1", b"request:a.b:1.0.0\n2")
            await until(lambda: got == [1, 2])
            await server.send(b"request:system.heartbeat:1.0.0\n{}")
            await server.wait_for(b"response:system.heartbeat")
            assert not [each for each in server.messages if each.startswith(b"response:a.b")]


async def test_requests_can_be_iterated_and_answered(client: MessageBrokerClient) -> None:
    async def serve(events: Subscription) -> None:
        async for message in events:
            await message.respond(message.payload + 1)

    with anyio.fail_after(5):
        async with (
            client.subscribe("a.b", action="request") as requests,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(serve, requests)
            for number in range(5):
                assert (await client.request("a.b", number)).payload == number + 1
            tasks.cancel_scope.cancel()


async def test_the_highest_priority_answers(mb_broker: RunningBroker) -> None:
    with anyio.fail_after(5):
        async with (
            MessageBrokerClient(mb_broker.url) as low,
            MessageBrokerClient(mb_broker.url) as high,
        ):
            await low.subscribe("a.b", 1, action="request", handler=lambda m: "low")
            await high.subscribe("a.b", 2.5, action="request", handler=lambda m: "high")
            for _ in range(10):
                assert (await low.request("a.b", {})).payload == "high"


@pytest.mark.parametrize("priority", ["1", None, True, float("nan"), float("inf")])
async def test_bad_priorities_are_refused(client: MessageBrokerClient, priority: Any) -> None:
    with pytest.raises(LocalProtocolError, match="priority"):
        client.subscribe("a.b", priority)


# Payloads that are not valid JSON


async def test_a_payload_that_is_no_json_reaches_the_handler_and_raises_when_read(
    client: MessageBrokerClient,
) -> None:
    raw: list[bytes] = []
    errors: list[Exception] = []

    def handler(message: Message) -> None:
        raw.append(message.raw_payload)
        _ = message.payload

    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=handler)
        await client.publish("a.b", msgspec.Raw(b"{not: JSON}"))
        await client.publish("a.b", msgspec.Raw(b""))
        await until(lambda: len(raw) == 2 and errors)
    assert raw == [b"{not: JSON}", b""]
    assert [type(error) for error in errors] == [RemoteProtocolError]


async def test_a_service_that_cant_read_a_request_answers_with_an_error(
    client: MessageBrokerClient,
) -> None:
    await client.subscribe("a.b", action="request", handler=lambda m: m.payload)
    with anyio.fail_after(5), pytest.raises(InvalidRequestError, match="malformed"):
        await client.request("a.b", msgspec.Raw(b"]["))


async def test_handlers_that_do_not_end_are_cancelled_when_the_client_is_closed(
    mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    running = anyio.Event()
    ended: list[str] = []

    async def handler(message: Message) -> None:
        try:
            running.set()
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    with anyio.fail_after(5):
        async with MessageBrokerClient(mb_broker.url, drain_timeout=20) as client:
            await client.subscribe("a.b", action="both", handler=handler)
            await client.publish("a.b", {})
            await running.wait()
    assert ended == ["cancelled"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Outcome(BaseException):
    """What test frameworks and others raise past `except Exception`."""


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("consumer", ["request", "publish", "on_message", "on_error"])
async def test_a_base_exception_in_user_code_is_a_failure_like_any_other(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture, consumer: str, grouped: bool
) -> None:
    errors: list[Exception] = []
    client.on_error(errors.append)

    def fail(*_: Any) -> None:
        error = Outcome("failed on purpose")
        raise BaseExceptionGroup("in a task group", [error]) if grouped else error

    with anyio.fail_after(5):
        if consumer == "request":
            await client.subscribe("a.b", action="request", handler=fail)
            with pytest.raises(InternalError):
                await client.request("a.b", {})
        else:
            handlers: dict[str, Any] = {"publish": fail, "on_error": lambda _: 1 / 0}
            {"on_message": client.on_message, "on_error": client.on_error}.get(consumer, id)(fail)
            await client.subscribe("a.b", handler=handlers.get(consumer))
            await client.publish("a.b", 1)
        await until(lambda: "Outcome: failed on purpose" in caplog.text)
        await settle(client)  # still connected
        await until(lambda: errors)
    if consumer != "on_error":
        assert isinstance(errors[0], RuntimeError)
        assert isinstance(errors[0].__cause__, BaseExceptionGroup if grouped else Outcome)
    assert "in fail\n" in caplog.text  # with a traceback


@pytest.mark.parametrize("nested", [False, True])
async def test_an_error_answer_raised_in_a_task_group_is_sent_as_it_is(
    client: MessageBrokerClient, nested: bool
) -> None:
    async def refuse() -> None:
        raise ForbiddenError("not you", details={"who": "you"})

    async def handler(message: Message) -> None:
        async with anyio.create_task_group() as outer:
            if not nested:
                outer.start_soon(refuse)
                return
            async with anyio.create_task_group() as inner:
                inner.start_soon(refuse)

    with anyio.fail_after(5):
        await client.subscribe("a.b", action="request", handler=handler)
        with pytest.raises(ForbiddenError, match="not you") as raised:
            await client.request("a.b", {})
    assert raised.value.details == {"who": "you"}


async def test_a_failure_without_a_text_is_logged_by_its_name(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    errors: list[Exception] = [TimeoutError(), Broken()]

    def fail(message: Message) -> None:
        raise errors[message.payload]

    told: list[Exception] = []
    client.on_error(told.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b", handler=fail)
        for number in range(2):
            await client.publish("a.b", number)
        await until(lambda: len(told) == 2)
    assert told == errors
    texts = [record.getMessage().rpartition("failed: ")[2] for record in caplog.records]
    assert [text for text in texts if text in ("TimeoutError", "Broken")] == [
        "TimeoutError",
        "Broken",
    ]
