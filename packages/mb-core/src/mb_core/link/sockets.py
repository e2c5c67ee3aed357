"""Stream sockets: listening, addresses, and readable system errors."""

from __future__ import annotations

import errno
import functools
import os
import socket
from typing import Any, Protocol

import anyio
import anyio.to_thread

from ..errors import ConnectError
from .contract import Address, SocketAddress
from .forks import protect_from_forks

__all__ = [
    "BACKLOG",
    "address_text",
    "connect_error",
    "listening_address",
    "listening_sockets",
    "peer_name",
    "reason_of",
    "system_error",
]

# On POSIX a broker can listen again right after it ended.  On Windows the same option would let
# another process take over a port that is in use.
_REUSE_ADDRESS = os.name == "posix"

BACKLOG = 1024
"""Connections that may wait to be accepted: after a restart, all clients reconnect at once."""


class _Socket(Protocol):
    def getpeername(self) -> Any: ...
    def getsockname(self) -> Any: ...


async def listening_sockets(given: Address | socket.socket) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host with one port, or the given one.

    Raises ConnectError.
    """
    if isinstance(given, socket.socket):
        given.setblocking(False)
        given.listen(BACKLOG)
        return [given]
    host, port = given
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        # Not anyio's function, which drops the scope that link-local addresses need.
        find = functools.partial(
            socket.getaddrinfo, host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found = await anyio.to_thread.run_sync(find, abandon_on_cancel=True)
        for family, kind, protocol, _, target in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                missing = error
                continue  # the machine does not support this family (IPv6 is disabled)
            sockets.append(sock)
            sock.setblocking(False)
            if _REUSE_ADDRESS:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" by itself accepts IPv4 as well; next to a socket for IPv4, it must not.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            try:
                # Port 0: the first socket gets a free port, and the others use the same.
                sock.bind((target[0], port, *target[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                # The family is supported but not this address (localhost with IPv6 disabled): use
                # the host's other addresses.
                missing = error
                sockets.pop().close()
                continue
            sock.listen(BACKLOG)
            protect_from_forks(sock)
            port = sock.getsockname()[1]
        if not sockets and missing is not None:
            raise missing
    except BaseException as error:
        for sock in sockets:
            sock.close()
        if not isinstance(error, OSError | UnicodeError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConnectError(f"can't listen on {host}:{port}: {reason}") from error
    return sockets


def listening_address(sock: socket.socket) -> Address:
    """Return the address of a Listener on `sock`."""
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return name[0], name[1]
    return _text(name), 0


def address_text(address: Address | SocketAddress) -> str:
    """Return an address as errors show it."""
    if isinstance(address, SocketAddress):
        return _text(address.address)
    return f"{address[0]}:{address[1]}"


def connect_error(address: Address | SocketAddress, error: BaseException) -> ConnectError:
    """Return why connecting failed, and what to do about it; final for an invalid host."""
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        text = f"nobody listens on {address_text(address)}: is the broker running there?"
        return ConnectError(text)
    if isinstance(address, tuple) and isinstance(error, socket.gaierror | UnicodeError):
        never = isinstance(error, UnicodeError)
        return ConnectError(f"unknown host {address[0]!r}: {reason_of(error)}", final=never)
    return ConnectError(f"can't connect to {address_text(address)}: {system_error(error)}")


def peer_name(sock: _Socket) -> str:
    """Return `host:port` of the other side; if it has no name, what it connected to."""
    try:
        name = sock.getpeername() or f"peer on {_text(sock.getsockname())}"
    except OSError:
        return "peer"  # it is gone
    if not isinstance(name, tuple):
        return _text(name)
    host, port = name[:2]
    host = host.removeprefix("::ffff:")  # an IPv4 client of a socket for both families
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(name: Any) -> str:
    """The name of a socket; an abstract one on Linux begins with a NUL, which is shown as @."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return str(name).replace("\0", "@")


def system_error(error: BaseException) -> str:
    """Return why the system refused something, and what to do about it."""
    files = isinstance(error, OSError) and error.errno == errno.EMFILE
    return reason_of(error) + (" (raise the limit: ulimit -n)" if files else "")


def reason_of(error: BaseException) -> str:
    """Return the text of an error, without the number of a system's error."""
    if isinstance(error, OSError) and error.errno == errno.ENOTCONN:
        # The error of a stream that is closed here just after the other side reset it.
        return os.strerror(errno.ECONNRESET)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
