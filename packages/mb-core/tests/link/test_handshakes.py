"""Handshakes over real sockets, listeners, and bugs of handlers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mb_core.errors import ConnectError, ConnectionLost
from mb_core.link import Link
from mb_tcp import LengthPrefixWire

from .real_links import of_plain, of_tcp, of_ws

pytestmark = pytest.mark.anyio
with_handshake = pytest.mark.parametrize("kind", ["ws", "tls", "wss"])


# Handshakes


async def send_forever(stream: anyio.abc.ByteStream) -> None:
    while True:
        await stream.send(b"still here")
        await anyio.wait_all_tasks_blocked()


@with_handshake
async def test_a_client_that_says_nothing_is_closed_and_logged(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen(handshake_timeout=0.05)
        async with await anyio.connect_tcp(*server.address) as peer:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await peer.receive()
        assert server.handlers == []
        (line,) = logged()
        assert "did not complete its handshake in 0.05 s" in line


@with_handshake
async def test_a_server_that_says_nothing_is_a_connect_error(net: Any, tools: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await tools.read_to_end(stream)
        ended.set()

    ended = anyio.Event()
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match=r"did not complete its handshake in 0.05 s"):
                await net.connect(address, handshake_timeout=0.05)
            await ended.wait()


@with_handshake
async def test_a_server_that_closes_at_once_is_a_connect_error(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        await stream.aclose()

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="handshake"):
                await net.connect(address)


@with_handshake
async def test_a_server_that_resets_the_handshake_is_a_connect_error(net: Any, tools: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        tools.reset(stream)
        await anyio.aclose_forcefully(stream)

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="reset"):
                await net.connect(address)


@with_handshake
async def test_a_handshake_that_is_none_is_closed_and_logged(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"\0\0\0\x06framed\r\n")
            await tools.read_to_end(peer)
        (line,) = logged()
        assert line.startswith("connection from 127.0.0.1:")
        assert "refused" in line
        assert server.handlers == []
        # The listener lives on.
        client = await net.connect(server.address)
        client.link.send(b"one")
        await (await server.handler()).receive()


@with_handshake
@pytest.mark.parametrize("says", [b"\0\0\0\x06framed\r\n", b""], ids=["garbage", "nothing"])
async def test_who_asks_for_it_hears_of_failed_handshakes_instead_of_the_log(
    net: Any, tools: Any, logged: Callable[[], list[str]], says: bytes
) -> None:
    refused: list[tuple[str, Any]] = []
    with anyio.fail_after(5):
        server = await net.listen(
            handshake_timeout=0.1, refused=lambda peer, error: refused.append((peer, error))
        )
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(says)
            with contextlib.suppress(anyio.BrokenResourceError):
                await tools.read_to_end(peer)
        ((name, error),) = refused
        assert name.startswith("127.0.0.1:")
        assert isinstance(error, ConnectError)
        assert logged() == []


@of_ws
async def test_a_refused_client_can_read_why_though_it_sent_more(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n" + bytes(100_000))
            await peer.send(bytes(100_000))
            await peer.send_eof()
            assert (await tools.read_to_end(peer)).startswith(b"HTTP/1.1 426 ")
        (line,) = logged()
        assert "not a WebSocket handshake: missing Connection header" in line


@of_ws
async def test_a_refused_client_that_never_ends_is_given_up(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen(handshake_timeout=0.5, close_timeout=0.1)
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n")
            assert (await tools.read_to_end(peer)).startswith(b"HTTP/1.1 426 ")
            with pytest.raises(anyio.BrokenResourceError):
                await send_forever(peer)


@of_ws
async def test_a_refusal_reaches_the_client_with_status_and_body(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nmembers")

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(ConnectError, match="HTTP status 403: members"):
                await net.connect(address)


@of_ws
async def test_a_server_that_accepts_and_closes_in_one_chunk_is_a_connect_error(net: Any) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            wire = net.server_wire()
            wire.receive_data(await stream.receive())
            wire.close("try again later")
            await stream.send(wire.data_to_send())

    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            with pytest.raises(
                ConnectError,
                match="closed the connection after the WebSocket handshake: try again later",
            ):
                await net.connect(address)


@pytest.mark.parametrize("stage", ["connected", "answered"])
@with_handshake
async def test_a_cancelled_connect_leaves_nothing(net: Any, tools: Any, stage: str) -> None:
    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            received = await stream.receive()
            if stage == "answered" and net.secure:
                # The server's half of the TLS handshake, cut.
                await stream.send(bytes.fromhex("16030300") + bytes([100]) + b"\x02")
            elif stage == "answered":
                assert received.startswith(b"GET ")
                await stream.send(b"HTTP/1.1 101 Switching")
            arrived.set()
            await tools.read_to_end(stream)
        ended.set()

    arrived, ended = anyio.Event(), anyio.Event()
    accepted: list[Link] = []
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(net.connect, address, accepted.append)
                await arrived.wait()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await ended.wait()
    assert accepted == []


@of_tcp
async def test_a_connect_may_be_cancelled_before_it_begins(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await net.connect(server.address)
        assert scope.cancelled_caught


# Listeners


@with_handshake
async def test_closing_a_listener_ends_handshakes_and_its_links_live_on(
    net: Any, tools: Any
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        client = await net.connect(server.address)
        accepted = await server.handler()
        async with await anyio.connect_tcp(*server.address) as slow:
            await anyio.wait_all_tasks_blocked()
            await server.listener.close()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await slow.receive()
        assert server.handlers == [accepted]
        client.link.send(b"still")
        accepted.link.send(b"here")
        assert await accepted.receive() == [b"still"]
        assert await client.receive() == [b"here"]
        await server.listener.close()


async def test_nothing_is_accepted_after_the_listener_was_closed(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        # In the kernel's queue, or on its way through the event loop.
        with socket.socket() as waiting:
            waiting.setblocking(False)
            waiting.connect_ex(server.address)
            await net.backend.checkpoint()
            await server.listener.close()
            await anyio.wait_all_tasks_blocked()
        assert server.handlers == []
        with pytest.raises(ConnectError, match="nobody listens"):
            await net.connect(server.address)


# asyncio forgets a socket that it is just accepting when its server is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_connection_that_was_just_accepted_is_not_opened_by_a_closed_listener(
    net: Any,
) -> None:
    with anyio.fail_after(5):
        for turns in range(6):
            server = await net.listen()
            with socket.socket() as waiting:
                waiting.connect(server.address)
                for _ in range(turns):
                    await net.backend.checkpoint()
                before = len(server.handlers)
                await server.listener.close()
                await anyio.wait_all_tasks_blocked()
                assert len(server.handlers) == before
                for handler in server.handlers:
                    handler.link.abort()


# Bugs of handlers


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("method", ["messages_received", "link_lost"])
async def test_a_handler_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]], side: str, method: str
) -> None:
    def bad(link: Link) -> Any:
        handler = tools.Handler(link)
        if made or side == "client":  # the server's first connection has a good handler
            original = getattr(handler, method)

            def raising(argument: Any) -> None:
                original(argument)
                raise RuntimeError("a bug")

            setattr(handler, method, raising)
        made.append(handler)
        return handler

    made: list[Any] = []
    with anyio.fail_after(5):
        server = await net.listen(bad if side == "server" else tools.Handler)
        bystander = await net.connect(server.address)
        await server.handler(0)
        client = await net.connect(server.address, bad if side == "client" else tools.Handler)
        accepted = await server.handler(1)
        one, other = (client, accepted) if side == "client" else (accepted, client)
        other.link.send(b"one")
        await one.receive()
        if method == "link_lost":
            other.link.close()
        error = await one.end()
        if method == "messages_received":
            assert isinstance(error, ConnectionLost)
            assert "a bug" in str(error)
        else:
            assert error is None
        await other.end()
        (line,) = logged()
        assert line.startswith("internal error: dropping the link to 127.0.0.1:")
        bystander.link.send(b"still here")
        assert await server.handlers[0].receive() == [b"still here"]
        await net.connect(server.address)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_accept_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]], side: str
) -> None:
    def bad(link: Link) -> Any:
        calls.append(link)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return greet(link)

    def greet(link: Link) -> Any:
        link.send(b"hello")
        return tools.Handler(link)

    calls: list[Link] = []
    with anyio.fail_after(5):
        if side == "client":
            server = await net.listen(greet)
            with pytest.raises(ConnectError, match="a bug"):
                await net.connect(server.address, bad)
        else:
            server = await net.listen(bad)
            with contextlib.suppress(ConnectError):
                await (await net.connect(server.address)).end()
        await calls[0].wait_closed()
        assert len(calls) == 1
        assert logged()[0].startswith("internal error: dropping the link to 127.0.0.1:")
        client = await net.connect(server.address, bad if side == "client" else tools.Handler)
        assert await client.receive() == [b"hello"]


class BrokenWire(LengthPrefixWire):
    """A third party's Wire with a bug."""

    def receive_data(self, data: bytes) -> list[bytes]:
        raise RuntimeError("a bug")


