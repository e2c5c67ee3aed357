"""Sockets with a bug each, which the suite has to find; see broken_wires.py."""

from __future__ import annotations

import socket
from pathlib import Path

from broken_wires import over

from mb_core import URL, ConnectError, SocketAddress, WireTransport
from mb_tcp import LengthPrefixWire
from mb_testing import TransportSuite


class Sockets:
    """Without a bug of its own but those of classes below."""

    def address(self, url: URL) -> SocketAddress:
        if not url.path:
            raise ConnectError(f"{url} names no file", final=True)
        return SocketAddress(socket.AF_UNIX, url.path)

    def listen(self, url: URL) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(url.path)
            sock.listen()
        except BaseException:
            sock.close()
            raise
        return sock

    def release(self, url: URL) -> None:
        Path(url.path).unlink(missing_ok=True)


class SocketSuite(TransportSuite):
    time_limit = 3.0

    def url(self, tmp_path: Path) -> str:
        return f"unix.test://{tmp_path}/socket"


def on(sockets: Sockets) -> WireTransport:
    tcp = over(LengthPrefixWire)
    return WireTransport("unix.test", tcp.client, tcp.server, sockets=sockets)


class TestStumblesOverOldFiles(SocketSuite):
    transport = on(Sockets())


class Stealing(Sockets):
    def listen(self, url: URL) -> socket.socket:
        self.release(url)
        return super().listen(url)


class TestStealsUrls(SocketSuite):
    transport = on(Stealing())


class Littering(Stealing):
    def release(self, url: URL) -> None:
        pass

    def listen(self, url: URL) -> socket.socket:
        Path(url.path).unlink(missing_ok=True)
        return super().listen(url)


class TestLeavesItsFile(SocketSuite):
    transport = on(Littering())


class Assuming(Sockets):
    def address(self, url: URL) -> SocketAddress:
        return SocketAddress(socket.AF_UNIX, "/" + url.path.split("/", 1)[1])


class TestAssumesAPath(SocketSuite):
    transport = on(Assuming())


class Leaking(Sockets):
    def __init__(self) -> None:
        self.kept: list[socket.socket] = []

    def listen(self, url: URL) -> socket.socket:
        sock = super().listen(url)
        self.kept.append(socket.socket(socket.AF_UNIX))
        if len(self.kept) > 1:
            self.kept.pop(0)
        return sock


class TestLeaksSockets(SocketSuite):
    transport = on(Leaking())
