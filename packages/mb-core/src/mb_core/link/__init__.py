"""Links: live connections, each on one event loop, and the loops that they run on."""

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
from .detect import current_backend
from .forks import Home, forked_error, guard
from .timer import DeadlineTimer

__all__ = [
    "FLUSH_AT",
    "Accept",
    "Address",
    "Backend",
    "DeadlineTimer",
    "Home",
    "Link",
    "LinkHandler",
    "Listener",
    "Poster",
    "SocketAddress",
    "Spawn",
    "StreamOptions",
    "Waiter",
    "Waker",
    "current_backend",
    "forked_error",
    "guard",
]
