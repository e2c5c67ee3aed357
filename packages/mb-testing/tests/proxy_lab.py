"""A proxy between a listener and clients of a test's own."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mb_broker.ports import HOST
from mb_testing.proxy import (
    Direction,
    Proxy,
)

UP, DOWN = Direction.UP, Direction.DOWN

# Seconds after which a socket of the test's counts as hanging.
PATIENCE = 10


def url_of(listener: socket.socket) -> str:
    return f"tcp://{HOST}:{listener.getsockname()[1]}"


@dataclass
class Lab:
    """A proxy before a listening socket, and what a test connects through it."""

    proxy: Proxy
    server: socket.socket
    stack: contextlib.ExitStack

    def client(self) -> socket.socket:
        client = socket.create_connection((HOST, self.proxy.port), PATIENCE)
        return self.stack.enter_context(client)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection through the proxy."""
        client, (accepted, _) = self.client(), self.server.accept()
        accepted.settimeout(PATIENCE)
        return client, self.stack.enter_context(accepted)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with (
        socket.create_server((HOST, 0)) as server,
        Proxy(url_of(server)) as proxy,
        contextlib.ExitStack() as stack,
    ):
        server.settimeout(PATIENCE)
        yield Lab(proxy, server, stack)
    gc.collect()  # sockets that were not closed warn now
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def read_to_end(sock: socket.socket) -> bytes:
    return receive(sock, 1 << 30)


def is_silent(sock: socket.socket) -> bool:
    """Whether neither data nor an end lies in it."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False
