"""A connection that is lost comes back with all that was registered and subscribed."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from mb_core import (
    ConnectError,
    ForbiddenError,
    InvalidRequestError,
    MessageBrokerClient,
    ResponseError,
    ServiceUnavailableError,
    Subscription,
)
from mb_testing import until

from .gone_broker import QUICK
from .scripted import SUCCESS, VIRTUAL_TIME, ScriptedBroker, error
from .watching import Watch, known_subscriptions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("leaves_nothing"),
    VIRTUAL_TIME,
]


# What comes back


async def test_a_client_is_told_of_each_loss_and_each_connection(broker: Any) -> None:
    client = MessageBrokerClient(broker.url, **QUICK)
    watch = Watch(client)
    with anyio.fail_after(10):
        async with client:
            for number in range(1, 4):
                await watch.connects(number)
                assert client.connected
                await broker.kill()
                await watch.disconnects(number)
                assert not client.connected
                await broker.start()
            await watch.connects(4)
            await client.request("system.heartbeat", {})
    assert watch.moves == ["connect", "disconnect"] * 4
    assert all(isinstance(tried, ConnectError) for tried in watch.errors)
    assert not client.connected


async def test_at_on_connect_the_broker_knows_the_name_and_every_subscription(broker: Any) -> None:
    seen: list[Any] = []

    async def look() -> None:
        assert client.connected
        services = (await client.request("system.service.list", {})).payload["services"]
        seen.append(([each["name"] for each in services], await known_subscriptions(client)))

    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            await client.register_service("one", "the first")
            await client.subscribe("a.+", handler=lambda m: None)
            await client.subscribe("b", action="both", priority=3)
            await client.subscribe("b", action="publish", handler=lambda m: None)
            expected = (["one"], [("publish", "a.+"), ("publish", "b"), ("request", "b")])
            client.on_connect(look)
            await broker.kill()
            await broker.start()
            await until(lambda: seen)
    assert seen == [expected]


async def test_handlers_iterators_and_on_message_live_on(broker: Any) -> None:
    handled: list[Any] = []
    on_message: list[Any] = []
    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            watch = Watch(client)
            client.on_message(lambda header, payload: on_message.append(payload))
            await client.subscribe("handled", handler=lambda m: handled.append(m.payload))
            await client.subscribe("told")
            await client.subscribe("asked", action="request", handler=lambda m: m.payload * 2)
            async with client.subscribe("iterated") as events:
                for number in range(3):
                    for topic in ("handled", "told", "iterated"):
                        await client.publish(topic, number, confirm=True)
                    assert (await anext(events)).payload == number
                    assert (await client.request("asked", number)).payload == number * 2
                    await broker.kill()
                    await broker.start()
                    await watch.connects(number + 1)
            await until(lambda: (handled, on_message) == ([0, 1, 2], [0, 1, 2]))


async def test_what_was_received_before_the_loss_is_still_consumed(broker: Any) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, **QUICK) as client:
            watch = Watch(client)
            async with client.subscribe("a.b") as events:
                for number in range(3):
                    await client.publish("a.b", number, confirm=True)
                await broker.kill()
                await broker.start()
                await watch.connects(1)
                await client.publish("a.b", 3, confirm=True)
                assert [(await anext(events)).payload for _ in range(4)] == [0, 1, 2, 3]


# How it is restored


async def test_the_name_comes_first_and_each_pattern_once_with_its_priority(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            await client.subscribe("A.b", handler=lambda m: None)
            await client.subscribe("a.B", handler=lambda m: None)
            await client.subscribe("c", action="both", priority=2.5)
            await client.subscribe("left")
            await client.unsubscribe("left")
            await client.register_service("old", "replaced")
            await client.register_service("name", "text")
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            await connection.wait_for(b"request:system.topic.subscribe", 3)
            await until(lambda: client.connected)
    requests = [
        (message.split(b":")[1].decode(), json.loads(message.partition(b"\n")[2]))
        for message in connection.starting(b"request:")
        if b":system.service.register:" in message or b":system.topic.subscribe:" in message
    ]
    assert requests[0] == ("system.service.register", {"name": "name", "description": "text"})
    assert requests[1:] == [
        ("system.topic.subscribe", {"action": "publish", "topic": "A.b"}),
        ("system.topic.subscribe", {"action": "publish", "topic": "c"}),
        ("system.topic.subscribe", {"action": "request", "topic": "c", "priority": 2.5}),
    ]


async def test_connected_means_that_the_last_answer_is_there(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            await client.subscribe("a")
            await client.subscribe("b")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            last = await connection.wait_for(b"request:system.topic.subscribe", 2)
            await client.publish("c", "waits")
            connection.answer(connection.starting(b"request:system.topic.subscribe")[0])
            connection.send(b"request:system.heartbeat:1.0.0\n{}")
            await connection.wait_for(b"response:system.heartbeat")
            await anyio.wait_all_tasks_blocked()
            assert not client.connected
            assert watch.moves == ["disconnect"]
            assert connection.starting(b"publish:") == []
            connection.answer(last)
            await watch.connects(1)
            await connection.wait_for(b"publish:c:")


async def test_messages_that_come_before_the_restore_is_complete_are_delivered(
    scripted: ScriptedBroker,
) -> None:
    got: list[Any] = []
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            await client.subscribe("a", handler=lambda m: got.append(m.payload))
            await client.subscribe("b", action="request", handler=lambda m: "the answer")
            scripted.answers["system.topic.subscribe"] = None
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            await connection.wait_for(b"request:system.topic.subscribe", 2)
            connection.send(
                b"publish:a:1.0.0\n1", b"request:b:1.0.0:12345678-1234-1234-1234-123456789abc\n{}"
            )
            assert b"the answer" in await connection.wait_for(b"response:b:")
            assert got == [1]
            assert not client.connected


# What the broker refuses


async def test_a_subscription_that_is_refused_ends_with_the_brokers_error_and_the_rest_goes_on(
    scripted: ScriptedBroker,
) -> None:
    def refuse(request: bytes) -> bytes:
        return error("FORBIDDEN", "not this") if b'"secret"' in request else b'{"status":"success"}'

    raised: list[ForbiddenError] = []

    async def iterate(events: Subscription) -> None:
        with pytest.raises(ForbiddenError, match="not this") as refused:
            await anext(events)
        raised.append(refused.value)

    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            secret = await client.subscribe("secret")
            open_to_all = await client.subscribe("open")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(iterate, secret)
                tasks.start_soon(iterate, secret)
                await anyio.wait_all_tasks_blocked()
                scripted.answers["system.topic.subscribe"] = refuse
                await scripted.connections[0].drop()
            await watch.connects(1)
            assert len({id(each) for each in raised}) == 2  # an exception of its own for each
            await iterate(secret)
            scripted.connections[1].send(b"publish:secret:1.0.0\n1", b"publish:open:1.0.0\n2")
            assert (await anext(open_to_all)).payload == 2
            assert [type(each) for each in watch.errors] == [ForbiddenError]

            # It is not asked for again.
            await scripted.connections[1].drop()
            await watch.connects(2)
            asked = scripted.connections[2].starting(b"request:system.topic.subscribe")
            assert [b'"open"' in message for message in asked] == [True]
            assert [type(each) for each in watch.errors] == [ForbiddenError]


class Refusals:
    """Answers of a broker that refuses the first requests with an error that passes."""

    def __init__(self, code: str, count: int, *, about: bytes = b"") -> None:
        self._answer = error(code, "starting up")
        self._about = about
        self.left = count

    def __call__(self, request: bytes) -> bytes:
        if self.left and self._about in request:
            self.left -= 1
            return self._answer
        return SUCCESS


@pytest.mark.parametrize(
    "code", ["TIMEOUT", "SERVICE_UNAVAILABLE", "INTERNAL_ERROR", "UNAUTHORIZED", "A_NEW_ONE"]
)
async def test_a_subscription_that_is_refused_for_now_is_asked_for_until_it_is_accepted(
    scripted: ScriptedBroker, code: str
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            late = await client.subscribe("late", action="both")
            await client.subscribe("late", handler=lambda m: None)
            await client.subscribe("other")
            refusals = Refusals(code, 3, about=b'"late"')
            scripted.answers["system.topic.subscribe"] = refusals
            await scripted.connections[0].drop()
            connection = await scripted.connection(2)
            await watch.connects(1)  # the rest works meanwhile
            await connection.wait_for(b"request:system.topic.subscribe", 6)
            await until(lambda: refusals.left == 0)
            connection.send(b"publish:late:1.0.0\n1")
            assert (await anext(late)).payload == 1
            assert "active" in repr(late)
            await until(lambda: len(watch.errors) == 3)
            assert {each.code for each in watch.errors if isinstance(each, ResponseError)} == {code}

            # Nothing is asked for twice once it is accepted, and the next connection has it all.
            asked = len(connection.starting(b"request:system.topic.subscribe"))
            await anyio.sleep(0.1)
            assert len(connection.starting(b"request:system.topic.subscribe")) == asked == 6
            await connection.drop()
            await watch.connects(2)
            again = scripted.connections[2].starting(b"request:system.topic.subscribe")
            assert len(again) == 3


async def test_a_registration_that_is_refused_for_now_is_asked_for_until_it_is_accepted(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            await client.register_service("name", "text")
            scripted.answers["system.service.register"] = Refusals("TIMEOUT", 2)
            for number in (1, 2):
                await scripted.connections[-1].drop()
                await watch.connects(number)
                wanted = 3 if number == 1 else 1
                await scripted.connections[-1].wait_for(b"request:system.service.reg", wanted)


async def test_a_subscription_that_is_refused_for_now_may_be_refused_for_good_later(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            events = await client.subscribe("a")
            scripted.answers["system.topic.subscribe"] = error("SERVICE_UNAVAILABLE")
            await scripted.connections[0].drop()
            await watch.error(ServiceUnavailableError, 2)
            scripted.answers["system.topic.subscribe"] = error("FORBIDDEN")
            with pytest.raises(ForbiddenError):
                await anext(events)


async def test_what_is_refused_for_now_can_be_left_and_lost_meanwhile(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            left, kept = await client.subscribe("left"), await client.subscribe("kept")
            scripted.answers["system.topic.subscribe"] = error("SERVICE_UNAVAILABLE")
            await scripted.connections[0].drop()
            await watch.error(ServiceUnavailableError, 4)
            await left.unsubscribe()
            asked = len(scripted.connections[1].starting(b"request:system.topic.subscribe"))
            await scripted.connections[1].wait_for(b"request:system.topic.subscribe", asked + 3)
            since = scripted.connections[1].starting(b"request:system.topic.subscribe")[asked:]
            assert [message for message in since if b'"left"' in message][1:] == []
            # The connection is lost before the broker has accepted the other.
            await scripted.stop()
            scripted.answers["system.topic.subscribe"] = SUCCESS
            await scripted.listen()
            connection = await scripted.connection(3)
            await watch.connects(2)
            assert len(connection.starting(b"request:system.topic.subscribe")) == 1
            connection.send(b"publish:kept:1.0.0\n1")
            assert (await anext(kept)).payload == 1


async def test_all_consumers_of_a_refused_pattern_hear_of_it(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            both = [await client.subscribe("a.b"), await client.subscribe("A.B")]
            handled = await client.subscribe("a.b", handler=lambda m: None)
            scripted.answers["system.topic.subscribe"] = error("INVALID_REQUEST")
            await scripted.connections[0].drop()
            await watch.connects(1)
            for events in both:
                with pytest.raises(InvalidRequestError):
                    await anext(events)
            assert "ended" in repr(handled)
            assert len(watch.errors) == 1
            # The pattern is free again.
            scripted.answers["system.topic.subscribe"] = b'{"status":"success"}'
            again = await client.subscribe("a.b")
            scripted.connections[1].send(b"publish:a.b:1.0.0\n1")
            assert (await anext(again)).payload == 1


async def test_of_a_subscription_to_both_actions_the_one_that_is_accepted_goes_on(
    scripted: ScriptedBroker,
) -> None:
    def refuse(request: bytes) -> bytes:
        return error("FORBIDDEN") if b'"request"' in request else b'{"status":"success"}'

    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            events = await client.subscribe("a.b", action="both")
            scripted.answers["system.topic.subscribe"] = refuse
            await scripted.connections[0].drop()
            await watch.connects(1)
            await watch.error(ForbiddenError)
            scripted.connections[1].send(b"publish:a.b:1.0.0\n1")
            assert (await anext(events)).payload == 1


async def test_a_name_that_is_refused_is_reported_and_not_sent_again(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            await client.register_service("taken", "by another")
            await client.subscribe("a")
            scripted.answers["system.service.register"] = error("INVALID_REQUEST", "taken")
            await scripted.connections[0].drop()
            await watch.error(InvalidRequestError)
            await watch.connects(1)
            assert scripted.connections[1].starting(b"request:system.topic.subscribe")
            await scripted.connections[1].drop()
            await watch.connects(2)
            assert scripted.connections[2].starting(b"request:system.service.register") == []
            assert len(watch.errors) == 1


async def test_a_name_that_was_refused_at_first_is_not_sent_on_the_next_connection(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            scripted.answers["system.service.register"] = error("INVALID_REQUEST", "taken")
            with pytest.raises(InvalidRequestError):
                await client.register_service("taken", "by another")
            await scripted.connections[0].drop()
            await watch.connects(1)
            assert scripted.connections[1].starting(b"request:system.service.register") == []
