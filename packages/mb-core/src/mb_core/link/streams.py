"""What the byte-stream Links of all event loops have in common: addresses, and errors in words."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, Protocol

import anyio

from ..errors import ConnectError, ConnectionLost, MBError
from ..wire import Wire
from .contract import Address

__all__ = ["bind", "broken", "closed_error", "connect_error", "peer_name"]


class _Socket(Protocol):
    def getpeername(self) -> Any: ...


async def bind(address: Address) -> list[socket.socket]:
    """Listening sockets for all addresses of a host, with one port; raises ConnectError."""
    host, port = address
    sockets: list[socket.socket] = []
    try:
        found = await anyio.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, target in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # the machine has no such family (IPv6 switched off)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0: the first socket gets a free one, the others the same.
            sock.bind((target[0], port, *target[2:]))
            sock.listen(1024)
            port = sock.getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConnectError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
    return sockets


def connect_error(address: Address, error: BaseException, *, secure: bool) -> ConnectError:
    """Why no stream came about, and what to do about it."""
    where = f"{address[0]}:{address[1]}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(
            f"the certificate of {where} is not trusted: {error.verify_message} "
            "(pass an ssl_context that trusts it)"
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return ConnectError(f"no TLS with {where}: {reason} (is this a TLS port?)")
    if isinstance(error, ConnectionRefusedError):
        return ConnectError(f"nobody listens on {where}: is the broker running there?")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"unknown host {address[0]!r}: {error.strerror}")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    hint = " (is this a TLS port?)" if secure else ""
    return ConnectError(f"can't connect to {where}: {text}{hint}")


def closed_error(peer: str, wire: Wire, error: BaseException | None) -> MBError | None:
    """Why an open stream ended, for `link_lost`: the Wire's reason before the stream's."""
    if wire.error is not None:
        return wire.error
    if error is None:
        return None
    return broken(peer, error)


def broken(peer: str, error: BaseException) -> ConnectionLost:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ConnectionLost(f"the connection to {peer} broke: {text}", sent=True)


def peer_name(sock: _Socket | None) -> str:
    """`host:port` of the other side, for logs."""
    if sock is not None:
        with contextlib.suppress(OSError):
            name = sock.getpeername()
            if isinstance(name, tuple):
                host, port = name[:2]
                return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "peer"
