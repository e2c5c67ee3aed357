"""Tests of users, for type checkers: mypy and pyright accept all of it; nobody runs this."""

from __future__ import annotations

from typing import assert_type

from mb_broker import Broker
from mb_client import MessageBrokerClient
from mb_testing import (
    Faults,
    FaultyBroker,
    LinkEnd,
    VirtualClock,
    memory_link_pair,
    running,
    until,
    wait_until,
)
from mb_testing.proxy import STALLED, Conditions, Cut, Direction, Proxy, ProxyStats


async def count(client: MessageBrokerClient) -> int:
    return client.stats().pending


def test_with_fixtures(mb_broker: FaultyBroker, virtual_clock: VirtualClock) -> None:
    assert_type(mb_broker.faults.cut(), int)
    mb_broker.faults.drop(lambda message: message.action == "response")
    mb_broker.restart(max_payload=1000)
    client = MessageBrokerClient(mb_broker.url_of("tcp"))
    assert_type(virtual_clock.run(count, client, backend="trio"), int)
    assert_type(wait_until(lambda: mb_broker.connections), int)


async def test_by_hand() -> None:
    faults = Faults()
    async with Broker("memory://", wrap_accept=faults.wrap_accept):
        faults.stall()
    with running("memory://", faults=faults) as broker:
        assert_type(broker, FaultyBroker)
    near, far = memory_link_pair()
    near.link.send(b"hello")
    assert_type(await far.receive(), bytes)
    assert_type(memory_link_pair(LinkEnd, LinkEnd), tuple[LinkEnd, LinkEnd])
    with Proxy("tcp://localhost:8081") as proxy:
        proxy.set(Conditions(chunk=1), Direction.UP, connections="new")
        proxy.set(STALLED, connections="old")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(proxy.cut(Cut.RESET), int)
        assert_type(await proxy.until(lambda stats: stats.open == 0), ProxyStats)

    async def answered() -> bool:
        return True

    assert_type(await until(answered), bool)
