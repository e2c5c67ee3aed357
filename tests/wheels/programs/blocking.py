"""A client without an event loop: one URL is the argument."""

from __future__ import annotations

import sys

from mb_sync import MessageBrokerClient

with MessageBrokerClient(sys.argv[1]) as client:
    client.subscribe("double", action="request", handler=lambda m: 2 * m.payload)
    assert client.request("double", 21).payload == 42
    with client.subscribe("news.#") as news:
        client.publish("news.local", {"n": 1}, confirm=True)
        assert next(iter(news)).payload == {"n": 1}
