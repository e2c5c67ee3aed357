"""Faults: what they do to connections, seen from clients, over every transport."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mb_broker import Broker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    RemoteProtocolError,
    RequestTimeoutError,
    ResponseError,
)
from mb_testing import Faults, FaultyBroker, running

pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {"backoff_min": 1, "backoff_max": 10, "drain_timeout": 100}


class Watch:
    """What a client has told of its connection, with the times."""

    def __init__(self, client: MessageBrokerClient) -> None:
        self.moves: list[tuple[str, float]] = []
        self.errors: list[Exception] = []
        self._news = anyio.Event()
        client.on_connect(lambda: self._note("connect"))
        client.on_disconnect(lambda: self._note("disconnect"))
        client.on_error(self._fail)

    def _note(self, move: str) -> None:
        self.moves.append((move, anyio.current_time()))
        self._tell()

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def times(self, move: str) -> list[float]:
        return [at for what, at in self.moves if what == move]

    async def until(self, fact: Callable[[], bool]) -> None:
        while not fact():
            await self._news.wait()

    async def see(self, move: str, count: int = 1) -> float:
        """The time of the move that is number `count` of its kind, once it has come about."""
        await self.until(lambda: len(self.times(move)) >= count)
        return self.times(move)[count - 1]


async def beat(client: MessageBrokerClient, timeout: int = 30_000) -> float:
    """How long the broker takes to answer."""
    began = anyio.current_time()
    await client.request("system.heartbeat", {}, timeout=timeout)
    return anyio.current_time() - began


# On the test's own event loop, in virtual time


@pytest.fixture
async def faults() -> Faults:
    return Faults()


@pytest.fixture
async def broker(faults: Faults) -> AsyncIterator[Broker]:
    async with Broker("memory://", wrap_accept=faults.wrap_accept) as broker:
        yield broker


@pytest.mark.virtual_clock
async def test_a_stalled_connection_is_found_by_its_silence_and_replaced(
    broker: Broker, faults: Faults
) -> None:
    busy = time.process_time()
    async with MessageBrokerClient(broker.url, heartbeat_interval=5_000) as client:
        watch = Watch(client)
        faults.stall()
        assert 5 < await watch.see("disconnect") <= 15
        await anyio.sleep(120)
        assert not client.connected
        faults.resume()
        assert await watch.see("connect") <= 15 + 120 + 15
        assert await beat(client) == 0
    # More than two virtual minutes: a loop that polls or spins would take many seconds for them.
    assert time.process_time() - busy < 2


@pytest.mark.virtual_clock
async def test_what_was_stalled_arrives_in_order_if_it_goes_on_in_time(
    broker: Broker, faults: Faults
) -> None:
    async with MessageBrokerClient(broker.url, heartbeat_interval=60_000) as client:
        watch = Watch(client)
        async with client.subscribe("number") as events:
            faults.stall()
            for number in range(100):
                await client.publish("number", number)
            with anyio.move_on_after(30) as scope:
                await anext(events)
            assert scope.cancelled_caught
            faults.resume()
            assert [(await anext(events)).payload for _ in range(100)] == list(range(100))
        assert watch.moves == []


@pytest.mark.virtual_clock
async def test_a_connection_that_comes_while_it_is_stalled_gets_no_greeting(
    broker: Broker, faults: Faults
) -> None:
    faults.stall()
    with pytest.raises(ConnectError, match=r"did not send system\.initialize within 10 s"):
        await MessageBrokerClient(broker.url).connect()
    assert anyio.current_time() == pytest.approx(10)
    # The broker has not heard that the client has given up.
    assert (broker.connections, faults.connections) == (1, 1)
    faults.resume()
    await anyio.sleep(1)
    assert (broker.connections, faults.connections) == (0, 0)


@pytest.mark.virtual_clock
async def test_a_client_that_the_broker_gave_up_hears_of_it_when_the_network_is_back(
    faults: Faults,
) -> None:
    async with Broker(
        "memory://", wrap_accept=faults.wrap_accept, heartbeat_after=30_000, drop_after=60_000
    ) as broker:
        client = MessageBrokerClient(broker.url, heartbeat_interval=None, reconnect=False)
        async with client:
            faults.stall()
            await anyio.sleep(300)
            assert broker.connections == 0
            assert client.connected
            faults.resume()
            with pytest.raises(ConnectionLost):
                await client.run()
        assert faults.connections == 0


@pytest.mark.virtual_clock
async def test_a_delay_is_paid_in_each_direction_and_taken_back(
    broker: Broker, faults: Faults
) -> None:
    async with MessageBrokerClient(broker.url, heartbeat_interval=60_000) as client:
        await client.subscribe("echo", action="request", handler=lambda message: message.payload)
        assert await beat(client) == 0
        faults.delay(200)
        assert await beat(client) == pytest.approx(0.4)
        began = anyio.current_time()
        await client.request("echo", {})  # to the broker, to the service, and back
        assert anyio.current_time() - began == pytest.approx(0.8)
        faults.delay(0)
        assert await beat(client) == 0


@pytest.mark.virtual_clock
async def test_a_shorter_delay_overtakes_nothing(broker: Broker, faults: Faults) -> None:
    async with MessageBrokerClient(broker.url) as client, client.subscribe("number") as events:
        for number, delay in enumerate((2000, 1000, 0, 500)):
            faults.delay(delay)
            await client.publish("number", number)
            await anyio.sleep(0.1)
        assert [(await anext(events)).payload for _ in range(4)] == [0, 1, 2, 3]


@pytest.mark.virtual_clock
async def test_a_broker_that_ends_waits_for_what_is_delayed(faults: Faults) -> None:
    async with Broker("memory://", wrap_accept=faults.wrap_accept) as broker:
        client = MessageBrokerClient(broker.url, reconnect=False)
        await client.connect()
        events = await client.subscribe("last")
        faults.delay(3_000)
        await client.publish("last", "word")
        await anyio.sleep(4)  # it has come to the broker, and not to the client
        assert not events.queued
    assert faults.connections == 0
    assert anyio.current_time() == pytest.approx(7)  # the farewell, behind the message
    assert (await anext(events)).payload == "word"
    with pytest.raises(ConnectionLost):
        await client.run()
    await client.close()


@pytest.mark.virtual_clock
async def test_dropped_messages_are_lost_by_topic_pattern_or_predicate(
    broker: Broker, faults: Faults
) -> None:
    async with MessageBrokerClient(broker.url) as client, client.subscribe("#") as events:
        await client.subscribe("ask", action="request", handler=lambda message: message.payload)
        faults.drop("order.#")
        faults.drop("Stock")
        faults.drop(lambda message: message.action == "response" and message.topic == "ask")
        for topic in ("order.paid", "stock", "order", "weather"):
            await client.publish(topic, topic)
        assert (await anext(events)).payload == "weather"
        assert faults.dropped == 3
        with pytest.raises(RequestTimeoutError):
            await client.request("ask", {}, timeout=60_000)
        # Two answers to one request: the service's, and the broker's error that there was none.
        assert faults.dropped == 5
        await beat(client)
        faults.clear()
        assert (await client.request("ask", 7)).payload == 7
        await client.publish("stock", "is back")
        assert (await anext(events)).payload == "is back"
        assert faults.dropped == 5


@pytest.mark.virtual_clock
async def test_each_fault_is_taken_back_by_clear(broker: Broker, faults: Faults) -> None:
    faults.refuse()
    faults.stall()
    faults.delay(1000)
    faults.drop("system.initialize")
    faults.clear()
    async with MessageBrokerClient(broker.url) as client:
        assert await beat(client) == 0


@pytest.mark.virtual_clock
async def test_a_broker_that_ends_while_all_is_stalled_leaves_nothing(faults: Faults) -> None:
    async with Broker("memory://", wrap_accept=faults.wrap_accept, drain_timeout=0) as broker:
        client = MessageBrokerClient(broker.url, reconnect=False, heartbeat_interval=None)
        await client.connect()
        faults.stall()
        await client.publish("never.arrives", {})
    assert anyio.current_time() == 0
    assert (broker.connections, faults.connections) == (0, 0)
    with pytest.raises(ConnectionLost):
        await client.run()
    await client.close()


# Over every transport, from whichever event loop


@pytest.fixture(params=["memory", "tcp", "ws"])
def url(request: pytest.FixtureRequest, mb_broker: FaultyBroker) -> str:
    return mb_broker.url_of(request.param)


async def test_who_is_cut_comes_back_registered_and_subscribed(
    url: str, mb_broker: FaultyBroker
) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, **QUICK) as client:
            watch = Watch(client)
            await client.register_service("cut", "comes back")
            async with client.subscribe("news") as events:
                for number in range(1, 4):
                    assert mb_broker.faults.cut() == 1
                    await watch.see("connect", number)
                    await client.publish("news", number)
                    assert (await anext(events)).payload == number
            found: Any = (await client.request("system.service.list", {})).payload
            assert [each["name"] for each in found["services"]].count("cut") == 1
            moves = [move for move, _ in watch.moves]
    assert moves[:6] == ["disconnect", "connect"] * 3


async def test_a_request_in_flight_fails_with_the_connection_that_is_cut(
    url: str, mb_broker: FaultyBroker
) -> None:
    asked = anyio.Event()

    async def hang(message: Message) -> None:
        asked.set()
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with (
            MessageBrokerClient(mb_broker.url, **QUICK | {"drain_timeout": 0}) as service,
            MessageBrokerClient(url, **QUICK) as client,
            anyio.create_task_group() as tasks,
        ):
            await service.subscribe("slow", action="request", handler=hang)

            async def ask() -> None:
                with pytest.raises(ConnectionLost) as lost:
                    await client.request("slow", {})
                assert lost.value.sent

            tasks.start_soon(ask)
            await asked.wait()
            mb_broker.faults.cut()


async def test_who_is_refused_is_turned_away_until_it_is_accepted(
    url: str, mb_broker: FaultyBroker
) -> None:
    with anyio.fail_after(10):
        mb_broker.faults.refuse()
        with pytest.raises(ConnectError):
            await MessageBrokerClient(url).connect()
        client = MessageBrokerClient(url, retry_connect=True, **QUICK)
        watch = Watch(client)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.connect)
            await watch.until(lambda: len(watch.errors) >= 3)
            assert not client.connected
            assert mb_broker.faults.connections == 0
            mb_broker.faults.accept()
        assert client.connected
        await client.close()


async def test_garbage_is_reported_and_the_next_message_is_as_good_as_ever(
    url: str, mb_broker: FaultyBroker
) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, **QUICK) as client:
            watch = Watch(client)
            mb_broker.faults.garbage(b"no message at all")
            await watch.until(lambda: bool(watch.errors) or bool(watch.moves))
            assert isinstance(watch.errors[0], RemoteProtocolError)
            await watch.until(lambda: client.connected)
            await client.request("system.heartbeat", {})


async def test_a_stalled_connection_is_silent_and_goes_on(
    url: str, mb_broker: FaultyBroker
) -> None:
    with anyio.fail_after(10):
        async with MessageBrokerClient(url, **QUICK) as client:
            await client.request("system.heartbeat", {})
            mb_broker.faults.stall()
            with anyio.move_on_after(0.05) as scope:
                await client.request("system.heartbeat", {})
            assert scope.cancelled_caught
            mb_broker.faults.resume()
            await client.request("system.heartbeat", {})
            assert client.stats().reconnects == 0


# From threads, and without a broker


def test_faults_may_be_called_from_many_threads_at_once(mb_broker: FaultyBroker) -> None:
    faults = mb_broker.faults
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                faults.delay(1)
                faults.stall()
                faults.resume()
                faults.cut()
                faults.clear()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_without_a_broker_they_are_for_the_next(mb_broker: FaultyBroker) -> None:
    mb_broker.kill()
    assert mb_broker.faults.cut() == 0
    mb_broker.faults.refuse()
    mb_broker.start()

    async def main() -> None:
        with pytest.raises(ConnectError):
            await MessageBrokerClient(mb_broker.url).connect()

    anyio.run(main)


def test_what_can_not_be_says_what_can(mb_broker: FaultyBroker) -> None:
    faults = mb_broker.faults
    for delay in (-1, float("inf"), float("nan")):
        with pytest.raises(LocalProtocolError, match="milliseconds"):
            faults.delay(delay)
    with pytest.raises(LocalProtocolError, match="topic pattern"):
        faults.drop("no topic!")


def test_a_broker_that_is_stalled_ends_in_no_time() -> None:
    began = time.perf_counter()

    async def main(broker: FaultyBroker) -> None:
        client = MessageBrokerClient(broker.url_of("tcp"), reconnect=False)
        await client.connect()
        broker.faults.stall()
        await client.publish("a", 1)
        await anyio.to_thread.run_sync(broker.kill)
        with pytest.raises((ConnectionLost, ResponseError)):
            await client.run()
        await client.close()

    with running("memory://", "tcp://127.0.0.1:0") as broker:
        anyio.run(main, broker)
    assert time.perf_counter() - began < 3
