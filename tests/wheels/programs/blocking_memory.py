"""A client without an event loop, and the broker in the same process."""

from __future__ import annotations

from mb_broker import running
from mb_sync import MessageBrokerClient

with running("memory://") as broker, MessageBrokerClient(broker.url) as client:
    client.subscribe("double", action="request", handler=lambda m: 2 * m.payload)
    assert client.request("double", 21).payload == 42
