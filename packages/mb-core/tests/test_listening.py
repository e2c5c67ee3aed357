"""Listening at a URL: what is left when it fails or ends."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import anyio
import pytest

from mb_core import URL, ConnectError, Limits, SocketAddress, WireTransport
from mb_core.link import StreamOptions, current_backend
from mb_core.listening import listen
from mb_tcp import LengthPrefixWire

pytestmark = pytest.mark.anyio


class Sockets:
    """Those of files, as a transport for Unix sockets has them."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def address(self, url: URL) -> SocketAddress:
        return SocketAddress(socket.AF_UNIX, url.host)

    def listen(self, url: URL) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        self.made.append(sock)
        sock.bind(url.host)
        sock.listen()
        return sock

    def release(self, url: URL) -> None:
        Path(url.host).unlink()


def transport(sockets: Sockets) -> WireTransport:
    return WireTransport(
        "files",
        lambda url, limits: LengthPrefixWire(limits),
        lambda limits, site: LengthPrefixWire(limits),
        secure=True,
        sockets=sockets,
    )


async def test_settings_for_which_there_is_no_tls_leave_neither_socket_nor_file(
    tmp_path: Path,
) -> None:
    sockets = Sockets()
    path = tmp_path / "mb.sock"
    # A context for the other side of a connection.
    options = StreamOptions(ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def never(*args: Any) -> Any:
        pytest.fail("nothing is to be accepted")

    with anyio.fail_after(5), pytest.raises(ConnectError, match="no TLS with these settings"):
        await listen(
            URL("files", str(path), None, ""),
            transport(sockets),
            never,
            backend=current_backend(),
            limits=Limits(),
            options=options,
            spawn=never,
        )
    assert [sock.fileno() for sock in sockets.made] == [-1]
    assert not path.exists()
