"""Links: live connections, each on one event loop, and the loops that they run on."""

from ._detect import current_backend
from .contract import (
    FLUSH_AT,
    Accept,
    Address,
    Backend,
    Link,
    LinkHandler,
    Listener,
    Poster,
    SocketAddress,
    Spawn,
    StreamOptions,
    Waiter,
    Waker,
)
from .timer import DeadlineTimer
from .tls import client_ssl_context

__all__ = [
    "FLUSH_AT",
    "Accept",
    "Address",
    "Backend",
    "DeadlineTimer",
    "Link",
    "LinkHandler",
    "Listener",
    "Poster",
    "SocketAddress",
    "Spawn",
    "StreamOptions",
    "Waiter",
    "Waker",
    "client_ssl_context",
    "current_backend",
]
