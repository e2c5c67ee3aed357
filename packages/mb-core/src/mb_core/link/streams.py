"""What the byte-stream Links of all event loops have in common: addresses, and errors in words."""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import socket
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from ..errors import ConnectError, ConnectionLost, MBError, RemoteProtocolError
from ..wire import Wire
from .contract import Address, SocketAddress, StreamOptions
from .home import guard

__all__ = [
    "ACCEPT_PAUSE",
    "BACKLOG",
    "Handshakes",
    "Shortage",
    "connect_error",
    "end_error",
    "late_close",
    "late_handshake",
    "listening_address",
    "listening_sockets",
    "log_refusal",
    "peer_name",
    "refusal",
    "system_error",
    "unread_answers",
    "where",
]

# On POSIX a broker can listen again right after it ended.  On Windows the same option would let
# another process take over a port that is in use.
_REUSE_ADDRESS = os.name == "posix"

_log = logging.getLogger("mb_core.link")

BACKLOG = 1024
"""Connections that may wait to be accepted: clients all come back at once after a restart."""

ACCEPT_PAUSE = 0.2
"""Seconds until accepting is tried again where the system could not give one more stream."""

# Seconds between two lines of the log that say so.
_TELL_AGAIN = 1.0

_LinkT = TypeVar("_LinkT", bound="_Handshaking")


class _Socket(Protocol):
    def getpeername(self) -> Any: ...
    def getsockname(self) -> Any: ...


class _Handshaking(Protocol):
    peer: str

    def give_way(self, reason: ConnectError) -> None: ...


class Handshakes(Generic[_LinkT]):
    """Accepted streams whose handshake is under way, in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Not a dict: to find its first item, that walks over all that were taken from before it.
        self._links: OrderedDict[_LinkT, None] = OrderedDict()

    def __iter__(self) -> Iterator[_LinkT]:
        return iter(list(self._links))

    def add(self, link: _LinkT) -> None:
        """Add one; at the limit, the oldest ends.

        To refuse the new one instead would let a few streams that say nothing keep out everyone.
        """
        if len(self._links) >= self._limit:
            oldest, _ = self._links.popitem(last=False)
            text = f"{oldest.peer} had not completed its handshake when {self._limit} others had "
            oldest.give_way(ConnectError(text + "begun theirs (max_handshakes)"))
        self._links[link] = None

    def discard(self, link: _LinkT) -> None:
        self._links.pop(link, None)


class Shortage:
    """Tells the log, once a second, that the system can't give the streams that wait."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._told = -math.inf

    def tell(self, error: OSError, now: float) -> None:
        if now - self._told < _TELL_AGAIN:
            return
        self._told = now
        _log.warning(
            "can't accept connections on %s: %s", where(self._address), system_error(error)
        )


async def listening_sockets(given: Address | socket.socket) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, with one port, or the one that is given.

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
        # Not anyio's own, which leaves out the scope that link-local addresses need.
        find = functools.partial(
            socket.getaddrinfo, host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        found = await anyio.to_thread.run_sync(find, abandon_on_cancel=True)
        for family, kind, protocol, _, target in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                missing = error
                continue  # the machine has no such family (IPv6 switched off)
            sockets.append(sock)
            sock.setblocking(False)
            if _REUSE_ADDRESS:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # "::" alone takes IPv4 as well; beside a socket for IPv4, it must not.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            try:
                # Port 0: the first socket gets a free one, the others the same.
                sock.bind((target[0], port, *target[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                # The family is there and its address is not (localhost where IPv6 is switched
                # off): the host's other addresses do.
                missing = error
                sockets.pop().close()
                continue
            sock.listen(BACKLOG)
            guard(sock)
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
    """The address of a Listener on `sock`."""
    name = sock.getsockname()
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return name[0], name[1]
    return _text(name), 0


def where(address: Address | SocketAddress) -> str:
    """An address for errors."""
    if isinstance(address, SocketAddress):
        return _text(address.address)
    return f"{address[0]}:{address[1]}"


def connect_error(address: Address | SocketAddress, error: BaseException) -> ConnectError:
    """Why connecting failed, and what to do about it; final for an invalid host."""
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return ConnectError(f"nobody listens on {where(address)}: is the broker running there?")
    if isinstance(address, tuple) and isinstance(error, socket.gaierror | UnicodeError):
        never = isinstance(error, UnicodeError)
        return ConnectError(f"unknown host {address[0]!r}: {_words(error)}", final=never)
    return ConnectError(f"can't connect to {where(address)}: {system_error(error)}")


def end_error(
    peer: str, wire: Wire, error: BaseException | None, *, aborted: bool
) -> MBError | None:
    """Why a stream ended, for `link_lost`.

    In this order: what the Wire has found wrong; what broke the stream, or was wrong on our
    side; what the Wire finds wrong with the end, unless that was ours.
    """
    if wire.error is None:
        if error is not None:
            lost = ConnectionLost(f"the connection to {peer} broke: {_words(error)}", sent=True)
            lost.__cause__ = error
            return lost
        if not aborted:
            wire.receive_eof()
    return wire.error


def late_handshake(peer: str, options: StreamOptions) -> ConnectError:
    seconds = options.handshake_timeout
    return ConnectError(f"{peer} did not complete its handshake in {seconds:g} s")


def late_close(options: StreamOptions) -> TimeoutError:
    return TimeoutError(f"the other side did not close it within {options.close_timeout:g} s")


def unread_answers(waiting: int, options: StreamOptions) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"the other side does not read: {waiting} bytes of answers to its pings wait for it, "
        f"the limit is {options.max_answers}"
    )


def refusal(peer: str, reason: MBError | None) -> ConnectError:
    """The error to raise for a handshake that failed: a ConnectError as it is, final or not."""
    if isinstance(reason, ConnectError):
        return reason
    return ConnectError(str(reason or f"{peer} closed the connection during the handshake"))


def log_refusal(peer: str, reason: MBError | None) -> None:
    """Log an accepted stream whose handshake failed; at debug level if it just ended."""
    level = logging.DEBUG if reason is None else logging.WARNING
    _log.log(level, "connection from %s refused: %s", peer, refusal(peer, reason))


def peer_name(sock: _Socket) -> str:
    """`host:port` of the other side, for logs; where that has no name, what it has come to."""
    try:
        name = sock.getpeername() or f"peer on {_text(sock.getsockname())}"
    except OSError:
        return "peer"  # it is gone
    if not isinstance(name, tuple):
        return _text(name)
    host, port = name[:2]
    host = host.removeprefix("::ffff:")  # an IPv4 client of a socket that takes both
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(name: Any) -> str:
    """The name of a socket; an abstract one of Linux begins with a NUL, written as @."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return str(name).replace("\0", "@")


def system_error(error: BaseException) -> str:
    """Why the system refused something, and what to do about it."""
    files = isinstance(error, OSError) and error.errno == errno.EMFILE
    return _words(error) + (" (raise the limit: ulimit -n)" if files else "")


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOTCONN:
        # What a stream says that is closed here and was reset by the other side just before.
        return os.strerror(errno.ECONNRESET)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
