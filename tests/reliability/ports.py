"""TCP ports that stay the test's own while nobody listens on them."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

__all__ = ["HOST", "listening_socket", "reserved_port"]

HOST = "127.0.0.1"


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that others of this machine get neither to listen on nor to connect from.

    The second matters: who connects to a port that is free for all may be given the same port
    for its own end, and is then connected to itself.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((HOST, 0))
        port: int = reserved.getsockname()[1]
        if sys.platform != "linux":
            # Elsewhere a socket that is only bound would keep the broker from listening.
            reserved.close()
        yield port


def listening_socket(port: int) -> socket.socket:
    """A non-blocking socket that listens on a reserved port."""
    listener = socket.socket()
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener
