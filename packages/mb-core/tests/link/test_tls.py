"""TLS over sockets, with certificates good and bad."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme

from mb_core.errors import ConnectError

of_secure = pytest.mark.parametrize("kind", ["tls", "wss"])
of_tls = pytest.mark.parametrize("kind", ["tls"])


async def reason_of(net: Any, address: tuple[str, int], **options: Any) -> Exception | None:
    """Why a server does not take us: in the handshake, or when it is complete here (TLS 1.3)."""
    try:
        client = await net.connect(address, **options)
    except ConnectError as error:
        return error
    reason: Exception | None = await client.end()
    return reason


@of_secure
@pytest.mark.anyio
async def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    net: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with pytest.raises(ConnectError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted"):
            await net.connect(server.address, ssl_context=ssl.create_default_context())
        # The server notices it, and serves others.
        await net.connect(server.address)
        await server.handler()
        (line,) = logged()
        assert "UNKNOWN_CA" in line


@of_secure
@pytest.mark.anyio
async def test_a_certificate_for_another_host_is_not_trusted(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with pytest.raises(ConnectError, match="Hostname mismatch"):
            await net.connect(server.address, server_hostname="other.example")


@of_secure
@pytest.mark.anyio
async def test_a_certificate_that_has_expired_is_not_trusted(net: Any) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with anyio.fail_after(5):
        server = await net.listen(ssl_context=net.server_context(not_after=yesterday))
        with pytest.raises(ConnectError, match="certificate has expired"):
            await net.connect(server.address)


@of_secure
@pytest.mark.anyio
async def test_without_a_name_the_dialled_host_has_to_stand_in_the_certificate(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        await net.connect(server.address, server_hostname=None)
        server = await net.listen(ssl_context=net.server_context(names=["localhost"]))
        with pytest.raises(ConnectError, match="IP address mismatch"):
            await net.connect(server.address, server_hostname=None)


@of_secure
@pytest.mark.anyio
async def test_a_client_with_old_tls_is_refused(net: Any) -> None:
    with anyio.fail_after(5):
        new = net.server_context()
        new.minimum_version = ssl.TLSVersion.TLSv1_3
        old = net.client_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        server = await net.listen(ssl_context=new)
        with pytest.raises(ConnectError, match="PROTOCOL_VERSION"):
            await net.connect(server.address, ssl_context=old)


@of_secure
@pytest.mark.anyio
async def test_a_certificate_of_the_client_is_asked_for_where_the_settings_say_so(
    net: Any, ca: trustme.CA
) -> None:
    with anyio.fail_after(5):
        strict = net.server_context()
        strict.verify_mode = ssl.CERT_REQUIRED
        ca.configure_trust(strict)
        server = await net.listen(ssl_context=strict)
        known = net.client_context()
        ca.issue_cert("a.client").configure_cert(known)
        client = await net.connect(server.address, ssl_context=known)
        client.link.send(b"one")
        assert await (await server.handler()).receive() == [b"one"]
        # In TLS 1.3 a client learns of the refusal after its own handshake.
        reason = await reason_of(net, server.address)
        assert isinstance(reason, ConnectError)
        assert reason.final
        assert "CERTIFICATE_REQUIRED" in str(reason)


@of_secure
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.anyio
async def test_an_alert_is_read_though_the_server_resets_the_connection_behind_it(
    net: Any, ca: trustme.CA, version: str
) -> None:
    strict = net.server_context()
    strict.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(strict)
    context = net.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with anyio.fail_after(5), socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted = listener.accept()[0]
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(ssl.SSLError):
                strict.wrap_socket(accepted, server_side=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve)
            reason = await reason_of(net, listener.getsockname(), ssl_context=context)
        assert isinstance(reason, ConnectError)
        assert reason.final
        assert "the server asks for a client certificate" in str(reason)


@pytest.mark.parametrize("kind", ["tcp", "ws"])
@pytest.mark.anyio
async def test_a_tls_client_on_a_plain_port_is_a_connect_error(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        with pytest.raises(ConnectError, match="TLS"):
            await net.connect(
                server.address,
                ssl_context=net.client_context(),
                server_hostname="localhost",
                handshake_timeout=1,
            )


@of_tls
@pytest.mark.anyio
async def test_a_plain_client_on_a_tls_port_is_closed(
    net: Any, tools: Any, logged: Callable[[], list[str]]
) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        async with await anyio.connect_tcp(*server.address) as peer:
            await peer.send(b"\0\0\0\x14publish:a.b:1.0.0\n{}")
            await tools.read_to_end(peer)
        (line,) = logged()
        assert "no TLS" in line
        assert server.handlers == []


@of_tls
@pytest.mark.anyio
async def test_closing_says_close_notify_and_a_peer_may_insist_on_it(net: Any, tools: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)  # takes an end without close_notify for an error
        accepted = await server.handler()
        accepted.link.send(b"one")
        accepted.link.close()
        assert await tools.read_to_end(peer) == b"\0\0\0\x03one"
        await peer.aclose()
        assert await accepted.end() is None


@of_tls
@pytest.mark.anyio
async def test_a_peers_close_notify_is_answered(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        await peer.send(b"\0\0\0\x03one")
        await peer.aclose()  # waits for the answer
        assert await accepted.end() is None
        assert accepted.messages == [b"one"]


@of_tls
@pytest.mark.anyio
async def test_a_peer_that_ends_without_close_notify_has_ended(net: Any) -> None:
    with anyio.fail_after(5):
        server = await net.listen()
        peer = await net.raw(server)
        accepted = await server.handler()
        await peer.send(b"\0\0\0\x03one")
        await accepted.receive()
        # With something unread, its end would be a reset.
        accepted.link.send(b"two")
        await peer.receive()
        await peer.transport_stream.aclose()
        assert await accepted.end() is None


@of_tls
@pytest.mark.anyio
async def test_a_listener_with_a_clients_settings_is_a_connect_error(net: Any) -> None:
    with anyio.fail_after(5), pytest.raises(ConnectError, match="no TLS with these settings"):
        await net.listen(ssl_context=ssl.create_default_context())
