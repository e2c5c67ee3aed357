"""Clients that take more than their share, and brokers that limit them."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import trustme

from mb_broker import Broker

Connect = Callable[..., Awaitable[Any]]
ID = "123e4567-e89b-42d3-a456-426614174000"
LEAST_UNREAD = 256 * 1024
BLOCK = "x" * 16_000
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def urls() -> list[str]:
    return ["memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0"]


def port_of(broker: Broker, scheme: str) -> int:
    return int(broker.url_of(scheme).strip("/").rpartition(":")[2])


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4) + message for message in messages)


def subscription(topic: str, request_id: str = ID) -> bytes:
    payload = json.dumps({"action": "publish", "topic": topic})
    return f"request:system.topic.subscribe:1.0.0:{request_id}\n{payload}".encode()


async def read_to_end(stream: anyio.abc.ByteStream) -> bytes:
    """All that comes until the broker ends it, in order or not."""
    received = b""
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            received += await stream.receive()
    return received


async def metric(client: Any, name: str) -> float:
    value: float = (await client.ask("metrics", {}))["metrics"][name]
    return value


async def flood(publisher: Any, topic: str, until_fact: Callable[[], bool]) -> int:
    """Publish until something is the case; how many messages that took."""
    sent = 0
    while not until_fact():
        publisher.send(f"publish:{topic}:1.0.0\n{BLOCK}")
        sent += 1
        await publisher.link.drain()
        await anyio.lowlevel.checkpoint()
        assert sent < 20_000
    return sent


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A broker's context, and that of clients which trust it."""
    ca = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(trusting)
    return server, trusting
