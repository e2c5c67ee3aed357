"""The brokers of this suite come back where they were."""

from __future__ import annotations

import socket

import anyio
import anyio.to_thread
import pytest

from mb_broker.ports import HOST
from mb_client import MessageBrokerClient
from mb_core.url import parse_url

from .brokers import ProcessBroker, restart_in_order, thread_broker

pytestmark = pytest.mark.anyio


async def ask(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        await client.request("system.heartbeat", {})


def is_refused(url: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, parse_url(url).port), 5)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_broker_in_a_thread_starts_again_on_its_port(scheme: str) -> None:
    with thread_broker(scheme) as broker:
        await ask(broker.url)
        for _ in range(3):

            async def down() -> None:
                is_refused(broker.url)

            await restart_in_order(broker, down=down)
            await ask(broker.url)
    is_refused(broker.url)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_process_that_is_killed_starts_again_on_its_port(scheme: str) -> None:
    with ProcessBroker(scheme) as broker:
        await ask(broker.url)
        client = MessageBrokerClient(broker.url)
        await client.connect()
        broker.kill()
        is_refused(broker.url)
        await client.close()
        await anyio.to_thread.run_sync(broker.start)
        await ask(broker.url)
    is_refused(broker.url)