@of_tcp
async def test_a_wire_that_raises_is_logged_and_ends_its_connection_only(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        bystander = await net.connect(server.address)
        await server.handler(0)
        client = await net.connect(server.address, wire=BrokenWire(tools.limits))
        accepted = await server.handler(1)
        accepted.link.send(b"one")
        error = await client.end()
        assert isinstance(error, ConnectionLost)
        assert len(logged()) == 1
        bystander.link.send(b"still here")
        assert await server.handlers[0].receive() == [b"still here"]


@of_plain
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
async def test_a_link_ends_with_the_tasks_that_hold_it_and_blames_nobody(
    net: Any, anyio_backend_name: str, closing: bool
) -> None:
    """On trio a Link runs in tasks of its owner; on asyncio it needs none."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if net.kind == "ws":
                wire = net.server_wire()
                wire.receive_data(await stream.receive())
                await stream.send(wire.data_to_send())
            await release.wait()

    release = anyio.Event()
    with anyio.fail_after(5):
        async with net.raw_server(serve) as address:
            async with anyio.create_task_group() as tasks:
                client = await net.connect(address, spawn=tasks.start_soon)
                if closing:
                    client.link.close()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            if anyio_backend_name == "asyncio":
                client.link.abort()
            assert await client.end() is None
            release.set()
