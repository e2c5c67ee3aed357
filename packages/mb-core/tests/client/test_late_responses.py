"""Responses that nobody waits for any more: not sent, counted, reported once a second."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from mb_core import Message, MessageBrokerClient, RequestTimeoutError

from .gone_broker import QUICK
from .scripted import VIRTUAL_TIME, ScriptedBroker, ScriptedConnection
from .watching import Watch

pytestmark = [
    pytest.mark.anyio,
    VIRTUAL_TIME,
    pytest.mark.usefixtures("leaves_nothing"),
]


@pytest.fixture
async def service(scripted: ScriptedBroker) -> AsyncIterator[MessageBrokerClient]:
    async with MessageBrokerClient(scripted.url, **QUICK, heartbeat_interval=None) as connected:
        yield connected


@pytest.fixture
def connection(scripted: ScriptedBroker, service: MessageBrokerClient) -> ScriptedConnection:
    return scripted.connections[0]


def request(topic: str, number: int = 0, timeout: str = "::50") -> bytes:
    return f"request:{topic}:1.0.0:0f8fad5b-d9cb-469f-a165-{number:012x}{timeout}\n{{}}".encode()


def refusal(answer: bytes) -> bytes:
    """What a broker says to an answer for which it has no request."""
    topic, _, request_id = answer.split(b"\n")[0].split(b":")[1:4]
    error = b'{"error":{"code":"INVALID_REQUEST_ID","message":"no such request","timestamp":"t"}}'
    return b"response:%b:1.0.0:%b\n%b" % (topic, request_id, error)


def after(seconds: float, way: str = "returned") -> Callable[[Message], Any]:
    """A handler that answers after a while."""

    async def handler(message: Message) -> Any:
        await anyio.sleep(seconds)
        if way == "raised":
            raise RequestTimeoutError("the database is slow")
        if way == "by hand":
            await message.respond("by hand")
            assert message.deadline is None
        return "done"

    return handler


def late_reports(watch: Watch) -> list[tuple[str, int]]:
    """The topics and counts of the reports so far."""
    errors = [error for error in watch.errors if isinstance(error, RequestTimeoutError)]
    assert len(errors) == len(watch.errors)
    for error in errors:
        assert repr(error.details["topic"]) in str(error)
        assert str(error.details["count"]) in str(error)
    return [(error.details["topic"], error.details["count"]) for error in errors]


@pytest.mark.parametrize("way", ["returned", "by hand", "raised"])
async def test_an_answer_after_the_deadline_is_not_sent(
    service: MessageBrokerClient,
    connection: ScriptedConnection,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = Watch(service)
    await service.subscribe("slow", action="request", handler=after(0.3, way), concurrency=10)
    connection.send(request("slow", 1))
    connection.send(request("slow", 2, "::5000"))
    await connection.wait_for(b"response:slow:")
    await anyio.sleep(0.1)
    (answer,) = connection.starting(b"response:slow:")
    assert b"-000000000002\n" in answer
    assert late_reports(watch) == [("slow", 1)]
    assert service.stats().late_answers == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)


async def test_an_answer_in_the_last_moment_is_sent(
    service: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    await service.subscribe("slow", action="request", handler=after(0.049))
    connection.send(request("slow"))
    await connection.wait_for(b"response:slow:")
    assert service.stats().late_answers == 0


async def test_a_burst_is_reported_at_once_and_with_the_whole_count_a_second_later(
    service: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    watch = Watch(service)
    for topic in ("slow", "slower"):
        await service.subscribe(topic, action="request", handler=after(0.3), concurrency=300)
        connection.send(*(request(topic, number) for number in range(300)))
    await anyio.sleep(1.29)
    assert sorted(late_reports(watch)) == [("slow", 1), ("slower", 1)]
    await anyio.sleep(0.02)
    assert sorted(late_reports(watch)[2:]) == [("slow", 300), ("slower", 300)]
    await anyio.sleep(10)
    assert len(watch.errors) == 4
    assert service.stats().late_answers == 600


async def test_answers_that_keep_being_late_are_reported_once_a_second(
    service: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    watch = Watch(service)
    await service.subscribe("slow", action="request", handler=after(0.1), concurrency=300)
    for number in range(50):
        connection.send(request("slow", number))
        await anyio.sleep(0.1)
    await anyio.sleep(1)
    reports = late_reports(watch)
    assert 5 <= len(reports) <= 7
    assert reports[-1] == ("slow", 50)


async def test_what_is_not_reported_yet_is_when_the_client_closes(
    scripted: ScriptedBroker,
) -> None:
    async with MessageBrokerClient(scripted.url, **QUICK) as service:
        watch = Watch(service)
        await service.subscribe("slow", action="request", handler=after(0.3), concurrency=9)
        scripted.connections[0].send(*(request("slow", number) for number in range(9)))
        await anyio.sleep(0.4)
        assert late_reports(watch) == [("slow", 1)]
    assert late_reports(watch) == [("slow", 1), ("slow", 9)]


async def test_where_the_broker_names_no_limit_its_refusals_are_counted_by_topic(
    service: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    watch = Watch(service)
    for topic in ("slow", "other"):
        await service.subscribe(topic, action="request", handler=after(0), concurrency=10)
        connection.send(*(request(topic, number, "") for number in range(20)))
        await connection.wait_for(b"response:%b:" % topic.encode(), 20)
    connection.send(*map(refusal, connection.starting(b"response:slow:")))
    connection.send(*map(refusal, connection.starting(b"response:other:")))
    await anyio.sleep(0.1)
    assert late_reports(watch) == [("slow", 1), ("other", 1)]
    await anyio.sleep(1)
    assert late_reports(watch)[2:] == [("slow", 20), ("other", 20)]
    assert service.stats().late_answers == 40


async def test_a_request_that_nobody_takes_in_its_time_is_not_refused_either(
    service: MessageBrokerClient, connection: ScriptedConnection
) -> None:
    async with service.subscribe("slow", action="request"):
        connection.send(request("slow", 1), request("slow", 2, "::5000"))
        await anyio.sleep(0.3)
    await connection.wait_for(b"response:slow:")
    await anyio.sleep(0.1)
    (answer,) = connection.starting(b"response:slow:")
    assert b"SERVICE_UNAVAILABLE" in answer
    assert b"-000000000002\n" in answer
