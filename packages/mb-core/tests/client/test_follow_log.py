"""Following the broker's log, and leaving feeds that the broker does not let go of."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from mb_core import (
    ConnectionLost,
    InvalidRequestError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    ServiceUnavailableError,
)
from mb_core.errors import MBError

from .gone_broker import QUICK
from .scripted import ScriptedBroker, error
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

REFUSED = error("INVALID_REQUEST", "restricted topic")
ENTRY = b'response:system.log:1.0.0\n{"level":"error","message":"%b"}'


async def cause_a_refusal(client: MessageBrokerClient) -> None:
    with pytest.raises(NoRouteFoundError):
        await client.request("no.one", {})


def refusals(client: MessageBrokerClient) -> Any:
    """The refusals in the log that say what this test causes, or another one at the same time."""
    return client.follow_log(["error"], r"^\[NO_ROUTE_FOUND\]")


async def test_entries_are_iterated(url: str) -> None:
    async with MessageBrokerClient(url) as client, refusals(client) as entries:
        await cause_a_refusal(client)
        with anyio.fail_after(5):
            message = await anext(entries)
    assert (message.action, message.topic, message.request_id) == ("response", "system.log", None)
    assert message.payload["level"] == "error"
    assert message.payload["message"].startswith("[NO_ROUTE_FOUND]")


async def test_a_handler_gets_them(url: str) -> None:
    send, received = anyio.create_memory_object_stream[Message](10)
    with send, received:
        async with MessageBrokerClient(url) as client:
            await client.follow_log(handler=send.send_nowait)
            await cause_a_refusal(client)
            with anyio.fail_after(5):
                message = await received.receive()
    assert message.payload["level"] == "error"


async def test_so_does_on_message_after_an_ordinary_subscription(url: str) -> None:
    send, received = anyio.create_memory_object_stream[tuple[Any, Any]](10)
    with send, received:
        async with MessageBrokerClient(url) as client:
            client.on_message(lambda header, payload: send.send_nowait((header, payload)))
            await client.subscribe("System.Log")
            await cause_a_refusal(client)
            with anyio.fail_after(5):
                header, payload = await received.receive()
    assert (header.action, header.topic) == ("response", "system.log")
    assert payload["level"] == "error"


async def test_levels_and_regex_are_the_brokers_to_apply(scripted: ScriptedBroker) -> None:
    async with MessageBrokerClient(scripted.url) as client:
        await client.follow_log(["error", "debug", "error"], "a.*b")
        asked = await scripted.connections[0].wait_for(b"request:system.log.subscribe")
    wishes = {"levels": ["debug", "error"], "regex": "a.*b"}
    assert json.loads(asked.partition(b"\n")[2]) == wishes


async def test_it_is_followed_again_over_each_connection(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            entries = await client.follow_log(["warn"], "x")
            first = scripted.connections[0]
            first.send(ENTRY % b"one")
            assert (await anext(entries)).payload["message"] == "one"
            await first.drop()
            await watch.connects(1)
            second = scripted.connections[1]
            before, after = (
                each.starting(b"request:system.log.subscribe")[0].partition(b"\n")[2]
                for each in (first, second)
            )
            assert before == after
            assert second.starting(b"request:system.topic.subscribe") == []
            second.send(ENTRY % b"two")
            assert (await anext(entries)).payload["message"] == "two"


async def test_leaving_tells_the_broker_and_what_crosses_it_is_ignored(
    scripted: ScriptedBroker,
) -> None:
    async with MessageBrokerClient(scripted.url) as client:
        watch = Watch(client)
        async with client.follow_log() as entries:
            pass
        connection = scripted.connections[0]
        assert len(connection.starting(b"request:system.log.unsubscribe")) == 1
        connection.send(ENTRY % b"late")
        await client.request("system.heartbeat", {})
        assert entries.queued == 0
        assert watch.errors == []


async def test_a_client_follows_with_one_choice_at_a_time(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        async with client.follow_log() as one, client.subscribe("system.log") as same:
            with pytest.raises(LocalProtocolError, match="use another client"):
                await client.follow_log(["info"])
            await cause_a_refusal(client)
            with anyio.fail_after(5):
                assert (await anext(one)).payload == (await anext(same)).payload
        async with client.follow_log(["info"], "registered$") as entries:
            await client.register_service("one", "the first")
            with anyio.fail_after(5):
                assert (await anext(entries)).payload["message"] == "one registered"


async def test_a_regex_that_the_broker_can_not_use_is_refused(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        with pytest.raises(InvalidRequestError):
            await client.follow_log(regex="(")
        async with client.follow_log(regex="x"):
            pass


@pytest.mark.parametrize("levels", ["error", [], ["loud"], [None], [["error"]], None, 5], ids=repr)
def test_levels_that_are_not_levels_are_refused_at_once(levels: Any) -> None:
    with pytest.raises(LocalProtocolError, match="invalid levels"):
        MessageBrokerClient().follow_log(levels)


def test_a_regex_is_a_string() -> None:
    with pytest.raises(LocalProtocolError, match="invalid regex 5"):
        MessageBrokerClient().follow_log(regex=5)  # type: ignore[arg-type]


# Leaving


@pytest.mark.parametrize("feed", ["system.message", "system.log"])
async def test_a_feed_that_the_broker_does_not_let_go_of_is_left(
    feed: str, scripted: ScriptedBroker
) -> None:
    scripted.answers |= {"system.topic.unsubscribe": REFUSED, "system.log.unsubscribe": REFUSED}
    async with MessageBrokerClient(scripted.url) as client:
        watch = Watch(client)
        async with client.subscribe(feed):
            pass
        subscription = await client.subscribe(feed)
        await subscription.unsubscribe()
        await client.subscribe(feed)
        await client.unsubscribe(feed)
        assert watch.errors == []


@pytest.mark.parametrize("feed", ["system.message", "a.b"])
@pytest.mark.parametrize("refusal", [REFUSED, error("SERVICE_UNAVAILABLE")])
async def test_the_blocks_own_error_comes_out(
    refusal: bytes, feed: str, scripted: ScriptedBroker
) -> None:
    scripted.answers["system.topic.unsubscribe"] = refusal
    async with MessageBrokerClient(scripted.url) as client:
        watch = Watch(client)
        with pytest.raises(ValueError, match="of the program"):
            async with client.subscribe(feed):
                raise ValueError("of the program")
        if (refusal, feed) != (REFUSED, "system.message"):
            await watch.error(MBError, 1)


async def test_a_refusal_of_another_kind_is_raised(scripted: ScriptedBroker) -> None:
    scripted.answers["system.topic.unsubscribe"] = error("SERVICE_UNAVAILABLE")
    async with MessageBrokerClient(scripted.url) as client:
        for topic in ("system.message", "a.b"):
            with pytest.raises(ServiceUnavailableError):
                async with client.subscribe(topic):
                    pass


async def test_draining_waits_for_each_confirmation_whatever_the_first_one_is(
    scripted: ScriptedBroker,
) -> None:
    scripted.answers["system.topic.unsubscribe"] = None
    answered: list[Any] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            client = MessageBrokerClient(scripted.url)
            await client.connect()
            await client.subscribe("system.message", handler=lambda message: None)
            await client.subscribe("a.b", action="request", handler=answered.append)
            tasks.start_soon(client.close)
            connection = scripted.connections[0]
            start = b"request:system.topic.unsubscribe"
            feed, topic = [await connection.wait_for(start, count) for count in (1, 2)]
            connection.answer(feed, REFUSED)
            # It has crossed our unsubscribing.
            request = b"request:a.b:1.0.0:123e4567-e89b-42d3-a456-426614174000\n1"
            connection.send(request)
            connection.answer(topic)
    assert [message.payload for message in answered] == [1]


async def test_a_lost_connection_ends_following_for_good(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(scripted.url, reconnect=False) as client,
            client.follow_log() as entries,
        ):
            await scripted.connections[0].drop()
            with pytest.raises(ConnectionLost):
                await anext(entries)
