"""Clients of whole messages as text."""

from __future__ import annotations

from typing import Any

import pytest

from mb_broker import Broker
from mb_core import (
    TCPSocketClient,
    WebSocketClient,
)

RawClient = TCPSocketClient | WebSocketClient


@pytest.fixture(params=["tcp", "ws"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def make(scheme: str, **options: Any) -> RawClient:
    return TCPSocketClient(**options) if scheme == "tcp" else WebSocketClient(**options)


async def connected(broker: Broker, scheme: str, **options: Any) -> RawClient:
    client = make(scheme, **options)
    await client.connect("127.0.0.1", int(broker.url_of(scheme).rpartition(":")[2]))
    return client
