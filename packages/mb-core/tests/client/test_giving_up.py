"""Which broker is tried, for how long, and what happens if none is available."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    PluginError,
)

from .gone_broker import QUICK
from .scripted import GREETING, ScriptedBroker, error, scripted_broker
from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


UNAUTHORIZED = b"response:error:1.0.0\n" + error("UNAUTHORIZED", "who are you?")


async def everything_is_lost(client: MessageBrokerClient, text: str) -> None:
    """Each way to use it raises ConnectionLost that says why; nothing was sent."""
    calls: list[Callable[[], Any]] = [
        lambda: client.publish("a.b", {}),
        lambda: client.publish("a.b", {}, confirm=True),
        lambda: client.request("a.b", {}),
        lambda: client.request("a.b", {}, retry=True),
        lambda: client.subscribe("a.b"),
        lambda: client.register_service("a", "b"),
    ]
    for call in calls:
        with pytest.raises(ConnectionLost, match=text) as lost:
            await call()
        assert not lost.value.sent
    for _ in range(2):
        with pytest.raises(ConnectionLost, match=text):
            await client.run()
    assert not client.connected


# Several URLs


async def test_the_first_url_that_answers_is_used(mb_broker: RunningBroker, free_port: int) -> None:
    nobody = f"tcp://127.0.0.1:{free_port}"
    with anyio.fail_after(5):
        async with MessageBrokerClient([nobody, mb_broker.url_of("tcp"), "memory://no"]) as client:
            await client.request("system.heartbeat", {})
            assert mb_broker.connections == 1


async def test_the_next_url_takes_over_and_the_last_good_one_is_tried_first() -> None:
    with anyio.fail_after(5):
        async with (
            scripted_broker("memory://") as one,
            scripted_broker("memory://") as two,
            MessageBrokerClient([one.url, two.url], **QUICK) as client,
        ):
            watch = Watch(client)
            await one.stop()
            await watch.connects(1)
            assert len(two.connections) == 1
            await one.listen()
            # The first is there again, and the second is where it was.
            await two.connections[0].drop()
            await watch.connects(2)
            assert (len(one.connections), len(two.connections)) == (1, 2)
            await two.stop()
            await watch.connects(3)
            assert (len(one.connections), len(two.connections)) == (2, 2)


async def test_a_round_tries_each_url_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def wait(low: float, high: float) -> float:
        tries.append("wait")
        return 0.0

    with anyio.fail_after(5):
        async with scripted_broker("memory://") as one, scripted_broker("memory://") as two:
            one.at_accept = lambda connection: tries.append("one")
            two.at_accept = lambda connection: tries.append("two")
            async with MessageBrokerClient([one.url, two.url], **QUICK) as client:
                watch = Watch(client)
                monkeypatch.setattr("random.uniform", wait)
                one.greeting = two.greeting = UNAUTHORIZED.replace(b"UNAUTHORIZED", b"NO_ROOM")
                await one.connections[0].drop()
                await watch.error(ConnectError, 3)
                for each in watch.errors:
                    assert str(each).count("NO_ROOM") == 2
                    assert one.url in str(each)
                    assert two.url in str(each)
    assert tries[:10] == ["one", *["wait", "one", "two"] * 3]


async def test_a_url_whose_error_is_final_is_dropped_and_the_other_goes_on() -> None:
    with anyio.fail_after(5):
        async with scripted_broker("memory://") as one, scripted_broker("memory://") as two:
            one.greeting = UNAUTHORIZED
            async with MessageBrokerClient([one.url, two.url], **QUICK) as client:
                watch = Watch(client)
                for number in range(1, 4):
                    await two.connections[-1].drop()
                    await watch.connects(number)
                assert (len(one.connections), len(two.connections)) == (1, 4)


async def test_what_would_be_final_at_first_is_tried_again_after_a_loss() -> None:
    """An operator can repair it: a lapsed certificate, a login that was forgotten."""
    with anyio.fail_after(5):
        async with (
            scripted_broker("memory://") as one,
            scripted_broker("memory://") as two,
            MessageBrokerClient([one.url, two.url], **QUICK) as client,
        ):
            watch = Watch(client)
            events = await client.subscribe("a.b")
            one.greeting = two.greeting = UNAUTHORIZED
            await one.connections[0].drop()
            refused = await watch.error(ConnectError, 3)
            assert str(refused).count("who are you?") == 2  # both are still tried
            two.greeting = GREETING
            await watch.connects(1)
            two.connections[-1].send(b"publish:a.b:1.0.0\n1")
            assert (await anext(events)).payload == 1
            await client.close()
            await watch.disconnects(2)
    assert watch.moves == ["disconnect", "connect", "disconnect"]


async def test_reconnect_timeout_ends_tries_that_are_refused_and_says_why(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, reconnect_timeout=150, **QUICK) as client:
            events = await client.subscribe("a.b")
            scripted.greeting = UNAUTHORIZED
            await scripted.connections[0].drop()
            with pytest.raises(ConnectionLost, match="who are you") as lost:
                await anext(events)
            assert isinstance(lost.value.__cause__, ConnectError)
            await everything_is_lost(client, "not restored within 0.15 s.*who are you")


async def test_urls_are_checked_before_any_is_tried(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient([mb_broker.url, "http//x"])
    with pytest.raises(ConnectError) as refused:
        await client.connect()
    assert refused.value.final


async def test_no_url_at_all_is_an_error_that_says_so() -> None:
    for client in (MessageBrokerClient([]), MessageBrokerClient(())):
        with pytest.raises(ConnectError, match="no address was given"):
            await client.connect()


async def test_a_url_that_no_plugin_speaks_does_not_keep_the_others_from_working(
    mb_broker: RunningBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(["carrier://pigeon", mb_broker.url]) as client:
            await client.request("system.heartbeat", {})


async def test_the_error_of_several_urls_names_each_of_them(free_port: int) -> None:
    urls = [f"tcp://127.0.0.1:{free_port}", "carrier://pigeon", "memory://nowhere"]
    with anyio.fail_after(5), pytest.raises(ConnectError) as refused:
        await MessageBrokerClient(urls).connect()
    for text in (str(free_port), "carrier://", "memory://nowhere"):
        assert text in str(refused.value)
    assert not refused.value.final


# The first connection


async def test_the_first_connection_is_tried_once_for_each_url(scripted: ScriptedBroker) -> None:
    scripted.greeting = UNAUTHORIZED.replace(b"UNAUTHORIZED", b"NO_ROOM")
    with anyio.fail_after(5), pytest.raises(ConnectError, match="NO_ROOM") as refused:
        await MessageBrokerClient(scripted.url).connect()
    assert not refused.value.final
    assert len(scripted.connections) == 1


async def test_with_retry_connect_the_first_connection_is_tried_again(broker: Any) -> None:
    await broker.kill()
    client = MessageBrokerClient(broker.url, retry_connect=True, **QUICK)
    watch = Watch(client)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await watch.error(ConnectError, 3)
            assert not client.connected
            assert not client.stats().connected
            await broker.start()
        await client.request("system.heartbeat", {})
        await client.close()
    assert watch.moves == ["connect", "disconnect"]
    assert client.stats().reconnects == 0


async def test_with_retry_connect_a_final_error_ends_the_tries(scripted: ScriptedBroker) -> None:
    client = MessageBrokerClient(scripted.url, retry_connect=True, **QUICK)
    watch = Watch(client)
    await scripted.stop()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def connect() -> None:
                with pytest.raises(ConnectError, match="who are you") as refused:
                    await client.connect()
                assert refused.value.final

            tasks.start_soon(connect)
            await watch.error(ConnectError)
            scripted.greeting = UNAUTHORIZED
            await scripted.listen()
        # It may be connected again, as after every connect that failed.
        scripted.greeting = b"publish:system.initialize:1.0.0\n{}"
        await client.connect()
        await client.close()


async def test_with_retry_connect_a_missing_plugin_is_raised_at_once() -> None:
    with anyio.fail_after(5), pytest.raises(PluginError):
        await MessageBrokerClient("carrier://pigeon", retry_connect=True).connect()


async def test_connecting_with_retry_connect_can_be_cancelled_and_leaves_nothing(
    free_port: int,
) -> None:
    client = MessageBrokerClient(f"tcp://127.0.0.1:{free_port}", retry_connect=True, **QUICK)
    watch = Watch(client)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await watch.error(ConnectError, 2)
            tasks.cancel_scope.cancel()
        with pytest.raises(LocalProtocolError, match="not connected"):
            await client.run()


async def test_connecting_with_retry_connect_ends_when_the_client_is_closed(
    free_port: int,
) -> None:
    client = MessageBrokerClient(f"tcp://127.0.0.1:{free_port}", retry_connect=True, **QUICK)
    watch = Watch(client)

    async def connect() -> None:
        with pytest.raises(ConnectError, match="closed while it was connecting"):
            await client.connect()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await watch.error(ConnectError)
            await client.close()


async def test_a_client_without_reconnecting_may_retry_its_first_connection(broker: Any) -> None:
    await broker.kill()
    client = MessageBrokerClient(broker.url, retry_connect=True, reconnect=False, **QUICK)
    watch = Watch(client)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await watch.error(ConnectError)
            await broker.start()
        await broker.kill()
        with pytest.raises(ConnectionLost):
            await client.run()
        await client.close()


# For how long


async def test_after_reconnect_timeout_the_client_is_at_its_end(
    scripted: ScriptedBroker,
) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, reconnect_timeout=150, **QUICK) as client:
            events = await client.subscribe("a.b")
            begun = anyio.current_time()
            await scripted.stop()
            with pytest.raises(ConnectionLost, match=r"0\.15 s \(reconnect_timeout\)"):
                await anext(events)
            assert 0.14 < anyio.current_time() - begun < 2
            await everything_is_lost(client, "reconnect_timeout")
            await scripted.listen()
            await everything_is_lost(client, "reconnect_timeout")
    assert len(scripted.connections) == 1


async def test_reconnect_timeout_ends_a_try_that_is_under_way(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, reconnect_timeout=150, **QUICK) as client:
            scripted.greeting = None
            await scripted.connections[0].drop()
            silent = await scripted.connection(2)
            with pytest.raises(ConnectionLost, match="reconnect_timeout"):
                await client.run()
            await silent.lost.wait()


async def test_reconnect_timeout_bounds_the_retries_of_the_first_connection_as_well(
    free_port: int,
) -> None:
    client = MessageBrokerClient(
        f"tcp://127.0.0.1:{free_port}", retry_connect=True, reconnect_timeout=150, **QUICK
    )
    with anyio.fail_after(5), pytest.raises(ConnectError, match="reconnect_timeout"):
        await client.connect()


async def test_reconnect_timeout_counts_anew_from_each_loss(scripted: ScriptedBroker) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(scripted.url, reconnect_timeout=800, **QUICK) as client:
            watch = Watch(client)
            for number in range(1, 4):
                await scripted.stop()
                with anyio.move_on_after(0.3):
                    await client.run()
                await scripted.listen()
                await watch.connects(number)


async def test_what_waited_is_told_that_it_is_over(scripted: ScriptedBroker) -> None:
    outcomes: list[bool] = []

    async def wait_for(call: Callable[[], Any]) -> None:
        with pytest.raises(ConnectionLost, match="reconnect_timeout") as lost:
            await call()
        outcomes.append(lost.value.sent)

    with anyio.fail_after(5):
        async with MessageBrokerClient(scripted.url, reconnect_timeout=150, **QUICK) as client:
            watch = Watch(client)
            await scripted.stop()
            await watch.disconnects(1)
            await client.publish("a.b", "never")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait_for, lambda: client.request("a.b", {}, retry=True))
                tasks.start_soon(wait_for, lambda: client.publish("a.b", {}, confirm=True))
                tasks.start_soon(wait_for, lambda: client.subscribe("a.b"))
                tasks.start_soon(wait_for, lambda: client.register_service("a", "b"))
            lost = await watch.error(ConnectionLost)
    assert outcomes == [False] * 4
    assert "1 publication was never sent" in str(lost)


async def test_without_reconnecting_a_loss_is_the_end(broker: Any) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(broker.url, reconnect=False) as client:
            watch = Watch(client)
            ended: list[str] = []
            await client.subscribe("a", handler=lambda m: ended.append("handled"))
            async with client.subscribe("b") as events:
                await client.publish("b", 1, confirm=True)
                await broker.kill()
                with pytest.raises(ConnectionLost):
                    await client.run()
                await broker.start()
                assert (await anext(events)).payload == 1
                with pytest.raises(ConnectionLost):
                    await anext(events)
                await everything_is_lost(client, "closed")
            assert broker.connections == 0
            assert watch.calls == ["disconnect"]


# How it is logged and reported


async def test_each_failed_round_is_reported_and_logged_as_a_warning(
    scripted: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        anyio.fail_after(5),
        caplog.at_level(logging.INFO, logger="mb_core.client"),
    ):
        async with MessageBrokerClient(scripted.url, **QUICK) as client:
            watch = Watch(client)
            await scripted.stop()
            await watch.error(ConnectError, 2)
            await scripted.listen()
            await watch.connects(1)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == len(watch.errors)
    assert all("could not connect, will try again" in each.getMessage() for each in warnings)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert told[0] == f"connected to {scripted.url}"
    assert "was closed" in told[1]
    assert told[2] == f"connected to {scripted.url} again"


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"backoff_min": 0},
        {"backoff_min": -1},
        {"backoff_min": None},
        {"backoff_max": 1.5},
        {"backoff_max": None},
        {"backoff_min": 200, "backoff_max": 100},
        {"reconnect_timeout": 0},
        {"reconnect_timeout": "1"},
        {"heartbeat_interval": 0},
        {"heartbeat_interval": True},
        {"drain_timeout": -1},
        {"drain_timeout": None},
        {"drain_timeout": False},
        {"publish_buffer": -1},
        {"publish_buffer": 1.5},
        {"publish_buffer": None},
        {"buffer_overflow": "drop_newest"},
        {"buffer_overflow": None},
    ],
    ids=str,
)
async def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        MessageBrokerClient("memory://x", **options)


async def test_the_broker_may_refuse_in_place_of_its_greeting(scripted: ScriptedBroker) -> None:
    scripted.greeting = UNAUTHORIZED
    with anyio.fail_after(5), pytest.raises(ConnectError, match="who are you") as refused:
        await MessageBrokerClient(scripted.url, retry_connect=True).connect()
    assert refused.value.final
