"""What untrusted clients send to a Broker: they are cut off, and the others are served."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import pytest

from mb_broker import Broker
from mb_testing import until

pytestmark = pytest.mark.anyio

Connect = Callable[..., Awaitable[Any]]
Reports = Callable[[], list[str]]

LIMIT = 16_384 + 367
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def client_hello() -> bytes:
    """What a TLS client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def frame(opcode: int, payload: bytes, *, mask: bool = True, fin: bool = True) -> bytes:
    """A WebSocket frame as a client sends it."""
    head = bytes([(0x80 if fin else 0) | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65_536:
        head += struct.pack("!BH", bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", bit | 127, len(payload))
    return head + (b"\x00\x00\x00\x00" if mask else b"") + payload


class Stranger:
    """A plain TCP connection to a broker, and all that came on it."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        # Refused halfway is refused.
        with contextlib.suppress(anyio.BrokenResourceError):
            await self.stream.send(data)

    async def read_until(self, text: bytes) -> None:
        while text not in self.received:
            self.received += await self.stream.receive()

    async def is_cut_off(self) -> None:
        """Read everything that the broker sends."""
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                self.received += await self.stream.receive()
        await self.stream.aclose()

    def farewell(self) -> tuple[int, str]:
        """Code and reason of the close frame, with which what was received ends."""
        _, found, rest = self.received.rpartition(b"\x88")
        assert found
        assert rest[0] == len(rest) - 1
        return int.from_bytes(rest[1:3]), rest[3:].decode()


class Target:
    """A broker, with somebody who uses it as it is meant."""

    def __init__(self, broker: Broker, bystander: Any, tasks: contextlib.AsyncExitStack) -> None:
        self.broker = broker
        self.bystander = bystander
        self._streams = tasks

    async def stranger(self, scheme: str) -> Stranger:
        port = int(self.broker.url_of(scheme).rpartition(":")[2])
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await self._streams.enter_async_context(stream)
        return Stranger(stream)

    async def websocket(self) -> Stranger:
        """An untrusted client after handshake and greeting."""
        stranger = await self.stranger("ws")
        await stranger.send(UPGRADE)
        await stranger.read_until(b"system.initialize:1.0.0\n{}")
        stranger.received = b""
        return stranger


@pytest.fixture
async def target(connect: Connect) -> AsyncIterator[Target]:
    """Whatever a test does to it, it serves its other client, and it can be left."""
    urls = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", "memory://"]
    async with contextlib.AsyncExitStack() as streams, Broker(*urls) as broker:
        bystander = await connect(broker.url_of("memory"))
        await bystander.subscribe("#")
        yield Target(broker, bystander, streams)
        with anyio.fail_after(5):
            bystander.send("publish:a.b:1.0.0\nlast")
            while not (await bystander.receive()).endswith(b"last"):
                pass
            await bystander.is_served()
            await streams.aclose()
            await until(lambda: broker.connections == 1)


# A TCP port


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param((LIMIT + 1).to_bytes(4), "was announced", id="one byte too many"),
        pytest.param(b"\xff\xff\xff\xff", "was announced", id="huge"),
        pytest.param(b"\x80\x00\x00\x00", "was announced", id="negative"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "speaks HTTP", id="HTTP"),
        pytest.param(UPGRADE, "speaks HTTP", id="WebSocket"),
        pytest.param(client_hello(), "speaks TLS, on a port without TLS", id="TLS"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "the PROXY protocol", id="PROXY"),
        pytest.param(b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "the PROXY protocol", id="PROXY v2"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "speaks SSH", id="SSH"),
        pytest.param(b"publish:a.b:1.0.0\n{}", "another protocol's port or client", id="no length"),
        pytest.param(
            b"\x7f" + random.Random(1).randbytes(100_000), "was announced", id="random bytes"
        ),
    ],
)
async def test_what_is_no_message_on_tcp_is_cut_off(
    data: bytes, told: str, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = await target.stranger("tcp")
    await stranger.send(data)
    with anyio.fail_after(5):
        await stranger.is_cut_off()
        await until(lambda: target.broker.connections == 1)
    assert told in caplog.text


async def test_a_message_of_the_limit_is_read_in_any_pieces(target: Target) -> None:
    header = b"publish:a.b:1.0.0" + b":" * (367 - 18) + b"\n"
    message = header + b"x" * 16_384
    assert len(message) == LIMIT
    stranger = await target.stranger("tcp")
    framed = len(message).to_bytes(4) + message
    with anyio.fail_after(5):
        for start, stop in itertools.pairwise([0, 1, 3, 4, 5, 100, LIMIT, LIMIT + 4]):
            await stranger.send(framed[start:stop])
        assert (await target.bystander.receive()).endswith(b"\n" + b"x" * 16_384)


async def test_messages_before_the_fault_count(target: Target) -> None:
    stranger = await target.stranger("tcp")
    message = b"publish:a.b:1.0.0\n1"
    await stranger.send(len(message).to_bytes(4) + message + b"\xff\xff\xff\xff")
    with anyio.fail_after(5):
        assert (await target.bystander.receive()).endswith(b"\n1")
        await stranger.is_cut_off()


async def test_messages_that_are_nonsense_are_answered_each(target: Target) -> None:
    stranger = await target.stranger("tcp")
    messages = [b"", b"\n", b"\x00" * 100, b"\xff:\xfe:\xfd\n", b"publish:a.b:1.0.0\n\xff"]
    await stranger.send(b"".join(len(message).to_bytes(4) + message for message in messages))
    with anyio.fail_after(5):
        while stranger.received.count(b"MALFORMED_MESSAGE") < len(messages):
            stranger.received += await stranger.stream.receive()


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x00\x05", b"\x00\x00\x00\x05ab"], ids=repr)
async def test_who_leaves_within_a_message_is_gone(
    data: bytes, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = await target.stranger("tcp")
    await stranger.read_until(b"system.initialize:1.0.0\n{}")  # unread, it would be a reset
    await stranger.send(data)
    await stranger.stream.aclose()
    await until(lambda: "ended within a message" in caplog.text)
    await until(lambda: target.broker.connections == 1)


# A WebSocket port


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        pytest.param(frame(1, b"\xff\xfe"), 1007, "not valid UTF-8", id="no UTF-8"),
        pytest.param(frame(1, b"x", mask=False), 1002, "", id="unmasked"),
        pytest.param(frame(1, b"x" * (LIMIT + 1)), 1009, "", id="one byte too many"),
        pytest.param(
            frame(1, b"x" * LIMIT, fin=False) + frame(0, b"x"), 1009, "", id="too many in pieces"
        ),
        pytest.param(b"\x81\xff" + b"\x7f" + b"\xff" * 7, 1009, "", id="huge"),
        pytest.param(frame(0, b"x"), 1002, "", id="a piece of nothing"),
        pytest.param(frame(3, b"x"), 1002, "", id="reserved opcode"),
        pytest.param(b"\xf1\x80\x00\x00\x00\x00", 1002, "", id="reserved bits"),
        pytest.param(frame(9, b"x" * 126), 1002, "", id="long ping"),
        pytest.param(frame(8, b"\x00"), 1002, "", id="half a close code"),
    ],
)
async def test_what_is_no_message_on_websocket_is_refused_with_a_reason(
    data: bytes, code: int, reason: str, target: Target
) -> None:
    stranger = await target.websocket()
    await stranger.send(data)
    with anyio.fail_after(5):
        await stranger.is_cut_off()
        await until(lambda: target.broker.connections == 1)
    assert stranger.farewell()[0] == code
    assert reason in stranger.farewell()[1]


async def test_a_binary_frame_is_a_message(target: Target) -> None:
    stranger = await target.websocket()
    await stranger.send(frame(2, b"publish:a.b:1.0.0\n1"))
    with anyio.fail_after(5):
        assert (await target.bystander.receive()).endswith(b"\n1")


async def test_frames_before_the_fault_count(target: Target) -> None:
    stranger = await target.websocket()
    await stranger.send(frame(1, b"publish:a.b:1.0.0\n1") + frame(3, b""))
    with anyio.fail_after(5):
        assert (await target.bystander.receive()).endswith(b"\n1")
        await stranger.is_cut_off()


async def test_a_message_of_the_limit_passes_in_pieces(target: Target) -> None:
    stranger = await target.websocket()
    message = b"publish:a.b:1.0.0" + b":" * (367 - 18) + b"\n" + b"x" * 16_384
    pieces = [message[start : start + 5000] for start in range(0, LIMIT, 5000)]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        await stranger.send(frame(0 if number else 1, piece, fin=last) + frame(9, b"ping"))
    with anyio.fail_after(5):
        assert (await target.bystander.receive()).endswith(b"\n" + b"x" * 16_384)


CLOSE = frame(8, (1000).to_bytes(2))


async def test_who_asks_and_closes_at_once_harms_nobody(target: Target, reports: Reports) -> None:
    stranger = await target.websocket()
    await stranger.send(
        frame(1, b"request:system.heartbeat:1.0.0\n{}") + frame(1, b"publish:a.b:1.0.0\n1") + CLOSE
    )
    with anyio.fail_after(5):
        assert (await target.bystander.receive()).endswith(b"\n1")
        await stranger.is_cut_off()


async def test_who_asks_and_closes_at_once_is_no_internal_error(target: Target) -> None:
    stranger = await target.websocket()
    await stranger.send(frame(1, b"request:system.heartbeat:1.0.0\n{}") + CLOSE)
    with anyio.fail_after(5):
        await stranger.is_cut_off()
    assert stranger.farewell()[0] == 1000


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", b"426", id="half of it"),
        pytest.param(UPGRADE.replace(b": 13", b": 12"), b"400", id="version 12"),
        pytest.param(UPGRADE.replace(b"Sec-WebSocket-Key", b"X"), b"400", id="no key"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"400", id="a body"),
        pytest.param(client_hello(), b"", id="TLS"),
        pytest.param(b"\x00\x00\x00\x14publish:a.b:1.0.0\n{}", b"", id="MB on TCP"),
        pytest.param(random.Random(2).randbytes(20_000), b"", id="random bytes"),
        pytest.param(b"GET /" + b"x" * 100_000, b"", id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000, b"", id="endless headers"),
    ],
)
async def test_what_is_no_handshake_is_refused(
    data: bytes, status: bytes, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = await target.stranger("ws")
    await stranger.send(data)
    with anyio.fail_after(5):
        await stranger.is_cut_off()
    await until(lambda: "refused" in caplog.text)
    assert target.broker.connections == 1
    if status:
        assert stranger.received.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
@pytest.mark.parametrize("data", [b"", UPGRADE[:60], b"\x00\x00"], ids=["nothing", "half", "bytes"])
async def test_who_says_half_of_something_holds_up_nobody(
    data: bytes, scheme: str, target: Target
) -> None:
    stranger = await target.stranger(scheme)
    await stranger.send(data)
    with anyio.fail_after(5):
        await target.bystander.is_served()


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
@pytest.mark.parametrize("data", [b"", UPGRADE[:60], b"\x00\x00"], ids=["nothing", "half", "bytes"])
async def test_who_says_half_of_something_does_not_hold_up_the_end(data: bytes, host: str) -> None:
    if host.startswith("tcp") and data == UPGRADE[:60]:
        data = b"\x00\x00\x01\x00half"
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks, Broker(host) as broker:
            port = int(broker.url.rpartition(":")[2])
            stranger = Stranger(await anyio.connect_tcp("127.0.0.1", port))
            await stranger.send(data)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(stranger.is_cut_off)


# Both


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_reset_is_an_end_like_any_other(
    scheme: str, target: Target, connect: Connect
) -> None:
    stranger = await target.stranger(scheme)
    if scheme == "ws":
        await stranger.send(UPGRADE)
    await stranger.read_until(b"system.initialize")
    raw: socket.socket = stranger.stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stranger.stream.aclose()
    await until(lambda: target.broker.connections == 1)


@pytest.mark.parametrize("scheme", ["tcp", "ws", "memory"])
async def test_many_come_and_go(scheme: str, target: Target, connect: Connect) -> None:
    url = target.broker.url_of(scheme)
    with anyio.fail_after(10):
        for number in range(30):
            client = await connect(url)
            await client.subscribe(f"a.t{number}", "request")
            client.send("request:a.t0:1.0.0\n{}")
            if number % 2:
                client.link.abort()
            else:
                await client.close()
        await until(lambda: target.broker.connections == 1)
        topics = (await target.bystander.ask("topic.list", {}))["topics"]
        assert [topic["topic"] for topic in topics] == ["#"]
