"""Links: live connections, each on one event loop, and the loops that they run on."""

from .checkpoints import SLICE, Turn, checkpoint
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
from .forks import Home, forked_error, protect_from_forks
from .timer import DeadlineTimer

__all__ = [
    "FLUSH_AT",
    "SLICE",
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
    "Turn",
    "Waiter",
    "Waker",
    "checkpoint",
    "current_backend",
    "forked_error",
    "protect_from_forks",
]
