"""Reserve TCP ports while nobody listens on them."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

__all__ = ["HOST", "reserved_port"]

HOST = "127.0.0.1"


@contextlib.contextmanager
def reserved_port(host: str = HOST) -> Iterator[int]:
    """Reserve a port, so that no other program of this machine listens on it or connects from it.

    Without that, a client that connects to the port may be given the same port for its own end, and
    is then connected to itself.  Raises OSError for a host that is not this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        reserved.bind(address)
        port: int = reserved.getsockname()[1]
        if sys.platform != "linux":
            # On other systems, a bound socket would keep the broker from listening.
            reserved.close()
        yield port
